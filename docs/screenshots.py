"""Takes the pictures of report and site that the documents show, in a real Chromium.

`make screenshots` writes docs/report.png and docs/site.png, of build/report/index.html and
build/site/TRUST.html; `python docs/screenshots.py [REPORT [SITE]]` takes other pages. It needs a Chromium on
this machine: `apt-get install chromium`, or $VEILOR_CHROMIUM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: root has none. The pages are ours, run no script, and load nothing.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str | None:
    """The Chromium of this machine: $VEILOR_CHROMIUM, or the first that is on PATH."""
    return os.environ.get("VEILOR_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser(program: str) -> Iterator:
    """PROGRAM without a window, driven by Playwright, with an empty profile that is removed at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


def take(page: Path, shots: dict[Path, str], program: str) -> None:
    """Write pictures of PAGE: SHOTS names for each file the colour scheme, `light` or `dark`."""
    with browser(program) as started:
        for path, scheme in shots.items():
            shown = started.new_page(viewport={"width": 1200, "height": 1180}, color_scheme=scheme)
            shown.goto(page.resolve().as_uri())
            shown.screenshot(path=path)
            shown.close()


def main(argv: list[str]) -> int:
    """Take both pictures of the pages in ARGV, or of those that make writes; the exit code."""
    build = DOCS.parent / "build"
    usual = [build / "report/index.html", build / "site/TRUST.html"]
    pages = [Path(name) for name in argv] + usual[len(argv) :]
    program = find_chromium()
    for path, target in zip(pages, ("rehearse", "site"), strict=True):
        if not path.is_file():
            print(f"docs/screenshots.py: there is no {path}; `make {target}` writes it", file=sys.stderr)
            return 1
    if not program:
        print(
            "docs/screenshots.py: there is no Chromium here; install it (apt-get install chromium), or name "
            "it in $VEILOR_CHROMIUM",
            file=sys.stderr,
        )
        return 1
    for name, page in zip(("report.png", "site.png"), pages, strict=True):
        take(page, {DOCS / name: "light"}, program)
        print(DOCS / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
