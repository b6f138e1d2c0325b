"""The staged tree: complete, the same every time, and never put where something else lies."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from veilor.build import stage as staging
from veilor.build.errors import BuildError
from veilor.build.stage import stage

KEYS = ("veilor-image-a.pub", "veilor-image-b.pub", "veilor-channel-a.pub", "veilor-channel-b.pub")


def picture(tree: Path) -> dict:
    """Everything about TREE that an image layer would keep."""
    found = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        info = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(tree))] = (
            stat.S_IFMT(info.st_mode),
            stat.S_IMODE(info.st_mode),
            int(info.st_mtime),
            content,
        )
    return found


def test_the_tree_holds_overlay_code_facts_keys_and_policy(source, tmp_path):
    tree = stage(source, tmp_path / "tree", floor=7)
    assert (tree / "usr/bin/veilor-x").stat().st_mode & 0o777 == 0o755
    assert (
        os.readlink(tree / "usr/lib/systemd/system/multi-user.target.wants/veilor-x.service")
        == "../veilor-x.service"
    )
    assert (tree / "usr/lib/veilor/product.toml").read_bytes() == (source / "product.toml").read_bytes()
    assert json.loads((tree / "usr/lib/veilor/channel-floor.json").read_text()) == {
        "schema": 1,
        "sequence": 7,
    }
    text = (source / "product.toml").read_text()
    (source / "product.toml").write_text(text.replace("epoch = 0", "epoch = 2"))
    floor = json.loads((stage(source, tree, floor=8) / "usr/lib/veilor/channel-floor.json").read_text())
    assert floor == {"schema": 1, "epoch": 2, "sequence": 8}
    for name in KEYS:
        assert (tree / "usr/share/pki/containers" / name).read_bytes() == (
            source / "bluebuild/keys" / name
        ).read_bytes()
    app = tree / "usr/lib/veilor/app/veilor"
    assert sorted(path.name for path in app.iterdir()) == ["__init__.py", "core", "device"]
    assert (app / "core/policy.py").read_bytes() == (source / "src/veilor/core/policy.py").read_bytes()


def test_the_policy_refuses_all_but_our_two_repositories_each_by_its_own_keys(source, tmp_path):
    tree = stage(source, tmp_path / "tree")
    policy = json.loads((tree / "etc/containers/policy.json").read_text())
    assert policy["default"] == [{"type": "reject"}]
    scopes = policy["transports"]["docker"]
    folder = "/usr/share/pki/containers/"
    for repository, names in (
        ("ghcr.io/veilor/veilor-os", KEYS[:2]),
        ("ghcr.io/veilor/veilor-os-channel", KEYS[2:]),
    ):
        [rule] = scopes.pop(repository)
        assert rule["type"] == "sigstoreSigned" and rule["signedIdentity"] == {"type": "matchRepository"}
        assert rule["keyPaths"] == [folder + name for name in names]
        assert (
            f"  {repository}:\n    use-sigstore-attachments: true\n"
            in (tree / "etc/containers/registries.d/veilor.yaml").read_text()
        )
    assert not scopes


def test_os_release_says_what_product_toml_says(source, tmp_path):
    lines = (stage(source, tmp_path / "tree") / "usr/lib/os-release").read_text().splitlines()
    said = {key: value.strip('"') for key, value in (line.split("=", 1) for line in lines)}
    facts = tomllib.loads((source / "product.toml").read_text())
    assert {key: said[key] for key in ("ID", "NAME", "PRETTY_NAME", "VERSION_ID")} == {
        "ID": facts["product"]["id"],
        "NAME": facts["product"]["name"],
        "PRETTY_NAME": facts["product"]["pretty_name"],
        "VERSION_ID": facts["product"]["version"],
    }
    assert said["BUG_REPORT_URL"] == facts["urls"]["bugs"]


def test_another_folder_umask_and_checkout_time_give_the_same_tree(source, tmp_path):
    first = picture(stage(source, tmp_path / "one"))
    other = tmp_path / "elsewhere"
    shutil.copytree(source, other, symlinks=True)
    for path in other.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o060)
    (other / "src/veilor/core/__pycache__").mkdir(exist_ok=True)
    (other / "src/veilor/core/__pycache__/x.pyc").write_bytes(b"x")
    before = os.umask(0o077)
    try:
        second = picture(stage(other, tmp_path / "two"))
    finally:
        os.umask(before)
    assert first == second


def test_source_date_epoch_is_the_time_of_everything(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert {entry[2] for entry in picture(stage(source, tmp_path / "tree")).values()} == {1234567890}


def test_a_staged_tree_is_replaced_whole(source, tmp_path):
    tree = stage(source, tmp_path / "tree")
    (tree / "etc/stale").write_text("old")
    (source / "overlay/usr/bin/veilor-x").unlink()
    stage(source, tree)
    assert not (tree / "etc/stale").exists() and not (tree / "usr/bin/veilor-x").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_an_empty_folder_is_taken(source, tmp_path):
    (tmp_path / "tree").mkdir()
    assert (stage(source, tmp_path / "tree") / "usr").is_dir()


def test_someone_elses_folder_is_left_alone(source, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("dear")
    with pytest.raises(BuildError, match="not a staged tree"):
        stage(source, tmp_path / "home")
    assert (tmp_path / "home/letter").read_text() == "dear"


def test_the_root_of_an_installed_machine_is_no_staged_tree(source, tmp_path):
    tree = stage(source, tmp_path / "tree")
    (tree / "var").mkdir()
    with pytest.raises(BuildError, match="not a staged tree"):
        stage(source, tree)


def test_a_file_or_link_as_destination_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(BuildError, match="is not a folder"):
            stage(source, tmp_path / name)


def test_a_failure_leaves_the_older_tree_and_no_rubbish(source, tmp_path, monkeypatch):
    before = picture(stage(source, tmp_path / "tree"))
    monkeypatch.setattr(staging, "settle", lambda tree: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        stage(source, tmp_path / "tree")
    assert picture(tmp_path / "tree") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "tree"]


def test_keys_must_be_there_public_and_different(source, tmp_path):
    keys = tmp_path / "keys"
    shutil.copytree(source / "bluebuild/keys", keys)
    (keys / KEYS[1]).write_bytes((keys / KEYS[0]).read_bytes())
    with pytest.raises(BuildError, match="same key"):
        stage(source, tmp_path / "tree", keys)
    (keys / KEYS[1]).write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE " + "KEY-----\n")
    with pytest.raises(BuildError, match="not a public key"):
        stage(source, tmp_path / "tree", keys)
    (keys / KEYS[1]).unlink()
    with pytest.raises(BuildError, match=KEYS[1]):
        stage(source, tmp_path / "tree", keys)
    assert not (tmp_path / "tree").exists()


def test_the_overlay_cannot_hide_what_is_generated(source, tmp_path):
    (source / "overlay/etc/containers").mkdir(parents=True)
    (source / "overlay/etc/containers/policy.json").write_text("{}")
    with pytest.raises(BuildError, match="generated from product.toml"):
        stage(source, tmp_path / "tree")


def test_staging_into_the_overlay_is_refused(source):
    with pytest.raises(BuildError, match="inside the sources"):
        stage(source, source / "overlay/usr")
