"""The workflows, by actionlint and zizmor, and by our rule that each step calls a script a person can run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from veilor.build.check.finding import Finding, find_own, lines_matching, run_own

FOLDER = ".github/workflows"
PINNED = re.compile(r"uses: +(\S+)")
BY_COMMIT = re.compile(r"(?:\./\S+|[\w./-]+@[0-9a-f]{40})$")


def check_actionlint(root: Path, run) -> list[Finding]:
    """Syntax, expressions, and the shell in the steps."""
    files = sorted(str(path.relative_to(root)) for path in (root / FOLDER).glob("*.yml"))
    find_own("actionlint")
    code, said, wrong = run_own(
        "actionlint",
        ["-shellcheck", str(find_own("shellcheck")), "-pyflakes", "", "-format", "{{json .}}", *files],
        root,
    )
    if code not in (0, 1):
        return [Finding(FOLDER, 0, f"actionlint could not look at them: {wrong or said}")]
    return [
        Finding(one["filepath"], one["line"], f"{one['message']} [{one['kind']}]")
        for one in json.loads(said or "[]") or []
    ]


def check_zizmor(root: Path, run) -> list[Finding]:
    """What an attacker could do with them, as far as that shows without a network."""
    code, said, wrong = run_own(
        "zizmor", ["--offline", "--no-progress", "--no-exit-codes", "--format", "json", ".github"], root
    )
    if code:
        return [Finding(FOLDER, 0, f"zizmor could not look at them: {wrong.strip()[-300:]}")]
    found = []
    for one in json.loads(said):
        if one["ignored"]:
            continue
        place = next(
            (place for place in one["locations"] if place["symbolic"]["kind"] == "Primary"),
            one["locations"][0],
        )
        path = place["symbolic"]["key"]["Local"]["verbatim_path"]
        row = place["concrete"]["location"]["start_point"]["row"] + 1
        found.append(Finding(path, row, f"{one['desc']}: {place['symbolic']['annotation']} [{one['ident']}]"))
    return found


def check_pins(root: Path, run) -> list[Finding]:
    """Every action by its full commit, every checkout without credentials, every step's script there."""
    found = []
    for path in sorted((root / FOLDER).glob("*.yml")):
        name, text = str(path.relative_to(root)), path.read_text()
        for number, hit in lines_matching(text, PINNED.pattern):
            if not BY_COMMIT.match(hit[1]):
                found.append(
                    Finding(
                        name,
                        number,
                        f"{hit[1]} is not pinned by its full commit; write NAME@COMMIT # VERSION",
                    )
                )
        for number, hit in lines_matching(text, r"(?<![\w/.])((?:scripts|\.ci)/[\w.-]+)"):
            script = root / hit[1]
            if not script.is_file() or not script.stat().st_mode & 0o100:
                found.append(
                    Finding(name, number, f"{hit[1]} is not there, or not executable; add it, or chmod +x it")
                )
        if text.count("actions/checkout@") != text.count("persist-credentials: false"):
            found.append(
                Finding(
                    name, 0, "a checkout leaves its credentials behind; add persist-credentials: false to it"
                )
            )
    return found
