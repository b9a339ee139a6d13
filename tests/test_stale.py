"Edited code is built again and code that is as it was is not, in other kernels, in packages and in several processes."
import json
import os
import subprocess
import sys

CELLS = {
    "helper": '''import re
import polars as pl
from koflan.generate import generate
from koflan.core.prompts import Ask, Prompts
from koflan.core.sources import HubSource
from koflan.authoring.task import Task
MARKS, WORDS = re.compile("[.!]+"), {"굳": "긍정", "최고": "긍정"}
def bare(text): return MARKS.sub("", text).split()[0]''',
    "task": '''class Mine(Task):
    name, kind = "_mine", "binary"
    source = HubSource("e9t/nsmc", columns=("document", "label"))
    prompts = Prompts(Ask("이 댓글의 감정은?"), input="{document}")
    drops = dict(short=pl.col("document").map_elements(lambda o: len(o) < 2, return_dtype=pl.Boolean))
    def record(self, row, chance):
        right = WORDS.get(bare(row["document"]), "부정")
        return dict(positives=[right], negatives=["긍정" if right == "부정" else "부정"])''',
    "build": '''print([o["state"] for o in generate([Mine], DATA, splits="train", mirror="samples", progress=False)[0]])'''}
EDITS = dict(
    prompt=("task", "이 댓글의 감정은?", "이 글의 감정은?"), record=("task", "[right]", "[right + '임']"), constant=("helper", '"최고": "긍정"', '"최고": "매우 긍정"'),
    pattern=("helper", "[.!]+", "[.]+"), helper=("helper", ".split()[0]", ".split()[-1]"), drops=("task", "< 2", "< 3"))
SHELL = '''import json, sys
from IPython.core.interactiveshell import InteractiveShell
for cell in json.load(sys.stdin):
    if not InteractiveShell.instance().run_cell(cell).success: sys.exit(1)'''


def kernel(*cells):
    "Run cells in a kernel of their own; what they print."
    done = subprocess.run([sys.executable, "-c", SHELL], input=json.dumps(cells), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def edited(cells, name):
    cell, old, new = EDITS[name]
    assert old in cells[cell]
    return cells | {cell: cells[cell].replace(old, new)}


def test_a_notebook(tmp_path):
    "Each kernel runs the cells as the one before left them, then edits one."
    cells, data = CELLS, f"DATA = {str(tmp_path)!r}"
    assert kernel(data, *cells.values(), cells["build"]) == ["['built']", "['kept']"]
    for some in (("prompt", "pattern"), ("record", "constant"), ("helper", "drops")):
        before, half = cells, edited(cells, some[0])
        cells = edited(half, some[1])
        assert kernel(data, *before.values(), *half.values(), *cells.values(), cells["build"]) == ["['kept']", "['built']", "['built']", "['kept']"], some
    assert kernel(data, *CELLS.values()) == ["['built']"]


PACKAGE = {
    "mine/__init__.py": "",
    "mine/text.py": "MARKS = '.!'\n\n\ndef bare(text): return text.strip(MARKS)\n",
    "mine/base.py": "from koflan.authoring.task import Task\n\n\nclass Base(Task):\n    ends = '?'\n    def asked(self): return '맞나요' + self.ends\n",
    "mine/tasks.py": '''from .base import Base
from . import text


class Mine(Base):
    name, kind, splits = "mine", "binary", ("train",)
    def generate(self, split):
        from .more import MORE
        for i in range(200): yield dict(instruction=self.asked(), input=text.bare(f"{i}!") + MORE, positives=["네"], negatives=["아니요"])
''',
    "mine/more.py": "MORE = ' 번'\n",
    "mine/other.py": "OTHER = 1\n",
    "mine-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
    "mine-1.0.dist-info/entry_points.txt": "[koflan.tasks]\nmine = mine.tasks\n"}


def write(folder, files):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text, encoding="utf-8")


def build(folder, *options):
    "Build the task of a package by its name; the state of its file."
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]), HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-m", "koflan.generate", "--tasks", "mine", "--output_dir", str(folder/"data"), *options], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1].split()[-1]


def test_a_package(tmp_path):
    "The least task in a package: by name, in several processes, kept until something that it uses is edited."
    folder = tmp_path/"site-packages" # as if it were installed
    write(folder, PACKAGE)
    assert [build(folder), build(folder), build(folder, "--num_proc", "2")] == ["built", "kept", "kept"]
    for name, old, new in (("text", "'.!'", "'.'"), ("base", "'?'", "' ?'"), ("base", "맞나요", "맞을까요"), ("more", "번", "째"), ("tasks", "200", "300")):
        path = folder/"mine"/f"{name}.py"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        assert build(folder) == "built", name
    (folder/"mine"/"other.py").write_text("OTHER = 2\n")
    assert build(folder, "--num_proc", "2") == "kept"
    assert len((folder/"data"/"train"/"mine.jsonl").read_text(encoding="utf-8").splitlines()) == 300


def test_a_package_edited_while_it_is_loaded(tmp_path):
    "What is built is what is loaded, and the next kernel builds what the file says by then."
    write(tmp_path, {k: o for k, o in PACKAGE.items() if "dist-info" not in k})
    start = ["import sys", f"sys.path.insert(0, {str(tmp_path)!r})", "from mine.tasks import Mine", "from koflan.generate import generate"]
    run = f'print([o["state"] for o in generate([Mine], {str(tmp_path/"data")!r}, progress=False)[0]])'
    edit = f'from pathlib import Path; path = Path({str(tmp_path/"mine"/"base.py")!r}); _ = path.write_text(path.read_text().replace("맞나요", "맞을까"))'
    assert kernel(*start, edit, run, run) == ["['built']", "['kept']"]
    assert kernel(*start, run) == ["['built']"]
