"The built site in a real browser: every page at two widths, light and dark; the API is there; search knows Korean."
import functools
import http.server
import json
import re
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

SITE = ROOT/"_docs"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PAGES = sorted(str(o.relative_to(SITE)) for o in SITE.rglob("*.html") if "site_libs" not in o.parts)
FAULTS = """async () => {
    const main = document.querySelector("main"), out = [], name = e => `${e.tagName.toLowerCase()} ${(e.innerText || e.className || "").toString().slice(0, 60)}`;
    for (const i of document.images) { i.loading = "eager"; await i.decode().catch(() => null); if (!i.naturalWidth) out.push(`image ${i.src} is broken`); if (!i.alt) out.push(`image ${i.src} has no alt text`); }
    for (const s of main.querySelectorAll("svg")) if (s.getBoundingClientRect().width > 48 && !s.getAttribute("aria-label") && !s.querySelector("title")) out.push("an svg without a title");
    if (document.documentElement.scrollWidth > innerWidth) out.push(`the page is ${document.documentElement.scrollWidth} wide: ` +
        [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 3).map(name).join(" | "));
    if (main.clientWidth < Math.min(innerWidth, 900)*.55) out.push(`the text is squeezed into ${main.clientWidth} of ${innerWidth}`);
    for (const e of main.querySelectorAll("*")) {
        const style = getComputedStyle(e), hides = o => o === "hidden" || o === "clip";
        if (e.clientWidth > 1 && e.innerText && hides(style.overflowX) && e.scrollWidth > e.clientWidth + 1) out.push(`cut off at its side: ${name(e)}`);
        if (e.clientHeight > 1 && e.innerText && hides(style.overflowY) && e.scrollHeight > e.clientHeight + 2) out.push(`cut off below: ${name(e)}`);
    }
    return out;
}"""
FAINT = """() => {
    const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number), lum = c => rgb(c).slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
    const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, p = rgb(c); if (p.length < 4 || p[3] > .5) return c; } return "rgb(255, 255, 255)"; };
    const out = new Map();
    for (const e of document.querySelectorAll("main *")) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length || e.closest("svg")) continue;
        const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
        if (ratio < 2.5) out.set(`${e.tagName} ${e.className}`, `${ratio.toFixed(1)} ${e.innerText.slice(0, 40)}`);
    }
    return [...out.entries()].map(String);
}"""


@pytest.fixture(scope="module")
def address():
    assert PAGES, "build the site first: python .ci/docs.py site"
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def tab(address):
    "One page of one browser, with what went wrong on it."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = chromium.new_context(viewport=dict(width=1280, height=900), reduced_motion="reduce").new_page()
        page.errors = []
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.on("requestfailed", lambda r: page.errors.append(f"{r.url}: {r.failure}"))
        page.on("request", lambda r: None if r.url.startswith((address, "data:")) else page.errors.append(f"asks {r.url}"))
        yield page
        chromium.close()


def opened(tab, url, width=1280, scheme="light"):
    tab.set_viewport_size(dict(width=width, height=900))
    tab.emulate_media(color_scheme=scheme)
    tab.goto(url)
    return tab


def ground(tab): return tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)")


@pytest.mark.parametrize("name", PAGES)
def test_every_page(tab, address, name):
    "Wide and narrow, light and dark: no error, nothing broken, nothing cut off, nothing unreadable."
    tab.errors.clear()
    opened(tab, f"{address}/{name}")
    assert tab.locator("h1").first.inner_text().strip()
    found, grounds = [], {}
    for width in (1280, 390):
        tab.set_viewport_size(dict(width=width, height=900))
        found += [f"{width}: {o}" for o in tab.evaluate(FAULTS)]
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.wait_for_function("dark => document.documentElement.classList.contains('quarto-dark') === dark", arg=scheme == "dark")
        grounds[scheme], faint = ground(tab), tab.evaluate(FAINT)
        found += [f"{scheme}: {o}" for o in faint]
    assert not found and not tab.errors, "\n".join(found + tab.errors)
    assert grounds["light"] > 600 and grounds["dark"] < 200, grounds


def test_the_eyes_see(tab):
    "A page with one of each fault is told apart from a sound one."
    svg = '<svg width="60" height="60"><text y="20">figure</text></svg>'
    faults = {"is broken": '<img src="data:image/png,x" alt="a">', "no alt text": f'<img src="data:image/svg+xml,{svg.replace("<svg", "<svg xmlns=%22http://www.w3.org/2000/svg%22").replace(chr(34), "%22")}">',
              "without a title": svg, "wide": '<div style="width:3000px">far</div>', "at its side": '<p style="overflow:hidden;width:30px;white-space:nowrap">words that do not fit</p>',
              "squeezed": "<style>main {width: 90px}</style>column", "cut off below": '<p style="overflow:hidden;height:10px">words<br>that<br>do<br>not<br>fit</p>'}
    for said, html in {"": "<p>sound</p>", **faults}.items():
        tab.set_content(f"<main>{html}</main>")
        found = tab.evaluate(FAULTS)
        assert any(said in o for o in found) if said else not found, (said, found)
    tab.set_content('<main style="background:#fff"><p style="color:#ddd">faint</p><p style="color:#333">clear</p></main>')
    assert len(tab.evaluate(FAINT)) == 1


