"The tutorial `own_data`, followed from outside the repository: its commands in a terminal, its cells pasted into the notebooks that they wrote."
import json
import re
import time

import pytest
from blocks import Terminal, blocks, instead
from conftest import ROOT, records

PAGE = blocks(ROOT/"nbs"/"tutorials"/"own_data.ipynb")
CELLS = [o.text for o in PAGE if o.lang == "cell" and not re.search(r"^#\|\s*hide", o.text, re.M)]
PASTED = r"(\w+_SOURCE) =|(\w+_PROMPTS) =|class (Library\w+)\("


def bash(word):
    "The block of the tutorial that holds a command."
    found = [instead(o.text) for o in PAGE if o.lang == "bash" and word in o.text]
    assert found, f"the tutorial has no block with {word}"
    return found[0]


def source(cell): return "".join(cell["source"])
def starts(text): return (m := re.search(rf"^(?:{PASTED})", text, re.M)) and m[0]
def cells_until(word): return CELLS[:next(i for i, o in enumerate(CELLS) if word in o) + 1]


def paste(path, more=()):
    "Put the tutorial's cells over the cells that start alike; how many there were."
    nb, mine, n = json.loads(path.read_text(encoding="utf-8")), {starts(o): o for o in CELLS if starts(o)}, 0
    for cell in nb["cells"]:
        key = starts(source(cell)) if cell["cell_type"] == "code" else None
        if key and "정할 것" in source(cell): cell["source"], n = f"#| export\n{mine[key]}", n + 1
    for o in more: nb["cells"].append(nb["cells"][-1] | dict(source=o, id=f"more{len(nb['cells'])}"))
    path.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    return n


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The folder after the last step, and how many seconds each step took."
    terminal, seconds = Terminal(tmp_path_factory.mktemp("own")), {}
    def step(name, *does):
        start = time.perf_counter()
        said = [o() for o in does]
        seconds[name] = time.perf_counter() - start
        return said
    said = dict()
    said["start"] = step("a folder", lambda: terminal.bash(bash("mkdir library")))
    said["csv"] = step("the table", lambda: terminal.python("\n".join(cells_until("library.csv"))))
    said["new"] = step("two notebooks", lambda: terminal.bash(bash("koflan_new_task library_mood")))
    here = terminal.cwd
    browse = [o for o in CELLS if re.search(r"\bbrowse\b", o)]
    said["pasted"] = step("cells pasted", lambda: paste(here/"library_mood.ipynb"), lambda: paste(here/"library_topic.ipynb", browse))
    run = "python -m jupyter nbconvert --to notebook --execute --inplace --log-level ERROR"
    said["run"] = step("notebooks run", *(lambda o=o: terminal.bash(f"{run} {o}.ipynb") for o in ("library_mood", "library_topic")))
    said["overlap"] = step("overlaps", lambda: terminal.bash(bash("koflan_contamination")))
    said["train"] = step("trained", lambda: terminal.bash(bash("koflan_train_reward")))
    said["rank"] = step("asked", lambda: terminal.python("\n".join(rank_cells())))
    said["package"] = step("packaged", lambda: terminal.bash(bash("--package")), lambda: terminal.bash(bash("pip install ./")))
    print("\n".join(f"{v:6.1f} s  {k}" for k, v in seconds.items()))
    return here, said


def rank_cells():
    "The cells that load the trained model and rank answers."
    return [o for o in CELLS if o.startswith("from koflan.evaluate") or "RewardModel.from_pretrained" in o or "model.rank" in o] + ["print(*[o.answer for o in ranks])"]


def outputs(path):
    "What the cells of a notebook print and show, as text."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for c in cells for o in c.get("outputs", []))


def test_it_is_outside(folder): assert ROOT not in folder[0].parents and folder[0].name == "library"


def test_the_table(folder):
    "200 rows, three labels, one column of several labels."
    import polars as pl
    df = pl.read_csv(folder[0]/"library.csv")
    assert len(df) == 200 and df["후기"].n_unique() == 200 and set(df["기분"]) == {"만족", "보통", "불만"} and df["주제"].str.contains("|", literal=True).any()


def test_three_cells_make_a_task(folder):
    here, said = folder
    assert "library_mood: multiclass" in said["new"][0] and "library_topic: multilabel" in said["new"][0] and said["pasted"] == [3, 3]
    for name in ("library_mood", "library_topic"): assert f"{name}: " in outputs(here/f"{name}.ipynb") and "all right" in outputs(here/f"{name}.ipynb")
    assert "browse(library_topic train" in outputs(here/"library_topic.ipynb")


def test_every_row_becomes_a_record(folder):
    here, said = folder
    got = {name: records(here/"data"/"train"/f"{name}.jsonl") + records(here/"data"/"test"/f"{name}.jsonl") for name in ("library_mood", "library_topic")}
    assert all(len(o) == 200 for o in got.values()) and "no overlap between train and test" in said["overlap"][0]
    assert all(len(r["positives"]) == 1 and len(r["negatives"]) == 2 for r in got["library_mood"])
    assert {len(r["positives"]) for r in got["library_topic"]} == {1, 2} and all(len(r["positives"] + r["negatives"]) == 4 for r in got["library_topic"])


def test_it_learns(folder):
    "Better than a guess on the rows held out."
    here, said = folder
    rows = [line.split() for line in said["train"][0].splitlines() if line.startswith("library_")]
    assert [o[0] for o in rows] == ["library_mood", "library_topic"] and all(float(o[2]) > float(o[5]) for o in rows), said["train"][0]
    assert (here/"checkpoint"/"library"/"model.safetensors").is_file() and said["rank"][0].split()[-3] in ("만족", "보통", "불만")


def test_it_is_a_package(folder):
    here, said = folder
    assert "library_mood (LibraryMood)" in said["package"][1] and (here/"koflan_library_mood"/"pyproject.toml").is_file()
    assert len(records(here/"packaged"/"train"/"library_mood.jsonl") + records(here/"packaged"/"test"/"library_mood.jsonl")) == 200
