"Every code block of README.md and of the tutorials is run."
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser

import pytest
from blocks import INSTEAD, TINY, Terminal, blocks, instead
from conftest import ROOT

DOCUMENTS = {"README": ROOT/"README.md"} | {o.stem: o for o in sorted((ROOT/"nbs"/"tutorials").glob("*.ipynb"))}
# what a reader has at hand when the first block comes
BEFORE = dict(
    README='(echo 후기,주제; for i in $(seq 20); do echo "국물이 진해요 $i,음식"; echo "친절해요 $i,서비스"; done) > reviews.csv',
    quickstart='koflan_generate --tasks "nsmc,kobest_copa"',
    evaluate='koflan_generate --tasks "nsmc,klue_ynat" && mkdir checkpoint && cp -r tiny checkpoint/test')
ELSEWHERE = dict(own_data="tests/test_own_data.py") # a test of its own follows the whole tutorial


def entry_points(text):
    "A piece of setup.cfg."
    held = ConfigParser()
    held.read_string(text)
    assert "koflan.tasks" in held["options.entry_points"], text


def follow(name, terminal):
    "Run the blocks of a document from top to bottom, Python with the imports that stand above it; what no rule covers fails."
    if name in BEFORE: terminal.bash(BEFORE[name])
    imports, waiting, before = [], [], ""
    def flush():
        if waiting: terminal.python("\n".join([*imports, *waiting]))
        waiting.clear()
    for o in blocks(DOCUMENTS[name]):
        if o.lang == "bash":
            flush()
            terminal.bash(instead(o.text))
        elif o.lang in ("python", "later"): waiting.append(instead(o.text))
        elif o.imports: imports.append(o.text)
        elif o.lang == "ini": entry_points(o.text)
        else: assert o.lang == "cell" or o.lang == "" and before == "python", f"{name}: no rule for\n{o}" # nbdev_test runs the cells
        before = o.lang
    flush()


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    "Every document in a terminal of its own, two at a time."
    top = tmp_path_factory.mktemp("docs")
    def start(name):
        (top/name).mkdir()
        terminal = Terminal(top/name, KOFLAN_HUB_MIRROR="samples")
        shutil.copytree(first.cwd/"tiny", terminal.cwd/"tiny")
        follow(name, terminal)
    (top/"first").mkdir()
    first = Terminal(top/"first")
    first.python(TINY)
    with ThreadPoolExecutor(2) as pool: yield {o: pool.submit(start, o) for o in DOCUMENTS if o not in ELSEWHERE}


@pytest.mark.parametrize("name", [o for o in DOCUMENTS if o not in ELSEWHERE])
def test_blocks(name, followed): followed[name].result()


def test_other_documents_are_followed():
    for name, test in ELSEWHERE.items(): assert name in DOCUMENTS and f'"{name}.ipynb"' in (ROOT/test).read_text(encoding="utf-8")


def test_substitutions():
    "Every one is needed by a document, and what is left to .ci/run stands there."
    every = "\n".join(o.text for path in DOCUMENTS.values() for o in blocks(path))
    assert [old for old, *_ in INSTEAD if old not in every] == []
    ci = (ROOT/".ci"/"run").read_text(encoding="utf-8")
    assert 'step "pip install . && koflan_demo" demo' in ci and re.search(r'demo\(\).*?environment "\$work/user" setuptools "\$work"/dist/\*.whl.*?user/bin/koflan_demo"', ci, re.S)
    assert 'step "pip install -e .[dev]" environment' in ci and re.search(r"^  nbdev_test ", ci, re.M) and "python .ci/docs.py site" in ci


def test_a_block_without_a_rule_fails(tmp_path, monkeypatch):
    page = tmp_path/"page.md"
    monkeypatch.setitem(DOCUMENTS, "page", page)
    page.write_text("```bash\nkoflan_nothing --here\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="koflan_nothing"): follow("page", Terminal(tmp_path))
    page.write_text("```yaml\na: 1\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="no rule for"): follow("page", None)
