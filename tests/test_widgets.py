"""JupyterLab in a real browser: a task's notebook is run from top to bottom, `browse` is clicked through, `playground` is typed in,
a task of a running notebook is used at once, and a notebook that nobody runs reads as a page."""
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat
import pytest
from conftest import ROOT
from koflan.tasks import NSMC

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
BROWSE = """from koflan.reward import RewardModel
from koflan.model.scoring import learn_tokenizer, tiny_electra
from koflan.tasks import NSMC
from koflan.widgets import Browse, browse, playground
task = NSMC(mirror="samples")
tok = learn_tokenizer([o for r in task.generate() for o in (r["instruction"], r["input"], *r["positives"], *r["negatives"])], 2000)
net = tiny_electra(tok, hidden_size=32)
for p in net.parameters(): p.data *= 15 if p.dim() > 1 else 1 # fresh weights, scores far enough apart to see
model = RewardModel(net, tok)
browse(task, tokenizer=tok)"""
PLAY = """played = playground(model, "이 리뷰는 긍정인가요, 부정인가요?", "굳 ㅋㅋ", ["긍정", "부정"])
played"""
CUT = """connect = Browse._connect
def cut(self, c):
    connect(self, c)
    c["next"]._click_handlers.callbacks.clear() # a button that nobody hears
    c["label"].unobserve_all("value")
    c["template"].unobserve_all("value")
Browse._connect = cut
browse(task, tokenizer=tok)"""
PLAY_CUT = PLAY.replace("\nplayed", "\nplayed.widget()\nplayed.controls['answers'].unobserve_all('value')\nplayed")
MINE = ["""%env KOFLAN_HUB_MIRROR=hub
from koflan.authoring.check import check_task
from koflan.generate import generate
from koflan.core.prompts import Ask, Prompts
from koflan.authoring.shapes import LabelTask
from koflan.core.sources import HubSource""", """class Books(LabelTask):
    "책을 좋게 읽었는지 묻기"
    name, kind, cluster, citation = "books", "binary", "sentiment", "koflan"
    source = HubSource("me/books", columns=("text", "label"), names=dict(label=("bad", "good")), licence="cc0-1.0")
    prompts = Prompts(Ask(*(f"물음 {i}: 이 책이 좋았나요?" for i in range(10)), answers=dict(bad=["아니요"], good=["네"])), input="{text}")
Books().show(2)""", "Books()", "check_task(Books)", "done, failed, missing = generate([Books], 'data')\n[o['file'] for o in done], failed", """class Stern(Books):
    "한 행에서 멈추기"
    name = "stern"
    def answers(self, df, chance):
        if df["text"].str.contains("물음표").any(): raise ValueError("a question mark")
        return super().answers(df, chance)
check_task(Stern)"""]


