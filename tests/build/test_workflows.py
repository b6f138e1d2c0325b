"""What the workflows have to agree on with the rest of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from veilor.lab.slots import load_slots

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path.read_text() for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
# Stages, and says which files of this repository were opened for it, the modules that do it included.
READS = """
import sys, tempfile
from pathlib import Path
root, seen = Path(sys.argv[1]), set()
sys.addaudithook(lambda event, args: seen.add(args[0]) if event == "open" and isinstance(args[0], str) else None)
from veilor.build.stage import stage
with tempfile.TemporaryDirectory() as scratch:
    stage(root, Path(scratch, "tree"))
seen |= {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
seen |= {str(path) for path in (root / "overlay").rglob("*") if path.is_symlink()}  # read without being opened
for path in sorted({Path(one).absolute() for one in seen}):
    ours = path.is_relative_to(root) and not path.is_relative_to(root / ".venv")
    if ours and path.exists() and not path.is_dir() and path.suffix != ".pyc":
        print(path.relative_to(root))
"""  # noqa: E501


@pytest.fixture(scope="module")
def staged_from():
    """Every file of the repository that goes into the staged tree or makes it."""
    argv = [sys.executable, "-c", READS, str(ROOT)]
    env = {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        argv, capture_output=True, text=True, check=True, timeout=120, env=env
    ).stdout.split()


def patterns() -> list[str]:
    """Whose change builds an image."""
    return yaml.safe_load(WORKFLOWS["build-bluebuild.yml"])[True]["push"][
        "paths"
    ]  # YAML reads the word `on` so


def missed(names: list[str], listed: list[str]) -> list[str]:
    """Those of NAMES that no pattern of LISTED covers: ** is any number of folders, * anything within one."""
    parts = {"**": ".*", "*": "[^/]*"}
    read = [
        re.compile("".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*)", one)))
        for one in listed
    ]
    return [name for name in names if not any(one.fullmatch(name) for one in read)]


def test_a_change_to_anything_that_goes_into_the_image_builds_it(staged_from):
    of_bluebuild = [f"bluebuild/{name}/x" for name in ("files", "modules", "recipes")]
    assert (
        len(staged_from) > 100
        and missed([*staged_from, *of_bluebuild, "scripts/build-image", "requirements.lock"], patterns())
        == []
    )


@pytest.mark.parametrize(
    "taken",
    [
        "overlay/**",
        "artwork/**",
        "threats/**",
        "src/veilor/*.py",
        "src/veilor/core/**",
        "src/veilor/device/**",
        "src/veilor/build/**",
        "bluebuild/**",
        "product.toml",
    ],
)
def test_a_folder_that_is_left_out_is_missed(taken, staged_from):
    assert missed(staged_from, [one for one in patterns() if one != taken])


PRIVATE = re.compile(r"scripts/(?:push-candidate|rehearse-candidate|release-image|build-iso|announce)\b")


def without_login(text: str) -> list[str]:
    """The jobs of a workflow that reach for our packages, which begin private,
    before anybody has logged in.
    """
    found = []
    for name, job in yaml.safe_load(text)["jobs"].items():
        commands = [step.get("run", "") for step in job.get("steps", [])]
        first = next((n for n, command in enumerate(commands) if PRIVATE.search(command)), None)
        logged_in = next(
            (n for n, command in enumerate(commands) if "podman login ghcr.io" in command), len(commands)
        )
        if first is not None and not (logged_in < first and "REGISTRY_AUTH_FILE" in job.get("env", {})):
            found.append(name)
    return found


@pytest.mark.parametrize("name", WORKFLOWS)
def test_who_needs_a_package_logs_in_first(name):
    assert without_login(WORKFLOWS[name]) == []


@pytest.mark.parametrize(
    ("name", "job"), [("iso.yml", "iso"), ("rehearse.yml", "candidate"), ("channel.yml", "announce")]
)
def test_a_job_without_a_login_is_found(name, job):
    assert without_login(WORKFLOWS[name].replace("podman login ghcr.io", "true")) == [job]


def test_every_workflow_of_ours_is_looked_at():
    assert {"build-bluebuild.yml", "iso.yml", "rehearse.yml", "channel.yml"} <= set(WORKFLOWS)


def test_a_slot_without_a_turn_has_its_day_in_the_week():
    jobs = yaml.safe_load(WORKFLOWS["rehearse.yml"])["jobs"]
    slots = load_slots(ROOT / "scenarios/slots.toml")
    # A workflow that calls this one daily gives it its own event, and waits for every job.
    assert jobs["by-hand"]["if"] == "${{ github.event_name == 'schedule' && !inputs.digest }}"
    assert jobs["by-hand"]["strategy"]["matrix"]["slot"] == sorted(
        slot.name for slot in slots if slot.by_hand
    )
