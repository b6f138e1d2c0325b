"""Every shell script of the repository, by ShellCheck."""

from __future__ import annotations

import json
import re
from pathlib import Path

from veilor.build.check.files import tracked
from veilor.build.check.finding import Finding, run_own

SHELL = re.compile(rb"#!\S*/(?:env )?(?:ba|da)?sh\b")


def check_shell(root: Path, run) -> list[Finding]:
    """No script that ShellCheck has something to say about."""
    scripts = []
    for path in tracked(root):
        with path.open("rb") as file:
            if path.suffix == ".sh" or SHELL.match(file.read(80)):
                scripts.append(str(path.relative_to(root)))
    if not scripts:
        return [
            Finding(".", 0, "there is no shell script here, so nothing was checked; is this a whole clone?")
        ]
    code, said, wrong = run_own("shellcheck", ["--format=json1", *scripts], root)
    if code not in (0, 1):
        return [Finding(".", 0, f"ShellCheck could not look: {wrong.strip()[-300:]}")]
    return [
        Finding(one["file"], one["line"], f"{one['message']} [SC{one['code']}]")
        for one in json.loads(said)["comments"]
    ]
