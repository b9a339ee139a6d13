"Broken and odd sources: the failing task is named in one line, the others are built, nothing is half-written; odd but valid rows come out whole."
import json
import os
import resource
import subprocess
import sys
import unicodedata
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import command

from koflan.generate import koflan_generate
from koflan.tasks.unsmile import UNSMILE_FLAGS

N = 30 # rows of a table
CARD = "---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: train\n    path: {path}\n---\n"
SOURCES = dict(nsmc=("e9t/nsmc", "default"), unsmile=("smilegate-ai/kor_unsmile", "default"), kobest_copa=("skt/kobest_v1", "copa"),
               korquad_v1=("KorQuAD/squad_kor_v1", "squad_kor_v1"), chatbot=("didi0di/Chatbot_data_for_Korean_v1.0", "default"))


def said(i, n=40): return f"{i}번째 글입니다. " + "".join(chr(0xAC00 + (i * 7919 + j * 104_729) % 11_172) for j in range(n))


def table(task, n=N):
    "Good rows of a family."
    texts = pa.array([said(i) for i in range(n)], pa.string())
    ints = lambda f: pa.array([f(i) for i in range(n)], pa.int64())
    if task == "nsmc": return pa.table(dict(id=pa.array(map(str, range(n)), pa.string()), document=texts, label=ints(lambda i: i % 2)))
    if task == "unsmile": return pa.table({"문장": texts} | {o: ints(lambda i, j=j: int(i % 10 == j)) for j, o in enumerate(UNSMILE_FLAGS)})
    if task == "kobest_copa":
        return pa.table(dict(premise=texts, question=pa.array(["원인", "결과"] * (n // 2) + ["원인"] * (n % 2), pa.string()), alternative_1=pa.array([said(i, 9) for i in range(n)], pa.string()),
                             alternative_2=pa.array([said(i + n, 9) for i in range(n)], pa.string()), label=ints(lambda i: i % 2)))
    if task == "chatbot": return pa.table(dict(Q=texts, A=pa.array([said(i, 9) for i in range(n)], pa.string()), label=ints(lambda i: i % 3)))
    answers = pa.array([dict(text=[f"답{i}"], answer_start=[0]) for i in range(n)], pa.struct(dict(text=pa.list_(pa.string()), answer_start=pa.list_(pa.int32()))))
    return pa.table(dict(id=pa.array(map(str, range(n)), pa.string()), title=texts, context=pa.array([said(i // 5, 200) for i in range(n)], pa.string()), question=texts, answers=answers))


def records(path): return [json.loads(o) for o in path.read_bytes().split(b"\n") if o] # texts may hold other line ends than \\n


def change(t, column, values, kind=None):
    "A table with another column in the place of one; `values` are its first, or all when `kind` is given."
    old = t[column].to_pylist()
    new = values if isinstance(values, pa.Array) else pa.array(values + (old[len(values):] if kind is None else []), kind or t.schema.field(column).type)
    return t.set_column(t.column_names.index(column), column, new)


def put(root, task, t=None, card=True, **kw):
    "Write a repository; returns its parquet file."
    repo, config = SOURCES[task]
    file = root/repo/("data" if config == "default" else config)/"train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(task) if t is None else t, file, **kw)
    if card: (root/repo/"README.md").write_text(CARD.format(config=config, path=f"{file.parent.name}/train-*"))
    return file


def whole(out, built):
    "Only finished files: those of the tasks built, each line a record."
    held = {str(o.relative_to(out)) for o in out.rglob("*") if o.is_file() and o.relative_to(out).parts[0] != ".koflan"} if out.exists() else set()
    assert held == ({"README.md", "manifest.json", *(f"train/{o}.jsonl" for o in built)} if built else set())
    assert not [o for o in out.rglob("*") if o.suffix == ".tmp"]
    for o in built: assert all(set(r) >= {"instruction", "input", "positives", "negatives"} for r in records(out/"train"/f"{o}.jsonl"))


def build(hub, out, capsys, *tasks, **kw):
    "Run the command in this process; its exit code and its lines on stderr."
    try: koflan_generate(tasks=",".join(tasks), splits="train", hub_mirror=str(hub), output_dir=str(out), **kw)
    except SystemExit as e: ended = e.code
    else: ended = 0
    return ended, [o for o in capsys.readouterr().err.splitlines() if o.startswith("koflan_generate: ")]


def fails(hub, out, capsys, task, *says):
    "The task fails in one line that says so, and another one is built."
    other = "nsmc" if task != "nsmc" else "unsmile"
    put(hub, other)
    code, lines = build(hub, out, capsys, task, other)
    assert code == 1 and len(lines) == 1 and len(lines[0]) < 400, lines
    for o in (f"koflan_generate: {task} train", *says): assert o in lines[0], (o, lines[0])
    whole(out, [other])
    assert len(records(out/"train"/f"{other}.jsonl")) == N


def bytes_at(at, n):
    def spoil(file):
        held, rng = bytearray(file.read_bytes()), Random(0)
        where = int(len(held) * at) if at < 1 else len(held) - at
        for i in range(where, where + n): held[i] = rng.randrange(256)
        file.write_bytes(bytes(held))
    return spoil


def cut(keep): return lambda file: file.write_bytes(file.read_bytes()[:int(file.stat().st_size * keep)] if keep else b"")


@pytest.mark.parametrize("task, card", [*((o, True) for o in SOURCES), ("chatbot", False)])
@pytest.mark.parametrize("spoil", [bytes_at(.3, 200), bytes_at(120, 80), bytes_at(4, 4), cut(.5), cut(.97), cut(0), lambda f: f.write_text("{}\n")],
                         ids=["middle", "footer", "magic", "half", "end cut", "empty", "not parquet"])
def test_spoilt_files(spoil, task, card, tmp_path, capsys):
    "With a card that lists the files, and without one, where `datasets` is asked."
    spoil(put(tmp_path/"hub", task, card=card))
    fails(tmp_path/"hub", tmp_path/"data", capsys, task, SOURCES[task][0], "train-00000-of-00001.parquet")


def test_random_damage(tmp_path, capsys):
    "Wherever the damage is: an error in one line, or a whole file."
    hub, out, t, failed = tmp_path/"hub", tmp_path/"data", table("nsmc", 200), 0
    for i in range(60):
        file, rng = put(hub, "nsmc", t, compression=("none", "snappy", "zstd")[i % 3]), Random(i)
        held = bytearray(file.read_bytes())
        at, n = rng.randrange(len(held)), rng.choice([1, 8, 100])
        held[at:at + n] = rng.randbytes(len(held[at:at + n]))
        file.write_bytes(bytes(held))
        code, lines = build(hub, out/str(i), capsys, "nsmc")
        assert (code, len(lines)) in ((0, 0), (1, 1)), (i, code, lines)
        whole(out/str(i), [] if code else ["nsmc"])
        if code: assert "e9t/nsmc" in lines[0] or "nsmc train" in lines[0] and "Error" not in lines[0].split("failed: ")[1].split(":")[0], lines
        failed += code
    assert failed > 30


INT, FLOAT, TEXT = pa.int64(), pa.float64(), pa.string()
WRONG = {
    "label float": ("nsmc", "label", [.5] * N, FLOAT, ["'label' is Float64, not a label"]),
    "label text": ("nsmc", "label", ["good"] + ["negative"] * (N - 1), TEXT, ["label 'good' in 'label' is none of ['negative', 'positive']", "row 0"]),
    "label out of range": ("nsmc", "label", [0, 1, 7], None, ["label 7 in 'label' is none of [-1, 0, 1]", "row 2"]),
    "text int": ("nsmc", "document", [*range(N)], INT, ["'document' is Int64, not a text"]),
    "text list": ("nsmc", "document", [["가"]] * N, pa.list_(TEXT), ["'document' is List(String), not a text"]),
    "text bytes": ("nsmc", "document", [b"\xea\xb0\x80"] * N, pa.binary(), ["'document' is Binary, not a text"]),
    "flag out of range": ("unsmile", "남성", [0, 1, 0, 2], None, ["'남성' is 2 in row 3", "0 or 1"]),
    "flag float": ("unsmile", "남성", [.5] * N, FLOAT, ["'남성' is 0.5 in row 0", "0 or 1"]),
    "flag text": ("unsmile", "clean", ["yes"] * N, TEXT, ["'clean' is String", "0 or 1"]),
    "text int, multilabel": ("unsmile", "문장", [*range(N)], INT, ["'문장' is Int64, not a text"]),
    "gold out of range": ("kobest_copa", "label", [0, 1, 0, 1, 2], None, ["'label' is 2 in row 4, which has 2 choices"]),
    "gold float": ("kobest_copa", "label", [.5] * N, FLOAT, ["'label' is Float64, not the number of a choice"]),
    "gold text": ("kobest_copa", "label", ["첫째"] * N, TEXT, ["'label' is String, not the number of a choice"]),
    "choices are lists": ("kobest_copa", "alternative_1", [["가"]] * N, pa.list_(TEXT), ["kobest_copa", "alternative_1 List(String)"]),
    "premise int": ("kobest_copa", "premise", [*range(N)], INT, ["'premise' is Int64, not a text"]),
    "answers plain": ("korquad_v1", "answers", ["답"] * N, TEXT, ["korquad_v1", "answers String"]),
    "answers numbers": ("korquad_v1", "answers", [dict(text=[1])] * N, pa.struct(dict(text=pa.list_(INT))), ["korquad_v1", "answers Struct"]),
    "context int": ("korquad_v1", "context", [*range(N)], INT, ["'context' is Int64, not a text"]),
    "reply int": ("chatbot", "A", [*range(N)], INT, ["chatbot", "A Int64"]),
    "asked int": ("chatbot", "Q", [*range(N)], INT, ["'Q' is Int64, not a text"]),
    "group out of range": ("chatbot", "label", [3], None, ["label 3 in 'label' is none of [-1, 0, 1, 2]", "row 0"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_columns(case, tmp_path, capsys):
    task, column, values, kind, says = WRONG[case]
    put(tmp_path/"hub", task, change(table(task), column, values, kind))
    fails(tmp_path/"hub", tmp_path/"data", capsys, task, *says)


def kept(text): return unicodedata.normalize("NFC", text).replace("\ufeff", "").strip() # all but the mark of a byte order


@pytest.mark.parametrize("task, column", [("nsmc", "document"), ("unsmile", "clean"), ("kobest_copa", "label"), ("korquad_v1", "answers"), ("chatbot", "A")])
def test_missing_column(task, column, tmp_path, capsys):
    t = table(task)
    put(tmp_path/"hub", task, t.rename_columns([o + "s_" if o == column else o for o in t.column_names]))
    near = "" if column == "A" else f"did you mean '{column}s_'?"
    fails(tmp_path/"hub", tmp_path/"data", capsys, task, f"unknown column {column!r}; ", near)


def test_two_files_that_differ(tmp_path, capsys):
    "One of two parquet files of a split has another type, or lacks a column."
    file = put(tmp_path/"hub", "nsmc")
    for i, t in enumerate((change(table("nsmc"), "document", [*range(N)], INT), table("nsmc").drop_columns("label"))):
        pq.write_table(t, file.with_name("train-00001-of-00002.parquet"))
        fails(tmp_path/"hub", tmp_path/str(i), capsys, "nsmc", "e9t/nsmc: train", ("document", "label")[i])


@pytest.mark.parametrize("task, column", [("nsmc", "document"), ("korquad_v1", "question"), ("kobest_copa", "alternative_1"), ("chatbot", "A")])
def test_bytes_that_are_no_text(task, column, tmp_path, capsys):
    "Unpaired surrogates and other bytes that are not UTF-8."
    for i, bad in enumerate((b"\xed\xa0\x80", b"\xff\xfe", "가".encode()[:2])):
        raw = pa.array([bad, *(said(j).encode() for j in range(1, N))], pa.binary())
        put(tmp_path/str(i), task, change(table(task), column, pa.Array.from_buffers(pa.string(), N, raw.buffers())), use_dictionary=bool(i))
        fails(tmp_path/str(i), tmp_path/f"data{i}", capsys, task, SOURCES[task][0], "train-00000-of-00001.parquet", "UTF")


ODD = {"NUL": "가\0나", "emoji": "👩‍👩‍👧‍👦 가족 👍🏽 🇰🇷", "private use": "\ue000\uf8ff옛한글", "jamo": unicodedata.normalize("NFD", "한글 각"), "noncharacter": "끝\uffff\U0010ffff", "controls": "\x01\x1f\x7f\x85가\u2028나",
       "joiners": "가\u200b나\u200d다\ufeff라", "right to left": "\u202eאבג\u202c", "quotes": "\"'\\\\ {document} {{options}} \\n </script>", "long": "긴 글 " * 2_000_000}


@pytest.mark.parametrize("task, column", [("nsmc", "document"), ("unsmile", "문장"), ("kobest_copa", "premise"), ("korquad_v1", "context"), ("chatbot", "Q")])
def test_odd_texts_come_out_whole(task, column, tmp_path, capsys):
    t = table(task, len(ODD) if task != "chatbot" else 9 * len(ODD)) # some of its rows are held out as test
    put(tmp_path/"hub", task, change(t, column, [*ODD.values()]))
    code, lines = build(tmp_path/"hub", tmp_path/"data", capsys, task, allow_no_negative=True)
    assert (code, lines) == (0, [])
    got = {int(r["id"].split("-")[-1]): r["input"] for r in records(tmp_path/"data"/"train"/f"{task}.jsonl")}
    for i, (name, text) in enumerate(ODD.items()):
        assert task == "chatbot" and i not in got or got[i] == kept(text), name
    assert task == "chatbot" or len(got) == len(ODD)


def test_odd_answers_come_out_whole(tmp_path, capsys):
    "All but the braces: shown among the options of an instruction they look like a field left over, and are counted as such."
    t = table("kobest_copa", len(ODD))
    put(tmp_path/"hub", "kobest_copa", change(change(t, "alternative_1", [*ODD.values()]), "label", [0] * len(ODD)))
    assert build(tmp_path/"hub", tmp_path/"data", capsys, "kobest_copa") == (0, [])
    got = {int(r["id"].split("-")[-1]): r["positives"] for r in records(tmp_path/"data"/"train"/"kobest_copa.jsonl")}
    assert got == {i: [kept(o)] for i, o in enumerate(ODD.values()) if i in got}
    assert len(got) == len(ODD) - 1 and entry(tmp_path/"data", "kobest_copa")["dropped"] == {"brace_in_text": 1}


def entry(out, task): return next(e for e in json.loads((out/"manifest.json").read_text(encoding="utf-8"))["files"] if e["recipe"]["task"] == task)


@pytest.mark.parametrize("task", SOURCES)
def test_nothing_but_nulls(task, tmp_path, capsys):
    "Every row is left out, and counted. Columns that have no type either may be named as an error instead."
    t = table(task)
    for i, new in enumerate((pa.table({o: pa.nulls(N, t.schema.field(o).type) for o in t.column_names}), pa.table({o: pa.nulls(N) for o in t.column_names}))):
        put(tmp_path/str(i), task, new)
        code, lines = build(tmp_path/str(i), tmp_path/f"data{i}", capsys, task)
        if i and code: assert len(lines) == 1 and " Null" in lines[0], lines
        else:
            assert (code, lines) == (0, [])
            e = entry(tmp_path/f"data{i}", task)
            assert e["kept"] == 0 and sum(e["dropped"].values()) == e["rows"] and (task == "chatbot" or e["rows"] == N)


@pytest.mark.parametrize("task", SOURCES)
def test_no_rows(task, tmp_path, capsys):
    put(tmp_path/"hub", task, table(task)[:0])
    put(tmp_path/"hub", other := "nsmc" if task != "nsmc" else "unsmile")
    assert build(tmp_path/"hub", tmp_path/"data", capsys, task, other) == (0, [])
    assert (entry(tmp_path/"data", task)["rows"], entry(tmp_path/"data", task)["kept"], entry(tmp_path/"data", other)["kept"]) == (0, 0, N)


@pytest.mark.parametrize("task, column", [("nsmc", "label"), ("kobest_copa", "label"), ("korquad_v1", "answers"), ("chatbot_mood", "label")])
def test_no_labels(task, column, tmp_path, capsys):
    t = table(o := task.removesuffix("_mood"))
    put(tmp_path/"hub", o, change(t, column, pa.nulls(N, t.schema.field(column).type)))
    assert build(tmp_path/"hub", tmp_path/"data", capsys, task) == (0, [])
    e = entry(tmp_path/"data", task)
    assert e["kept"] == 0 and set(e["dropped"]) <= {"no_label", "no_answer"} and sum(e["dropped"].values()) == e["rows"]


@pytest.mark.parametrize("task", SOURCES)
def test_the_same_row_again_and_again(task, tmp_path, capsys):
    t = table(task)
    put(tmp_path/"hub", task, pa.concat_tables([t.slice(3, 1)] * N + [t.slice(4, 1)]))
    code, lines = build(tmp_path/"hub", tmp_path/"data", capsys, task, allow_no_negative=True)
    e = entry(tmp_path/"data", task)
    rows = records(tmp_path/"data"/"train"/f"{task}.jsonl")
    assert (code, lines) == (0, []) and e["kept"] == len(rows) == e["rows"] - sum(e["dropped"].values()) and len({r["id"] for r in rows}) == len(rows)
    for r in rows: assert not set(r["positives"]) & set(r["negatives"]) and len(set(r["negatives"])) == len(r["negatives"])


def test_many_at_once_from_outside(tmp_path):
    "The command itself: every failure has its line, what is sound is built, exit code 1; with processes too."
    hub = tmp_path/"hub"
    cut(.5)(put(hub, "nsmc"))
    put(hub, "unsmile", change(table("unsmile"), "남성", [2]))
    put(hub, "kobest_copa")
    put(hub, "korquad_v1", table("korquad_v1").drop_columns("question"))
    put(hub, "chatbot", change(table("chatbot"), "label", [9]))
    for n in (1, 2):
        done = command("koflan.generate", "--tasks", ",".join(SOURCES), "--splits", "train", "--hub_mirror", hub, "--output_dir", tmp_path/str(n), "--num_proc", n, ok=False)
        lines = [o for o in done.stderr.splitlines() if o.startswith("koflan_generate: ")]
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert sorted(o.split()[1] for o in lines) == ["chatbot", "korquad_v1", "nsmc", "unsmile"], lines
        whole(tmp_path/str(n), ["kobest_copa"])


def mounted(folder, *options):
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode: pytest.skip(f"this user may not mount a tmpfs: {done.stderr.strip()}")


def test_read_only_output(tmp_path):
    put(tmp_path/"hub", "nsmc")
    mounted(out := tmp_path/"ro", "ro", "size=1m")
    try: done = command("koflan.generate", "--tasks", "nsmc", "--hub_mirror", tmp_path/"hub", "--output_dir", out, ok=False)
    finally: subprocess.run(["umount", str(out)], check=True)
    assert done.returncode and done.stderr.startswith("koflan_generate: ") and "cannot write there" in done.stderr and "Traceback" not in done.stderr


def small_disk(out, *before):
    "Build a small task and one that is too large; more of stderr than the line that names it is an error."
    hub = out.parent/"hub"
    put(hub, "nsmc", table("nsmc", 20_000))
    put(hub, "kobest_copa")
    environ = {k: v for k, v in os.environ.items() if k != "KOFLAN_HUB_MIRROR"} | dict(HF_HUB_OFFLINE="1")
    args = [sys.executable, "-m", "koflan.generate", "--tasks", "nsmc,kobest_copa", "--splits", "train", "--hub_mirror", str(hub), "--output_dir", str(out)]
    return subprocess.run(args, capture_output=True, text=True, env=environ, preexec_fn=before[0] if before else None)


def check_small_disk(done, out, says):
    line, = [o for o in done.stderr.splitlines() if o.startswith("koflan_generate: ")]
    assert done.returncode == 1 and "nsmc train failed" in line and says in line and "Traceback" not in done.stderr, done.stderr
    whole(out, ["kobest_copa"])
    assert len(records(out/"train"/"kobest_copa.jsonl")) == N


def test_full_output_disk(tmp_path):
    mounted(out := tmp_path/"full", "size=256k")
    try:
        done = small_disk(out)
        check_small_disk(done, out, "No space left on device")
    finally: subprocess.run(["umount", str(out)], check=True)


def test_output_file_too_large(tmp_path):
    """A second way to the same end that needs no rights: no file of the process may grow beyond 200,000 bytes.
    Where there is room again, the same command ends in the same bytes as if nothing had been."""
    done = small_disk(tmp_path/"data", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)))
    check_small_disk(done, tmp_path/"data", "File too large")
    for out in ("data", "fresh"): assert small_disk(tmp_path/out).returncode == 0
    for o in ("train/nsmc.jsonl", "train/kobest_copa.jsonl"): assert (tmp_path/"data"/o).read_bytes() == (tmp_path/"fresh"/o).read_bytes()
