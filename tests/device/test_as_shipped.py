"""/etc held against the image's own: an installation puts back what no list allows."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from veilor.core import claims
from veilor.device import main, run
from veilor.device.shipped import compare, program

OURS = {
    "chrony.conf": "server a.example iburst nts\n",
    "firewalld/firewalld.conf": "DefaultZone=veilor\n",
    "shadow": "root:!locked::0:99999:7:::\nbin:*:1::::::\n",
    "fstab": "",
    "ssh/sshd_config.d/10-veilor.conf": "PermitRootLogin no\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A system as it was deployed: /etc is a copy of /usr/etc."""
    monkeypatch.setattr(run, "ROOT", tmp_path)
    for name, text in OURS.items():
        put(tmp_path / "usr/etc" / name, text)
    (tmp_path / "usr/etc/localtime").symlink_to("../usr/share/zoneinfo/UTC")
    shutil.copytree(tmp_path / "usr/etc", tmp_path / "etc", symlinks=True)
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def image_and_etc(root: Path) -> list[list[tuple]]:
    """What lies in /usr/etc and in /etc: path, kind and mode, text or target."""

    def one(path: Path) -> tuple:
        return (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "",
        )

    return [
        [(str(path.relative_to(folder)), *one(path)) for path in sorted(folder.rglob("*"))]
        for folder in (root / "usr/etc", root / "etc")
    ]


def other_kind(root: Path) -> None:
    shutil.rmtree(root / "etc/ssh")
    (root / "etc/ssh").symlink_to("/usr")


