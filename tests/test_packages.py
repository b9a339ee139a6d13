"What stands twice is the same: settings.ini, pyproject.toml, the list of commands."
import re
from configparser import ConfigParser

import pytest
from conftest import ROOT

from koflan.__main__ import COMMANDS

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
INI = ConfigParser(delimiters=["="])
INI.read(ROOT/"settings.ini", encoding="utf-8")


def test_nbdev_3_reads_what_nbdev_2_reads():
    toml = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))
    spelled = {k: str(v) for k, v in toml["tool"]["nbdev"].items()}
    assert spelled == {k: INI["DEFAULT"][k] for k in spelled} and "lib_path" in spelled
    assert "project" not in toml # setup.py has it from settings.ini


def test_every_command_has_its_script():
    scripts = dict(o.split("=") for o in INI["DEFAULT"]["console_scripts"].split())
    want = {f"koflan_{name}": f"{module}:koflan_{name}.main" for name, module in COMMANDS.items()}
    quick = {"koflan": "koflan.__main__:koflan", "koflan_train_reward": "koflan.__main__:koflan_train_reward"}
    assert scripts == want | quick


def test_every_requirement_has_its_lowest_version():
    for o in INI["DEFAULT"]["requirements"].split(): assert re.fullmatch(r"[\w-]+>=[\d.]+", o), o
