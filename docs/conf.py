"""Sphinx's settings: `make site` makes the site of docs/ by them.

The pages are also read where they lie in the repository, so they hold nothing that only Sphinx understands.
Navigation is listed here and nowhere else. A page that is named and not written yet is left out; one that is
written and not named is listed last. A link to a file outside docs/ leads to the repository, and has to exist
there.
"""

import os
import re
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PRODUCT = tomllib.loads((ROOT / "product.toml").read_text())
HOME = PRODUCT["urls"]["home"]
# Pages of the site that lie at the top of the repository, where GitHub looks for them.
TOP = ["CONTRIBUTING", "SECURITY", "CHANGELOG"]

NAV = {
    "Use it": ["INSTALL", "USE", "TRUST", "RECOVERY", "THREAT-MODEL", "THREAT-RESULTS", "COMMANDS"],
    "Work on it": [
        "CONTRIBUTING",
        "RECIPES",
        "DEVELOP",
        "REHEARSE",
        "VERIFIED",
        "VEILOR",
        "RELEASING",
        "PERFORMANCE",
        "DEPENDENCIES",
    ],
    "The project": ["ROADMAP", "CHANGELOG", "SECURITY", "DECISIONS", "BRAND"],
}

project = PRODUCT["product"]["name"]
copyright = f"{project}, Apache-2.0"
extensions = ["myst_parser"]
myst_heading_anchors = 3
smartquotes = False  # they would make one dash of the two in --json
root_doc = "index"
exclude_patterns = ["_static", "images", "pictures"]
# Pages are reached by the list below, which is made after Sphinx has looked for orphans' parents.
suppress_warnings = ["toc.not_included", "myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
# A summary is fetched from the page that was found; a browser forbids that for a site read from a folder.
html_show_search_summary = False
ARTWORK = ROOT / "artwork"
PALETTE = tomllib.loads((ARTWORK / "palette.toml").read_text()) if (ARTWORK / "palette.toml").exists() else {}
COLOURS = {
    mode: PALETTE.get(mode, {"accent": accent})
    for mode, accent in (("light", "#17734a"), ("dark", "#62c998"))
}
html_theme_options = {
    f"{mode}_css_variables": {
        f"color-brand-{part}": colours["accent"] for part in ("primary", "content", "visited")
    }
    for mode, colours in COLOURS.items()
}
if PALETTE and (ARTWORK / "wordmark.svg").exists():
    html_theme_options |= {f"{mode}_logo": f"wordmark-{mode}.svg" for mode in COLOURS} | {
        "sidebar_hide_name": True
    }


def paint_wordmark(app, error) -> None:
    """Sphinx's event: the site is written. Fills the palette's colours into the wordmark, light and dark."""
    if "light_logo" in html_theme_options and not error:
        for mode, colours in COLOURS.items():
            text = re.sub(
                r"@([\w-]+)@",
                lambda found, colours=colours: colours[found[1]],
                (ARTWORK / "wordmark.svg").read_text(),
            )
            Path(app.outdir, "_static", html_theme_options[f"{mode}_logo"]).write_text(text)


def navigation() -> str:
    """The site's tree, as directives for the end of the first page."""
    known = {page for pages in NAV.values() for page in pages}
    others = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in known | {"index"})
    parts = []
    for caption, pages in {**NAV, "More": others}.items():
        there = [page for page in pages if ((ROOT if page in TOP else DOCS) / f"{page}.md").exists()]
        if there:
            parts.append(
                "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *there, "```", ""])
            )
    return "".join(parts)


def lead_outside(text: str, folder: str) -> str:
    """TEXT with its links to what is not part of the site leading to the repository.

    FOLDER is where TEXT lies in the repository, "" for its top. A link to nothing leads to missing/, so that
    the strict build names it.
    """

    def change_link(found: re.Match) -> str:
        target, anchor = found[1], found[2] or ""
        path = os.path.normpath(Path(folder, target))
        if path.startswith("docs/") or path.removesuffix(".md") in TOP:
            return f"]({os.path.relpath(path, folder or '.')}{anchor})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({HOME}/{kind}/main/{path}{anchor})" if (ROOT / path).exists() else f"](missing/{path})"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", change_link, text)


def add_pages_of_the_top(app, env, docnames: list[str]) -> None:
    """Sphinx's event: the pages of docs/ were found, and DOCNAMES are to be read. Adds those of TOP.

    Sphinx has no public way to take a page from outside its folder, so its tables of paths are extended.
    """
    for page in TOP:
        path = ROOT / f"{page}.md"
        if path.exists():
            docnames.append(page)
            env.project.docnames.add(page)
            env.project._docname_to_path[page] = Path("..", path.name)
            env.project._path_to_docname[path] = page


def change_source(app, docname: str, source: list[str]) -> None:
    """Sphinx's event: the text of DOCNAME was read. Changes its links, and adds the navigation."""
    folder = "" if docname in TOP else str(Path("docs", docname).parent)
    source[0] = lead_outside(source[0], folder)
    if docname == "index":
        source[0] += navigation()
    if docname == "DECISIONS":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\ndecisions/*\n```\n"


def setup(app) -> dict:
    """Sphinx's entry: which of its events are handled here."""
    app.connect("env-before-read-docs", add_pages_of_the_top)
    app.connect("source-read", change_source)
    app.connect("build-finished", paint_wordmark)
    return {"parallel_read_safe": True}
