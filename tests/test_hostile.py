"A data folder from a stranger: nothing outside of it is read, written or taken away. A build that is told to end."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import command, files

from koflan.contamination import koflan_contamination
from koflan.generate import koflan_generate
from koflan.build.manifest import load_records
from koflan.core.schema import KoflanError
from koflan.build.jobs import Job, open_job
from koflan.build.parts import build_part
from koflan.tasks import find_tasks
from koflan.verify import koflan_verify

SECRET = '{"instruction": "?", "input": "비밀", "positives": ["네"], "negatives": ["아니요"]}\n'


@pytest.fixture
def folder(data, tmp_path):
    "The stranger's folder beside one of ours."
    shutil.copytree(data, tmp_path/"data")
    (tmp_path/"ours").mkdir()
    (tmp_path/"ours"/"victim.jsonl").write_text(SECRET)
    return tmp_path/"data"


def ours(folder): return {o.name: o.read_bytes() for o in (folder.parent/"ours").iterdir()}


def run(command, capsys, **args):
    "Run a command in this process; its exit code and what it printed."
    try: command(**args)
    except SystemExit as e: ended = e.code
    else: ended = 0
    return ended, (said := capsys.readouterr()).out, [o for o in said.err.splitlines() if o.startswith("koflan_")]


def generate(folder, capsys, tasks="nsmc", **args):
    return run(koflan_generate, capsys, tasks=tasks, hub_mirror="samples", output_dir=str(folder), **args)


def change(file, do):
    held = json.loads(file.read_text(encoding="utf-8"))
    do(held)
    file.write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


OUTSIDE = ["../ours/victim.jsonl", "train/../../ours/victim.jsonl", "train/victim.jsonl/../../../ours/victim.jsonl"]


@pytest.mark.parametrize("file", [*OUTSIDE, "/"])
def test_a_manifest_that_names_files_outside(file, folder, capsys):
    name = str(folder.parent/"ours"/"victim.jsonl") if file == "/" else file
    change(folder/"manifest.json", lambda o: o["files"][0].update(file=name))
    before = ours(folder)
    for args in (dict(), dict(drop=str(folder.parent/"clean"))):
        code, _, said = run(koflan_contamination, capsys, folder=str(folder), **args)
        assert code == 2 and len(said) == 1 and "manifest.json: file 0 is called" in said[0]
    with pytest.raises(KoflanError, match="file 0 is called"): load_records(folder, "train")
    code, out, _ = run(koflan_verify, capsys, folder=str(folder), quick=True)
    assert code == 1 and out.startswith("manifest.json: file 0 is called")
    assert ours(folder) == before and not (folder.parent/"clean").exists()


def test_a_note_that_names_files_outside(folder, data, capsys):
    "Its recipe and sha256 are right: the file outside would stand for the split, whose own would be swept away."
    outside = dict(file="../ours/victim.jsonl", sha256=sha256(SECRET.encode()).hexdigest())
    change(folder/".koflan"/"train.nsmc.json", lambda o: o[0].update(outside))
    before = ours(folder)
    assert generate(folder, capsys)[0] == 0
    assert ours(folder) == before and files(folder) == files(data)


def test_a_part_that_names_files_outside(folder, data, capsys):
    "Its key and sha256 are right: the file outside would be joined, then taken away."
    options = dict(seed=0, cap=None, allow_no_input=False, allow_no_negative=False, max_shard_rows=1000)
    job = Job(find_tasks("nsmc")[0], "train", str(folder), "samples", options)
    note = Path(build_part(job, open_job(job), 0, 25)["name"] + ".json")
    change(folder/note, lambda o: o.update(name="../ours/victim.jsonl"))
    before = ours(folder)
    assert generate(folder, capsys, splits="train", max_shard_rows=1000)[0] == 0
    assert ours(folder) == before and not (folder/note).exists()
    assert (folder/"train"/"nsmc-00000-of-00001.jsonl").read_bytes() == (data/"train"/"nsmc.jsonl").read_bytes()


@pytest.mark.parametrize("name", [".koflan", "train", ".koflan/parts", ".koflan/survey", ".koflan/lock",
                                  ".koflan/lock.json", "manifest.json", "README.md", "train/nsmc.jsonl",
                                  ".koflan/train.nsmc.json", ".koflan/holdout.json"])
def test_links(name, folder, capsys):
    "A folder or a file that is a link: one line, and what it points to stays as it is."
    place, target = folder/name, folder.parent/"ours"/"victim.jsonl"
    if place.is_dir(): shutil.rmtree(place)
    else: place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target.parent if "." not in place.name or name == ".koflan" else target)
    if name == ".koflan/lock": place.unlink(), place.symlink_to(target)
    before = ours(folder)
    code, _, said = generate(folder, capsys, splits="train", seed=1)
    assert code in (1, 2) and len(said) == 1 and "a symlink" in said[0], said
    assert ours(folder) == before and place.is_symlink()
    if "train" in name and "koflan" not in name:
        with pytest.raises(KoflanError, match="a symlink"): load_records(folder, "train")
        code, _, said = run(koflan_contamination, capsys, folder=str(folder), drop=str(folder.parent/"clean"))
        assert code == 2 and len(said) == 1 and "a symlink" in said[0] and not (folder.parent/"clean").exists()
        assert "a symlink" in run(koflan_verify, capsys, folder=str(folder), quick=True)[1]


def test_the_named_folder_may_be_a_link(folder, capsys):
    (folder.parent/"link").symlink_to(folder)
    assert generate(folder.parent/"link", capsys)[0] == 0
    assert len(load_records(folder.parent/"link", "train"))


