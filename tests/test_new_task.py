"Starting a task from outside: the command writes a notebook, the author fills it, and it runs to its end."
import ast
import json
import re
import subprocess
import sys
from random import Random

import polars as pl
from conftest import ROOT, command, records
from IPython.core.inputtransformer2 import TransformerManager

from koflan.new_task import Table, as_module, find_place, guess, task_notebook
from koflan.core.schema import KoflanError
from koflan.authoring.task import REGISTRY

MARK = "정할 것"
BOOKS = [("기쁨", "사랑|가족", "웃기는"), ("슬픔", "가족", "눈물겨운"), ("화남", "", "답답한"), ("기쁨", "전쟁", "유쾌한")]


def new_task(cwd, *args, **kw): return command("koflan.new_task", *args, cwd=cwd, PYTHONPATH=str(ROOT), **kw)


def table(folder, n=200):
    "A table of our own making: a text, one of three labels, and several labels in one column."
    lines = [f"{i},{i}번째로 읽은 책은 {w} 쪽이었다,{m},{t}" for i in range(n) for m, t, w in [BOOKS[i % len(BOOKS)]]]
    (folder/"books.csv").write_text("번호,글,기분,주제\n" + "\n".join(lines) + "\n", encoding="utf-8")


def fill(path, word):
    "What an author writes where the notebook asks: ten instructions, a licence, a citation, a sentence."
    nb = json.loads(path.read_text(encoding="utf-8"))
    asks = ",\n        ".join(f'"{word} {i}: 이 글을 읽고 답해 주세요."' for i in range(10))
    for cell in nb["cells"]:
        text = re.sub(rf'"{MARK}: 지시문[^"]*"', asks, "".join(cell["source"])).replace(f"{MARK}: 한 문장 소개", "책 감상")
        cell["source"] = text.replace('citation = ""', 'citation = "koflan"').replace('licence=""', 'licence="cc0-1.0"')
    path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")


def execute(path, ok=True):
    "Run a notebook from top to bottom, in its folder; its code cells' outputs as text."
    args = ["nbconvert", "--to", "notebook", "--execute", "--log-level", "ERROR", path.name, "--output", "done"]
    done = command(*args, cwd=path.parent, ok=ok, PYTHONPATH=str(ROOT))
    if not ok: return done.stderr
    cells = json.loads((path.parent/"done.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for c in cells for o in c.get("outputs", []))


def test_two_tasks_from_one_table(tmp_path):
    table(tmp_path)
    assert "book_mood: multiclass, LabelTask; input 글" in new_task(tmp_path, "book_mood", "--source", "books.csv", "--label", "기분").stdout
    said = new_task(tmp_path, "book_topic", "--source", "books.csv", "--kind", "multilabel").stdout
    assert "book_topic: multilabel, MultiLabelTask; input 글; read besides 주제" in said and "kept  hub/local/books/train.jsonl" in said
    assert "instruction: 정할 것" in execute(tmp_path/"book_mood.ipynb", ok=False)
    for name, word in (("book_mood", "기분"), ("book_topic", "주제")):
        fill(tmp_path/f"{name}.ipynb", word)
        said = execute(tmp_path/f"{name}.ipynb")
        assert "10 instructions, rows train" in said and "all right" in said
        rows = records(tmp_path/"data"/"train"/f"{name}.jsonl") + records(tmp_path/"data"/"test"/f"{name}.jsonl")
        assert len(rows) == 200
    answers = {r["input"]: set(r["positives"]) for r in rows}
    assert answers["0번째로 읽은 책은 웃기는 쪽이었다"] == {"사랑", "가족"} and answers["2번째로 읽은 책은 답답한 쪽이었다"] == {"해당 없음"}


def test_package(tmp_path):
    "Installed without a network, its task is found; filled in, it is built by name."
    table(tmp_path)
    new_task(tmp_path, "book_mood", "--source", "books.csv", "--label", "기분", "--package")
    folder, target = tmp_path/"koflan_book_mood", tmp_path/"target"
    samples, = (folder/"koflan_book_mood"/"samples").rglob("*.jsonl")
    assert len(records(samples)) == 200 and MARK not in samples.read_text(encoding="utf-8") # the author's own rows
    fill(folder/"book_mood.ipynb", "기분")
    assert "all right" in execute(folder/"book_mood.ipynb")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(folder)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {str(o.relative_to(target)) for o in target.rglob("*") if o.is_file()}
    assert {"koflan_book_mood/__init__.py", "koflan_book_mood/samples/local/books/train.jsonl"} <= found
    path = f"{target}:{ROOT}"
    assert re.search(r"^book_mood +multiclass ", command("koflan.tasks", "nsmc,book_*", cwd=tmp_path, PYTHONPATH=path).stdout, re.M)
    command("koflan.generate", "--tasks", "book_mood", "--hub_mirror", folder/"hub", "--output_dir", "built", cwd=tmp_path, PYTHONPATH=path)
    assert len(records(tmp_path/"built"/"train"/"book_mood.jsonl")) + len(records(tmp_path/"built"/"test"/"book_mood.jsonl")) == 200


def test_an_unfilled_package_is_listed(tmp_path):
    table(tmp_path)
    new_task(tmp_path, "book_mood", "--source", "books.csv", "--kind", "multiclass", "--package")
    target = tmp_path/"target"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(tmp_path/"koflan_book_mood")], check=True)
    assert "book_mood" in command("koflan.tasks", cwd=tmp_path, PYTHONPATH=f"{target}:{ROOT}").stdout


