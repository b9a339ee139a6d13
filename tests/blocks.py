"The code blocks of the documents, and a terminal to type them into."
import json
import os
import re
import shlex
import subprocess
from configparser import ConfigParser
from typing import NamedTuple

from conftest import PYTHON, ROOT, USER, user_environ

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# what stands in the block, what is run instead, why
INSTEAD = [
    ("pip install . && koflan_demo", "koflan_demo --tasks nsmc --epochs 1", ".ci/run has a step of this very name, in a fresh environment and with all tasks"),
    ('pip install -e ".[dev]" && nbdev_test', "true", ".ci/run has steps of these very names, over all notebooks"),
    ("python .ci/docs.py site --serve", "true", ".ci/run has a step that builds the site; nobody would stop the server"),
    ("jupyter lab", "jupyter lab --version", "it would not come back; tests/test_widgets.py drives it in a browser"),
    ("pip install ./", "python -m pip install --quiet --no-deps --no-build-isolation --no-index --target installed ./", "no index to ask"),
    ("monologg/koelectra-small-v3-discriminator", "tiny", "a fresh ELECTRA of koflan.reward stands in for the checkpoint on the Hub"),
    ('load_dataset("owner/name")', 'load_dataset("hub/owner/name")', "a folder stands in for the Hub, and koflan_push_to_hub puts its files there"),
]
PUSH = '''import shutil, sys
from pathlib import Path
from types import SimpleNamespace
import huggingface_hub
from koflan.push_to_hub import oids
class Folder:
    "The Hub as a folder."
    def create_repo(self, repo, private, **kw):
        self.private = private
        return Path("hub", repo).absolute()
    def repo_info(self, repo, **kw): return SimpleNamespace(id=repo, private=self.private)
    def list_repo_tree(self, repo, **kw):
        held = [o for o in Path("hub", repo).rglob("*") if o.is_file()]
        return [SimpleNamespace(path=o.relative_to(f"hub/{repo}").as_posix(), blob_id=oids(o)[1], lfs=None) for o in held]
    def create_commit(self, repo, steps, **kw):
        for o in steps:
            Path("hub", repo, o.path_in_repo).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(o.path_or_fileobj, Path("hub", repo, o.path_in_repo))
huggingface_hub.HfApi = Folder
'''
TINY = '''from koflan.reward import RewardModel
from koflan.model.scoring import learn_tokenizer, tiny_electra
tok = learn_tokenizer(["이 리뷰는 긍정인가요, 부정인가요?", "재미있어요", "돈이 아깝다"], 300)
RewardModel(tiny_electra(tok, hidden_size=32), tok).save_pretrained("tiny")'''


class Block(NamedTuple):
    "A piece of code in a document."
    lang: str # as "bash"; "" for what a block prints, "cell" for a code cell, "later" for one with `eval: false`
    text: str # the code

    @property
    def imports(self): return self.lang == "cell" and all(re.match(r"(import|from) |$|#|[ )]", o) for o in self.text.splitlines())


def blocks(path):
    "The blocks of a Markdown file or a notebook, in order."
    if path.suffix == ".md": return [Block(*o) for o in FENCE.findall(path.read_text(encoding="utf-8"))]
    out = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown": out += [Block(*o) for o in FENCE.findall(text + "\n")]
        elif cell["cell_type"] == "code": out.append(Block("later" if re.search(r"^#\|\s*eval:\s*false", text, re.M) else "cell", text))
    return out


def instead(text, used=None):
    "What is run for a block; the rows of `INSTEAD` that it took are added to `used`."
    for old, new, _ in INSTEAD:
        if old not in text: continue
        text = text.replace(old, new)
        if used is not None: used.add(old)
    return text


def commands(folder):
    "Scripts of koflan's commands: all of settings.ini where koflan is not installed; the one that writes to the Hub writes to a folder."
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT/"settings.ini", encoding="utf-8")
    folder.mkdir()
    for line in ini["DEFAULT"]["console_scripts"].split():
        name, module, function = re.split("[=:]", line)
        if USER and name != "koflan_push_to_hub": continue # pip made it
        first = PUSH if name == "koflan_push_to_hub" else "import sys\n"
        imports = f"from {module} import {function.split('.')[0]}"
        (folder/name).write_text(f"#!{PYTHON}\n{first}{imports}\nsys.exit({function}())\n", encoding="utf-8")
        (folder/name).chmod(0o755)
    return folder


class Terminal:
    "A shell in a folder: it keeps its current folder from block to block."
    def __init__(self, folder, **env):
        self.cwd, self.folder, bin_ = folder/"work", folder, commands(folder/"bin")
        self.cwd.mkdir()
        path = f"{bin_}:{os.path.dirname(PYTHON)}:{os.environ['PATH']}"
        self.env = user_environ(
            PATH=path, PYTHONPATH=f"{ROOT}:installed", HF_HUB_OFFLINE="1", HF_HOME=str(folder/"hf"), OMP_NUM_THREADS="1",
            TOKENIZERS_PARALLELISM="false") | env

    def run(self, *args):
        "Run a program here; what it prints."
        done = subprocess.run(list(map(str, args)), cwd=self.cwd, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"{args[-1]}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def bash(self, text):
        "Run a block of a shell; what it prints."
        said = self.run("bash", "-e", "-o", "pipefail", "-c", f"{text}\npwd > {shlex.quote(str(self.folder/'pwd'))}")
        self.cwd = type(self.cwd)((self.folder/"pwd").read_text(encoding="utf-8").strip())
        return said

    def python(self, text): return self.run("python", "-c", text)