def test_no_link_leads_nowhere():
    sys.path.insert(0, str(ROOT/".ci"))
    from docs import broken_links
    assert not broken_links(SITE)


def test_everything_written_is_on_the_site_and_in_the_sidebar():
    subprocess.run([sys.executable, ROOT/".ci"/"docs.py", "sidebar", "--check"], check=True)
    subprocess.run([sys.executable, ROOT/".ci"/"figures.py", "draw", "--check"], check=True)
    plain = lambda p: p.parent/(p.stem.lstrip("0123456789").lstrip("_") + ".html")
    written = {str(plain(o.relative_to(ROOT/"nbs"))) for ext in ("ipynb", "qmd") for o in (ROOT/"nbs").rglob(f"*.{ext}") if ".ipynb_checkpoints" not in o.parts}
    assert written == set(PAGES)
    side = (SITE/"index.html").read_text(encoding="utf-8")
    side = side[side.index('id="quarto-sidebar"'):]
    assert not [o for o in PAGES if f'href="./{o}"' not in side and f'href="{o}"' not in side]


def test_no_title_swallows_its_page():
    "nbdev makes front matter of the cell with the title and the description, and drops whatever else stands in it."
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        first = next("".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown")
        lost = [o for o in first.splitlines()[1:] if o.strip() and not re.match(r"> |- [\w-]+: ", o)]
        assert first.startswith("# ") and not lost, f"{path.name}: give {lost[0][:40]!r} a cell of its own"


def test_the_theme_is_whole(tab, address):
    opened(tab, f"{address}/index.html")
    assert tab.evaluate("getComputedStyle(document.querySelector('.navbar')).backgroundColor") not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
    assert "googleapis" not in "".join(o.read_text(encoding="utf-8") for o in SITE.rglob("*.css"))


def test_the_switch_turns_the_page_dark(tab, address):
    opened(tab, f"{address}/index.html")
    before = ground(tab)
    tab.locator(".quarto-color-scheme-toggle").first.click()
    assert before - ground(tab) > 400
    tab.evaluate("localStorage.clear()")


def test_the_landing_page_says_it_in_one_screen(tab, address):
    "What goes in, what comes out and what a model does with it, without scrolling; the English page is one click away."
    for width in (1280, 390):
        opened(tab, f"{address}/index.html", width)
        picture = tab.locator("main img").first
        assert ("narrow" in picture.evaluate("e => e.currentSrc")) == (width == 390)
        if width == 1280: assert picture.bounding_box()["y"] + picture.bounding_box()["height"] <= 900
    opened(tab, f"{address}/index.html")
    tab.locator(".navbar").get_by_text("English").click()
    tab.wait_for_url("**/english.html")
    assert "right answers" in tab.locator("main").inner_text()


def test_the_picture_is_a_true_record():
    sys.path.insert(0, str(ROOT/".ci"))
    from figures import IMAGES, TASK, first
    said = json.loads((IMAGES/"landing.json").read_text(encoding="utf-8"))
    record, scores = said["record"], [o["score"] for o in said["ranks"]]
    assert (said["row"], record) == first(TASK)
    assert {o["answer"] for o in said["ranks"]} == {*record["positives"], *record["negatives"]} and scores == sorted(scores, reverse=True)


def test_a_task_page_draws_its_records(tab, address):
    opened(tab, f"{address}/tasks/nsmc.html")
    said = tab.locator("main").inner_text()
    assert all(o in said for o in ("긍정", "부정", "document"))


def test_the_api_of_generate(tab, address):
    opened(tab, f"{address}/generate.html")
    body = tab.locator("main").inner_text()
    for o in ("koflan_generate", "max_instance_per_task", "records of each task and split at most", "Build a data folder"): assert o in body


@pytest.mark.parametrize("word, hit", [("감성", "koflan"), ("영화 리뷰", "NSMC"), ("klue", "KLUE"), ("보상 모델", "reward"), ("조사", "조사")])
def test_search(tab, address, word, hit):
    opened(tab, f"{address}/index.html")
    tab.get_by_placeholder("Search").fill(word)
    tab.wait_for_function("h => [...document.querySelectorAll('a')].some(a => a.closest('[class*=search]') && a.innerText.toLowerCase().includes(h.toLowerCase()))", arg=hit, timeout=10_000)