SPOILT = {
    "a zone that hides the image's": lambda root: put(root / "etc/firewalld/zones/veilor.xml", "<zone/>"),
    "a setting": lambda root: put(root / "etc/firewalld/firewalld.conf", "DefaultZone=public\n"),
    "another target": lambda root: (
        (root / "etc/systemd/system").mkdir(parents=True),
        (root / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target"),
    ),
    "a setting that is gone": lambda root: (root / "etc/chrony.conf").unlink(),
    "a folder that is gone": lambda root: shutil.rmtree(root / "etc/firewalld"),
    "a mode alone": lambda root: (root / "etc/shadow").chmod(0o666),
    "a folder's mode": lambda root: (root / "etc/ssh").chmod(0o777),
    "a link in place of a folder": other_kind,
    "a folder in place of a file": lambda root: (
        (root / "etc/chrony.conf").unlink(),
        put(root / "etc/chrony.conf/x", ""),
    ),
    "an account's password": lambda root: put(
        root / "etc/shadow", OURS["shadow"].replace("bin:*", "bin:$6$x")
    ),
    "root's password": lambda root: put(root / "etc/shadow", OURS["shadow"].replace("!locked", "$6$x")),
    "another account": lambda root: put(root / "etc/shadow", OURS["shadow"] + "me::1::::::\n"),
    "a remote of ostree's": lambda root: put(root / "etc/ostree/remotes.d/veilor.conf", "gpg-verify=false"),
    "root over ssh": lambda root: put(root / "etc/ssh/sshd_config.d/01-permitrootlogin.conf", "yes"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_what_the_installer_changed_is_put_back(spoil, root, capsys):
    spoil(root)
    image, etc = image_and_etc(root)
    assert image != etc
    assert main.main(["as-shipped", "--put-back"]) == 0
    image, etc = image_and_etc(root)
    assert image == etc and "put back" in capsys.readouterr().out


def test_a_link_is_not_followed_out_of_etc(root):
    """What lies behind the link is another's."""
    put(root / "elsewhere/keep", "precious")
    (root / "etc/more").symlink_to(root / "elsewhere")
    (root / "usr/etc/ssh2").symlink_to(root / "elsewhere")
    put(root / "etc/ssh2/keep", "ours")
    assert main.main(["as-shipped", "--put-back"]) == 0
    assert (root / "elsewhere/keep").read_text() == "precious" and not (root / "etc/more").is_symlink()


def test_what_an_installation_has_to_say_stays(root):
    for name in program.ALLOWED:
        (root / "etc" / name).unlink(missing_ok=True)
        put(root / "etc" / name, "of this machine\n")
    assert main.main(["as-shipped", "--put-back"]) == 0
    for name, because in program.ALLOWED.items():
        assert (root / "etc" / name).read_text() == "of this machine\n" and len(because) > 10


def test_root_is_locked_whatever_the_image_says(root):
    text = OURS["shadow"].replace("!locked", "")
    for folder in ("etc", "usr/etc"):
        put(root / folder / "shadow", text)
    assert main.main(["as-shipped", "--put-back"]) == 0
    assert (root / "etc/shadow").read_text() == text.replace("root:", "root:!")


CONFIG = (
    '[core]\nmode=bare\n\n[remote "veilor"]\nurl=/run/install\ngpg-verify=false\n\n[sysroot]\nreadonly=true\n'
)


def test_leftovers_outside_of_etc_are_removed(root):
    put(root / "sysroot/ostree/repo/config", CONFIG)
    for name in ("anaconda-ks.cfg", ".ssh/authorized_keys", ".bashrc"):
        put(root / "var/roothome" / name, "")
    assert main.main(["as-shipped", "--put-back"]) == 0
    assert (root / "sysroot/ostree/repo/config").read_text() == (
        "[core]\nmode=bare\n\n[sysroot]\nreadonly=true\n"
    )
    assert [path.name for path in (root / "var/roothome").iterdir()] == [".bashrc"]


FSTAB = "# /\nUUID=a / ext4 defaults 0 0\nUUID=b /boot ext4 defaults 0 0\n"


@pytest.mark.parametrize(
    ("conf", "kept"),
    [
        ("[composefs]\nenabled = yes\n", False),
        ("[sysroot]\nreadonly = true\n\n[composefs]\n# comment\nenabled=signed\n", False),
        ("[composefs]\nenabled = no\n", True),
        ("[composefs]\n[other]\nenabled = yes\n", True),
        ("[sysroot]\nreadonly = true\n", True),
        (None, True),
    ],
)
def test_a_root_that_the_initramfs_mounts_stays_out_of_fstab(conf, kept, root):
    """systemd-remount-fs would fail at every start: ostreedev/ostree#3193."""
    put(root / "etc/fstab", FSTAB)
    if conf is not None:
        put(root / "usr/lib/ostree/prepare-root.conf", conf)
    assert main.main(["as-shipped", "--put-back"]) == 0
    rows = [line.split()[1] for line in (root / "etc/fstab").read_text().splitlines() if line[0] != "#"]
    assert rows == (["/", "/boot"] if kept else ["/boot"])


def test_what_cannot_be_put_back_refuses_the_installation(root, capsys, monkeypatch):
    put(root / "etc/chrony.conf", "server b.example\n")
    monkeypatch.setattr(program, "restore", lambda name: None)
    assert main.main(["as-shipped", "--put-back"]) == 1
    assert "/etc/chrony.conf (changed)" in capsys.readouterr().err


def test_without_the_images_own_nothing_is_called_good(root):
    shutil.rmtree(root / "usr/etc")
    assert main.main(["as-shipped", "--put-back"]) == 1
    assert (root / "etc/chrony.conf").exists()


def test_a_running_system_is_left_alone(root, capsys):
    put(root / "run/ostree-booted", "")
    put(root / "etc/chrony.conf", "server mine.example\n")
    assert main.main(["as-shipped", "--put-back"]) == 5
    assert "mine" in (root / "etc/chrony.conf").read_text()


def rests_on(root: Path, *names: str) -> None:
    """The system's claims rest on NAMES of /etc."""
    check = claims.Check("time.nts/as-shipped", compare.KIND, {"names": list(names)}, "mend it")
    made = claims.Claim("time.nts", "time", "The clock is right.", "enforced", (check,))
    put(root / claims.PATH.lstrip("/"), claims.render([made]))


def test_a_person_is_told_what_of_the_claims_differs(root, capsys):
    rests_on(root, "chrony.conf", "firewalld/zones/veilor.xml")
    put(root / "etc/hosts", "a person's own")
    assert compare.problem() == "" and main.main(["as-shipped"]) == 0
    put(root / "etc/firewalld/zones/veilor.xml", "<zone/>")
    (root / "etc/chrony.conf").unlink()
    said = compare.problem()
    assert "/etc/chrony.conf (missing), /etc/firewalld/zones/veilor.xml (not the image's)" in said
    assert "veilor-doctor" in said and main.main(["as-shipped"]) == 1


@pytest.mark.parametrize("text", ["", "{", json.dumps({"schema": 1, "claims": [{}]})])
def test_claims_that_cannot_be_read_are_no_good_sign(text, root):
    put(root / claims.PATH.lstrip("/"), text)
    assert "could not be seen" in compare.problem()
