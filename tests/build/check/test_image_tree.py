"""The recipe on a tree shaped like the base: each script is missed when it is removed, and stands a base
that moved on.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from veilor.build.check import image_tree
from veilor.build.check.finding import Finding
from veilor.core.product import load

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(path.name for path in (ROOT / image_tree.SCRIPTS).iterdir())
FEDORA = load(ROOT / "product.toml").version
FULL_TREE = "VEILOR_BASE_TREE"


@pytest.fixture
def clone(tmp_path, staged, monkeypatch):
    """What the check reads of this repository, to be changed. The tests here change recipe and stand-ins,
    so what is staged stays the same;
    tests/build/check/test_registry.py has the check stage it by itself.
    """
    monkeypatch.setattr(image_tree, "stage", lambda _root, dest: shutil.copytree(staged, dest, symlinks=True))
    root = tmp_path / "clone"
    for part in (
        "bluebuild",
        "overlay",
        "stand-ins/image",
        "src/veilor/core",
        "src/veilor/device",
        "threats",
        "artwork",
    ):
        shutil.copytree(
            ROOT / part, root / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "stage")
        )
    for name in ("product.toml", "src/veilor/__init__.py"):
        shutil.copyfile(ROOT / name, root / name)
    return root


def build(clone, spoil=lambda tree: None) -> tuple[list[Finding], str]:
    return image_tree.build_image_tree(clone, clone.parent / "tree", spoil)


def add_fragment_without_newline(tree: Path) -> None:
    """Put a fragment of GRUB's configuration into TREE whose last line has no end."""
    fragment = tree / "usr/lib/bootupd/grub2-static/configs.d/09_other.cfg"
    fragment.parent.mkdir(parents=True, exist_ok=True)
    fragment.write_text("true")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "keep-base-facts.sh"])
def test_a_script_that_does_nothing_is_missed(name, clone):
    if name == "boot-counter.sh":  # it only inspects, and has to stop the build
        found, _ = build(clone, add_fragment_without_newline)
    elif name == "base-assumed.py":
        found, _ = build(clone, lambda tree: (tree / "etc/xdg/ksplashrc").unlink())
    else:
        (clone / image_tree.SCRIPTS / name).write_text("#!/bin/sh\n")
        found, _ = build(clone)
    assert name in [Path(one.path).name for one in found]


def test_without_the_bases_facts_nothing_is_merged(clone):
    (clone / image_tree.SCRIPTS / "keep-base-facts.sh").write_text("#!/bin/sh\n")
    assert {"merge-policy.py", "brand.sh"} <= {Path(one.path).name for one in build(clone)[0]}


@pytest.mark.parametrize("name", ["a missing one", "one that is not executable"])
def test_a_script_the_recipe_names_in_vain_is_found(name, clone):
    script = clone / image_tree.SCRIPTS / "motd.sh"
    if name == "a missing one":
        script.unlink()
    else:
        script.chmod(0o644)
    assert any(one.path.endswith("motd.sh") and "not executable" in one.text for one in build(clone)[0])


GONE = {  # what the base may drop: and what the script then says
    "usr/etc": "the base has no /usr/etc",
    ".packages/sudo": "the package was not there; installed",
    "usr/share/secureblue": "the base has no copy of /etc",
}


@pytest.mark.parametrize("name", GONE)
def test_a_base_that_moved_on_is_built_on_and_told_of(name, clone):
    def spoil(tree):
        path = tree / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    found, said = build(clone, spoil)
    assert GONE[name] in said
    failed = [one for one in found if "ended with" in one.text]
    assert not failed


