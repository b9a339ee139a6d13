"The saved outputs of the notebooks are what their cells give today: every fast notebook is run again, two at a time."
import json
import os
import re
import time
from multiprocessing import get_context

import pytest
from conftest import ROOT

NBS = ROOT/"nbs"
NOTEBOOKS = sorted(str(o.relative_to(NBS)) for o in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in o.parts)
SLOW = {} # notebook -> why it is not run again here; nbdev_test runs it all the same
FAST = [o for o in NOTEBOOKS if o not in SLOW]
VOLATILE = [(re.compile(r"\bat 0x[0-9a-f]+"), "at 0x…")] # what may differ from run to run: addresses of objects
HEAVY = ["datasets", "polars", "torch", "transformers", "koflan.schema"] # imported once, before the processes part


def shown(outputs):
    "What a reader sees of the outputs of a cell: (stream or type, text), streams joined."
    out, streams = [], {}
    for o in outputs:
        if o["output_type"] == "stream": streams[o["name"]] = streams.get(o["name"], "") + "".join(o["text"])
        elif o["output_type"] == "error": out.append(("error", o["ename"]))
        else: out += [(k, "".join(o["data"][k])) for k in ("text/markdown", "text/html", "text/plain") if k in o["data"]]
    texts = [*streams.items(), *out]
    for pattern, to in VOLATILE: texts = [(k, pattern.sub(to, v)) for k, v in texts]
    return [(k, v.rstrip("\n")) for k, v in texts]


def rerun(path):
    "(cells whose saved outputs are not today's: (source, saved, today), seconds) of a notebook, run as nbdev_test does."
    from execnb.shell import CaptureShell
    saved = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    start, stale = time.perf_counter(), []
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format="png")
    for cell in saved:
        source = "".join(cell["source"])
        if re.search(r"^#\|\s*eval:\s*false", source, re.M): continue
        now, was = shown(shell.run(source)), shown(cell["outputs"])
        if now != was: stale.append((source, was, now))
        if shell.exc: break
    return stale, time.perf_counter() - start


@pytest.fixture(scope="module")
def runs(request):
    "The notebooks that this session asks for, each in a process of its own."
    asked = [o.callspec.params["name"] for o in request.session.items if o.originalname == "test_fresh"]
    with pytest.MonkeyPatch.context() as env: # the processes are made here: two of them on two cores, a thread each
        for k, v in dict(IN_TEST="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false").items(): env.setenv(k, v)
        env.delenv("KOFLAN_HUB_MIRROR", raising=False)
        context = get_context("forkserver")
        context.set_forkserver_preload(HEAVY)
        with context.Pool(2, maxtasksperchild=1) as pool: yield {o: pool.apply_async(rerun, (NBS/o,)) for o in asked}


@pytest.mark.parametrize("name", FAST)
def test_fresh(name, runs):
    stale, seconds = runs[name].get(timeout=600)
    print(f"{seconds:6.1f} s  {name}")
    assert not stale, f"{name}: run it again and save it; {len(stale)} cells, the first:\n{stale[0][0][:400]}\nsaved: {str(stale[0][1])[:1500]}\ntoday: {str(stale[0][2])[:1500]}"


def test_slow_ones_exist(): assert set(SLOW) <= set(NOTEBOOKS)
