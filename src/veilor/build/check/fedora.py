"""One Fedora everywhere: each number of a Fedora release in the tree is that of product.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from veilor.build import facts
from veilor.build.check.files import texts
from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError
from veilor.build.readiness import PIN
from veilor.core.product import Product, load

# Where a number of another Fedora is right, or where another file is the one to change.
LEFT_OUT = (
    "docs/decisions/",  # they say what was decided at the time
    "docs/DECISIONS.md",  # their titles, written by `make docs`
    "docs/THREAT-MODEL.md",  # written by `make docs`
    "docs/VERIFIED.md",  # written by `make docs`
    "docs/threats/",  # written by `make docs`
    "installer-iso.toml",  # written by `make docs`
    "threats/compared.toml",  # what others said of their systems, with its date
    "scenarios/",  # versions of releases that are made up for a rehearsal
    "tests/",  # examples and recordings
    "stand-ins/rust/",
    "requirements.lock",
    "LICENSE",
)
NUMBER = r"(?P<number>[1-9]\d)"
END = r"(?![\w.]*\d)"
# How a Fedora release is written down: in words, in file names, in addresses, in package names, in tags.
CONTEXTS = (
    rf"\bFedora (?:Linux |Kinoite |release )?{NUMBER}\b",
    rf"(?i:\bfedora[-_:]){NUMBER}\b",
    rf"\b(?:f|fc){NUMBER}\b",
    rf"\breleases/{NUMBER}\b",
    rf"\breleasever[ =]{NUMBER}\b",
    rf"\bVERSION_ID=\"?{NUMBER}\b",
    rf"\bx86_64-{NUMBER}\b",
    rf"\bEverything-{NUMBER}-",
)


def contexts(product: Product) -> re.Pattern[str]:
    """What finds a Fedora number: the ways above, and those that have a name of PRODUCT in them."""
    images = {
        product.repository.split("/")[-1],
        product.channel.split("/")[-1],
        product.base_image.split("/")[-1],
    }
    image = "|".join(re.escape(name) for name in sorted(images))
    name = re.escape(product.name)
    ways = [
        *CONTEXTS,
        rf"(?<![\w./-])(?:{image}):{NUMBER}\b",  # with a registry before it: check_references
        rf"\b{name}[ -]{NUMBER}\b",
        rf"(?<![\w.:-]){NUMBER}\.20\d{{6}}\b",  # the version of an image: number and day
    ]
    numbered = (way.replace("?P<number>", f"?P<number{at}>") for at, way in enumerate(ways))
    return re.compile("|".join(f"(?:{way})" for way in numbered))


def other_numbers(text: str, pattern: re.Pattern[str], fedora: str) -> Iterator[tuple[int, str, str]]:
    """Line, words and the words to write instead, for each number in TEXT that is not FEDORA."""
    for line, words in enumerate(text.splitlines(), 1):
        seen = set()
        for hit in pattern.finditer(words):
            at = next(name for name, number in hit.groupdict().items() if number)
            if hit[at] == fedora or hit[0] in seen:
                continue
            seen.add(hit[0])
            start, end = hit.start(at) - hit.start(), hit.end(at) - hit.start()
            yield line, hit[0], hit[0][:start] + fedora + hit[0][end:]


def check_pages_and_programs(root: Path, product: Product) -> Iterator[Finding]:
    """Every text of the repository except those that are left out."""
    pattern = contexts(product)
    for name, text in texts(root, LEFT_OUT):
        for line, wrong, right in other_numbers(text, pattern, product.version):
            said = f"{wrong} is not product.toml's Fedora {product.version}; write {right}"
            yield Finding(name, line, said)


MEDIA = f"{facts.RELEASES}/{{}}/Everything/x86_64/iso/"
# The fields that stand for the Fedora release, and what is to be written there; {} is the number.
FIELDS = {
    facts.FILE: {
        ("image", "tag"): '"{}"',
        ("base", "tag"): '"{}"',
        ("medium", "compose"): '"{}-…", the end of the name of the netinst in ' + MEDIA,
    },
    PIN: {("", "tag"): '"{}", then run `veilor base pin`'},
}


def check_fields(root: Path, product: Product) -> Iterator[Finding]:
    """The fields of product.toml and of the base's pin that have to begin with the number."""
    for name, fields in FIELDS.items():
        section = ""
        for number, line in enumerate((root / name).read_text().splitlines(), 1):
            if header := re.match(r"\[(\w+)\]", line):
                section = header[1]
            field = re.match(r"(\w+) = \"([^\"]*)\"", line)
            advice = fields.get((section, field[1])) if field else None
            if not field or advice is None:
                continue
            if re.fullmatch(rf"{product.version}(?:-.*)?", field[2]):
                continue
            said = f"{field[1]} is {field[2]!r}, and [product] version is {product.version!r}; write "
            yield Finding(name, number, said + advice.replace("{}", product.version))


def check_versions(root: Path, run) -> list[Finding]:
    """Programs, pages, tags, pin and installers are for one Fedora: that of product.toml."""
    product = load(root / facts.FILE)
    try:
        facts.fedora_number(product)
    except BuildError as error:
        return [Finding(facts.FILE, 0, str(error))]
    return [*check_fields(root, product), *check_pages_and_programs(root, product)]
