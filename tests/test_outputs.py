"The saved outputs of the notebooks are what their cells give today: the notebooks are run again, two at a time."
import json
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from conftest import ROOT

NBS = ROOT/"nbs"
NOTEBOOKS = sorted(str(o.relative_to(NBS)) for o in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in o.parts)
TRAINED = "trains a model, and shows numbers that hang on the processor's rounding"
LEFT_OUT = {f"tutorials/{o}.ipynb": TRAINED for o in ("train", "evaluate", "own_data")} # notebook -> why it is not compared; nbdev_test runs it all the same
COMPARED = [o for o in NOTEBOOKS if o not in LEFT_OUT]
# what may differ from run to run: addresses of objects, progress bars (tests/test_notebooks.py keeps them out of what is saved)
VOLATILE = [(re.compile(r"\bat 0x[0-9a-f]+"), "at 0x…"), (re.compile(r"[^\r\n]*\d%\|[^\r\n]*[\r\n]?"), "")]


def shown(outputs):
    "What a reader sees of the outputs of a cell: (stream or type, text), streams joined."
    out, streams = [], dict(stdout="", stderr="")
    for o in outputs:
        if o["output_type"] == "stream": streams[o["name"]] += "".join(o["text"])
        elif o["output_type"] == "error": out.append(("error", o["ename"]))
        else: out += [(k, "".join(o["data"][k])) for k in ("text/markdown", "text/html", "text/plain") if k in o["data"]]
    texts = [*streams.items(), *out]
    for pattern, to in VOLATILE: texts = [(k, pattern.sub(to, v)) for k, v in texts]
    return [(k, v.strip("\r\n")) for k, v in texts if v.strip()]


def rerun(path):
    "(cells whose saved outputs are not today's: (source, saved, today), CPU seconds) of a notebook, run as nbdev_test does."
    from execnb.shell import CaptureShell
    saved = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    start, stale = time.process_time(), []
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format="png")
    for cell in saved:
        source = "".join(cell["source"])
        if re.search(r"^#\|\s*eval:\s*false", source, re.M): continue
        now, was = shown(shell.run(source)), shown(cell["outputs"])
        if now != was: stale.append((source, was, now))
        if shell.exc: break
    return stale, time.process_time() - start


@pytest.fixture(scope="module")
def runs(request):
    "The notebooks that this session asks for, in two processes that go from one to the next as those of nbdev_test do."
    asked = [o.callspec.params["name"] for o in request.session.items if o.originalname == "test_fresh"]
    with pytest.MonkeyPatch.context() as env: # the processes are made here: two of them on two cores, a thread each
        for k, v in dict(IN_TEST="1", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false").items(): env.setenv(k, v)
        env.delenv("KOFLAN_HUB_MIRROR", raising=False)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool: yield {o: pool.submit(rerun, NBS/o) for o in asked}


@pytest.mark.parametrize("name", COMPARED)
def test_fresh(name, runs):
    stale, seconds = runs[name].result()
    print(f"{seconds:6.1f} s  {name}")
    assert not stale, f"{name}: run it again and save it; {len(stale)} cells, the first:\n{stale[0][0][:400]}\nsaved: {str(stale[0][1])[:1500]}\ntoday: {str(stale[0][2])[:1500]}"


def test_those_left_out_exist(): assert set(LEFT_OUT) <= set(NOTEBOOKS)


def test_a_change_is_seen(tmp_path):
    "A saved output that is not today's is named with its cell; one that is not run is not."
    cell = lambda source, *outputs: dict(cell_type="code", source=source, outputs=list(outputs))
    told = lambda text: dict(output_type="stream", name="stdout", text=[text])
    path = tmp_path/"a.ipynb"
    path.write_text(json.dumps(dict(cells=[cell("print(1)", told("1\n")), cell("print(2)", told("3\n")), cell("#| eval: false\nprint(4)", told("5\n"))])), encoding="utf-8")
    here = os.getcwd()
    try: stale, _ = rerun(path)
    finally: os.chdir(here)
    assert stale == [("print(2)", [("stdout", "3")], [("stdout", "2")])]
