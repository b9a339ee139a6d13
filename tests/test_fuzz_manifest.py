"Manifests and notes of any shape: a right answer or one line, never a traceback, and nothing outside the folder."
import json
import shutil
from contextlib import redirect_stderr
from functools import reduce
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch as mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koflan.contamination import Overlaps
from koflan.generate import generate
from koflan.build.manifest import OPTIONS, load_records, read_manifest
from koflan.core.schema import KoflanError
from koflan.build.choose import Survey, read_survey, survey
from koflan.build.jobs import Job, open_job
from koflan.build.parts import build_part
from koflan.tasks import find_tasks
from koflan.verify import arguments, verify

CASES = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SPLITS = dict(splits="train", max_shard_rows=99) # what is built over the notes
NASTY = ["../ours/victim.jsonl", "train/../../ours/victim.jsonl", "/etc/passwd", "..", ".", "", "train",
         "train/nsmc.jsonl", "test/nsmc.jsonl", r"train\nsmc.jsonl", "C:/x", "train/nsmc.jsonl\0", "\ud800",
         "\x1b[2J", "a\nb", "*", "{x}", "samples", "parquet", "all", "proportional", "127.0.0.1:9", "0" * 64, "가" * 300,
         "nsmc", "cluster:nli", "task:*", "__class__"]
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 10**40, 1 << 63]), st.floats(),
                 st.text(max_size=20), st.sampled_from(NASTY))
key = st.text(max_size=9) | st.sampled_from(NASTY)
value = st.recursive(leaf, lambda o: st.lists(o, max_size=3) | st.dictionaries(key, o, max_size=3), max_leaves=9)
KEYS = ["file", "recipe", "options", "seed", "cap", "mixing", "among", "weights", "dedup", "format", "source", "repo",
        "licence", "place", "task", "split", "kind", "rows", "kept", "dropped", "sha256", "koflan",
        "files", "holdout", "what", "left_out", "cleaned", "rate", "key", "name", "engine", "ray_address", "output_dir",
        "mirror", "pid", "host", "beat", "who"]


def places(o, path=()):
    "Every place in a JSON value."
    yield path
    for k, v in o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ():
        yield from places(v, (*path, k))


@st.composite
def spoilt(draw, held):
    "Bytes: a JSON value with a few places changed, taken away or added; or a few bytes of it."
    held = json.loads(json.dumps(held))
    for _ in range(draw(st.integers(1, 3))):
        box = [held]
        *above, last = draw(st.sampled_from([o for o in places(box) if o]))
        inside = reduce(lambda o, k: o[k], above, box)
        how = draw(st.sampled_from(["change", "change", "add", "drop", "twice"]))
        if how == "change": inside[last] = draw(value)
        elif how == "drop" and above: del inside[last]
        elif isinstance(inside[last], dict): inside[last][draw(st.sampled_from(KEYS))] = draw(value)
        elif isinstance(inside[last], list):
            inside[last].append(draw(value) if how == "add" or not inside[last] else inside[last][0])
        held = box[0]
    data = json.dumps(held).encode()
    if draw(st.booleans()) or not data: return data
    at = draw(st.integers(0, len(data) - 1))
    return draw(st.sampled_from([data[:at], data[:at] + draw(st.binary(max_size=3)) + data[at + 1:], b"[" * 5000,
                                 data.replace(b"{", b'{"a": NaN, ', 1), b"\xff\xfe" + data, data]))


def outside(folder):
    "All that is beside the data folder."
    return {str(o): o.read_bytes() if o.is_file() else None for o in sorted(folder.parent.rglob("*"))
            if folder not in (o, *o.parents)}


