"""Takes the pictures of a rehearsal's report that the documents show, in a real Chromium: light, and dark.

`python docs/pictures.py [REPORT]` takes build/report/index.html unless it is given another, and writes docs/report.png
and docs/report-dark.png. It needs a Chromium on this machine: `apt-get install chromium`, or $VEILOR_CHROMIUM.
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
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def find_chromium() -> str | None:
    """The Chromium of this machine: $VEILOR_CHROMIUM, or the first that is on PATH."""
    return os.environ.get("VEILOR_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def browser(program: str) -> Iterator:
    """PROGRAM without a window, driven by Playwright, with an empty profile that goes with it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        try:
            yield started
        finally:
            started.close()


def take(report: Path, folder: Path, program: str) -> list[Path]:
    """Write the pictures of REPORT to FOLDER; their paths."""
    made = []
    with browser(program) as started:
        for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
            page = started.new_page(viewport={"width": 1200, "height": 1180}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            page.screenshot(path=folder / name)
            made.append(folder / name)
            page.close()
    return made


def main(argv: list[str]) -> int:
    """The command."""
    report = Path(argv[0] if argv else DOCS.parent / "build/report/index.html")
    program = find_chromium()
    if not report.is_file():
        print(f"docs/pictures.py: there is no {report}; `make rehearse` writes it", file=sys.stderr)
        return 1
    if not program:
        print("docs/pictures.py: there is no Chromium here; install it (apt-get install chromium), or name it in $VEILOR_CHROMIUM",
              file=sys.stderr)
        return 1
    for path in take(report, DOCS, program):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