def test_a_manifest_does_not_choose_where_and_how(folder, capsys):
    "No Ray cluster is sought, no file opened as weights, nothing written elsewhere."
    strange = dict(engine="ray", ray_address="127.0.0.1:9", output_dir=str(folder.parent/"ours"), mirror="/etc",
                   num_proc=64, progress=True)
    change(folder/"manifest.json", lambda o: [e["recipe"]["options"].update(strange) for e in o["files"]])
    before = ours(folder)
    code, out, said = run(koflan_verify, capsys, folder=str(folder))
    assert code == 1 and not said and ours(folder) == before
    for o in strange: assert f"manifest.json: option {o!r} is not known\n" in out
    assert "cannot be checked" not in out and "Ray" not in out.replace("ray_address", "")

    mixing = dict(how="proportional", rate_max=9, total=None, weights="/etc/passwd")
    options = dict(seed=0, cap=None, mixing=mixing)
    change(folder/"manifest.json", lambda o: o["files"][0]["recipe"].update(options=options))
    code, out, _ = run(koflan_verify, capsys, folder=str(folder))
    assert code == 1 and "file 0 says mixing is" in out and "root:" not in out


BROKEN = [b"", b"[]", b"3", b'{"what": 3}', b'{"what": "task:nsmc"}', b'{"what": "task:nsmc", "left_out": [1]}',
          b"[" * 99_999, b"\xff\xfe", b'{"what": NaN}', b'{"what": 1e999}',
          b'{"what": "task:nsmc", "what": "", "left_out": {}}', rb'{"what": "\ud800", "left_out": {}}',
          rb'{"what": "task:\u0000", "left_out": {}}', b"9" * 5000]


@pytest.mark.parametrize("held", BROKEN, ids=range(len(BROKEN)))
def test_broken_holdouts(held, folder, capsys):
    "What was held out must not be forgotten: one line, and nothing is built."
    (folder/".koflan"/"holdout.json").write_bytes(held)
    before = files(folder)
    code, _, said = generate(folder, capsys, seed=5)
    assert code == 2 and len(said) == 1 and ".koflan/holdout.json" in said[0] and files(folder) == before


def test_nothing_acts_on_the_terminal(folder, capsys):
    "ESC in the manifest, in rows and in names of files."
    licence = "\x1b[2J\nkoflan_verify: data: all is right"
    change(folder/"manifest.json", lambda o: o["files"][0]["recipe"]["source"].update(licence=licence))
    (folder/"\x1b]0;x\x07").write_text("")
    lines = [json.loads(o) | dict(input="\x1b[31m 같은 글이 여기에도 저기에도 있습니다", id="\x1b[A")
             for o in (folder/"test"/"nsmc.jsonl").read_text(encoding="utf-8").splitlines()]
    for split in ("train", "test"): (folder/split/"nsmc.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    code, out, _ = run(koflan_verify, capsys, folder=str(folder))
    assert code == 1 and "\x1b" not in out and "\nkoflan_verify: data: all is right" not in out
    assert r"\x1b]0;x\x07: the manifest does not know this file" in out
    code, out, _ = run(koflan_contamination, capsys, folder=str(folder))
    assert code == 0 and "\x1b" not in out and r"\x1b[31m" in out and r"\x1b[A" in out


# ---- told to end

def children(pid):
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(o) for o in out] + [o for child in out for o in children(child)]


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("proc", [1, 2])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(number, code, proc, tmp_path):
    "The build ends at once, its lock and its workers with it; the next one may start."
    script = ("import sys, time\nimport koflan.authoring.task\nfrom koflan.generate import koflan_generate\n"
              "def slow(self, *a, **k): print('at work', flush=True); time.sleep(60)\n"
              "koflan.authoring.task.Task.stream = koflan.authoring.task.Task.together = slow\n"
              "if __name__ == '__main__': koflan_generate('nsmc,kobest_copa', hub_mirror='samples', "
              f"output_dir={str(tmp_path/'data')!r}, num_proc={proc})")
    (tmp_path/"slow.py").write_text(script)
    p = subprocess.Popen([sys.executable, tmp_path/"slow.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, start_new_session=True)
    assert "at work" in p.stdout.readline(), p.stderr.read() # two workers may say it in one line
    workers, started = children(p.pid), time.time()
    assert (tmp_path/"data"/".koflan"/"lock.json").exists() and (len(workers) > 1) == (proc > 1)
    p.send_signal(number)
    _, err = p.communicate(timeout=30)
    assert (p.returncode, "koflan_generate: interrupted" in err, "Traceback" in err) == (code, True, False), err[-2000:]
    assert time.time() - started < 15 and not (tmp_path/"data"/".koflan"/"lock.json").exists()
    while not all(map(gone, workers)): assert time.time() - started < 30, workers
    command("koflan.generate", "--tasks", "nsmc", "--hub_mirror", "samples", "--output_dir", tmp_path/"data")


def test_nohup_stays(tmp_path):
    "Who has asked for SIGHUP to be ignored keeps the build."
    script = ("import os, signal, sys\nfrom koflan.core.schema import user_errors\n"
              "with user_errors('koflan_x'): os.kill(os.getpid(), signal.SIGHUP); print('still there')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN), env=os.environ)
    assert (done.returncode, done.stdout) == (0, "still there\n")


def test_a_power_cut(folder, data, capsys):
    "Before the manifest was written: the notes are there, a file is empty, and the lock says that the build died."
    (folder/"test"/"kobest_copa.jsonl").write_bytes(b"")
    (folder/".koflan"/"lock.json").write_text("{}")
    assert generate(folder, capsys)[0] == 0
    assert "test/kobest_copa.jsonl" not in {e["file"]
                                            for e in json.loads((folder/"manifest.json").read_text())["files"]}
    assert generate(folder, capsys, tasks="kobest_copa")[0] == 0
    assert files(folder) == files(data)
