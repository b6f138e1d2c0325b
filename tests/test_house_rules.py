"""The repository's own rules. Each is a function from a folder to the problems in it, and each is shown to be
able to fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The limits count statements, not lines: whoever needs room for a plain name or a guard has it. What is there
# today fills nine tenths. A limit that is reached asks whether the new code belongs there; it is raised here,
# with a reason.
FILE_STATEMENTS = 350
SHELL_LINES = 40
BUDGETS = {  # statements by part
    # trust is decided by one guard for each condition, and records are dataclasses, whose fields count
    "device and core": (3400, ("src/veilor/core", "src/veilor/device", "overlay/usr/lib/veilor/app")),
    # what an installation puts back, and the comparison behind it
    "settings as shipped": (180, ("src/veilor/device/shipped",)),
    "doctor": (580, ("src/veilor/device/doctor",)),
    "lab": (3450, ("src/veilor/lab",)),
    "pictures": (310, ("src/veilor/pictures",)),
    # its shapes are dataclasses, and a field counts as a statement
    "bootc front": (570, ("stand-ins/bootc",)),
}
PYPI = {"cryptography", "jinja2", "jsonschema", "pykickstart", "qemu", "resvg_py"}
WALLS = {  # folder: what of veilor it may import, and what of PyPI
    "src/veilor/core": ({"core"}, set()),
    "src/veilor/device": ({"core", "device"}, set()),
    "src/veilor/build": ({"core", "build"}, PYPI | {"yaml"}),
    "src/veilor/lab": ({"core", "lab"}, PYPI),
    "src/veilor/pictures": ({"core", "lab", "pictures"}, PYPI),
    "overlay": ({"core", "device"}, set()),
    "scenarios": ({"lab"}, set()),
    "stand-ins/bootc": (set(), {"gi"}),  # Debian's own binding of libostree, in the lab's base
    "stand-ins/installer": (
        set(),
        {"pykickstart", "requests"},
    ),  # as on Fedora's medium; the second is the first's
    "stand-ins": (set(), set()),
    "bluebuild": (set(), set()),  # runs on the base image while it is built on
}
CLI_MAY = {
    "src/veilor/cli.py": {"command_line", "core", "build", "lab", "pictures"},
    "src/veilor/command_line.py": {"build"},
}
# How the work on this repository is organised means nothing to somebody who reads it.
FOREIGN = re.compile(
    r"\bissues? (?:#?\d+|show)\b|\bSPEC\.md|\bsub-?agents?\b|\bLLM\b"
    r"|\b(?:this|another|previous|coding|developer) session\b"
)
# Words that were ours alone, and the plain ones that took their place.
DIALECT = {
    r"counterparts?": "negative control",
    r"with(?:out)? it taken away": "negative control",
    r"complain(?:s|ed|t|ts)?": "error message, or problem",
    r"are agreed": "the limit is",
    r"by turns": "rotates, one per commit",
    r"is at work": "is running",
    r"put to work": "is applied",
}
# Where packages come from is set up on a machine, not here.
INDEX = re.compile(
    r"--(?:extra-)?index-url|--find-links|\b(?:PIP|UV)_\w*INDEX\w*|https?://[\w.-]+\.(?:corp|internal|intranet|lan)\b"
)
# An absolute path in a folder where machines that build keep people, checkouts and what is thrown away.
BUILD_MACHINE = re.compile(
    r"(?<![\w.~$})/-])/(?P<top>home|Users|root|work|workspace|builds?|github|runner|checkouts?|repos?|mnt|tmp|var/tmp)"
    r"/(?P<name>[\w.-]+)"
)
OF_THE_INSTALLER = {
    "sysimage",
    "sysroot",
    "ostree",
    "home",
}  # in /mnt: what it and a rescue system mount there
RANDOM = re.compile(
    r"(?:tmp|\w+\.)(?=\w*[A-Z\d_])\w{6,}|pytest-of-.*"
)  # a name that mktemp or Python made up
SECRET = re.compile(r"-----BEGIN [A-Z ]*PRIVATE " + r"KEY-----")


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every file that git keeps or would take."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    for name in sorted(filter(None, set(listed))):
        path = root / name
        if path.is_file() and not path.is_symlink():
            try:
                yield name, path.read_text()
            except UnicodeDecodeError:
                continue


def is_python(name: str, text: str) -> bool:
    return name.endswith(".py") or text.startswith("#!") and "python" in text.split("\n", 1)[0]


def is_shell(name: str, text: str) -> bool:
    return name.endswith(".sh") or bool(re.match(r"#!\S*/(?:env )?(?:ba|da)?sh\b", text))


def imports(text: str) -> set[str]:
    """Every module TEXT names, dotted; also those given as a string to import_module."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "veilor" else {module}
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(r"veilor(\.\w+)+", node.value)
        ):
            found.add(node.value)
    return found


