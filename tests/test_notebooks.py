"The notebooks as a whole: floors, lengths, names shown, no machine paths (as CONTRIBUTING.md asks)."
import ast
import json
import re
import statistics
from pathlib import Path

import pytest
from conftest import ROOT

PATHS = [o for o in sorted((ROOT/"nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in o.parts]
NOTEBOOKS = {o: json.loads(o.read_text(encoding="utf-8")) for o in PATHS}
# The rooms of koflan/ from the ground up, and what each knows besides itself; what stands at the top ("") knows all.
ROOMS = {"core": (), "authoring": ("core",), "tasks": ("core", "authoring"), "build": ("core", "authoring", "tasks"), "model": ("core",)}
FOUND = {re.search(r"default_exp (\S+)", json.dumps(nb["cells"][0]["source"]))[1].strip('"]'): path.name
         for path, nb in NOTEBOOKS.items() if "default_exp" in "".join(nb["cells"][0]["source"])} # module -> its notebook


def source(cell): return "".join(cell["source"])
def is_code(cell): return cell["cell_type"] == "code"
def is_exported(text): return bool(re.search(r"^#\|\s*exports?\b", text, re.M))
def exported(nb): return [o for o in map(source, filter(is_code, nb["cells"])) if is_exported(o)]
def code_lines(text): return [o for o in text.splitlines() if o.strip() and not o.startswith("#|")]


def imports(path, text):
    "What a module of koflan imports, in full names: relative ones, ones inside functions and ones by name as well."
    package = ("koflan", *path.parts[:-1])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import): yield from (o.name for o in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = [*package[:len(package) - node.level + 1]] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            yield module
            if module == "koflan" or module.removeprefix("koflan.") in ROOMS: yield from (f"{module}.{o.name}" for o in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0]
            said = getattr(name.values[0] if isinstance(name, ast.JoinedStr) else name, "value", None)
            if not isinstance(said, str): continue # a variable: nobody can tell
            dots = len(said) - len(said.lstrip("."))
            yield ".".join([*package[:len(package) + 1 - dots], said[dots:]]) if dots else said


def place(name):
    "(room, number of its notebook) of a module, as `build.stages`; a notebook without a number is below its room's numbered ones."
    room = name.split(".")[0] if name.split(".")[0] in ROOMS else ""
    notebook = FOUND.get(name) or FOUND.get(f"{name}.__init__") or ""
    return room, int(notebook[:2]) if notebook[:2].isdigit() else -1


def upward(path, text):
    "The imports of a module (its path in koflan/, its text) that do not point down: to a room it does not know, or to a later notebook of its own."
    name = ".".join(path.with_suffix("").parts)
    if name in ("__init__", "_modidx") or "samples" in path.parts: return []
    (room, number), bad = place(name), []
    for o in sorted(set(imports(path, text))):
        package, _, to = o.partition(".")
        if package == "koflan" and to and to not in ROOMS:
            there, order = place(to)
            if there == room and order >= number or there != room and room and there not in ROOMS[room]: bad.append(f"{path} imports {o}")
        elif o == "koflan.tasks" and room in ("core", "authoring", "model") or package in ("torch", "transformers") and room not in ("model", ""):
            bad.append(f"{path} imports {o}")
    return bad


def test_imports_point_down():
    paths = [p.relative_to(ROOT/"koflan") for p in sorted((ROOT/"koflan").rglob("*.py"))]
    texts = {p: (ROOT/"koflan"/p).read_text(encoding="utf-8") for p in paths}
    assert sum(o.startswith("koflan.") for p, text in texts.items() for o in set(imports(p, text))) > 200 # relative ones are seen
    assert [o for p, text in texts.items() for o in upward(p, text)] == []


@pytest.mark.parametrize("path, planted", [
    ("core/sources.py", "from koflan.generate import generate"),
    ("core/sources.py", "import koflan.generate as g"),
    ("core/sources.py", "from koflan import generate"),
    ("core/sources.py", "from ..generate import generate"),
    ("core/sources.py", "from .. import generate"),
    ("core/sources.py", "def f():\n    from ..generate import generate"),
    ("core/sources.py", "def f():\n    import importlib\n    return importlib.import_module('koflan.generate')"),
    ("core/sources.py", "from importlib import import_module\nimport_module('..generate', 'koflan.core')"),
    ("core/sources.py", "__import__('koflan.generate')"),
    ("core/sources.py", "import torch"),
    ("core/sources.py", "def f(): from transformers import Trainer"),
    ("core/schema.py", "from .sources import HubSource"),
    ("core/schema.py", "from . import sources"),
    ("authoring/task.py", "from koflan.tasks import NSMC"),
    ("authoring/task.py", "import_module('koflan.tasks')"),
    ("authoring/task.py", "from .display import Shown"),
    ("model/encode.py", "from ..build.store import Store"),
    ("build/store.py", "from ..model.encode import Encoder"),
    ("generate.py", "from .evaluate import evaluate"),
    ("tasks/nsmc.py", "from ..generate import generate"),
    ("tasks/nsmc.py", "from .. import generate"),
    ("tasks/nsmc.py", "from .apeach import APEACH"),
    ("tasks/nsmc.py", "from . import apeach"),
    ("tasks/nsmc.py", "import_module(f'koflan.tasks.{name}')"),
])
def test_an_import_planted_upward_is_found(path, planted):
    text = (ROOT/"koflan"/path).read_text(encoding="utf-8")
    assert upward(Path(path), text) == [] != upward(Path(path), f"{text}\n{planted}\n")


def test_lengths_of_exported_cells():
    lengths = sorted(len(code_lines(o)) for nb in NOTEBOOKS.values() for o in exported(nb))
    assert statistics.median(lengths) <= 10 and lengths[int(.9*len(lengths))] <= 20 and lengths[-1] <= 40, (statistics.median(lengths), lengths[-10:])


def test_imports_stand_alone():
    "A cell that imports does nothing else; only exported functions import inside, to keep commands quick."
    for path, nb in NOTEBOOKS.items():
        for text in map(source, filter(is_code, nb["cells"])):
            tree = ast.parse(re.sub(r"^[%!].*$", "", text, flags=re.M))
            top = [isinstance(o, (ast.Import, ast.ImportFrom)) for o in tree.body]
            inside = [o for o in ast.walk(tree) if isinstance(o, (ast.Import, ast.ImportFrom)) and o not in tree.body]
            assert all(top) or not any(top), f"{path.name} mixes imports with other code: {text[:80]}"
            assert not inside or is_exported(text), f"{path.name} hides an import: {text[:80]}"


def test_prose_and_code():
    "About one cell of prose for two of code; no notebook without, none with formulas that a browser would have to fetch MathJax for."
    count = {p.name: (sum(not is_code(c) for c in nb["cells"]), sum(map(is_code, nb["cells"]))) for p, nb in NOTEBOOKS.items()}
    assert all(prose >= code/4 for prose, code in count.values()), {k: v for k, v in count.items() if v[0] < v[1]/4}
    assert .4 <= sum(o[0] for o in count.values())/sum(o[1] for o in count.values()) <= 1
    for path, nb in NOTEBOOKS.items():
        for text in (re.sub(r"```.*?```|`[^`]*`", "", source(c), flags=re.S) for c in nb["cells"] if not is_code(c)):
            assert not re.search(r"(?<!\\)\$[^$\n]+\$", text), f"{path.name}: {text[:80]}"


def test_chance_is_counted():
    "No generator of random numbers in what is exported; the weights of a fresh model are PyTorch's."
    for path, nb in NOTEBOOKS.items():
        for text in exported(nb): assert not re.search(r"\bimport random\b|\brandom\.\w|\.sample\(|\.shuffle\(", text), f"{path.name}: {text[:80]}"


def test_public_names_are_shown_soon():
    "At least 90 % of public names stand in a cell within three of their definition, or in one of the next three that are not exported."
    shown = []
    for path, nb in NOTEBOOKS.items():
        cells = [source(c) for c in nb["cells"] if c["cell_type"] == "code"]
        for i, text in enumerate(cells):
            if not re.search(r"^#\|\s*exports?\b", text, re.M): continue
            later = [o for o in cells[i + 1:] if not re.search(r"^#\|\s*export", o, re.M)][:3]
            for name in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", text, re.M): shown.append((f"{path.name}:{name}", any(re.search(rf"\b{name}\b", o) for o in later + cells[i + 1:i + 4])))
    assert sum(ok for _, ok in shown) >= .9*len(shown), [n for n, ok in shown if not ok]


def test_saved_outputs():
    "Small, and without tracebacks, machine paths, progress bars or widgets that only a live kernel could draw."
    for path, nb in NOTEBOOKS.items():
        assert path.stat().st_size < 150_000, path.name
        for out in (o for c in nb["cells"] for o in c.get("outputs", [])):
            text = json.dumps(out, ensure_ascii=False)
            assert out["output_type"] != "error" and not re.search(r"/(root|work|home|tmp)/", text), f"{path.name}: {text[:200]}"
            assert not re.search(r"\d%\|[^|]*\||it/s\]|widget-view\+json", text), f"{path.name}: a progress bar or a widget in {text[:200]}"


def test_every_task_notebook_checks_its_tasks():
    for path, nb in NOTEBOOKS.items():
        if path.parent.name != "tasks" or path.name[0].isdigit(): continue
        names = [o for text in exported(nb) for o in re.findall(r"^class (\w+)\(", text, re.M) if re.search(r"^    name,|^    name =", text, re.M)]
        said = "\n".join(source(c) for c in nb["cells"] if c["cell_type"] == "code")
        for o in names: assert re.search(rf"check_task\({o}[,)]|check_task\(o\) for o in \([^)]*\b{o}\b", said), f"{path.name}: no check_task({o})"


def test_the_gallery_is_fresh():
    "Its saved page is what the registry says now."
    from koflan.tasks import find_tasks
    from koflan.tasks.__main__ import gallery
    saved = [o for c in NOTEBOOKS[ROOT/"nbs"/"gallery.ipynb"]["cells"] for o in c.get("outputs", []) if "text/markdown" in o.get("data", {})]
    said = re.sub(r"\[(`?\w+`?)\]\(tasks/\w+\.ipynb\)", r"\1", "".join(saved[0]["data"]["text/markdown"]))
    assert said == gallery(find_tasks("*")), "run nbs/gallery.ipynb again"
