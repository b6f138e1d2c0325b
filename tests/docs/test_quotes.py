"""What the pages for people quote is what a program says, word for word.

In the pages of PAGES, words in “quotation marks” are words of a program. An … in a quote stands for something
that the program fills in; at its end also for the rest of the sentence. Each quote is looked up in the
strings of our programs, or stands in FOREIGN with its source. Italics and straight quotation marks are not
used in these pages, so that no quote goes past this.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["INSTALL", "USE", "TRUST", "RECOVERY"]
OTHER_PAGES = ["BRAND"]  # may use italics for other things
PROGRAMS = ["src/veilor/device", "src/veilor/core", "overlay", "kickstart", "artwork/tree"]
FEDORA = tomllib.loads((ROOT / "product.toml").read_text())["product"]["version"]
FILLED_IN = "\0"  # stands in a template for a value of any kind
FOREIGN = {  # sentences of other programs, and where they were read
    "Verified OK": "cosign, cmd/cosign/cli/verify/verify_blob.go; openssl, apps/dgst.c",
    f"veilor-os-{FEDORA}.iso: OK": "GNU coreutils sha256sum --check, src/cksum.c: a file's name and OK",
    "Select .iso file": "Fedora Media Writer, src/app/qml/MainPage.qml",
    "Write": "Fedora Media Writer, src/app/qml/DrivePage.qml",
    "Installation Destination": "Anaconda, pyanaconda/ui/gui/spokes/storage.py",
    "Begin Installation": "Anaconda, pyanaconda/ui/gui/hubs/summary.py",
    "Enroll MOK": "shim, MokManager.c",
    "Continue": "shim, MokManager.c",
    "Yes": "shim, lib/console.c",
    "Reboot": "shim, MokManager.c",
    "SecureBoot enabled": "mokutil --sb-state, src/mokutil.c",
    "is already enrolled": "mokutil --test-key, src/mokutil.c",
    "Secure Boot Violation": "the firmware of many makers; others word it a little differently",
    "bad shim signature": "GRUB, grub-core/kern/efi/sb.c",
    "No space left on device": "glibc's text of ENOSPC, which bootc and ostree pass on",
}


def prose(page: str) -> str:
    """PAGE without its code, in one line: no blocks, no words between backticks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page, flags=re.M | re.S)
    text = re.sub(r"^ {6,}\S.*$", "", text, flags=re.M)
    return " ".join(re.sub(r"`[^`\n]*`", "`", text).split())


def quotes(page: str) -> list[str]:
    """The quotes of PAGE, in order."""
    return re.findall(r"“([^”]*)”", prose(page))


def other_marks(page: str) -> list[str]:
    """What looks like a quote in PAGE and is marked in another way."""
    return re.findall(r'(?<![*\w])\*[^*\s][^*]*\*(?!\*)|"[^"]*"|„[^“]*“', prose(page).replace("**", ""))


def strings(source: str) -> Iterator[str]:
    """Every string of the Python SOURCE except docstrings, with FILLED_IN where a value comes."""
    tree = ast.parse(source)
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else FILLED_IN for part in node.values]
            skipped |= {id(part) for part in node.values}
            yield "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield re.sub(r"\{[^{}]*\}", FILLED_IN, node.value)


def templates(root: Path) -> list[str]:
    """What our programs below ROOT can say: Python's strings, other files without their comments."""
    found = []
    for folder in PROGRAMS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            if path.suffix == ".py" or text.startswith("#!") and "python" in text.split("\n", 1)[0]:
                found += strings(text)
            else:
                found.append(re.sub(r"^\s*(?:#|//).*$", "", text, flags=re.M))
    return found


def pattern(quote: str) -> str | None:
    """A regular expression for the templates that say QUOTE; None for a quote without a word.

    A program may begin a sentence with a capital where its string has none, so the first letter may differ.
    """
    pieces = [re.escape(piece.strip()) for piece in quote.split("…") if piece.strip()]
    if not any(re.search(r"[A-Za-z]{2}", piece) for piece in pieces):
        return None
    if pieces[0][0].isalpha():
        pieces[0] = f"(?i:{pieces[0][0]}){pieces[0][1:]}"
    value = rf"[^\w{FILLED_IN}]*{FILLED_IN}[^\w{FILLED_IN}]*"
    before = value if quote.startswith("…") else r"(?<!\w)"
    after = r"\s*\S" if quote.endswith("…") else r"(?!\w)"
    return before + value.join(pieces) + after


def is_said(quote: str, said: list[str]) -> bool:
    """Whether one of the templates SAID has all the words of QUOTE, with a value at each … between them."""
    wanted = pattern(quote)
    return wanted is not None and any(re.search(wanted, template) for template in said)


