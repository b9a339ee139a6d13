"What the end-to-end tests share: the commands as a user runs them, and the real rows where they are."
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = TemporaryDirectory() # for the tokens that training remembers
os.environ.setdefault("KOFLAN_CACHE", CACHE.name)
USER = os.environ.get("KOFLAN_USER_ENV") # a virtual environment with koflan installed as a user has it (.ci/run makes it)
PYTHON = f"{USER}/bin/python" if USER else sys.executable # what commands run in
MIRROR = os.environ.get("KOFLAN_HUB_MIRROR") # real rows


def pytest_configure(config): config.addinivalue_line("markers", "mirror: needs real rows, in the folder KOFLAN_HUB_MIRROR")


def command(*args, cwd=None, ok=True, python=PYTHON, **env):
    "Run `python -m koflan.NAME ...` offline, in the user's environment where there is one; returns the finished process."
    environ = user_environ(python, **dict(HF_HUB_OFFLINE="1") | env)
    if python != sys.executable and cwd in (None, ROOT): environ["PYTHONSAFEPATH"] = "1" # the installed koflan, not the one here
    done = subprocess.run([python, "-m", *map(str, args)], cwd=cwd, env=environ, capture_output=True, text=True)
    assert not ok or done.returncode == 0, done.stderr[-3000:]
    return done


def user_environ(python=PYTHON, **env):
    "The environment variables of a user; another Python than this one sees no koflan but its own."
    environ = {k: v for k, v in os.environ.items() if k != "KOFLAN_HUB_MIRROR"} | env
    if python != sys.executable:
        kept = [o for o in environ.get("PYTHONPATH", "").split(os.pathsep) if o not in ("", str(ROOT))]
        environ["PYTHONPATH"] = os.pathsep.join(kept)
    return environ


def records(path): return [json.loads(o) for o in Path(path).read_bytes().split(b"\n") if o] # a text may hold other line ends


def files(folder): return {str(o.relative_to(folder)): o.read_bytes() for o in sorted(Path(folder).rglob("*")) if o.is_file() and ".koflan" not in o.parts}


@pytest.fixture(scope="session")
def mirror():
    if not MIRROR: pytest.skip("KOFLAN_HUB_MIRROR names no folder of real rows")
    return Path(MIRROR).absolute()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    "A small data folder from the packaged samples."
    out = tmp_path_factory.mktemp("built")/"data"
    command("koflan.generate", "--tasks", "nsmc,kobest_copa,unsmile", "--hub_mirror", "samples", "--output_dir", out)
    return out
