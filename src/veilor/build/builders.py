"""The images whose programs run while ours is built: pinned by digest, in bluebuild's Containerfile too.

    python -m veilor.build.builders pin                ask what each tag means now, and write it down
    python -m veilor.build.builders use CONTAINERFILE  put the digests in the place of the tags

Exit codes: 0 done, 1 not; then nothing was written.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.readiness import DIGEST, NOT_PINNED

FILE = "bluebuild/builders.toml"
ROOT = Path(__file__).resolve().parents[3]
# Where a Containerfile takes something from a registry: an option of RUN or COPY, or FROM. A stage's name has
# no slash.
TAKEN = re.compile(
    r"(?P<how>\bfrom=|--from=|^FROM +(?:--platform=\S+ +)?)(?P<ref>[\w.-]+(?:\.|:\d)[\w.:-]*/[^\s,]+)", re.M
)


@dataclass(frozen=True)
class Builder:
    """One image of the build: NAME with the registry, the TAG that bluebuild writes, DIGEST ("" without)."""

    name: str
    tag: str
    digest: str


def read_builders(root: Path) -> list[Builder]:
    """The images of the clone at ROOT. Raises BuildError when the file cannot be used."""
    try:
        rows = [Builder(**row) for row in tomllib.loads((root / FILE).read_text())["image"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{FILE} cannot be used ({error}); restore it from git") from None
    for row in rows:
        if row.digest != NOT_PINNED and not DIGEST.fullmatch(row.digest):
            raise BuildError(
                f"{FILE} names {row.digest!r} for {row.name}, which is no digest; restore it from git"
            )
    return [Builder(row.name, row.tag, row.digest.replace(NOT_PINNED, "")) for row in rows]


def use(text: str, builders: list[Builder]) -> str:
    """The Containerfile TEXT with the digest of each image of BUILDERS in the place of its tag.

    Raises BuildError for an image that is not pinned, and for one that BUILDERS lacks.
    """
    known = {f"{one.name}:{one.tag}": one for one in builders}

    def pinned(found: re.Match) -> str:
        reference = found["ref"]
        if DIGEST.search(reference):
            return found[0]
        one = known.get(reference)
        if one is None:
            raise BuildError(
                f"bluebuild takes programs from {reference}, which {FILE} lacks; see what it is, then add it"
            )
        if not one.digest:
            raise BuildError(
                f"{reference} is not pinned yet; `python -m veilor.build.builders pin` asks for its digest"
            )
        return f"{found['how']}{one.name}@{one.digest}"

    return TAKEN.sub(pinned, text)


def pin(root: Path, ask: Callable[[str], str]) -> list[str]:
    """Pin what every tag means now, as ASK answers for a reference; the names of those that changed.

    Raises BuildError, and writes nothing, for an answer that is no digest.
    """
    text, changed = (root / FILE).read_text(), []
    for one in read_builders(root):
        digest = ask(f"docker://{one.name}:{one.tag}")
        if not DIGEST.fullmatch(digest):
            raise BuildError(
                f"the registry answered {digest!r:.99} for {one.name}, which is no digest; nothing was pinned"
            )
        if digest != one.digest:
            changed.append(one.name)
            text = re.sub(
                rf'(name = "{re.escape(one.name)}"\ntag = .*\ndigest = )".*"', rf'\1"{digest}"', text
            )
    if changed:
        new = root / (FILE + ".new")
        new.write_text(text)
        new.rename(root / FILE)
    return changed


def ask_registry(reference: str) -> str:
    """The digest that the host's skopeo finds for REFERENCE. Raises BuildError when it finds none."""
    done = subprocess.run(
        ["skopeo", "inspect", "--no-tags", reference],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    try:
        return json.loads(done.stdout)["Digest"]
    except (ValueError, KeyError, TypeError):
        said = " ".join(done.stderr.split())[-200:]
        raise BuildError(f"{reference} has no digest ({said or 'no answer'}); nothing was pinned") from None


def main(argv: list[str]) -> int:
    """Carry out ARGV; the exit code."""
    try:
        if argv == ["pin"]:
            changed = pin(ROOT, ask_registry)
            print(f"builders: {', '.join(changed) or 'none'} raised")
        elif len(argv) == 2 and argv[0] == "use":
            path = Path(argv[1])
            path.write_text(use(path.read_text(), read_builders(ROOT)))
            print(f"builders: {path} takes every program by digest")
        else:
            raise BuildError("want pin, or use CONTAINERFILE")
    except (BuildError, OSError, subprocess.TimeoutExpired) as error:
        print(f"builders: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