def import_walls(root: Path) -> list[str]:
    """core and device keep to the standard library; build and lab never meet; nobody imports the device's
    programs.
    """
    wrong = []
    for name, text in texts(root):
        wall = next((wall for wall in WALLS if name.startswith(wall + "/")), None)
        parts, pypi = (CLI_MAY[name], set()) if name in CLI_MAY else WALLS.get(wall, (None, None))
        if parts is None or not is_python(name, text):
            continue
        siblings = (
            {path.stem for path in (root / name).parent.glob("*.py")}
            if name.startswith("stand-ins/")
            else set()
        )
        for module in imports(text):
            first, *rest = module.split(".")
            if first == "veilor":
                fine = bool(rest) and rest[0] in parts
            elif wall == "src/veilor/core" and first in ("subprocess", "socket"):
                fine = False
            else:
                fine = first in sys.stdlib_module_names | pypi | siblings
            if not fine:
                wrong.append(f"{name} must not import {module}")
    return wrong


def statements(text: str) -> int:
    """How many statements the Python in TEXT has; docstrings are none."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in nodes)


def statement_budgets(root: Path) -> list[str]:
    """Each file counts for the part with the longest folder that it lies in."""
    found: dict[str, dict[str, int]] = {part: {} for part in BUDGETS}
    for name, text in texts(root):
        if not is_python(name, text):
            continue
        homes = [
            (len(folder), part)
            for part, (_, folders) in BUDGETS.items()
            for folder in folders
            if name.startswith(f"{folder}/")
        ]
        if homes:
            found[max(homes)[1]][name] = statements(text)
    over = []
    for part, files in found.items():
        total, limit = sum(files.values()), BUDGETS[part][0]
        if total > limit:
            largest = ", ".join(sorted(files, key=lambda name: -files[name])[:3])
            over.append(
                f"{part} has {total} statements, the limit is {limit} (largest: {largest}); move what "
                "belongs elsewhere, or raise the limit in BUDGETS of tests/test_house_rules.py and say why "
                "in the commit"
            )
    return over


def short_files(root: Path) -> list[str]:
    """No Python file holds more than FILE_STATEMENTS, no shell script more than SHELL_LINES lines."""
    over = []
    for name, text in texts(root):
        if is_python(name, text) and statements(text) > FILE_STATEMENTS:
            over.append(
                f"{name} has {statements(text)} statements, the limit is {FILE_STATEMENTS}; give one of its "
                "nouns a module of its own"
            )
        if is_shell(name, text) and text.count("\n") > SHELL_LINES:
            over.append(
                f"{name} has {text.count(chr(10))} lines, the limit for shell is {SHELL_LINES}; write the "
                "logic in Python"
            )
    return over


def empty_inits(root: Path) -> list[str]:
    return [f"{name} must be empty" for name, text in texts(root) if name.endswith("__init__.py") and text]


def shellcheck_clean(root: Path) -> list[str]:
    scripts = [name for name, text in texts(root) if is_shell(name, text)]
    if not scripts:
        return []
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [program, "--format=gcc", *scripts],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout.splitlines() + done.stderr.splitlines()


def speaks_of_the_product(root: Path) -> list[str]:
    return [
        f"{name}: {hit.group()!r} means nothing to a reader of this repository; leave it out"
        for name, text in texts(root)
        if name != "tests/test_house_rules.py"
        for hit in FOREIGN.finditer(text)
    ]


def plain_words(root: Path) -> list[str]:
    return [
        f"{name}: {hit.group()!r} is a word of our own; a reader takes in {plain!r} at once"
        for name, text in texts(root)
        if name != "tests/test_house_rules.py"
        for word, plain in DIALECT.items()
        for hit in re.finditer(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", text, re.IGNORECASE)
    ]


def is_of_the_system(path: re.Match[str], text: str) -> bool:
    """Whether PATH, a hit of BUILD_MACHINE in a file's TEXT, is of an installed machine or an installer."""
    top, name = path["top"], path["name"]
    if top == "home":
        return bool(
            re.search(rf"\buseradd [^\n]*\b{re.escape(name)}\b", text)
        )  # an account that is made there
    if top == "root":
        return name.startswith(".")  # root's own settings
    if top == "mnt":
        return name in OF_THE_INSTALLER
    if top in ("tmp", "var/tmp"):
        return not RANDOM.fullmatch(name)
    return False