STOPS = {
    "no os-release": (lambda tree: (tree / "usr/lib/os-release").unlink(), "base-assumed.py"),
    "no first-boot cleanup": (
        lambda tree: (tree / "usr/lib/systemd/system/securebluecleanup.service").unlink(),
        "base-assumed.py",
    ),
    "another Fedora": (
        lambda tree: edit(tree / "usr/lib/os-release", "VERSION_ID=", "VERSION_ID=1"),
        "brand.sh",
    ),
    "a policy that is no JSON": (
        lambda tree: (tree / "etc/containers/policy.json").write_text("{"),
        "merge-policy.py",
    ),
    "no run0": (lambda tree: (tree / "usr/bin/run0").unlink(), "sudo.sh"),
    "no hardened allocator named": (lambda tree: (tree / "etc/ld.so.preload").unlink(), "base-controls.sh"),
    "no hardened allocator": (
        lambda tree: (tree / "usr/lib64/libhardened_malloc.so").unlink(),
        "base-controls.sh",
    ),
    "a permissive SELinux": (
        lambda tree: edit(tree / "etc/selinux/config", "enforcing", "permissive"),
        "base-controls.sh",
    ),
    "no composefs": (
        lambda tree: edit(tree / "usr/lib/ostree/prepare-root.conf", "enabled = true", "enabled = no"),
        "base-controls.sh",
    ),
    "composefs in another section": (
        lambda tree: edit(tree / "usr/lib/ostree/prepare-root.conf", "[composefs]", "[root]"),
        "base-controls.sh",
    ),
    "ptrace allowed": (
        lambda tree: edit(tree / "etc/selinux/targeted/active/booleans.local", "=1", "=0"),
        "base-controls.sh",
    ),
    "a set-user-id bit": (lambda tree: (tree / "usr/bin/run0").chmod(0o4755), "base-controls.sh"),
    "a set-group-id bit": (lambda tree: (tree / "usr/bin/run0").chmod(0o2755), "base-controls.sh"),
    "two kernels": (lambda tree: (tree / "usr/lib/modules/6.0").mkdir(), "initramfs.sh"),
}


