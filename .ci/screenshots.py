"""Pictures of the site and of the widgets, light and dark, in nbs/images/screenshots/.

    python .ci/docs.py site && python .ci/screenshots.py [CHECKPOINT]

`playground` is shown with the model in CHECKPOINT; without one, with a tiny model that learns the packaged samples first (about a minute).
Needs Chromium, JupyterLab and playwright; the JupyterLab of the pictures shares nothing with the user's.
"""
import argparse
import contextlib
import functools
import http.server
import io
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT/"tests")]

from koflan.demo import _train
from koflan.generate import generate
from test_widgets import FLAGS, lab_at

OUT = ROOT/"nbs"/"images"/"screenshots"
PAGES = dict(landing=("index.html", None), task=("tasks/nsmc.html", "카드"), gallery=("gallery.html", None)) # name -> page, heading to begin at
CELLS = ["""from koflan.reward import RewardModel
from koflan.tasks import NSMC
from koflan.widgets import browse, playground
model = RewardModel.from_pretrained("checkpoint")""", 'browse(NSMC(mirror="samples"), tokenizer=model, max_length=20)', """playground(model, "글쓴이는 이 영화를 재미있게 보았나요?", "배우들 연기가 좋아서 두 시간이 금방 지나갔다", ["네", "아니요"])"""]


def save(png, name):
    "A screenshot as a small WebP file."
    path = OUT/f"{name}.webp"
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=82, method=6)
    size = path.stat().st_size
    assert size < 150_000, f"{path.name}: {size:,} bytes"
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")


@contextlib.contextmanager
def site():
    "The built site at an address."
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(ROOT/"_docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}"
    finally: server.shutdown()


def learnt(folder):
    "A checkpoint that has learnt the packaged samples of NSMC."
    generate("nsmc", folder/"data", splits="train,test", mirror="samples")
    return Path(_train(folder, 20).args.output_dir)


def site_pictures(chromium, scheme):
    with site() as address:
        page = chromium.new_page(viewport=dict(width=1280, height=960), color_scheme=scheme)
        for name, (path, heading) in PAGES.items():
            page.goto(f"{address}/{path}")
            if heading: page.locator("main h2", has_text=heading).first.evaluate("e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 90)")
            page.wait_for_timeout(500)
            save(page.screenshot(), f"{name}-{scheme}")
        page.close()


def widget_pictures(chromium, scheme, folder):
    with lab_at(folder/"nbs", folder/scheme, scheme.title()) as address:
        page = chromium.new_page(viewport=dict(width=1180, height=1500), color_scheme=scheme)
        page.set_default_timeout(60_000)
        page.goto(f"{address}/doc/tree/try.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(".koflan-time:visible").wait_for(timeout=120_000)
        cells = page.locator(".jp-CodeCell")
        cells.nth(1).get_by_label("라벨").select_option("positive")
        cells.nth(1).get_by_label("찾기").fill("영화")
        cells.nth(2).get_by_label("답").fill("네\n아니요\n잘 모르겠다")
        page.get_by_text("답 3개에").wait_for()
        page.mouse.click(600, 1480) # nothing stays selected
        page.wait_for_timeout(800)
        for n, name in ((1, "browse"), (2, "playground")):
            box = cells.nth(n).bounding_box()
            save(page.screenshot(clip=dict(box, x=box["x"] + 20, width=box["width"] - 20)), f"{name}-{scheme}") # without the mark of the current cell
        page.close()


def main(checkpoint):
    OUT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as d, sync_playwright() as p:
        folder = Path(d)
        (folder/"nbs").mkdir()
        (folder/"nbs"/"checkpoint").symlink_to((checkpoint or learnt(folder)).resolve())
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in CELLS], metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")))
        nbformat.write(nb, folder/"nbs"/"try.ipynb")
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for scheme in ("light", "dark"):
            site_pictures(chromium, scheme)
            widget_pictures(chromium, scheme, folder)
        chromium.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="folder of a reward model")
    main(parser.parse_args().checkpoint)