def no_paths_of_a_build_machine(root: Path) -> list[str]:
    """No text names a folder of the machine that it was written on, nor where that takes packages from."""
    wrong = []
    for name, text in texts(root):
        if name == "tests/test_house_rules.py":
            continue
        for path in BUILD_MACHINE.finditer(text):
            if not is_of_the_system(path, text):
                wrong.append(
                    f"{name}: {path.group()} is there on one machine alone; write it relative to the clone"
                )
        for hit in INDEX.finditer(text):
            wrong.append(f"{name}: {hit.group()!r} names a package index; each machine sets up its own")
    return wrong


def no_private_keys(root: Path) -> list[str]:
    return [f"{name} holds a private key" for name, text in texts(root) if SECRET.search(text)]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def reasons(root: Path, section: str) -> dict[str, str]:
    """The rows of one SECTION of docs/DEPENDENCIES.md: canonical name and reason."""
    parts = (root / "docs/DEPENDENCIES.md").read_text().split("\n## ")
    text = next((part for part in parts if part.startswith(section)), "")
    return {canonical(name): why for name, why in re.findall(r"^\| `([\w.-]+)` \| *([^|]*?) *\|", text, re.M)}


def dependencies_have_reasons(root: Path) -> list[str]:
    """Lock files and the tables in docs/DEPENDENCIES.md name the same packages, and each row says why."""
    locked = {
        canonical(name)
        for name in re.findall(r"^([\w.-]+)==", (root / "requirements.lock").read_text(), re.M)
    }
    told, cargo = reasons(root, "PyPI packages"), root / "stand-ins/rust/Cargo.toml"
    crates = (
        {canonical(name) for name in tomllib.loads(cargo.read_text())["dependencies"]}
        if cargo.exists()
        else set()
    )
    unexplained = {name for name in locked if not told.get(name)} | {
        name for name in crates if not reasons(root, "Crates").get(name)
    }
    return [f"docs/DEPENDENCIES.md gives no reason for {name}" for name in sorted(unexplained)] + [
        f"docs/DEPENDENCIES.md tells of {name}, which is not locked" for name in sorted(set(told) - locked)
    ]


