"""Build the documentation as HTML: `python docs/build.py OUT` (`make docs` writes build/docs).

The Markdown pages become one HTML page each, and pdoc writes the API reference from docstrings to OUT/api. Nothing is
downloaded. Needs the extra `docs`.
"""

import importlib
import re
import shutil
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pdoc
import pygments
from jinja2 import Template
from markdown_it import MarkdownIt
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PUBLIC = (
    *("mvdiff.batch", "mvdiff.settings", "mvdiff.geometry", "mvdiff.samples", "mvdiff.data", "mvdiff.eval"),
    *("mvdiff.diffusion", "mvdiff.models", "mvdiff.tasks", "mvdiff.pipelines", "mvdiff.methods", "mvdiff.training"),
    *("mvdiff.mesh", "mvdiff.report", "mvdiff.interop", "mvdiff.class_paths", "mvdiff.keyed"),
)
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }} - mvdiff</title><style>
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 66rem; padding: 1rem 1.5rem; color: #1d2329 }
nav { border-bottom: 1px solid #d5dade; padding-bottom: .6rem; margin-bottom: 1rem }
nav a { display: inline-block; margin-right: 1rem }
a { color: #1b5fa8 } img { max-width: 100% }
code { background: #f2f4f5; padding: .1em .25em; border-radius: 3px; font-size: .92em }
pre { background: #f6f8f9; padding: .8rem; overflow-x: auto; border-radius: 5px; line-height: 1.4 }
pre code { background: none; padding: 0 }
table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { border: 1px solid #d5dade; padding: .3rem .6rem; text-align: left; vertical-align: top }
{{ style }}</style></head><body>
<nav>{% for name, link in pages %}<a href="{{ link }}">{{ name }}</a> {% endfor %}</nav>
{{ body }}</body></html>
""")


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def highlight(code: str, language: str, _attributes: str) -> str:
    """Colour a fenced block."""
    try:
        return pygments.highlight(code, get_lexer_by_name(language or "text"), HtmlFormatter(nowrap=True))
    except ClassNotFound:
        return ""


def render(text: str) -> tuple[str, str]:
    """Turn a page of docs/ into HTML with anchors at headings; return its first heading and the HTML.

    Links to other pages lead to their HTML, links out of docs/ to the file in the checkout.
    """
    markdown = MarkdownIt("commonmark", {"highlight": highlight}).enable("table")
    tokens = markdown.parse(text)
    title = ""
    for token, content in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", slug(content.content))
            title = title or content.content
    body = markdown.renderer.render(tokens, markdown.options, {})
    body = re.sub(r'href="([\w-]+)\.md(#[^"]*)?"', r'href="\1.html\2"', body).replace('"README.html', '"index.html')
    return title, body.replace('href="../', f'href="{ROOT.as_uri()}/')


def strict() -> None:
    """Make a warning of pdoc an error."""
    warnings.simplefilter("error", UserWarning)
    # pdoc looks for the annotations of a NamedTuple's constructor outside its module.
    warnings.filterwarnings("ignore", message="Error parsing type annotation .*__init__")


def reference(module: str) -> str:
    """Return the reference of one module as HTML."""
    pdoc.render.configure(docformat="google", show_source=False)
    documented = pdoc.doc.Module(importlib.import_module(module))
    return pdoc.render.html_module(documented, all_modules={module: documented})


def write_api(out: Path) -> None:
    """Write the API reference of all public modules."""
    pdoc.render.configure(docformat="google", show_source=False, footer_text="mvdiff")
    with warnings.catch_warnings():
        strict()
        pdoc.pdoc(*PUBLIC, output_directory=out)


def write_pages(out: Path) -> None:
    """Write the Markdown pages and their pictures; docs/README.md gives the order."""
    order = re.findall(r"\]\((\w[\w-]*\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8"))
    names = [name.removesuffix(".md") for name in dict.fromkeys(order)]
    pages = [("mvdiff", "index.html"), *((name, f"{name}.html") for name in names), ("reference", "api/index.html")]
    style = HtmlFormatter().get_style_defs("pre")
    out.mkdir(parents=True, exist_ok=True)
    for source in DOCS.glob("*.md"):
        name = "index" if source.name == "README.md" else source.stem
        title, body = render(source.read_text(encoding="utf-8"))
        html = PAGE.render(title=title, body=body, pages=pages, style=style)
        (out / f"{name}.html").write_text(html, encoding="utf-8")
    shutil.copytree(DOCS / "images", out / "images", dirs_exist_ok=True)


def main(out: Path) -> None:
    """Write pages and API reference."""
    write_pages(out)
    write_api(out / "api")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