def test_in_the_repository(tmp_path):
    "The notebook and the sample file go where the other tasks have theirs, and export to a module."
    (tmp_path/"settings.ini").write_text((ROOT/"settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    new_task(tmp_path, "nsmc_again", "--repo", "e9t/nsmc", "--hub_mirror", "samples")
    written = {str(o.relative_to(tmp_path)) for o in tmp_path.rglob("*") if o.is_file()} - {"settings.ini"}
    assert written == {"nbs/tasks/nsmc_again.ipynb", "koflan/samples/e9t/nsmc/default.jsonl"}
    rows = records(tmp_path/"koflan"/"samples"/"e9t"/"nsmc"/"default.jsonl")
    assert {o["_split"] for o in rows} == {"train", "test"} and {o["label"] for o in rows} == {0, 1} and MARK in rows[0]["document"]
    fill(tmp_path/"nbs"/"tasks"/"nsmc_again.ipynb", "다시") # the packaged samples of NSMC are what it reads; its answers stay marked
    assert "answer for" in execute(tmp_path/"nbs"/"tasks"/"nsmc_again.ipynb", ok=False)


def test_mistakes(tmp_path):
    "One clear line, exit code 2, and nothing written or overwritten."
    table(tmp_path, 12)
    new_task(tmp_path, "book_mood", "--source", "books.csv", "--label", "기분")
    before = {o: o.read_bytes() for o in tmp_path.rglob("*") if o.is_file()}
    for args, says in [
            (("book_mood", "--source", "books.csv"), "book_mood.ipynb is already there; nothing was written"),
            (("../x", "--repo", "a/b"), "name '../x': want lower-case letters"),
            (("class", "--repo", "a/b"), "name 'class': want lower-case letters"),
            (("nsmc", "--repo", "a/b"), "task 'nsmc' is already defined in koflan.tasks.nsmc"),
            (("books",), "say where the rows are"),
            (("books", "--repo", "books"), "is not owner/name"),
            (("books", "--repo", "../.."), "repo '../..' is not owner/name"),
            (("books", "--repo", "me/books", "--config", "../.."), "config '../..': want letters"),
            (("books", "--source", "book.csv"), "book.csv: no such file"),
            (("books", "--source", "books.csv", "--label", "기부"), "unknown column '기부'; did you mean '기분'?"),
            (("books", "--source", "books.csv", "--kind", "mutilabel"), "unknown kind 'mutilabel'; did you mean 'multilabel'?"),
            (("books", "--repo", "me/none"), "cannot be read from the Hub")]:
        done = new_task(tmp_path, *args, ok=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert any(says in o and o.startswith("koflan_new_task: ") for o in done.stderr.splitlines()), (says, done.stderr)
    assert before == {o: o.read_bytes() for o in tmp_path.rglob("*") if o.is_file()}


# what a stranger may write into a table: code, templates, magics, directives, Markdown, and what breaks a line
PLANT = "__import__('pathlib').Path('PLANTED').touch()"
PIECES = ["'", '"', '"""', "\\", "\\\"", "\n", "\r", "\u2028", "\x85", "\x0b", "\0", "\x1b[2J", "\t", " ", "$licence", "${cls}", "$$", "$proof", "{x}", "}}", "[0]", ":",
          "#| export", "%cd /", "%%bash", "!touch PLANTED", "?", ";", ">>> ", "`", "![](http://a.b/c.png)", "<script>", "</td>", "|", "class", "None",
          "ﬁ", "가", "긍정", "true", "0", f'"]; {PLANT} #', f"'); {PLANT} #", f"\n{PLANT}\n", f'""" + {PLANT} + """', f"\\\"); {PLANT} #"]


def shape(text):
    "The syntax tree of a cell, without its literals and identifiers."
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, (str, bytes)): setattr(node, name, "")
    return ast.dump(tree)


def notebook(kind, words, licence, label=None):
    "The notebook of a table whose names and labels are these words."
    a, b, c, *labels = words
    rows = 12
    tables = dict(
        multiclass={a: [f"{i}번 글" for i in range(rows)], b: [labels[i % 3] for i in range(rows)]},
        multilabel={a: [f"{i}번 글" for i in range(rows)], b: [labels[:i % 3 + 1] for i in range(rows)]},
        flags={a: [f"{i}번 글" for i in range(rows)], b: [i % 2 for i in range(rows)], c: [1 - i % 2 for i in range(rows)]},
        choice={a: [f"{i}번 물음" for i in range(rows)], b: [labels for i in range(rows)], c: [labels[i % 3] for i in range(rows)]},
        mrc={a: [f"지문 {i // 4}" for i in range(rows)], "question": [f"{o} {i}?" for i in range(rows) for o in labels[:1]], b: labels[:1] * rows})
    table = Table(dict(train=pl.DataFrame(tables[kind])), {}, licence)
    told = dict(multiclass=b, multilabel=b, flags=f"{b},{c}", choice=c, mrc=b)[kind]
    plan = guess(table, "multilabel" if kind == "flags" else kind, told, a)
    place = find_place("book_mood", "me/books", output_dir="x", package=True)
    return table, task_notebook("book_mood", plan, table, "me/books", None, place)


def cells(nb, kind): return ["".join(o["source"]) for o in json.loads(nb)["cells"] if o["cell_type"] == kind]


def hostile(case):
    "Six different words made of `PIECES`, and a licence; the same of plain words, with blanks at the ends where the hostile ones have some."
    roll = Random(case)
    words = [f"{''.join(roll.choices(PIECES, k=roll.randint(1, 4)))}{i if roll.random() < .5 else ''}" for i in range(6)]
    words[0] = re.sub(r"[{}\[\]:!,]", "", words[0]) # may not stand in a prompt: refused
    words[:3] = [o.strip().replace(",", "") for o in words[:3]] # as the command line takes names
    words = [o if words.count(o) == 1 and o.strip() else f"{o}{i}" for i, o in enumerate(words)]
    ends = [o != pl.Series([o]).str.strip_chars()[0] for o in words]
    plain = [f"말{i}{' ' if blank and i > 2 else ''}" for i, blank in enumerate(ends)]
    return words, plain, "".join(roll.choices(PIECES, k=3))


def test_a_table_is_no_code(tmp_path, monkeypatch):
    "700 hostile tables: columns, labels and licences change the generated code in its literals only, and none of them runs."
    monkeypatch.chdir(tmp_path)
    untouched, kinds = TransformerManager().transform_cell, ("multiclass", "multilabel", "flags", "choice", "mrc")
    for case in range(700):
        kind, (words, plain, licence) = kinds[case % 5], hostile(case)
        table, nb = notebook(kind, words, licence)
        _, twin = notebook(kind, plain, "mit")
        code = cells(nb, "code")
        assert [shape(o) for o in code] == [shape(o) for o in cells(twin, "code")], (case, words)
        assert shape(as_module(nb)) == shape(as_module(twin)), (case, words)
        assert all(untouched(o) == o + "\n" for o in code), (case, words) # no magic, no shell
        said, meant = "\n".join(cells(nb, "markdown")), "\n".join(cells(twin, "markdown"))
        assert said.count("\n") == meant.count("\n") and not re.search(r"!\[|<\w|\x1b", said), (case, words)
        if case % 30 == 0: execute_quietly(table, code, tmp_path)
    assert not list(tmp_path.rglob("PLANTED"))


def execute_quietly(table, code, folder):
    "Run what a reader would run until the checks; a stranger's words may be refused, they may not run."
    where = folder/"koflan_book_mood"/"samples"/"me"/"books"
    where.mkdir(parents=True, exist_ok=True)
    table.frames["train"].write_ndjson(where/"train.jsonl")
    space = {"__name__": "__main__"}
    try:
        for text in code:
            if not text.startswith(("left = undecided", "check_task(", "export_notebook(")): exec(compile(text, "cell", "exec"), space)
    except (KoflanError, AssertionError): pass
    finally: REGISTRY.pop("book_mood", None)
