"What `nbdev_docs` hands to Quarto, recorded by a stand-in `quarto`: everything that it needs is there, and README.md stays ours."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

QUARTO = '''#!{python}
import json, os, sys
from pathlib import Path
here = Path.cwd()
with open("{log}", "a") as f: f.write(json.dumps(dict(args=sys.argv[1:], cwd=str(here), files=sorted(str(o.relative_to(here)) for o in here.rglob("*") if o.is_file()))) + "\\n")
(here/"_docs").mkdir(exist_ok=True)
(here/"_docs"/("README.md" if "README.md" in sys.argv else "index.html")).write_text("made by the stand-in")
'''


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    "A copy of the repository in which `nbdev_docs` has run, and what the stand-in was asked."
    tmp = tmp_path_factory.mktemp("quarto")
    repo, log, bin = tmp/"koflan", tmp/"asked.jsonl", tmp/"bin"
    shutil.copytree(ROOT, repo, symlinks=True, ignore=shutil.ignore_patterns(".git", "_docs", "_proc", "*.egg-info", "data", "checkpoint", ".venv", "__pycache__"))
    bin.mkdir()
    (bin/"quarto").write_text(QUARTO.format(python=sys.executable, log=log), encoding="utf-8")
    (bin/"quarto").chmod(0o755)
    os.utime(repo/"README.md", (1, 1)) # older than the index: a README that nbdev would make anew
    path = os.pathsep.join([str(bin), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["nbdev_docs", "--n_workers", "2"], cwd=repo, env=os.environ | dict(PATH=path, PYTHONPATH=str(repo)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return repo, [json.loads(o) for o in log.read_text().splitlines()]


def named(tree):
    "Pages that a navigation names."
    if isinstance(tree, str): return [tree] if re.search(r"\.(ipynb|qmd)$", tree) else []
    return [p for o in (tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []) for p in named(o)]


def test_quarto_is_asked_once_for_the_whole_site(rendered):
    repo, asked = rendered
    assert [o["args"] for o in asked] == [["render", "--no-cache"]] and asked[0]["cwd"] == str(repo/"_proc")
    assert (repo/"_docs"/"index.html").is_file() # what it made is where nbdev puts it


def test_all_that_the_project_names_is_there(rendered):
    repo, asked = rendered
    files, proc = set(asked[0]["files"]), repo/"_proc"
    project = yaml.safe_load((proc/"_quarto.yml").read_text(encoding="utf-8"))
    assert not (proc/"_quarto.yml").is_symlink()
    settings = [project, *(yaml.safe_load((proc/o).read_text(encoding="utf-8")) for o in project["metadata-files"])]
    assert any(o.get("project", {}).get("output-dir") == "_docs" for o in settings)
    for o in (project["format"]["html"]["css"], project["website"]["favicon"], *named(settings)): assert o in files, o
    pages = {str(o.relative_to(ROOT/"nbs")) for ext in ("ipynb", "qmd") for o in (ROOT/"nbs").rglob(f"*.{ext}") if ".ipynb_checkpoints" not in o.parts}
    assert pages <= files and pages <= set(named(settings)) # nothing written is left out, nor unreachable


def test_pages_point_at_what_is_there(rendered):
    repo, _ = rendered
    for page in [*(repo/"_proc").rglob("*.ipynb"), *(repo/"_proc").rglob("*.qmd")]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            front = yaml.safe_load("".join(cells[0]["source"]).strip("- \n"))
            assert front["title"] and front["output-file"].endswith(".html"), page.name
            text = "\n".join("".join(o["source"]) for o in cells if o["cell_type"] == "markdown")
        for o in re.findall(r"""(?:\]\(|(?:src|srcset)="|\{\{< include )(?![a-z]+:|#)([^)#" ]+\.\w+)""", text): assert (page.parent/o).is_file(), f"{page.name} -> {o}"


def test_the_readme_stays_ours(rendered):
    repo, _ = rendered
    assert (repo/"README.md").read_bytes() == (ROOT/"README.md").read_bytes()
    assert (repo/"CONTRIBUTING.md").read_bytes() == (ROOT/"CONTRIBUTING.md").read_bytes()
    subprocess.run([sys.executable, ROOT/".ci"/"docs.py", "readme", "--check"], check=True)
    for o in re.findall(r"""(?:\]\(|\b(?:src|srcset)=")(?!https?:|#)([^)#"]+)""", (ROOT/"README.md").read_text(encoding="utf-8")): assert (ROOT/o).is_file(), o