def made_up(page: str, said: list[str]) -> list[str]:
    """The quotes of PAGE that no program says."""
    return [quote for quote in quotes(page) if quote not in FOREIGN and not is_said(quote, said)]


@pytest.fixture(scope="module")
def said() -> list[str]:
    return templates(ROOT)


def read(page: str) -> str:
    return (ROOT / f"docs/{page}.md").read_text().replace("“quotation marks”", "")


@pytest.mark.parametrize("page", PAGES + OTHER_PAGES)
def test_each_quote_of_a_page_is_said_by_a_program(page, said):
    assert made_up(read(page), said) == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_quoted_in_another_way(page):
    assert other_marks(read(page)) == [], (
        "what a program says stands in “quotation marks”; stress is **bold**"
    )


def test_the_pages_quote_enough_for_this_to_mean_something():
    assert len(quotes(read("RECOVERY"))) > 15 and len(quotes(read("INSTALL"))) > 10


def test_each_foreign_sentence_is_quoted_somewhere_and_has_a_source():
    quoted = {quote for page in PAGES for quote in quotes(read(page))}
    assert set(FOREIGN) - quoted == set()
    assert all(len(source) > 5 for source in FOREIGN.values())


SAMPLE = [  # what `templates` finds in programs like ours
    f"Only {FILLED_IN} are free on /boot",
    f"Nothing is fetched: {FILLED_IN}",
    f"the statement has number {FILLED_IN}, older than {FILLED_IN}, which this machine has seen before",
    "verified by policy",
]


@pytest.mark.parametrize(
    "quote",
    [
        "No valid signature",
        "Older than what this machine has seen",
        "Only … are free in /boot",
        "Only … free on /boot",
        "Nothing is fetched: the policy",
        "the statement has number …, newer than …",
        "…",
        "… … …",
        "erified by polic",
    ],
)
def test_a_quote_that_nobody_says_is_noticed(quote):
    assert made_up(f"It says “{quote}”.", SAMPLE) == [quote]


@pytest.mark.parametrize(
    "quote",
    [
        "Only … are free on /boot",
        "only … are free on /boot",
        "… are free on /boot",
        "Nothing is fetched: …",
        "the statement has number …, older than …, which this machine has seen before",
        "Verified by policy",
        "verified …",
    ],
)
def test_a_quote_that_a_program_says_is_found(quote):
    assert made_up(f"It says “{quote}”.", SAMPLE) == []


def test_a_docstring_is_said_to_nobody_and_values_are_marked():
    source = '''def f(a):\n    """Never said."""\n    return f"one {a} two", "three {b}".format(b=a)\n'''
    assert sorted(strings(source)) == [f"one {FILLED_IN} two", f"three {FILLED_IN}"]


def test_a_sentence_that_a_program_stops_saying_is_missed_in_the_pages(said):
    ours = [quote for quote in quotes(read("RECOVERY")) if quote not in FOREIGN]
    for quote in ours:
        fewer = [template for template in said if not is_said(quote, [template])]
        assert quote in made_up(read("RECOVERY"), fewer)


def runs_of_words(text: str) -> list[str]:
    """The parts of TEXT between numbers, marks and names: one of them surely stands in a program's string."""
    return [run.strip().lower() for run in re.findall(r"[A-Za-z' -]{6,}", text)]


def expected_sentences() -> Iterator[tuple[str, str]]:
    """File and text of each `says="…"` in a scenario: a part of a sentence that a rehearsal waits for."""
    for path in sorted((ROOT / "scenarios").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "says" and isinstance(node.value, ast.Constant):
                yield path.name, node.value.value


def unsaid(expected: list[tuple[str, str]], said: list[str]) -> list[tuple[str, str]]:
    """Those of EXPECTED of which no run of words is in one of the templates SAID."""
    every = [template.lower() for template in said]
    return [
        (file, text)
        for file, text in expected
        if runs_of_words(text)
        and not any(run in template for run in runs_of_words(text) for template in every)
    ]


def test_what_a_rehearsal_waits_for_is_said_by_a_program(said):
    expected = list(expected_sentences())
    assert len(expected) > 10
    assert unsaid(expected, said) == []
    assert unsaid([("updates.py", "nobody ever says this")], said) != []


def test_quotes_marked_otherwise_are_noticed_and_code_and_bold_are_not():
    page = 'It says *unverified*, or "refused".\n\n**Stop**, `"type" *this*`.\n\n```\n"code" *x*\n```\n'
    assert other_marks(page) == ["*unverified*", '"refused"']