def declared_and_locked_agree(root: Path) -> list[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    lock = (root / "requirements.lock").read_text()
    locked = {canonical(name) for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    blocks = re.split(r"\n(?=[\w.-]+==)", lock)
    return [
        f"{name} is declared, but not locked; run make lock"
        for name in declared
        if canonical(name) not in locked
    ] + [
        f"{block.split(' ')[0]} is locked without a hash" for block in blocks if "--hash=sha256:" not in block
    ]


def ruff_reaches_every_program(root: Path) -> list[str]:
    """A Python program whose name has no ending is named in pyproject.toml, or ruff passes it by."""
    named = set(
        tomllib.loads((root / "pyproject.toml").read_text())["tool"]["ruff"].get("extend-include", ())
    )
    programs = {name for name, text in texts(root) if is_python(name, text) and not name.endswith(".py")}
    return [
        f"{name} is missing in extend-include of [tool.ruff] in pyproject.toml, so ruff does not reach it"
        for name in sorted(programs - named)
    ]


RULES: list[Callable[[Path], list[str]]] = [
    import_walls,
    statement_budgets,
    short_files,
    empty_inits,
    shellcheck_clean,
    speaks_of_the_product,
    no_private_keys,
    dependencies_have_reasons,
    declared_and_locked_agree,
    ruff_reaches_every_program,
    no_paths_of_a_build_machine,
    plain_words,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps(rule):
    assert not rule(ROOT)


PYPROJECT = '[project]\ndependencies = ["jinja2"]\n[project.optional-dependencies]\ndev = []\n'
BROKEN = [
    (import_walls, {"src/veilor/core/a.py": "import subprocess\n"}),
    (import_walls, {"src/veilor/core/a.py": "import jinja2\n"}),
    (import_walls, {"src/veilor/device/a.py": "from veilor.build import stage\n"}),
    (import_walls, {"src/veilor/build/a.py": "def f():\n    import veilor.lab.tools\n"}),
    (import_walls, {"src/veilor/lab/a.py": "from veilor import build\n"}),
    (
        import_walls,
        {"src/veilor/lab/a.py": "import importlib\nimportlib.import_module('veilor.device.update')\n"},
    ),
    (import_walls, {"src/veilor/lab/a.py": "import attrs\n"}),
    (import_walls, {"src/veilor/lab/a.py": "from ..build import stage\n"}),
    (import_walls, {"src/veilor/cli.py": "from veilor.device import update\n"}),
    (import_walls, {"scenarios/a.py": "from veilor.build import stage\n"}),
    (statement_budgets, {f"src/veilor/device/{n}.py": "pass\n" * 349 for n in range(10)}),
    (statement_budgets, {f"src/veilor/device/doctor/{n}.py": "pass\n" * 349 for n in range(3)}),
    (short_files, {"src/a.py": "pass\n" * 351}),
    (short_files, {"a": "#!/usr/bin/env bash\n" + "true\n" * 40}),
    (empty_inits, {"src/__init__.py": "import os\n"}),
    (shellcheck_clean, {"a": "#!/bin/sh\nrm $1\n"}),
    (speaks_of_the_product, {"README.md": "See SPEC.md for more.\n"}),
    (no_private_keys, {"a.pem": "-----BEGIN EC PRIVATE " + "KEY-----\n"}),
    (
        dependencies_have_reasons,
        {"requirements.lock": "jinja2==1 \\\n    --hash=sha256:0\n", "docs/DEPENDENCIES.md": ""},
    ),
    (
        dependencies_have_reasons,
        {"requirements.lock": "", "docs/DEPENDENCIES.md": "\n## PyPI packages\n| `jinja2` | why |\n"},
    ),
    (
        dependencies_have_reasons,
        {
            "requirements.lock": "",
            "docs/DEPENDENCIES.md": "\n## Crates\n| `tokio` | |\n",
            "stand-ins/rust/Cargo.toml": "[dependencies]\ntokio = '1'\n",
        },
    ),
    (
        declared_and_locked_agree,
        {"requirements.lock": "ruff==1 \\\n    --hash=sha256:0\n", "pyproject.toml": PYPROJECT},
    ),
    (declared_and_locked_agree, {"requirements.lock": "jinja2==1\n", "pyproject.toml": PYPROJECT}),
    (
        ruff_reaches_every_program,
        {"a": "#!/usr/bin/python3 -I\n", "pyproject.toml": "[tool.ruff]\nextend-include = ['b']\n"},
    ),
    *(
        (no_paths_of_a_build_machine, {"docs/a.md": f"It is in {path}.\n"})
        for path in (
            "/home/ada/veilor",
            "/Users/ada/veilor",
            "/root/veilor/build",
            "/work/veilor",
            "/builds/group/veilor",
            "/github/workspace/overlay",
            "/mnt/c/veilor",
            "/tmp/tmp.k3JxR9QaZ2/tree",
            "/tmp/tmpab12_xyz/tree",
            "/tmp/pytest-of-ada/pytest-1",
            "--extra-index-url=https://x",
            "https://pypi.example.internal/simple",
        )
    ),
    (plain_words, {"docs/a.md": "Each check has its counter" + "part.\n"}),
    (plain_words, {"src/a.py": "def test_roff_without_a_com" + "plaint(): pass\n"}),
    (import_walls, {"src/veilor/command_line.py": "from veilor.lab import slots\n"}),
]


@pytest.mark.parametrize(
    ("rule", "files"), BROKEN, ids=[f"{n}-{rule.__name__}" for n, (rule, _) in enumerate(BROKEN)]
)
def test_the_rule_notices(rule, files, tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(tmp_path)


def test_words_of_the_product_are_not_taken_for_foreign_ones():
    assert not FOREIGN.search("the unlocked session, ~/work/notes, an issue with 3 disks, shared /var")


@pytest.mark.parametrize(
    "text",
    [
        "~/work/notes and $root/home/ada, build/report, ./work/a, https://example.org/home/ada",
        "%include /tmp/veilor-target.ks",
        "/mnt/sysimage/etc and /mnt/ostree/deploy",
        "useradd -m ada && ls /home/ada/.ssh",
        "/root/.config/kdedefaults",
        "/var/home, /var/tmp and /tmp/program.log",
        "uv pip compile --no-emit-index-url",
    ],
)
def test_paths_of_the_product_are_not_taken_for_those_of_a_build_machine(text, tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, timeout=60)
    (tmp_path / "a.md").write_text(text)
    assert no_paths_of_a_build_machine(tmp_path) == []
