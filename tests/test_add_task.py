"Adding a task as a newcomer would: one notebook copied, one sample file, and nothing else touched."
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def run(*args, cwd): return subprocess.run([str(o) for o in args], cwd=cwd, env=os.environ | dict(PYTHONPATH=str(cwd)), capture_output=True, text=True)


def git(*args, cwd): return run("git", "-c", "user.name=t", "-c", "user.email=t@t", *args, cwd=cwd)


def test_copy_a_notebook(tmp_path):
    repo = tmp_path/"koflan"
    shutil.copytree(ROOT, repo, symlinks=True, ignore=shutil.ignore_patterns(".git", "_docs", "_proc", "*.egg-info", "data", "checkpoint", ".venv"))
    git("init", "-q", cwd=repo), git("add", "-A", cwd=repo), git("commit", "-qm", "start", cwd=repo)
    text = (repo/"nbs"/"tasks"/"nsmc.ipynb").read_text(encoding="utf-8")
    text = text.replace("e9t/nsmc", "my/books").replace("tasks.nsmc", "tasks.book_reviews").replace('\\"nsmc', '\\"book_reviews')
    (repo/"nbs"/"tasks"/"book_reviews.ipynb").write_text(re.sub(r"\bNSMC", "BookReviews", text), encoding="utf-8")
    (repo/"koflan"/"samples"/"my"/"books").mkdir(parents=True)
    shutil.copy(repo/"koflan"/"samples"/"e9t"/"nsmc"/"default.jsonl", repo/"koflan"/"samples"/"my"/"books"/"default.jsonl")
    scripts = Path(sys.executable).parent
    for step in ((scripts/"nbdev_export",), (scripts/"nbdev_test", "--path", "nbs/tasks/book_reviews.ipynb"), (sys.executable, "-m", "koflan.tasks", "book_reviews")):
        done = run(*step, cwd=repo)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "book_reviews (BookReviews)" in done.stdout
    touched = {o[3:] for o in git("status", "--porcelain", "-uall", cwd=repo).stdout.splitlines()}
    assert touched == {"nbs/tasks/book_reviews.ipynb", "koflan/samples/my/books/default.jsonl", "koflan/tasks/book_reviews.py", "koflan/_modidx.py"} # the last two are made by nbdev_export
