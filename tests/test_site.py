"The built site in a real browser: pages open, an example is drawn, the API is there, search knows Korean."
import functools
import http.server
import threading

import pytest
from conftest import ROOT

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def address():
    assert (ROOT/"_docs"/"index.html").is_file(), "build the site first: python .ci/docs.py site"
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(ROOT/"_docs")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield chromium
        chromium.close()


def opened(browser, url, width=1280):
    page, errors = browser.new_page(viewport=dict(width=width, height=900)), []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(url)
    return page, errors


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index", "tasks/nsmc", "generate", "reward_trainer", "tutorials/quickstart", "tutorials/add_task"])
def test_page(browser, address, name, width):
    page, errors = opened(browser, f"{address}/{name}.html", width)
    assert page.locator("h1").first.inner_text().strip()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not errors
    page.close()


def test_the_theme_is_whole(browser, address):
    page, _ = opened(browser, f"{address}/index.html")
    assert page.evaluate("getComputedStyle(document.querySelector('.navbar')).backgroundColor") not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    assert "googleapis" not in "".join(o.read_text(encoding="utf-8") for o in (ROOT/"_docs").rglob("*.css"))
    page.close()


def test_a_task_page_draws_its_records(browser, address):
    page, _ = opened(browser, f"{address}/tasks/nsmc.html")
    assert page.get_by_text("○ 긍정").count() and page.get_by_text("× 부정").count()
    assert page.locator("table").first.get_by_text("document").count()
    page.close()


def test_the_api_of_generate(browser, address):
    page, _ = opened(browser, f"{address}/generate.html")
    body = page.locator("main").inner_text()
    for o in ("koflan_generate", "max_instance_per_task", "records of each task and split at most", "Build a data folder"): assert o in body
    page.close()


@pytest.mark.parametrize("word, hit", [("감정", "NSMC"), ("klue", "KLUE"), ("보상 모델", "reward")])
def test_search(browser, address, word, hit):
    page, _ = opened(browser, f"{address}/index.html")
    page.get_by_placeholder("Search").fill(word)
    page.wait_for_function("h => [...document.querySelectorAll('a')].some(a => a.closest('[class*=search]') && a.innerText.toLowerCase().includes(h.toLowerCase()))", arg=hit, timeout=10_000)
    page.close()