def quiet_lab(folder):
    "Settings and environment of a JupyterLab that shares nothing with the user's."
    news = folder/"settings"/"@jupyterlab"/"apputils-extension"/"notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps(dict(fetchNews="false", checkForUpdates=False, doNotDisturbMode=True)))
    dirs = {f"JUPYTER_{o}_DIR": str(folder/o.lower()) for o in ("CONFIG", "DATA", "RUNTIME")}
    tracker = folder/"settings"/"@jupyterlab"/"notebook-extension"/"tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(json.dumps(dict(windowingMode="none"))) # every cell is in the page, seen or not
    lab = dict(JUPYTERLAB_SETTINGS_DIR=str(folder/"settings"), JUPYTERLAB_WORKSPACES_DIR=str(folder/"workspaces"), IPYTHONDIR=str(folder/"ipython"))
    return {k: v for k, v in os.environ.items() if k != "KOFLAN_HUB_MIRROR"} | dirs | lab | dict(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


@contextmanager
def lab_at(notebooks, folder, theme="Light"):
    "A JupyterLab over a folder of notebooks, at an address; another folder holds its settings and its log."
    env, log = quiet_lab(folder), folder/"log"
    (folder/"settings"/"@jupyterlab"/"apputils-extension"/"themes.jupyterlab-settings").write_text(json.dumps(dict(theme=f"JupyterLab {theme}")))
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    args = ["lab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={notebooks}", "--LabApp.news_url=None"]
    with log.open("w") as f: server = subprocess.Popen([sys.executable, "-m", "jupyter", *args], cwd=folder, env=env, stdout=f, stderr=f)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            try: urllib.request.urlopen(f"{url}/api/status", timeout=2).close(); break
            except OSError: assert server.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(.2)
        yield url
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill(); server.wait()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The address of a JupyterLab over a folder with a task's notebook, one whose controls are cut off, and one with a task of its own."
    folder = tmp_path_factory.mktemp("lab")
    (folder/"nbs"/"hub"/"me"/"books").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [dict(text=f"{i}번째 책, {split}{' 물음표' if i == 3 else ''}", label=i % 2) for i in range(6)]
        (folder/"nbs"/"hub"/"me"/"books"/f"{split}.jsonl").write_text("".join(json.dumps(o) + "\n" for o in rows))
    task = nbformat.read(ROOT/"nbs"/"tasks"/"nsmc.ipynb", as_version=4)
    for c in task.cells: c.update(dict(outputs=[], execution_count=None) if c.cell_type == "code" else {})
    for name, cells in dict(nsmc=[*task.cells, BROWSE, PLAY], cut=[BROWSE, CUT, PLAY_CUT], mine=MINE).items():
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) if isinstance(o, str) else o for o in cells], metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python")))
        nbformat.write(nb, folder/"nbs"/f"{name}.ipynb")
    with lab_at(folder/"nbs", folder) as url: yield url


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield chromium
        chromium.close()


