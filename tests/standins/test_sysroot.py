"""The bootc front without libostree: which policy it refuses, and what it makes of a pull."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import pytest

FRONT = Path(__file__).parents[2] / "stand-ins/bootc"
SIGNED = "ostree-image-signed:docker://ghcr.io/veilor/veilor-os:44"
UNSIGNED = "ostree-unverified-image:oci:/run/install/repo/container"
ACCEPTS_ANYTHING = {"default": [{"type": "reject"}, {"type": "insecureAcceptAnything"}]}


@pytest.fixture
def sysroot(monkeypatch, tmp_path):
    """The module, with a policy that rejects by default and a sysroot that nobody has locked."""
    gi = types.ModuleType("gi")
    gi.require_version = lambda name, version: None
    repository = types.ModuleType("gi.repository")
    repository.Gio = repository.GLib = repository.OSTree = types.SimpleNamespace(
        Variant=object, Deployment=object
    )
    monkeypatch.setitem(sys.modules, "gi", gi)
    monkeypatch.setitem(sys.modules, "gi.repository", repository)
    monkeypatch.syspath_prepend(str(FRONT))
    for name in ("report", "sysroot"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("sysroot")
    monkeypatch.setattr(module, "POLICY", str(tmp_path / "policy.json"))
    (tmp_path / "policy.json").write_text(json.dumps({"default": [{"type": "reject"}]}))
    yield module
    for name in ("report", "sysroot"):
        sys.modules.pop(name, None)


@pytest.fixture
def pull(sysroot, monkeypatch, tmp_path):
    """Pulls with a program in the place of `setpriv … ostree`, which runs the shell text SCRIPT."""

    def run(script: str, origin: str = SIGNED, manifest: str | None = None):
        (tmp_path / "setpriv").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/argv\n{script}\n')
        (tmp_path / "setpriv").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        host, lines, idle = object.__new__(sysroot.Host), [], []
        commit = host.pull(origin, manifest, lines.append, lambda: idle.append(1))
        return commit, lines, idle

    return run


def test_a_policy_that_accepts_anything_is_refused(sysroot, pull, tmp_path):
    (tmp_path / "policy.json").write_text(json.dumps(ACCEPTS_ANYTHING))
    with pytest.raises(sysroot.Failure, match="default of `insecureAcceptAnything`; refusing usage"):
        pull("echo 'Wrote: x => c0ffee'")
    assert not (tmp_path / "argv").exists(), "nothing was started"


def test_a_policy_that_rejects_by_default_is_taken(pull):
    assert pull("echo 'Wrote: x => c0ffee'")[0] == "c0ffee"


def test_what_is_not_to_be_verified_asks_for_no_policy(pull, tmp_path):
    (tmp_path / "policy.json").unlink()
    assert pull("echo 'Wrote: x => c0ffee'", UNSIGNED)[0] == "c0ffee"
    with pytest.raises(OSError):
        pull("echo 'Wrote: x => c0ffee'", SIGNED)


def test_a_pull_tells_each_line_and_the_commit(pull):
    said = ["layers already present: 1; layers needed: 1 (2 kB)", "No changes in x => c0ffee"]
    commit, lines, idle = pull("\n".join(f"echo '{line}'" for line in said))
    assert (commit, lines) == ("c0ffee", said) and idle


def test_a_check_gets_no_commit_and_names_its_file(pull, tmp_path):
    assert pull("echo 'nothing new'", manifest="/run/manifest.json")[0] == ""
    assert (tmp_path / "argv").read_text().split()[-2:] == [SIGNED, "--check=/run/manifest.json"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'error: Fetching manifest: denied' >&2; exit 1",
            "^Preparing import: Fetching manifest: denied$",
        ),
        ("exit 3", "^the pull ended with 3$"),
        ("echo 'no result'", "^the pull ended with 0$"),
    ],
)
def test_a_pull_that_fails_says_why(sysroot, pull, script, reason):
    with pytest.raises(sysroot.Failure, match=reason):
        pull(script)