def edit(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("name", STOPS)
def test_a_base_that_cannot_be_built_on_stops_the_build(name, clone):
    spoil, script = STOPS[name]
    found, _ = build(clone, spoil)
    (one,) = [one for one in found if one.path.endswith(script) and "ended with 1" in one.text]
    assert len(one.text.splitlines()) == 1


def test_a_base_without_the_wall_for_user_namespaces_stops_the_build(clone, monkeypatch):
    monkeypatch.setenv("VEILOR_NO_MODULE", "harden_userns")
    found, _ = build(clone)
    assert any(
        one.path.endswith("base-controls.sh")
        and "ended with 1" in one.text
        and "harden_userns is missing" in one.text
        for one in found
    )


@pytest.mark.parametrize("rule", ["-T -s", "mac_admin", "brave_t", "-s unconfined_t "])
def test_a_policy_without_a_rule_that_is_rested_on_stops_the_build(rule, clone, monkeypatch):
    monkeypatch.setenv("VEILOR_NO_RULE", rule)
    found, _ = build(clone)
    assert any(
        one.path.endswith("selinux.sh") and "in the policy that was built" in one.text for one in found
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "reinstalled"),
        ({"VEILOR_NEWER": "1"}, "upgraded"),
        ({"VEILOR_NEWER": "1", "VEILOR_NO_UPGRADE": "1"}, None),
    ],
    ids=["the same version", "a newer one", "neither"],
)
def test_sudo_comes_back_whatever_version_fedora_has(settings, text, clone, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    found, said = build(clone)
    sudo = clone.parent / "tree/usr/bin/sudo"
    if text:
        assert not found and text in said and sudo.stat().st_mode & 0o7777 == 0o4111
    else:
        assert (
            any(one.path.endswith("sudo.sh") and "ended with" in one.text for one in found)
            and not sudo.exists()
        )


def test_the_bases_audit_ends_in_an_error_by_our_name_and_does_not_once_it_is_mended(clone):
    image_tree.make_base(clone / image_tree.SHAPE, clone.parent / "base", FEDORA)
    build(clone)
    program = "usr/libexec/secureblue/audit_secureblue.py"
    before, after = (
        subprocess.run(
            [sys.executable, clone.parent / tree / program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for tree in ("base", "tree")
    )
    assert "AttributeError" in before.stderr
    assert (after.returncode, after.stdout) == (0, "a desktop\n")


def test_what_else_names_trivalent_is_told(clone):
    _, said = build(clone, lambda tree: (tree / "etc/xdg/other").write_text("Run=/usr/bin/trivalent\n"))
    assert "trivalent: still named in /etc/xdg/other" in said


def test_a_key_that_nobody_knows_stops_the_build(clone, monkeypatch):
    monkeypatch.setenv("VEILOR_FETCHED_KEY", "F" * 40)
    found, _ = build(clone)
    assert any(
        one.path.endswith("brave-key.sh") and "is not in files/brave/fingerprints" in one.text
        for one in found
    )


def test_a_dracut_that_fails_leaves_the_allocators_settings_in_place(clone):
    (clone / "stand-ins/image/bin/dracut").write_text("#!/bin/sh\nexit 1\n")
    found, _ = build(clone)
    assert any(one.path.endswith("initramfs.sh") for one in found)
    tree = clone.parent / "tree/usr/lib"
    assert len(list(tree.rglob("40-hardened_malloc.conf"))) == 2 and not list(tree.rglob("*.aside"))


def test_a_weaker_scope_of_the_base_within_ours_does_not_win(clone):
    def spoil(tree):
        path = tree / "etc/containers/policy.json"
        data = json.loads(path.read_text())
        data["transports"]["docker"]["ghcr.io/veilor/veilor-os:44"] = [{"type": "insecureAcceptAnything"}]
        data["default"] = [{"type": "insecureAcceptAnything"}]
        path.write_text(json.dumps(data))

    found, said = build(clone, spoil)
    assert not found and "ours rejects" in said


def test_the_build_twice_over_the_same_tree_is_the_build_once(clone):
    found, _ = build(clone)
    tree = clone.parent / "tree"
    again = image_tree.Build(clone, tree)
    for name in (
        "fold-usr-etc.sh",
        "updaters.sh",
        "first-boot.sh",
        "xwayland.sh",
        "audit.sh",
        "just.sh",
        "merge-policy.py",
    ):
        assert again.run([str(clone / image_tree.SCRIPTS / name)], name) is None
    assert not found and not [
        rule.says
        for rule in image_tree.tree_rules(clone, tree)
        if not rule.kept and "linter" not in rule.says
    ]


def test_the_small_tree_has_the_names_and_modes_of_the_full_one():
    """Against a full listing of the base (path, type, mode, source, note), which this repository does not
    carry.
    """
    if FULL_TREE not in os.environ:
        pytest.skip(
            f"NOT RUN: needs the base's listing: `scripts/compare-base` after a build, or {FULL_TREE}=FILE"
        )
    with open(os.environ[FULL_TREE], newline="") as file:
        full = {row["path"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    ours = [
        line.split("\t")
        for line in (ROOT / "stand-ins/image/tree.tsv").read_text().replace("@fedora@", FEDORA).splitlines()
        if not line.startswith("#")
    ]
    differ = [
        name
        for name, kind, mode, *_ in ours
        if (row := full.get(f"/{name}"))
        and kind != "link"
        and (row["type"] != kind or row["mode"] not in ("", "u+s", mode))
    ]
    unknown = [name for name, *_ in ours if f"/{name}" not in full]
    assert not differ
    assert len(unknown) < 12, unknown


def test_a_brave_that_begins_with_its_makers_preferences_is_found(clone):
    name = '"show_branded_background_image"'
    edit(clone / "bluebuild/files/brave/initial_preferences.json", f"{name}: false", f"{name}: true")
    [one] = [one for one in build(clone)[0] if one.path.endswith("brave.sh")]
    assert "without advertisements in a new tab" in one.text


def test_a_helper_of_braves_that_keeps_its_set_user_id_bit_is_found(clone):
    edit(clone / image_tree.SCRIPTS / "brave.sh", "chmod ug-s", "true")
    assert [one.path for one in build(clone)[0] if "set-user-ID" in one.text] == [
        f"{image_tree.SCRIPTS}/brave.sh"
    ]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            ("Exec=/usr/bin/brave-browser-stable", "Exec=/usr/bin/chromium"),
            "no desktop entry starts it by our launcher",
        ),
        (
            (
                'chmod 0755 "$VEILOR_ROOT/var/opt/brave.com/brave/brave"',
                'rm "$VEILOR_ROOT/var/opt/brave.com/brave/brave"',
            ),
            "is not there",
        ),
    ],
    ids=["another entry", "another place"],
)
def test_a_brave_that_is_packaged_differently_stops_the_build(clone, spoil, text):
    edit(clone / "stand-ins/image/bin/dnf5", *spoil)
    found, _ = build(clone)
    assert any(one.path.endswith("brave.sh") and text in one.text for one in found)
