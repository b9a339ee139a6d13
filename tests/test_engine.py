"The build engine from outside: the same bytes from any number of workers, a Ray cluster, an object store, and builds that are killed."
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from conftest import ROOT, files, records
from conftest import command as user_command

command = partial(user_command, python=sys.executable) # Ray and an object store are in the developers' environment only

N = 100_000 # rows of the generated mirror
WORDS = "배우 연기 장면 음악 이야기 결말 감독 화면 대사 웃음 눈물 긴장 반전 주인공 조연 각본 편집 색감 여운 몰입".split()
TASKS = ["--tasks", "nsmc,kobest_copa", "--shard_rows", 9000]


def rows_of(n, seed):
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) + draw.choice([".", "!", "", " ㅋㅋ", '"', "\\", "\n끝"]) for _ in range(n)]
    return pl.DataFrame(dict(id=list(map(str, range(n))), document=["" if i % 997 == 0 else o for i, o in enumerate(texts)], label=[i % 2 for i in range(n)]))


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    "A mirror with one large task and a small one."
    folder = tmp_path_factory.mktemp("hub")
    repo = folder/"e9t"/"nsmc"/"data"
    repo.mkdir(parents=True)
    for split, n in (("train", N), ("test", N // 10)): rows_of(n, split).write_parquet(repo/f"{split}-00000-of-00001.parquet", row_group_size=20_000)
    repo = folder/"skt"/"kobest_v1"/"copa"
    repo.mkdir(parents=True)
    copa = pl.DataFrame([dict(premise=f"비가 {i}번 왔다.", question="결과", alternative_1=f"땅이 {i}번 젖었다.", alternative_2=f"해가 {i}번 떴다.", label=i % 2) for i in range(3000)])
    for split in ("train", "validation", "test"): copa.write_parquet(repo/f"{split}-00000-of-00001.parquet")
    (folder/"skt"/"kobest_v1"/"README.md").write_text("---\nconfigs:\n- config_name: copa\n  data_files:\n  - split: train\n    path: copa/train-*\n  - split: validation\n    path: copa/validation-*\n  - split: test\n    path: copa/test-*\n---\n")
    return folder


def generate(hub, out, *args, **kw): return command("koflan.generate", "--hub_mirror", hub, "--output_dir", out, *TASKS, *args, **kw)


@pytest.fixture(scope="session")
def whole(hub, tmp_path_factory):
    "What one process builds in one go, every split a single piece."
    out = tmp_path_factory.mktemp("whole")/"data"
    command("koflan.generate", "--hub_mirror", hub, "--output_dir", out, "--tasks", "nsmc,kobest_copa", "--shard_rows", 10 * N)
    return files(out)


def leftovers(out): return [str(o) for o in out.rglob("*") if o.is_file() and (o.name.endswith(".tmp") or "parts" in o.parts or "survey" in o.parts)]


# ---- workers

@pytest.mark.parametrize("proc", [1, 2, 4])
def test_the_same_bytes_from_processes(proc, hub, whole, tmp_path):
    generate(hub, tmp_path/"data", "--num_proc", proc)
    assert files(tmp_path/"data") == whole and not leftovers(tmp_path/"data")


def test_choices_do_not_depend_on_the_workers(hub, tmp_path):
    "A cap, duplicates and mixing are decided over all pieces."
    args = ["--splits", "train", "--dedup", "all", "--max_instance_per_task", 30_000, "--mixing", "proportional", "--total", 4000, "--mixing_rate_max", 3000]
    generate(hub, tmp_path/"one", *args, "--shard_rows", 10 * N)
    generate(hub, tmp_path/"two", *args, "--num_proc", 2)
    assert files(tmp_path/"one") == files(tmp_path/"two")
    entries = {e["recipe"]["task"]: e for e in json.loads((tmp_path/"two"/"manifest.json").read_text())["files"]}
    nsmc = entries["nsmc"]
    assert sum(e["kept"] for e in entries.values()) == sum(e["quota"] for e in entries.values()) == 4000
    assert nsmc["rows"] == N == nsmc["kept"] + sum(nsmc["dropped"].values()) and {"duplicate", "normalised_duplicate", "over_quota", "empty_input"} <= set(nsmc["dropped"])
    said = [r["input"] for r in records(tmp_path/"two"/"train"/"nsmc.jsonl")]
    assert len({"".join(c for c in o if c.isalnum()) for o in said}) == len(said)
    assert command("koflan.verify", tmp_path/"two", "--hub_mirror", hub).stdout.endswith("all is right\n")


# ---- formats

@pytest.mark.parametrize("args", [["--format", "parquet"], ["--max_shard_rows", 7000], ["--format", "parquet", "--max_shard_rows", 30_000]], ids=["parquet", "shards", "parquet-shards"])
def test_formats(args, hub, whole, tmp_path):
    "Other files, the same records; `datasets` reads them, streaming too; and they verify."
    import datasets

    from koflan.build.manifest import load_records
    args = [str(o) for o in args]
    generate(hub, tmp_path/"a", *args, "--num_proc", 2)
    generate(hub, tmp_path/"b", *args, "--shard_rows", 10 * N)
    assert files(tmp_path/"a") == files(tmp_path/"b") and not leftovers(tmp_path/"a")
    (tmp_path/"c.jsonl").write_bytes(whole["train/kobest_copa.jsonl"] + whole["train/nsmc.jsonl"])
    right = pl.read_ndjson(tmp_path/"c.jsonl")
    assert load_records(tmp_path/"a", "train").equals(right.cast({"template": pl.Int32}))
    held = datasets.load_dataset(str(tmp_path/"a"), cache_dir=str(tmp_path/"cache"))
    assert held["train"].num_rows == len(right) and held["train"][0] == right.row(0, named=True)
    flow = datasets.load_dataset(str(tmp_path/"a"), streaming=True)["train"]
    assert [o for _, o in zip(range(5), flow)] == right.head(5).to_dicts() and flow.features == held["train"].features
    assert command("koflan.verify", tmp_path/"a", "--hub_mirror", hub).stdout.endswith("all is right\n")


# ---- memory

PEAK = """
import re, sys
from pathlib import Path
from koflan.generate import generate
generate("nsmc", sys.argv[2], splits="train", mirror=sys.argv[1], shard_rows=int(sys.argv[3]), format=sys.argv[4], progress=False)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.parametrize("shard_rows,format", [(100*N, "jsonl"), (5*N, "jsonl"), (5*N, "parquet")], ids=["straight", "parts", "parquet parts"])
def test_the_peak_of_memory_hangs_on_the_chunk(shard_rows, format, hub, tmp_path):
    "Eight times the rows: the lines alone are 350 MB more."
    peaks = []
    for times in (2, 16):
        repo = tmp_path/f"hub{times}"/"e9t"/"nsmc"/"data"
        repo.mkdir(parents=True)
        for i in range(times): os.symlink(hub/"e9t"/"nsmc"/"data"/"train-00000-of-00001.parquet", repo/f"train-{i:05}-of-{times:05}.parquet")
        line = [sys.executable, "-c", PEAK, tmp_path/f"hub{times}", tmp_path/f"data{times}", shard_rows, format]
        peaks.append(int(subprocess.run(list(map(str, line)), check=True, capture_output=True, text=True, env=os.environ | dict(HF_HUB_OFFLINE="1")).stdout))
    if format == "jsonl": assert (tmp_path/"data16"/"train"/"nsmc.jsonl").stat().st_size > 350e6
    assert peaks[1] < peaks[0] + 150, peaks


# ---- killed builds

def start(hub, out, *args):
    environ = {k: v for k, v in os.environ.items() if k != "KOFLAN_HUB_MIRROR"} | dict(HF_HUB_OFFLINE="1")
    line = [sys.executable, "-m", "koflan.generate", "--hub_mirror", hub, "--output_dir", out, *TASKS, *args]
    return subprocess.Popen(list(map(str, line)), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def kill(run, alone=False):
    "Kill a build with its workers, or only itself: they leave by themselves."
    try: (os.kill if alone else os.killpg)(run.pid, signal.SIGKILL)
    except ProcessLookupError: pass
    run.communicate()


def whole_or_none(out):
    "Every file that has its name ends well."
    for o in out.rglob("*.json"): json.loads(o.read_text(encoding="utf-8"))
    for o in out.rglob("*.jsonl"):
        data = o.read_bytes()
        assert data.endswith(b"\n") and json.loads(data.splitlines()[-1]) and json.loads(data.splitlines()[0]), o


def at_work(run, out):
    "Wait until a build holds the lock."
    while run.poll() is None:
        try:
            if json.loads((out/".koflan"/"lock.json").read_text())["pid"] == run.pid: return
        except (OSError, ValueError): time.sleep(.005)


def test_killed_twenty_times(hub, whole, tmp_path):
    "At random moments: some files further than the last one came, and a little later. A build that got through begins with an empty folder."
    out, draw, killed, found = tmp_path/"data", random.Random(4), 0, []
    written = lambda: sum(o.endswith(".jsonl") for _, _, names in os.walk(out) for o in names) # a folder may go while it is looked at
    while killed < 20:
        aim = written() + draw.randrange(5)
        run = start(hub, out, *(["--num_proc", 2] if killed % 5 == 4 else []), "--shard_rows", 4000)
        at_work(run, out)
        while run.poll() is None and written() < aim: time.sleep(.002)
        time.sleep(draw.uniform(0, .05))
        over = run.poll() is not None
        kill(run, alone=killed % 10 == 4)
        killed += not over
        whole_or_none(out)
        found.append(written())
        if over: shutil.rmtree(out)
    generate(hub, out)
    assert files(out) == whole and not leftovers(out)
    assert len(set(found)) > 4, len(set(found))


def test_only_what_was_not_finished_is_built_again(hub, whole, tmp_path):
    out = tmp_path/"data"
    run = start(hub, out)
    while run.poll() is None and len(list(out.glob(".koflan/parts/train.nsmc/*.json"))) < 4: time.sleep(.005)
    kill(run)
    before = {o: o.stat().st_mtime_ns for o in out.glob(".koflan/parts/train.nsmc/*.jsonl") if o.with_name(o.name + ".json").is_file()}
    assert len(before) >= 4
    (out/"train"/".nsmc.jsonl.dead.tmp").parent.mkdir(exist_ok=True)
    (out/"train"/".nsmc.jsonl.dead.tmp").write_text("half")
    run = start(hub, out)
    while run.poll() is None and len(list(out.glob(".koflan/parts/train.nsmc/*.json"))) < len(before) + 3: time.sleep(.005)
    kill(run)
    assert {o: o.stat().st_mtime_ns for o in before} == before
    generate(hub, out)
    assert files(out) == whole and not leftovers(out)


def test_a_dead_worker_is_replaced(hub, whole, tmp_path):
    run = start(hub, tmp_path/"data", "--num_proc", 2)
    while run.poll() is None and not list((tmp_path/"data").glob(".koflan/parts/*/*.json")): time.sleep(.01)
    children = [int(o) for o in open(f"/proc/{run.pid}/task/{run.pid}/children").read().split()]
    workers = [o for o in children if b"spawn_main" in open(f"/proc/{o}/cmdline", "rb").read()]
    os.kill(workers[0], signal.SIGKILL)
    said = run.communicate()[1]
    assert run.returncode == 0, said
    assert files(tmp_path/"data") == whole


def test_two_builds_at_once(hub, whole, tmp_path):
    out = tmp_path/"data"
    run = start(hub, out)
    while run.poll() is None and not list(out.glob(".koflan/parts/*/*.json")): time.sleep(.002)
    os.kill(run.pid, signal.SIGSTOP)
    try: done = generate(hub, out, ok=False)
    finally: os.kill(run.pid, signal.SIGCONT)
    assert done.returncode == 2 and f"process {run.pid} on {socket.gethostname()} is building there" in done.stderr and "Traceback" not in done.stderr
    said = run.communicate()[1]
    assert run.returncode == 0 and files(out) == whole, said


# ---- holdout

def test_a_holdout_stays_out(tmp_path):
    args = ["--hub_mirror", "samples", "--output_dir", tmp_path/"data", "--tasks", "apeach,kor_hate,nsmc"]
    done = command("koflan.generate", *args, "--holdout", "task:kor_hate")
    held = json.loads((tmp_path/"data"/"manifest.json").read_text())
    assert held["holdout"] == dict(what="task:kor_hate", left_out=dict(apeach="shares the corpus beep with kor_hate", kor_hate="task kor_hate"))
    assert "held out (task:kor_hate): apeach, kor_hate" in done.stderr and {e["recipe"]["task"] for e in held["files"]} == {"nsmc"}
    assert "| apeach | shares the corpus beep with kor_hate |" in (tmp_path/"data"/"README.md").read_text()
    command("koflan.generate", *args) # forgets nothing
    assert json.loads((tmp_path/"data"/"manifest.json").read_text()) == held
    assert command("koflan.verify", tmp_path/"data").stdout.endswith("all is right\n")


# ---- an object store

@pytest.fixture(scope="session")
def s3():
    "A local S3-compatible server with an empty bucket."
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    line = ["-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    server = subprocess.Popen([sys.executable, *line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = dict(AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
    try:
        until = time.time() + 60
        while time.time() < until:
            try: socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError: time.sleep(.1)
            else: break
        import s3fs
        fs = s3fs.S3FileSystem(key="x", secret="x", endpoint_url=env["AWS_ENDPOINT_URL"], use_listings_cache=False)
        fs.mkdir("bucket")
        yield fs, env
    finally:
        server.kill()
        server.wait()


def in_bucket(fs, folder): return {o.removeprefix(f"{folder}/"): fs.cat_file(o) for o in fs.find(folder) if "/.koflan/" not in o}


def test_into_an_object_store(hub, s3, tmp_path):
    (fs, env), args = s3, ["--splits", "test", "--shard_rows", 4000]
    generate(hub, tmp_path/"data", *args)
    generate(hub, "s3://bucket/data", *args, "--num_proc", 2, **env)
    assert in_bucket(fs, "bucket/data") == files(tmp_path/"data")
    assert sorted(o.rpartition("/")[2] for o in fs.find("bucket/data/.koflan")) == ["test.kobest_copa.json", "test.nsmc.json"]
    before = fs.info("bucket/data/test/nsmc.jsonl")["LastModified"]
    generate(hub, "s3://bucket/data", *args, **env)
    assert fs.info("bucket/data/test/nsmc.jsonl")["LastModified"] == before # nothing is written twice
    done = generate(hub, "s3://nowhere/data", ok=False, **env)
    assert done.returncode == 2 and "s3://nowhere/data: cannot write there" in done.stderr and "Traceback" not in done.stderr


def test_out_of_an_object_store(hub, s3):
    (fs, env), url = s3, "s3://bucket/read"
    generate(hub, url, "--splits", "test", "--tasks", "nsmc", **env)
    verify = lambda *args, **kw: command("koflan.verify", *args, "--hub_mirror", hub, **env | kw)
    assert verify(url).stdout.endswith("all is right\n")
    read = "import sys; from koflan.build.manifest import load_records; print(len(load_records(sys.argv[1], 'test')))"
    lines = fs.cat_file("bucket/read/test/nsmc.jsonl").count(b"\n")
    assert int(subprocess.run([sys.executable, "-c", read, url], env=os.environ | env, capture_output=True, text=True, check=True).stdout) == lines
    fs.pipe_file("bucket/read/test/nsmc.jsonl", b"{}")
    assert verify(url, "--quick", ok=False).stdout.startswith("test/nsmc.jsonl: its bytes are not those of the manifest (sha256)\n")
    wrong = verify(url, ok=False, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert wrong.returncode == 2 and f"{url}: cannot read there" in wrong.stderr and "Traceback" not in wrong.stderr


# ---- a Ray cluster

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def at_the_front():
    "Ray gives its agent 15 seconds to come up, which is little on a busy machine; root may ask for more of it."
    try: open("/proc/self/autogroup", "w").write("-10")
    except OSError: pass


class Cluster:
    "Two nodes of Ray on this machine, each a `ray start --block` of its own."
    def __init__(self, folder):
        self.folder, self.port, self.nodes = folder, 6300 + os.getpid() % 3000, []
        self.env = os.environ | dict(RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_IMPORT_WARNING="1", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT))
        self.address = f"127.0.0.1:{self.port}"

    def node(self, *args, tries=3):
        "Start one; a node that its agent does not join in time goes down again."
        line = [os.path.join(os.path.dirname(sys.executable), "ray"), "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0",
                "--node-ip-address=127.0.0.1", *args]
        for _ in range(tries):
            log = open(self.folder/f"node{len(self.nodes)}.log", "w+")
            node = subprocess.Popen(line, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=at_the_front)
            self.nodes.append(node)
            until = time.time() + 120
            while node.poll() is None and time.time() < until:
                if "Ray runtime started" in (self.folder/log.name).read_text(): return node
                time.sleep(.2)
            self.stop(node)
        pytest.fail((self.folder/log.name).read_text()[-2000:])

    def start(self):
        self.node("--head", f"--port={self.port}", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={self.folder}/ray")
        return self.node(f"--address={self.address}")

    def stop(self, node):
        "Kill a node with everything that it started."
        below = [node.pid]
        for pid in below: below += children(pid)
        for pid in reversed(below):
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
        node.wait()


def children(pid):
    try: return [int(o) for t in os.listdir(f"/proc/{pid}/task") for o in open(f"/proc/{pid}/task/{t}/children").read().split()]
    except OSError: return []


@contextmanager
def cluster(folder):
    c = Cluster(folder)
    try:
        c.second = c.start()
        yield c
    finally:
        for o in c.nodes: c.stop(o)


def test_a_ray_cluster(hub, whole):
    "Two nodes build the same bytes; one of them is killed in the middle of a second build."
    pytest.importorskip("ray")
    with TemporaryDirectory(ignore_cleanup_errors=True) as d, cluster(folder := Path(d)) as ray: # a short path: the sockets of Ray stand below
        args = ["--engine", "ray", "--ray_address", ray.address]
        generate(hub, folder/"data", *args)
        assert files(folder/"data") == whole and not leftovers(folder/"data")
        generate(hub, folder/"mixed", *args, "--splits", "train", "--dedup", "task", "--format", "parquet")
        generate(hub, folder/"here", "--splits", "train", "--dedup", "task", "--format", "parquet")
        assert files(folder/"mixed") == files(folder/"here")
        run = start(hub, folder/"again", *args, "--shard_rows", 3000)
        while run.poll() is None and len(list((folder/"again").glob(".koflan/parts/*/*.json"))) < 5: time.sleep(.01)
        assert run.poll() is None, run.communicate()
        ray.stop(ray.second)
        said = run.communicate(timeout=200)[1]
        assert run.returncode == 0, said
        assert files(folder/"again") == whole


def test_no_ray_cluster(hub, tmp_path):
    pytest.importorskip("ray")
    done = generate(hub, tmp_path/"data", "--engine", "ray", "--ray_address", f"127.0.0.1:{free_port()}", ok=False)
    assert done.returncode == 2 and "no Ray cluster answers there" in done.stderr and "Traceback" not in done.stderr


# ---- the real rows

@pytest.mark.mirror
def test_the_real_mirror(mirror, tmp_path):
    "Every task that the mirror holds, in one process and in small pieces in two."
    for proc, rows in ((1, 10**9), (2, 3000)):
        done = command("koflan.generate", "--num_proc", proc, "--shard_rows", rows, "--output_dir", tmp_path/str(proc), KOFLAN_HUB_MIRROR=str(mirror), ok=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr # the mirror does not hold every repository
    assert files(tmp_path/"1") == files(tmp_path/"2") and len(files(tmp_path/"1")) > 30