def run_all(chromium, lab, name, ready):
    "A notebook, run from top to bottom until its page has `ready(page)`."
    page = chromium.new_page(viewport=dict(width=1280, height=1400))
    page.set_default_timeout(20_000)
    page.errors = []
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.goto(f"{lab}/doc/tree/{name}.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000) # earlier, the lab would ask which kernel to take
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    try: ready(page).wait_for(timeout=90_000)
    except Exception as e: raise AssertionError("the notebook did not run:\n" + "\n".join(page.locator(".jp-OutputArea").all_inner_texts())) from e
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    return page


def played(page): return page.locator(".jp-CodeCell").last.get_by_label("지시문")


@pytest.fixture(scope="module")
def page(chromium, lab): return run_all(chromium, lab, "nsmc", played)


@pytest.fixture(scope="module")
def cut(chromium, lab): return run_all(chromium, lab, "cut", played)


def output(page, n):
    "What stands below the last code cell (1), or the one before (0)."
    cells = page.locator(".jp-CodeCell")
    return cells.nth(cells.count() - 2 + n).locator(".jp-Cell-outputWrapper")


def becomes(page, n, *texts, gone=()):
    "Wait until an output shows all of these texts and none of those."
    js = """([n, texts, gone]) => { const o = [...document.querySelectorAll('.jp-CodeCell')].at(n - 2).querySelector('.jp-Cell-outputWrapper').innerText;
            return texts.every(t => o.includes(t)) && gone.every(t => !o.includes(t)) }"""
    try: page.wait_for_function(js, arg=[n, list(texts), list(gone)], timeout=8_000)
    except Exception as e: raise AssertionError(f"wanted {texts}, not {gone}; it says:\n{output(page, n).inner_text()}") from e


def row(page): return int(output(page, 0).get_by_label("행").input_value())


def click(page, name):
    "Click a button of `browse` and return the row that it leads to."
    before = row(page)
    output(page, 0).get_by_role("button", name=name).click()
    becomes(page, 0, "원본 train", gone=[f"원본 train {before}행"])
    return row(page)


def task_rows():
    from koflan.tasks import NSMC
    return NSMC, NSMC.source.read("train", "samples").to_dicts()


def test_a_task_notebook_runs_from_top_to_bottom(page):
    counts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert len(counts) > 12 and [int(o.strip("[]:")) for o in counts] == list(range(1, len(counts) + 1))
    assert not page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count()
    card = page.locator(".jp-OutputArea-output", has_text="수는 내장 예문에서 셌습니다")
    assert card.is_visible() and "train 150,000, test 50,000" in card.inner_text()
    assert card.get_by_role("img", name="지시문의 길이").count() == 1 and f"nsmc: binary, {len(NSMC.prompts)} instructions" in page.locator(".jp-Notebook").inner_text()


def test_buttons_turn_pages(page):
    becomes(page, 0, "1 / 24", "토큰: 긴 짝")
    start = row(page)
    second = click(page, "다음")
    third = click(page, "다음")
    assert start < second < third
    becomes(page, 0, "3 / 24", f"nsmc-train-{third}")
    assert (click(page, "이전"), click(page, "이전")) == (second, start)
    assert click(page, "무작위") != start


def test_jump_shows_the_raw_row(page):
    cls, rows = task_rows()
    label, field = rows[7]["label"], output(page, 0).get_by_label("행")
    field.fill("7")
    field.press("Enter")
    becomes(page, 0, "원본 train 7행", rows[7]["document"], f"label\t{label} ({cls.source.names['label'][label]})")
    field.fill("999")
    field.press("Enter")
    becomes(page, 0, "nsmc has no row 999", "원본 train 7행")
    field.fill("8")
    field.press("Enter")
    becomes(page, 0, "원본 train 8행", gone=["nsmc has no row 999"])


def test_template(page):
    nsmc, _ = task_rows()
    for t in (10, 2):
        output(page, 0).get_by_label("지시문").select_option(index=t + 1)
        becomes(page, 0, f"지시문 {t} ·", f"\n{nsmc.prompts.templates[t].text}\n")
    output(page, 0).get_by_label("지시문").select_option(index=0)


def test_filters(page):
    nsmc, rows = task_rows()
    label, text, answer = (output(page, 0).get_by_label(o) for o in ("라벨", "찾기", "답"))
    label.select_option("negative")
    n = sum(o["label"] == 0 and bool(o["document"]) for o in rows)
    becomes(page, 0, f" / {n}", "0 (negative)")
    for _ in range(3): click(page, "다음"); becomes(page, 0, "0 (negative)", gone=["1 (positive)"])
    label.select_option("버린 행")
    becomes(page, 0, "레코드가 되지 않은 행입니다: empty_input")
    label.select_option("모두")
    wanted = rows[4]["document"][:8]
    text.press_sequentially(wanted)
    n = sum(wanted.lower() in o["document"].lower() for o in rows)
    becomes(page, 0, f" / {n}", wanted)
    text.fill("")
    answer.fill("네")
    answer.press("Enter")
    n = sum(o["positives"] == ["네"] for o in nsmc(mirror="samples").generate())
    becomes(page, 0, f" / {n}", "○ 네×")
    answer.fill("없는 답")
    answer.press("Enter")
    becomes(page, 0, "찾은 행이 없습니다")
    answer.fill("")
    answer.press("Enter")
    becomes(page, 0, " / 24")


def test_tokens_and_split(page):
    limit = output(page, 0).get_by_label("토큰")
    limit.fill("20")
    limit.press("Enter")
    becomes(page, 0, "/ 20")
    output(page, 0).get_by_label("split").select_option("test")
    becomes(page, 0, "원본 test")
    output(page, 0).get_by_label("split").select_option("train")
    becomes(page, 0, "원본 train", "1 / 24")


def ranking(page): return output(page, 1).locator(".koflan-answer:visible").all_inner_texts()


def test_playground_ranks_as_one_types(page):
    assert sorted(ranking(page)) == ["긍정", "부정"]
    answers = output(page, 1).get_by_label("답")
    answers.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\n모르겠다\n긍정")
    becomes(page, 1, "모르겠다", "답 3개에", " ms")
    assert sorted(ranking(page)) == ["긍정", "모르겠다", "부정"]
    scores = [float(o) for o in output(page, 1).inner_text().split() if o[0] in "+-" and o[1:].replace(".", "").isdigit()]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


def test_playground_follows_input_and_instruction(page):
    numbers = lambda: [o for o in output(page, 1).inner_text().split() if o[0] in "+-" and o[1:].replace(".", "").isdigit()]
    for name, text in (("입력", "돈이 아깝다, 다시는 안 본다"), ("지시문", "이 글을 쓴 사람은 영화에 만족했나요?")):
        before = numbers()
        output(page, 1).get_by_label(name).fill(text)
        end = time.monotonic() + 8
        while numbers() == before and time.monotonic() < end: page.wait_for_timeout(50)
        assert numbers() != before, f"the ranking does not follow {name}"
    output(page, 1).get_by_label("답").fill("")
    becomes(page, 1, "답을 한 줄에 하나씩")
    assert not page.errors


def test_a_reopened_notebook_shows_what_was_there(page):
    "Saved, its kernel stopped and opened again: the static page takes the widgets' place, and no error is told."
    static = page.locator("[id^=koflan-]")
    assert static.count() == 2 and not any(o.is_visible() for o in static.all())
    for menu, item in (("File", "Save Notebook"), ("Kernel", "Shut Down Kernel")):
        page.get_by_role("menuitem", name=menu, exact=True).click()
        page.get_by_text(item, exact=True).first.click()
        page.wait_for_timeout(1000)
    page.reload()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    becomes(page, 0, "원본 train", "JupyterLab에서 실행하면", gone=["model not found", "Loading"])
    becomes(page, 1, "긍정", "JupyterLab에서 실행하면", gone=["model not found", "Loading"])


def test_the_driver_notices_what_is_disconnected(cut):
    "The same clicks on controls that were cut off: each must fail, so that the tests above can."
    assert click(cut, "이전") != click(cut, "무작위") # these two still work
    with pytest.raises(AssertionError, match="not ..원본 train"): click(cut, "다음")
    output(cut, 0).get_by_label("라벨").select_option("버린 행")
    with pytest.raises(AssertionError): becomes(cut, 0, "레코드가 되지 않은 행입니다")
    output(cut, 0).get_by_label("지시문").select_option(index=11)
    with pytest.raises(AssertionError): becomes(cut, 0, "지시문 10 ·")
    output(cut, 1).get_by_label("답").fill("긍정\n부정\n모르겠다")
    with pytest.raises(AssertionError): becomes(cut, 1, "답 3개에")


def test_a_task_of_a_running_notebook_is_used_at_once(chromium, lab):
    "Shown, drawn as a card, checked and built; a row that it stops at is shown beside what to change."
    page = run_all(chromium, lab, "mine", lambda page: page.get_by_text("CheckError: stern"))
    said = page.locator(".jp-CodeCell .jp-Cell-outputWrapper").all_inner_texts()
    assert said[1].count("물음 ") == 2 and "○ " in said[1] and "답의 표현 1/1" in said[1]
    assert "수는 미러 폴더에서 셌습니다." in said[2] and "3 (50.0%)" in said[2]
    assert "books: binary, 10 instructions, rows train 6, test 6: all right" in said[3]
    assert "train/books.jsonl" in said[4] and "{}" in said[4]
    for o in ("CheckError: stern: train: row 3: ValueError: a question mark", "원본 train 3행", "3번째 책, train 물음표", "고칠 것"): assert o in said[5]
    assert "Traceback" not in said[5]
    assert not page.errors


def test_the_saved_notebook_reads_without_a_kernel():
    "Its outputs are HTML, and hold no widget that nobody can bring to life."
    nb = nbformat.read(ROOT/"nbs"/"11_widgets.ipynb", as_version=4)
    kept = [o["data"] for c in nb.cells for o in c.get("outputs", []) if "data" in o]
    said = "\n".join(o.get("text/html", "") for o in kept)
    assert not any("widget" in k for o in kept for k in o) and "widgets" not in nb.metadata
    for o in ("원본 train", "○ ", "입력의 앞", "koflan-answer"): assert o in said
    assert "koflan-time" not in said