def one_line(do):
    "What a function gives; None where it ends in a `KoflanError` of one line."
    try:
        with redirect_stderr(StringIO()): return do()
    except KoflanError as e: assert str(e) and "\n" not in str(e), e


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    "A folder in the middle of a build: whole splits, a part and a survey with their notes, something held out."
    top = tmp_path_factory.mktemp("honest")
    generate("nsmc,kobest_copa", top/"data", mirror="samples", progress=False, holdout="task:kor_hate")
    cls = find_tasks("nsmc")[0]
    options = dict(seed=0, cap=None, allow_no_input=False, allow_no_negative=False, max_shard_rows=99)
    job = Job(cls, "train", str(top/"data"), "samples", options)
    build_part(job, open_job(job), 0, 25)
    survey(job, open_job(job), 0, 25)
    (top/"ours").mkdir()
    (top/"ours"/"victim.jsonl").write_text('{"instruction": "?", "input": "비밀", "positives": ["네"], "negatives": ["아니요"]}\n')
    (top/"data"/".koflan"/"lock.json").write_text(json.dumps(dict(pid=1, host="x", beat=1.5, who="y")))
    return top


def fresh(honest, d):
    shutil.copytree(honest, Path(d)/"top")
    return Path(d)/"top"/"data"


def test_manifests(honest):
    right = json.loads((honest/"data"/"manifest.json").read_text())

    @CASES
    @given(data=spoilt(right))
    def check(data):
        (folder/"manifest.json").write_bytes(data)
        held = one_line(lambda: read_manifest(folder))
        one_line(lambda: load_records(folder, "train"))
        one_line(lambda: Overlaps(folder, near=0).drop(folder/"clean"))
        shutil.rmtree(folder/"clean", ignore_errors=True)
        said = one_line(lambda: verify(folder, quick=True))
        assert held or said
        for e in (held or dict(files=[]))["files"]:
            assert (folder/e["file"]).resolve().is_relative_to(folder.resolve())
            assert arguments(e["recipe"]).keys() <= {"tasks", "splits", "mixing_rate_max", "total", "weights",
                                                     *OPTIONS} - {"among"}
        assert outside(folder) == before

    with TemporaryDirectory() as d, mock("os.fsync"):
        folder = fresh(honest, d)
        before = outside(folder)
        check()


def test_notes(honest):
    notes = {str(o.relative_to(honest/"data")): json.loads(o.read_text())
             for o in (honest/"data"/".koflan").rglob("*.json")}
    assert len(notes) == 8, notes.keys()

    @CASES
    @given(data=st.sampled_from(sorted(notes)).flatmap(lambda name: st.tuples(st.just(name), spoilt(notes[name]))))
    def check(data):
        name, data = data
        shutil.rmtree(folder)
        shutil.copytree(honest/"data", folder)
        (folder/name).write_bytes(data)
        done = one_line(lambda: generate("nsmc", folder, mirror="samples", progress=False, **SPLITS))
        assert outside(folder) == before
        if done and done[0]:
            assert not done[1] and (folder/"train"/"nsmc-00000-of-00001.jsonl").read_bytes() == right
            read_manifest(folder)
        else: assert done is None and name.endswith("holdout.json")

    with TemporaryDirectory() as d, mock("os.fsync"): # a slow disk is not what is tested here
        folder = fresh(honest, d)
        before, right = outside(folder), (folder/"train"/"nsmc.jsonl").read_bytes()
        check()


def test_surveys(honest):
    "A look at a range of rows, with bytes changed, taken away and added."
    at, = (honest/"data"/".koflan"/"survey").rglob("*.npz")
    right, job = at.read_bytes(), Job(find_tasks("nsmc")[0], "train", str(honest/"data"), "samples", dict(seed=0))

    @CASES
    @given(st.lists(st.tuples(st.integers(0, len(right) - 1), st.integers(0, 9), st.binary(max_size=9)), min_size=1,
                    max_size=3))
    def check(changes):
        data = right
        for i, n, new in changes: data = data[:i] + new + data[i + n:]
        at.write_bytes(data)
        found = read_survey(job, str(at.relative_to(honest/"data")))
        assert found is None or isinstance(found, Survey) and len(found.numbers) <= 25

    check()
