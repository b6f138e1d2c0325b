"""Report and site in a real Chromium: no messages, no requests, readable, and usable by the keyboard."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.lab.report import write_report

ROOT = Path(__file__).resolve().parents[2]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(f"veilor_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


screenshots, sample = load(ROOT / "docs/screenshots.py"), load(ROOT / "tests/docs/sample.py")
CONTRAST = """() => {
  const channel = value => (value /= 255) <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = rgb(colour).map(channel); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = node => { for (; node; node = node.parentElement) { const c = getComputedStyle(node).backgroundColor;
    if (rgb(c).length === 3 || rgb(c)[3] > 0) return c; } return 'rgb(255, 255, 255)'; };
  const poor = new Map();
  for (const node of document.querySelectorAll('body *')) {
    if (![...node.childNodes].some(one => one.nodeType === 3 && one.data.trim()) || !node.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) poor.set(node.tagName + '.' + node.className, ratio.toFixed(2));
  }
  return [...poor];
}"""  # noqa: E501


@pytest.fixture(scope="module")
def chromium():
    program = screenshots.find_chromium()
    if not program:
        pytest.skip(
            "NOT RUN: needs a Chromium; install it (apt-get install chromium), or name it in $VEILOR_CHROMIUM"
        )
    with screenshots.browser(program) as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(sample.sample(folder), folder / "report")


@pytest.fixture
def visit(chromium):
    """Opens a page and takes down what it says on the console and asks of anybody."""
    opened = []

    def go(path: Path, width: int = 1200, scheme: str = "light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)  # milliseconds
        seen = SimpleNamespace(page=page, said=[], asked=[])
        page.on(
            "console",
            lambda message: seen.said.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: seen.said.append(str(error)))
        page.on("request", lambda request: seen.asked.append(request.url))
        page.goto(path.as_uri())
        return seen

    yield go
    for context in opened:
        context.close()


def test_the_report_is_silent_and_asks_nobody(visit, report):
    seen = visit(report)
    seen.page.wait_for_timeout(200)
    assert seen.said == []
    assert [url for url in seen.asked if not url.startswith("data:")] == [report.as_uri()]
    assert "taken over" not in seen.page.title()


def test_a_page_that_runs_a_script_or_asks_somebody_is_noticed(visit, report, tmp_path):
    source = report.read_text()
    for number, harm in enumerate(["<script>1</script>", "<img src='http://127.0.0.1:9/x.png'>"]):
        path = tmp_path / f"{number}.html"
        path.write_text(source.replace("<main>", f"<main>{harm}"))
        assert visit(path).said, harm
    # without the page's own prohibition it would even have been asked
    open_page = tmp_path / "open.html"
    open_page.write_text(
        source.replace("Content-Security-Policy", "x").replace(
            "<main>", "<main><img src='http://127.0.0.1:9/x.png'>"
        )
    )
    assert any(url.startswith("http:") for url in visit(open_page).asked)


def test_every_phase_is_reached_by_the_keyboard(visit, report):
    page = visit(report).page
    names = page.eval_on_selector_all("section.phase", "all => all.map(one => one.id)")
    assert len(names) == 8
    reached = []
    for _ in range(5 + 2 * len(names)):
        page.keyboard.press("Tab")
        href = page.evaluate("document.activeElement.getAttribute('href')") or ""
        inside = page.evaluate("document.activeElement.closest('nav[aria-labelledby]') !== null")
        assert page.evaluate("""() => { const style = getComputedStyle(document.activeElement);
            return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 }"""), href
        if inside and href[1:] in names and href[1:] not in reached:
            page.keyboard.press("Enter")
            top = page.evaluate("id => document.getElementById(id).getBoundingClientRect().top", href[1:])
            assert 0 <= top < 900, href
            reached.append(href[1:])
            page.locator(f'nav[aria-labelledby] a[href="{href}"]').focus()
    assert reached == names
    page.locator(f"#{names[0]} .shots summary").focus()
    small = page.locator(f"#{names[0]} img").bounding_box()["width"]
    page.keyboard.press("Enter")
    assert page.locator(f"#{names[0]} img").bounding_box()["width"] > 1.5 * small


def test_a_phase_that_cannot_be_focused_is_noticed(visit, report, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(
        report.read_text().replace('<a class="line OS_FAULT" href="#update">', '<a class="line OS_FAULT">')
    )
    with pytest.raises(AssertionError):
        test_every_phase_is_reached_by_the_keyboard(visit, path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1200, 1600])
def test_it_fits_and_has_contrast(visit, report, width, scheme):
    page = visit(report, width, scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert dark == (scheme == "dark")


def test_poor_contrast_is_noticed(visit, report, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(report.read_text().replace("--quiet: #575d65", "--quiet: #9a9fa5"))
    assert visit(path).page.evaluate(CONTRAST) != []


def test_it_prints(visit, report):
    page = visit(report).page
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and 5 < pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") < 40
    page.emulate_media(media="print")
    assert not page.locator(".side").is_visible() and page.locator("ul.checks").first.is_visible()


def test_the_site_is_silent_alone_and_finds_a_word_by_keyboard(visit, site_folder):
    seen = visit(site_folder / "index.html")
    for _ in range(6):
        seen.page.keyboard.press("Tab")
        if seen.page.evaluate("document.activeElement.name") == "q":
            break
    seen.page.keyboard.type("rollback")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#search-results li a")
    assert seen.said == []
    assert seen.asked and all(url.startswith(("file:", "data:")) for url in seen.asked)


def test_the_pictures_are_taken_by_a_command(chromium, report, tmp_path):
    """In a program of its own: one process drives one browser."""
    code = (
        "import sys, pathlib, runpy; m = runpy.run_path(sys.argv[1]); page, light, dark = map(pathlib.Path, "
        "sys.argv[2:]); "
        "m['take'](page, {light: 'light', dark: 'dark'}, m['find_chromium']())"
    )
    shots = [tmp_path / "report.png", tmp_path / "report-dark.png"]
    subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "docs/screenshots.py"), str(report), *map(str, shots)],
        check=True,
        timeout=60,
    )
    light, dark = (path.read_bytes() for path in shots)
    assert light.startswith(b"\x89PNG") and dark.startswith(b"\x89PNG") and light != dark


def test_a_report_that_is_not_there_is_said_in_a_line(tmp_path, capsys):
    assert screenshots.main([str(tmp_path / "none.html")]) == 1
    assert "`make rehearse` writes it" in capsys.readouterr().err
