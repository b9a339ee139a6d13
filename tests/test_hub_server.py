"Pushing to a Hub on the loopback: what it is, what it gets, what it is told when it makes trouble."
import json
import shutil

import pytest
from conftest import command
from hub import Trouble, serving

from koflan.push_to_hub import contents, koflan_push_to_hub

COMMIT = "POST .*/commit/"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("push")/"data"
    command("koflan.generate", "--tasks", "nsmc,korquad_v1", "--hub_mirror", "samples", "--output_dir", out)
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    "A model folder as training leaves it."
    folder = tmp_path_factory.mktemp("push")/"model"
    for o in ("config.json", "model.safetensors", "training_args.bin", "optimizer.pt",
              "checkpoint-10/model.safetensors", "runs/events", "onnx/model.onnx"):
        (folder/o).parent.mkdir(parents=True, exist_ok=True)
        (folder/o).write_text(json.dumps(dict(name=o)))
    (folder/"README.md").write_text("---\ndata_licences:\n- cc-by-nc-4.0\n---\n# 모델\n")
    return folder


ENV = dict(HF_TOKEN="hf_secret", NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")


@pytest.fixture
def push(monkeypatch, capsys):
    "The command in this process, against a server, without its naps: (exit code, stdout, stderr, seconds of naps)."
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session
    for k, v in ENV.items(): monkeypatch.setenv(k, v)
    for k, v in dict(HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True).items(): monkeypatch.setattr(constants, k, v)
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    close_session()

    def call(hub, folder, **options):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        slept.clear()
        try: rc = koflan_push_to_hub(str(folder), "me/it", **options) or 0
        except SystemExit as e: rc = e.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "hf_secret" not in out + err, err
        return rc, out, err, list(slept)
    yield call
    close_session()


@pytest.fixture
def refused(push):
    "A push that ends with this one line, the last of stderr; the seconds it would have slept."
    def call(hub, folder, code, says, **options):
        rc, out, err, slept = push(hub, folder, **options)
        assert (rc, err.splitlines()[-1]) == (code, f"koflan_push_to_hub: {says}"), (out, err)
        return slept
    return call


def test_as_a_command(data):
    "In a process of its own: exit codes as a shell sees them."
    with serving(Trouble("tree", 401, 1)) as hub:
        env = ENV | dict(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        done = command("koflan.push_to_hub", data, "me/it", ok=False, **env)
        assert (done.returncode, hub.received) == (1, 0) and "log in with `hf auth login`" in done.stderr
        said = command("koflan.push_to_hub", data, "me/it", **env).stdout
        assert said.endswith(f"pushed to {hub.url}/datasets/me/it\n")
        assert command("koflan.push_to_hub", data, "me/it", "--public", ok=False, **env).returncode == 2


def test_data_and_model(push, data, model):
    "Private, whole, and nothing but what belongs."
    with serving() as hub:
        for folder, kind in ((data, "dataset"), (model, "model")):
            rc, out, err, _ = push(hub, folder)
            held = hub.repos[kind, "me/it"]["private"], hub.files(kind, "me/it")
            assert (rc, held) == (0, (True, sorted(contents(folder)[1]))), err
            assert f"{kind} me/it, private\n" in out and f"pushed to {hub.url}/" in out
        assert hub.files("model", "me/it") == ["README.md", "config.json", "model.safetensors", "onnx/model.onnx"]
        assert list(hub.objects.values()) == [(model/"model.safetensors").read_bytes()]
        sent, commits = hub.received, hub.count("/commit/")
        assert push(hub, data)[0] == 0
        assert (hub.received, hub.count("/commit/")) == (sent, commits) # nothing new, nothing sent


def test_dry_run_asks_nobody(push, data):
    with serving() as hub:
        rc, out, *_ = push(hub, data, dry_run=True)
        assert (rc, hub.asked) == (0, []) and "train/nsmc.jsonl" in out


def test_public_is_asked_for(push, refused, data, model):
    "What is public stays empty unless it was asked for, whoever made it so; the licences are looked at first."
    way = "to push there all the same, choose another name, or change the settings of the repository"
    no = "push privately, leave them out, or say --accept_licences"
    with serving() as hub:
        hub.make("dataset", "me/it", private=False)
        refused(hub, data, code=2, says=f"me/it is public on the Hub, nothing was sent; pass --public {way}")
        closed = "the sources of korquad_v1 forbid publishing derived or commercial data"
        refused(hub, data, public=True, code=2, says=f"{closed}; {no}")
        closed = "data of this model forbid publishing what is made from them (cc-by-nc-4.0)"
        refused(hub, model, public=True, code=2, says=f"{closed}; {no}")
        assert (hub.received, hub.files("dataset", "me/it"), list(hub.repos)) == (0, [], [("dataset", "me/it")])
        assert push(hub, data, public=True, accept_licences=True)[0] == 0 and len(hub.files("dataset", "me/it")) == 6
    with serving(obeys=False) as hub:
        refused(hub, data, code=2, says=f"me/it is public on the Hub, nothing was sent; pass --public {way}")
        assert (hub.received, hub.files("dataset", "me/it")) == (0, [])
    with serving() as hub:
        hub.make("dataset", "me/it", private=True)
        refused(hub, data, public=True, accept_licences=True, code=2,
                says=f"me/it is private on the Hub, nothing was sent; leave --public out {way}")
        assert hub.received == 0


@pytest.mark.parametrize("line, status, says", [
    ("repos/create", 401, "the Hub does not know who you are; log in with `hf auth login`, or set HF_TOKEN (HTTP 401)"),
    ("repos/create", 403, "this login may not write there; use a token with the write permission, "
                          "or choose another owner (HTTP 403)"),
    ("repos/create", 404, "not found on the Hub; look at the owner and the name (HTTP 404)"),
    (COMMIT, 409, "somebody else is changing it at the same time; try again in a minute (HTTP 409)"),
    (COMMIT, 429, "the Hub answered HTTP 429; it asks to wait 3,600 s"),
    (COMMIT, 500, "the Hub answered HTTP 500, 5 times; try again later")], ids=lambda o: str(o)[:6])
def test_no(refused, data, line, status, says):
    "One line, exit code 1, nothing there."
    with serving(Trouble(line, status, **(dict(retry_after=3600) if status == 429 else {}))) as hub:
        assert refused(hub, data, code=1, says=f"me/it: {says}") == ([1, 2, 4, 8] if status == 500 else [])
        assert not any(o["files"] for o in hub.repos.values())
        assert hub.count("/commit/") == {409: 1, 429: 1, 500: 5}.get(status, 0)


@pytest.mark.parametrize("line, does, commits", [
    (COMMIT, 429, 2), (COMMIT, 500, 2), ("GET .*/tree/", 503, 1), ("preupload", 502, 1), ("PUT /lfs", 500, 1),
    ("repos/create", "cut", 1), (COMMIT, "cut", 2), (COMMIT, "take", 1)], ids=lambda o: str(o).split("/")[-1])
def test_trouble_that_passes(push, model, line, does, commits):
    "Said, waited for, and done; what the server has taken is not sent again."
    with serving(Trouble(line, does, 1, **(dict(retry_after=7) if does == 429 else {}))) as hub:
        rc, _, err, slept = push(hub, model)
        assert (rc, hub.count("/commit/"), slept) == (0, commits, [7 if does == 429 else 1]), err
        assert len(hub.files("model", "me/it")) == 4
        assert f"; try 2 of 5 in {slept[0]:g} s\n" in err


def test_taken_at_the_last_try(push, data):
    "The fifth commit is taken, and the connection cut: the server is asked before no is said."
    with serving(Trouble(COMMIT, 500, 4), Trouble(COMMIT, "take")) as hub:
        assert push(hub, data)[0] == 0 and hub.count("/commit/") == 5


def test_no_answer(refused, data):
    with serving(Trouble("repos/create", "silent")) as hub:
        says = "me/it: the Hub did not answer within 0.2 s, 5 times; try again later"
        slept = refused(hub, data, timeout=.2, code=1, says=says)
        assert (slept, hub.received) == ([1, 2, 4, 8], 0)


def test_files_of_an_earlier_push(push, data):
    "Named, and removed when asked; what koflan did not put there stays."
    with serving() as hub:
        hub.make("dataset", "me/it", True, **{"train__old.jsonl": "{}\n", "LICENSE": "mine", ".gitattributes": ""})
        assert "left of an earlier push, --prune removes it: train/old.jsonl\n" in push(hub, data)[1]
        assert "train/old.jsonl" in hub.files("dataset", "me/it")
        said = push(hub, data, prune=True)[1]
        assert "left" not in said and "removed, of an earlier push: train/old.jsonl\n" in said
        assert hub.files("dataset", "me/it") == sorted([".gitattributes", "LICENSE", *contents(data)[1]])


def test_what_must_not_leave(push, refused, data, model, tmp_path):
    "A link, a changed file, a path outside, no weights: nobody is asked, exit code 2."
    secret = tmp_path/"key.json"
    secret.write_text("secret")
    def linked(path, to): path.unlink(), path.symlink_to(to)
    manifest = (data/"manifest.json").read_text(encoding="utf-8")
    spoil = dict(
        link=(model, lambda d: linked(d/"config.json", secret),
              "config.json is a symbolic link, not followed; put the file there"),
        weights=(model, lambda d: (d/"model.safetensors").unlink(), "no weights (*.safetensors)"),
        bytes=(data, lambda d: (d/"train"/"nsmc.jsonl").write_text("{}\n"),
               "train/nsmc.jsonl is not as the manifest says (sha256); build it again"),
        folder=(data, lambda d: ((d/"train").rename(tmp_path/"away"), (d/"train").symlink_to(tmp_path/"away")),
                "train/korquad_v1.jsonl is a symbolic link, not followed; put the file there"),
        outside=(data, lambda d: (d/"manifest.json").write_text(manifest.replace("train/nsmc", "../nsmc")), None))
    with serving() as hub:
        for name, (start, change, says) in spoil.items():
            folder = shutil.copytree(start, tmp_path/name)
            change(folder)
            rc, _, err, _ = push(hub, folder)
            assert rc == 2 and (says is None or err == f"koflan_push_to_hub: {folder}: {says}\n"), err
        assert hub.asked == []
