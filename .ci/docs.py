"""README.md, the sidebar and the documentation site from the notebooks, without Quarto.

    python .ci/docs.py readme [--check]    # README.md from nbs/index.ipynb
    python .ci/docs.py sidebar [--check]   # nbs/sidebar.yml from the notebooks that there are
    python .ci/docs.py site [--serve]      # the site in _docs/, links checked
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbdev.doclinks
import yaml
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults, FrontmatterProc
from nbdev.quarto import IndentDumper, refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"^\d+[a-z]?_")
WEB_FONT = re.compile(r"""@import\s*(?:url\((["']?)https?:.*?\1\)|(["'])https?:.*?\2)[^;]*;""") # the address itself may hold a semicolon
NOTEBOOK_LINK = re.compile(r"(\]\((?:[\w.-]+/)*)\d+[a-z]?_(\w+\.ipynb)")
ROOMS = ("core", "authoring", "tasks", "build", "model") # folders of nbs/ and koflan/, from the ground up
RELATIVE = re.compile(r"""(\]\(|\b(?:src|srcset|href)=")(?![a-z]+:|[#/.])""") # in Markdown and HTML: what is relative to nbs/
FIRST = dict(tutorials=("quickstart", "own_data", "add_task", "build_data", "train", "evaluate", "real_data", "publish"), concepts=("record", "kinds", "chance", "josa", "packed"))
REMARKS = re.compile(r"\b(lang|output-file)\b") # keys that smalldocs ignores, knowingly


def cell_markdown(cell):
    "One cell of the index as Markdown."
    if cell.cell_type == "markdown": return cell.source.strip()
    source = "\n".join(o for o in cell.source.splitlines() if not o.startswith("#|")).strip()
    parts = [f"```python\n{source}\n```"] if source else []
    for out in cell.get("outputs", []):
        text = out.get("text") or out.get("data", {}).get("text/plain", "")
        if text := "".join(text).rstrip(): parts.append(f"```\n{text}\n```")
    return "\n\n".join(parts)


def readme(check=False):
    "Write README.md, or say whether it is in step with the index."
    keep = ("populate_language", "strip_ansi", "hide_line", "filter_stream_", "rm_header_dash", "rm_export", "clean_magics", "hide_", "add_links")
    procs = [FrontmatterProc, *(o for o in FilterDefaults().base_procs() if o.__name__ in keep)]
    nb = NBProcessor(ROOT/"nbs"/"index.ipynb", procs=procs, process=True).nb
    front = getattr(nb, "frontmatter_", {})
    head = [f"# {front['title']}", f"> {front['description']}"] if "title" in front else []
    body = [cell_markdown(o) for o in nb.cells if not o.source.startswith("---\n")]
    text = "<!-- Made from nbs/index.ipynb by .ci/docs.py; edit the notebook. -->\n\n" + "\n\n".join(filter(None, [*head, *body])) + "\n"
    keep_in_step(ROOT/"README.md", RELATIVE.sub(r"\1nbs/", text), "readme", check)


def keep_in_step(path, text, what, check):
    "Write a made file, or leave with a word when it is not what it should be."
    if not check: path.write_text(text, encoding="utf-8")
    elif not path.is_file() or path.read_text(encoding="utf-8") != text: sys.exit(f"{path.name} is not in step with the notebooks: run python .ci/docs.py {what}")


def pages(folder):
    "Notebooks of a folder of nbs/: those with a reading order first, then the others by name; numbered ones are modules."
    found = {o.stem: f"{folder}/{o.name}" for o in sorted((ROOT/"nbs"/folder).glob("*.ipynb")) if not NUMBER.match(o.name)}
    return [found.pop(o) for o in FIRST.get(folder, ()) if o in found] + list(found.values())


def sidebar(check=False):
    "Write nbs/sidebar.yml: sections in reading order; a new notebook of tutorials/, concepts/ or tasks/ finds its place."
    modules = lambda room: [str(o.relative_to(ROOT/"nbs")) for o in sorted((ROOT/"nbs"/room).glob("*.ipynb")) if NUMBER.match(o.name)]
    named = lambda text, href: dict(text=text, href=href)
    sections = {"시작": [named("koflan이란", "index.ipynb"), named("In English", "english.ipynb")], "튜토리얼": pages("tutorials"), "개념": pages("concepts"),
                "태스크": ["gallery.ipynb", *pages("tasks")], "API": modules("."), **{f"API: {o}": modules(o) for o in ROOMS}, "기여": [named("손 보태기", "contribute.qmd"), named("바뀐 것", "changelog.qmd")]}
    tree = dict(website=dict(sidebar=dict(contents=[dict(section=k, contents=v) for k, v in sections.items()])))
    text = "# Made by .ci/docs.py from the notebooks that there are.\n" + yaml.dump(tree, Dumper=IndentDumper, sort_keys=False, allow_unicode=True)
    keep_in_step(ROOT/"nbs"/"sidebar.yml", text, "sidebar", check)


def plain_names(cache):
    "Give notebooks their names without the number (smalldocs knows no `output-file`), in the navigation and in links too."
    names = {}
    for path in sorted(cache.rglob("*.ipynb")):
        if NUMBER.match(path.name):
            names[str(path.relative_to(cache))] = str(path.relative_to(cache).with_name(NUMBER.sub("", path.name)))
            path.rename(path.with_name(NUMBER.sub("", path.name)))
    for path in (cache/"sidebar.yml", cache/"_quarto.yml"):
        text = path.read_text(encoding="utf-8")
        for old, new in names.items(): text = re.sub(rf"(?<=[- ]){re.escape(old)}$", new, text, flags=re.M)
        path.write_text(text, encoding="utf-8")
    for path in (*cache.rglob("*.ipynb"), *cache.rglob("*.qmd")): path.write_text(NOTEBOOK_LINK.sub(r"\1\2", path.read_text(encoding="utf-8")), encoding="utf-8")


def relative_links(site):
    "nbdev writes absolute links to its own pages; make them work from any place, a folder too."
    cfg = get_config()
    base = f"{cfg.doc_host}{cfg.doc_baseurl}/"
    for page in site.rglob("*.html"):
        up = "../" * len(page.relative_to(site).parent.parts)
        page.write_text(re.sub(rf'href="{re.escape(base)}', f'href="{up}', page.read_text(encoding="utf-8")), encoding="utf-8")


def no_web_fonts(site):
    "Themes import fonts from the web; the site shall ask nobody for anything."
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        sheet.write_text(WEB_FONT.sub("", text), encoding="utf-8")


def broken_links(site):
    "Internal links and images that lead nowhere."
    bad = []
    for page in sorted(site.rglob("*.html")):
        for link in re.findall(r'(?:href|src|srcset)="([^"#?]+)', page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:|//", link): continue
            target = (site/link.lstrip("/") if link.startswith("/") else page.parent/link).resolve()
            if not (target.is_file() or (target/"index.html").is_file()): bad.append(f"{page.relative_to(site)} -> {link}")
    return bad


def site(serve=False):
    "Build the site into _docs/."
    os.chdir(ROOT)
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    sidebar()
    shutil.rmtree(ROOT/"_proc", ignore_errors=True)
    cache = proc_nbs(n_workers=2, force=True)
    plain_names(cache)
    done = subprocess.run([Path(sys.executable).with_name("smalldocs"), "render", "--quiet", cache], capture_output=True, text=True)
    print("".join(o for o in done.stderr.splitlines(keepends=True) if not REMARKS.search(o)), end="", file=sys.stderr)
    done.check_returncode()
    out, made = ROOT/get_config().doc_path.name, cache/get_config().doc_path.name
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(made, out)
    relative_links(out)
    no_web_fonts(out)
    bad = broken_links(out)
    if bad: sys.exit("links that lead nowhere:\n" + "\n".join(bad[:40]))
    print(f"{len(list(out.rglob('*.html')))} pages in {out.name}/")
    if serve: subprocess.run([sys.executable, "-m", "http.server", "--directory", str(out), "8000"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["readme", "sidebar", "site"])
    parser.add_argument("--check", action="store_true", help="readme, sidebar: compare, write nothing")
    parser.add_argument("--serve", action="store_true", help="site: serve it on http://localhost:8000 afterwards")
    args = parser.parse_args()
    dict(readme=lambda: readme(args.check), sidebar=lambda: sidebar(args.check), site=lambda: site(args.serve))[args.what]()
