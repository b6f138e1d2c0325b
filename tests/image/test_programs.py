"""The few programs that only an image has, with the programs they call replaced by ones that write down what
they are asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from veilor.core.product import load

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ROOT / "bluebuild/files/system"
MULLVAD = SYSTEM / "usr/bin/veilor-mullvad-browser"
FAKES = {
    "dnf5": 'while [ "$1" != --destdir ]; do shift; done; for n in $PACKAGES; do : '
    '>"$2/mullvad-browser-$n.rpm"; done; [ "$PACKAGES" ]',
    "rpmkeys": 'case "$*" in *checksig*) exit "$SIGNED" ;; esac',
    "rpm2cpio": "echo archive",
    # It reads its input, as the real one does: else the other end of the pipe may be ended by SIGPIPE, and
    # with it the program.
    "cpio": "cat >/dev/null; mkdir -p usr/lib/mullvad-browser && echo x "
    ">usr/lib/mullvad-browser/start-mullvad-browser"
    ' && chmod "$MODE" usr/lib/mullvad-browser/start-mullvad-browser',
}


@pytest.fixture
def machine(tmp_path):
    """A home, a key and the programs that veilor-mullvad-browser calls."""
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n{body}\n')
        path.chmod(0o755)
    (tmp_path / "key.asc").touch()

    def run(*args: str, **env: str) -> subprocess.CompletedProcess:
        settings = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "VEILOR_MULLVAD_KEY": str(tmp_path / "key.asc"),
            "CALLS": str(tmp_path / "calls"),
            "PACKAGES": "1",
            "SIGNED": "0",
            "MODE": "755",
            **env,
        }
        return subprocess.run(
            [MULLVAD, *args], env=settings, capture_output=True, text=True, timeout=60, check=False
        )

    run.home = tmp_path
    return run


def test_mullvad_comes_updates_and_goes(machine):
    share = machine.home / ".local/share"
    for _ in range(2):
        done = machine()
        assert done.returncode == 0, done.stderr
        entry = (share / "applications/veilor-mullvad-browser.desktop").read_text()
        program = entry.split('"')[1]
        assert os.access(program, os.X_OK) and "env -u LD_PRELOAD" in entry
    assert not list(share.glob(".veilor-mullvad.*")), "nothing is left of the download"
    assert machine("--remove").returncode == 0
    assert (
        not (share / "veilor-mullvad-browser").exists()
        and not (share / "applications/veilor-mullvad-browser.desktop").exists()
    )


def test_the_signature_is_checked_before_anything_is_unpacked(machine):
    assert machine().returncode == 0
    calls = [line.split()[0] for line in (machine.home / "calls").read_text().splitlines()]
    assert calls[:3] == ["dnf5", "rpmkeys", "rpmkeys"] and sorted(calls[3:]) == ["cpio", "rpm2cpio"], (
        "the two ends of a pipe, in any order"
    )


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"SIGNED": "1"}, "not signed by Mullvad's key"),
        ({"PACKAGES": ""}, "could not be fetched"),
        ({"PACKAGES": "1 2"}, "not one package"),
        ({"VEILOR_MULLVAD_KEY": "/none"}, "not in this image"),
        ({"MODE": "644"}, "holds no start-mullvad-browser"),
    ],
    ids=["unsigned", "no network", "two packages", "no key", "changed package"],
)
def test_what_is_wrong_is_said_and_the_present_browser_stays(machine, env, text):
    assert machine().returncode == 0
    before = sorted((machine.home / ".local/share").rglob("*"))
    done = machine(**env)
    assert done.returncode == 1 and text in done.stderr and len(done.stderr.splitlines()) == 1
    assert sorted((machine.home / ".local/share").rglob("*")) == before


@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), (["--nonsense"], 2)])
def test_mullvads_usage(machine, args, code):
    done = machine(*args)
    assert done.returncode == code and "usage:" in done.stderr and not (machine.home / "calls").exists()


def test_brave_starts_without_the_preload_and_with_its_arguments(tmp_path):
    text = (SYSTEM / "usr/bin/veilor-brave").read_text()
    fake = tmp_path / "brave"
    fake.write_text('#!/bin/sh\nprintf "%s|" "${LD_PRELOAD-unset}" "$@"\n')
    fake.chmod(0o755)
    here = tmp_path / "veilor-brave"
    here.write_text(text.replace("/usr/bin/brave-browser-stable", str(fake)))
    env = {**os.environ, "LD_PRELOAD": ""}
    done = subprocess.run(
        ["sh", here, "a b", "--x"], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "unset|a b|--x|"


def test_braves_policies_turn_off_what_calls_home():
    said = json.loads((SYSTEM / "etc/brave/policies/managed/veilor.json").read_text())
    off = {
        "BraveP3AEnabled",
        "BraveStatsPingEnabled",
        "BraveWebDiscoveryEnabled",
        "BraveAIChatEnabled",
        "MetricsReportingEnabled",
    }
    disabled = {
        "BraveRewardsDisabled",
        "BraveWalletDisabled",
        "BraveVPNDisabled",
        "BraveNewsDisabled",
        "BraveTalkDisabled",
    }
    assert all(said[name] is False for name in off) and all(said[name] is True for name in disabled)
    assert all(value is (not name.endswith("Enabled")) for name, value in said.items())


def test_a_new_tab_of_brave_begins_without_advertisements_and_news():
    """By the names up to 1.95 and the one from 1.96 on, which takes the older ones over; news are off by
    policy.
    """
    brave = json.loads((SYSTEM.parent / "brave/initial_preferences.json").read_text())["brave"]
    tab = brave["new_tab_page"]
    assert [
        tab["show_branded_background_image"],
        tab["show_sponsored_sites"],
        brave["brave_ads"]["sponsored"]["enabled"],
    ] == [False] * 3
    assert (
        json.loads((SYSTEM / "etc/brave/policies/managed/veilor.json").read_text())["BraveNewsDisabled"]
        is True
    )


RELEASE = [  # what fails, and the last that is asked then
    (
        "",
        "skopeo copy --preserve-digests docker://{image}@D docker://{image}:{tag}",
    ),
    ("check", "veilor check"),
    ("sign", "veilor sign"),
    ("gate", "veilor gate"),
]


@pytest.mark.parametrize(("failing", "last"), RELEASE, ids=["nothing", "check", "sign", "gate"])
def test_the_tag_moves_only_after_check_signature_and_gate(failing, last, tmp_path):
    product = load(ROOT / "product.toml")
    done, calls = release(tmp_path, failing, product.image_repo, product.tag)
    assert (done.returncode == 0) == (failing == "")
    assert calls[-1].startswith(last.format(image=product.image_repo, tag=product.tag))
    assert any(call.startswith("skopeo") for call in calls) == (failing == "")


def test_another_fedora_is_pushed_to_its_own_tag(tmp_path):
    done, calls = release(tmp_path, "", "ghcr.io/x/y", "45")
    assert done.returncode == 0 and "ghcr.io/x/y:45 is D" in done.stdout
    assert [call.split()[-1] for call in calls if call.startswith("skopeo")] == [
        "docker://ghcr.io/x/y:44.1",
        "docker://ghcr.io/x/y:45",
    ]


def release(
    tmp_path: Path, failing: str, image: str, tag: str
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """What scripts/release-image does with this IMAGE and TAG of the product when the step FAILING fails."""
    facts = (
        f'if [ "$1" = product ]; then case "$2" in image) echo {image} ;; tag) echo {tag} ;; esac; exit; fi'
    )
    for name, path in (("veilor", ".venv/bin/veilor"), ("skopeo", "bin/skopeo")):
        program = tmp_path / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\n{facts}\necho "{name} $*" >>"$CALLS"\n[ "$1" != "$FAILING" ]\n')
        program.chmod(0o755)
    script = tmp_path / "scripts/release-image"
    script.parent.mkdir()
    script.write_text((ROOT / "scripts/release-image").read_text())
    script.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "CALLS": str(tmp_path / "calls"), "FAILING": failing}
    done = subprocess.run(
        [script, "D", "44.1", "key"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return done, (tmp_path / "calls").read_text().splitlines()


def test_every_script_says_what_it_wants(tmp_path):
    for path in sorted((ROOT / "scripts").iterdir()):
        if path.suffix != ".md" and "want" in path.read_text():
            done = subprocess.run(
                [path], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
            )
            assert done.returncode != 0 and f"{path.name}: want" in done.stderr, path.name
