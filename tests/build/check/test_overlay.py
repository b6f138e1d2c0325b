"""Each kind of setting in the overlay, spoiled: the check says what is wrong, in which file and line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from veilor.build.check import guards, registry, settings, units
from veilor.build.check.finding import CannotRun

ROOT = Path(__file__).resolve().parents[3]
SYSTEMD = "overlay/usr/lib/systemd"


@pytest.fixture
def clone(tmp_path):
    """The overlay and what is staged with it in a repository's place, to be spoiled."""
    for part in ("overlay", "artwork", "threats", "bluebuild/keys", "src/veilor/core", "src/veilor/device"):
        shutil.copytree(
            ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("product.toml", "src/veilor/__init__.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


# (check, file below overlay/, what is replaced ("" makes or adds to the file), by what, line, words)
CASES = [
    # The line is 0 where no program tells one, and None where the spoiled one may move.
    (
        units.check_units,
        "usr/lib/systemd/system/veilor-settle-counter.service",
        "Type=oneshot",
        "Typ=oneshot",
        None,
        "Unknown key 'Typ'",
    ),
    (
        units.check_units,
        "usr/lib/systemd/system/veilor-settle-counter.service",
        "ExecStart=/usr/bin/true",
        "ExecStart=/usr/bin/python4",
        0,
        "python4 is not executable",
    ),
    (
        units.check_units,
        "usr/lib/systemd/system/usbguard.service.d/10-veilor.conf",
        "ConditionFileNotEmpty",
        "ConditionFileFull",
        3,
        "Unknown key",
    ),
    (
        units.check_units,
        "usr/lib/systemd/system/veilor-update-stage.timer",
        "OnCalendar=",
        "OnCalendar=dayly ",
        None,
        "dayly",
    ),
    (
        units.check_units,
        "usr/lib/systemd/user/veilor-notices.service",
        "Type=oneshot",
        "Typ=oneshot",
        None,
        "Unknown key 'Typ'",
    ),
    (
        units.check_units,
        "usr/lib/systemd/user/veilor-notices.service",
        "ExecStart=/usr/bin/python3",
        "ExecStart=/usr/bin/python4",
        0,
        "python4 is not executable",
    ),
    (
        units.check_units,
        "usr/lib/systemd/user/veilor-notices.path",
        "PathChanged",
        "PathChangd",
        None,
        "Unknown key",
    ),
    (
        units.check_units,
        "usr/lib/dracut/modules.d/51veilor-keymap/veilor-keymap.service",
        "Before=",
        "Befor=",
        None,
        "Unknown key 'Befor'",
    ),
    (
        units.check_presets,
        "usr/lib/systemd/system-preset/10-veilor.preset",
        "enable usbguard",
        "enabled usbguard",
        None,
        "can't read",
    ),
    (
        units.check_presets,
        "usr/lib/systemd/system-preset/10-veilor.preset",
        "enable usbguard",
        "enable veilor-none",
        None,
        "no unit",
    ),
    (
        units.check_presets,
        "usr/lib/systemd/system-preset/50-veilor.preset",
        "",
        "enable x.service\n",
        0,
        "sort before 35-",
    ),
    (
        units.check_tmpfiles,
        "usr/lib/tmpfiles.d/veilor.conf",
        "d /run/veilor",
        "dd /run/veilor",
        2,
        "Unknown modifiers",
    ),
    (
        units.check_oomd,
        "usr/lib/systemd/oomd.conf.d/60-veilor.conf",
        "DurationSec=",
        "Duration=",
        4,
        "ignores",
    ),
    (units.check_oomd, "usr/lib/systemd/oomd.conf.d/60-veilor.conf", "[OOM]", "[Oom]", 4, "ignores"),
    (
        settings.check_sysctl,
        "usr/lib/sysctl.d/60-veilor.conf",
        "vm.swappiness = 180",
        "vm.swappiness 180",
        8,
        "can't read",
    ),
    (
        settings.check_sysctl,
        "usr/lib/sysctl.d/60-veilor.conf",
        "vm.swappiness",
        "vm.swapiness",
        8,
        "knows vm.swapiness",
    ),
    (
        settings.check_sysctl,
        "usr/lib/sysctl.d/60-veilor.conf",
        "vm.page-cluster = 0",
        "vm.swappiness = 1",
        9,
        "set in line 8",
    ),
    (
        settings.check_sysctl,
        "usr/lib/sysctl.d/60-veilor.conf",
        "vm.page-cluster = 0",
        "kernel.modules_disabled = 1",
        9,
        "Wi-Fi",
    ),
    (settings.check_sysctl, "usr/lib/sysctl.d/10-veilor.conf", "", "kernel.sysrq = 0\n", 0, "sort after"),
    (
        settings.check_kargs,
        "usr/lib/bootc/kargs.d/10-veilor.toml",
        '"panic=30",',
        '"panic=30"',
        10,
        "can't read",
    ),
    (
        settings.check_kargs,
        "usr/lib/bootc/kargs.d/10-veilor.toml",
        "kargs = [",
        "kernel_args = [",
        4,
        "not kernel_args",
    ),
    (
        settings.check_kargs,
        "usr/lib/bootc/kargs.d/10-veilor.toml",
        '"panic=30"',
        '"panic= 30"',
        4,
        "without spaces",
    ),
    (
        settings.check_kargs,
        "usr/lib/bootc/kargs.d/10-veilor.toml",
        '"panic=30"',
        '"i915.modeset=1"',
        6,
        "nomodeset",
    ),
    (
        settings.check_kargs,
        "usr/lib/bootc/kargs.d/10-veilor.toml",
        '"module.sig_enforce=1",',
        "",
        0,
        "module.sig_enforce=1 is missing",
    ),
    (settings.check_kargs, "usr/lib/bootc/kargs.d/20-more.toml", "", 'kargs = ["panic=30"]\n', 1, "already"),
    (
        settings.check_modprobe,
        "usr/lib/modprobe.d/veilor.conf",
        "install thunderbolt",
        "instal thunderbolt",
        8,
        "ignoring bad line",
    ),
    (
        settings.check_modprobe,
        "usr/lib/modprobe.d/veilor.conf",
        "thunderbolt /usr/bin/false",
        "thunderbolt /bin/true",
        8,
        "not by '/bin/true'",
    ),
    (
        settings.check_modprobe,
        "usr/lib/modprobe.d/60-veilor.conf",
        "",
        "install x /usr/bin/false\n",
        0,
        "exceptions",
    ),
    (
        settings.check_dracut,
        "usr/lib/dracut/dracut.conf.d/60-veilor.conf",
        '" i915 ',
        '"i915 ',
        7,
        "space at both ends",
    ),
    (
        settings.check_dracut,
        "usr/lib/dracut/dracut.conf.d/60-veilor.conf",
        'i18n_install_all="yes"',
        "i18n_install_all = yes",
        11,
        "dracut takes",
    ),
    (
        settings.check_zram,
        "usr/lib/systemd/zram-generator.conf.d/10-veilor.conf",
        "min(ram",
        "mim(ram",
        0,
        "zram-size",
    ),
    (
        guards.check_firewall,
        "usr/lib/firewalld/zones/tailscale.xml",
        "<interface name",
        "<interfaze name",
        12,
        "interfaze",
    ),
    (
        guards.check_firewall,
        "usr/lib/firewalld/zones/veilor.xml",
        'service name="dhcpv6-client"',
        'service name="dhcp6"',
        0,
        "dhcp6",
    ),
    (
        guards.check_firewall,
        "usr/lib/firewalld/zones/veilor.xml",
        "-- DHCPv6",
        "-- --x DHCPv6",
        8,
        "not well-formed",
    ),
    (
        guards.check_firewall,
        "etc/firewalld/firewalld.conf",
        "DefaultZone=veilor",
        "DefaultZone=vellor",
        4,
        "'vellor' is not valid",
    ),
    (
        guards.check_usbguard,
        "usr/share/veilor/usbguard/50-veilor.conf",
        "match-all",
        "match-al",
        2,
        "can't read this rule",
    ),
    (
        guards.check_usbguard,
        "usr/share/veilor/usbguard/usbguard-daemon.conf",
        "AuthorizedDefault=",
        "AuthorisedDefault=",
        24,
        "AuthorisedDefault",
    ),
    (
        guards.check_polkit,
        "usr/share/polkit-1/rules.d/10-veilor-guard.rules",
        "var harmless",
        "var var harmless",
        None,
        "SyntaxError",
    ),
    (
        guards.check_polkit,
        "usr/share/polkit-1/rules.d/10-veilor-guard.rules",
        "polkit.addRule(",
        "polkit.addRul(",
        0,
        "TypeError",
    ),
    (
        guards.check_audit,
        "etc/audit/rules.d/30-veilor.rules",
        "-F perm=wa",
        "-F prem=wa",
        None,
        "unknown field: prem",
    ),
    (
        guards.check_audit,
        "etc/audit/rules.d/30-veilor.rules",
        "-S init_module",
        "-S init_modul",
        None,
        "can't read",
    ),
    (
        guards.check_audit,
        "etc/audit/rules.d/30-veilor.rules",
        "-F arch=b32 -F path=/etc/shadow",
        "-F arch=b32 -F path=/etc/shad",
        9,
        "arch=b32 is missing",
    ),
    (guards.check_chrony, "etc/chrony.conf", "makestep 1.0 3", "make_step 1.0 3", 16, "Invalid directive"),
    (
        guards.check_chrony,
        "etc/chrony.conf",
        "nts.netnod.se iburst nts",
        "nts.netnod.se iburst",
        5,
        "without nts",
    ),
    (
        guards.check_desktop_entries,
        "usr/share/applications/x.desktop",
        "",
        "[Desktop Entry]\nType=Application\n",
        0,
        'required key "Name"',
    ),
]


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "line", "words"),
    CASES,
    ids=[f"{n}-{one[0].__name__.removeprefix('check_')}" for n, one in enumerate(CASES)],
)
def test_it_says_what_and_where(check, name, old, new, line, words, clone, tools):
    path = clone / "overlay" / name
    text = path.read_text() if path.exists() else ""
    assert old in text, "the case has nothing to spoil any more"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new, 1) if old else text + new)
    if line is None:
        line = next(
            number
            for number, said in enumerate(path.read_text().splitlines(), 1)
            if said not in text.splitlines()
        )
    found = check(clone, tools.run)
    place = f"overlay/{name}"
    assert [
        one
        for one in found
        if words in one.text and one.path in (place, str(Path(place).parent)) and one.line == line
    ], [str(one) for one in found]


@pytest.mark.parametrize(
    ("unit", "link"),
    [
        ("system/veilor-unlocked.service", "sysinit.target.wants/veilor-unlocked.service"),
        ("user/veilor-notices.path", "graphical-session.target.wants/veilor-notices.path"),
    ],
)
def test_a_link_that_enables_nothing(unit, link, clone, tools):
    assert not units.links_that_lead_nowhere(clone)
    (clone / SYSTEMD / unit).unlink()
    said = [str(one) for one in units.check_units(clone, tools.run)]
    assert any(f"{link}:0" in one and "not in the overlay" in one for one in said)


def test_a_desktop_entry_of_the_artwork_is_looked_at(clone, tools):
    assert guards.check_desktop_entries(clone, tools.run) == []
    entry = clone / "artwork/tree/usr/share/applications/org.veilor.notify.desktop"
    entry.write_text(entry.read_text().replace("Terminal=true", "Terminal=perhaps"))
    (found,) = guards.check_desktop_entries(clone, tools.run)
    assert found.path == str(entry.relative_to(clone)) and "perhaps" in found.text


GONE = [  # check, what is removed
    ("units by systemd-analyze", "overlay/usr/lib/systemd/user"),
    ("units by systemd-analyze", "overlay/usr/lib/dracut/modules.d"),
    ("presets", "overlay/usr/lib/systemd/system-preset"),
    ("tmpfiles.d and sysusers.d by systemd", "overlay/usr/lib/tmpfiles.d"),
    ("oomd.conf.d", "overlay/usr/lib/systemd/oomd.conf.d"),
    ("sysctl.d by sysctl", "overlay/usr/lib/sysctl.d"),
    ("kargs.d", "overlay/usr/lib/bootc/kargs.d"),
    ("modprobe.d by modprobe", "overlay/usr/lib/modprobe.d"),
    ("dracut.conf.d", "overlay/usr/lib/dracut/dracut.conf.d"),
    ("firewall by firewalld", "overlay/usr/lib/firewalld/zones"),
    ("zram-generator.conf.d by zram-generator", "overlay/usr/lib/systemd/zram-generator.conf.d"),
    ("USBGuard's rules by its parser", "overlay/usr/share/veilor/usbguard"),
    ("polkit rules by duktape", "overlay/usr/share/polkit-1/rules.d"),
    ("audit rules by auditctl", "overlay/etc/audit/rules.d"),
    ("chrony.conf by chronyd", "overlay/etc/chrony.conf"),
    ("sshd_config.d by sshd", "overlay/etc/ssh/sshd_config.d"),
    ("desktop entries by desktop-file-validate", "artwork/tree/usr/share/applications"),
]


@pytest.mark.parametrize(("check", "place"), GONE, ids=[f"{n}-{one[0]}" for n, one in enumerate(GONE)])
def test_a_check_that_looks_at_nothing_does_not_pass(check, place, clone, tools):
    path = clone / place
    path.rename(clone / "removed")
    (result,) = registry.walk(clone, tools.run, [pair for pair in registry.CHECKS if pair[0] == check])
    assert any("nothing was checked" in one.text for one in result.wrong(release=False)), (
        result.findings,
        result.not_run,
    )


@pytest.fixture
def as_nobody(tools):
    """The tools tree's runner as a user without rights calls it, as on a build service; NOT RUN where that
    can't be had.
    """
    if os.geteuid():
        return tools.run
    # The tree may lie where nobody but root can look, so it is put in the place of /mnt, for that call alone.
    become = f'mount --bind "{tools.root}" /mnt && exec setpriv --reuid=1001 --regid=1001 --clear-groups "$@"'
    mine = type(tools)(Path("/mnt"))

    def run(argv, *, binds=(), timeout, **_):
        for one in [path for folder in binds for path in (folder, *folder.rglob("*"))]:
            os.chown(one, 1001, 1001, follow_symlinks=False)  # as if that user had made it
        whole = ["unshare", "--mount", "sh", "-c", become, "-", *mine.argv(argv, binds)]
        return subprocess.run(
            whole, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
        )

    probe = run(["id", "-u"], timeout=60)
    if probe.stdout != b"1001\n":
        pytest.skip(f"NOT RUN: no command can be run as another user here: {probe.stderr.decode()[-200:]}")
    return run


def test_audit_rules_are_read_without_being_root(clone, as_nobody):
    assert guards.check_audit(clone, as_nobody) == []
    rules = clone / "overlay/etc/audit/rules.d/30-veilor.rules"
    rules.write_text(rules.read_text().replace("-F perm=wa", "-F prem=wa", 1))
    found = next(one for one in guards.check_audit(clone, as_nobody) if "prem" in one.text)
    assert "unknown field" in found.text and found.path == str(rules.relative_to(clone)) and found.line


def test_the_firewall_is_read_without_being_root(clone, as_nobody):
    assert guards.check_firewall(clone, as_nobody) == []
    zone = clone / "overlay/usr/lib/firewalld/zones/tailscale.xml"
    zone.write_text(zone.read_text().replace("<interface name", "<interfaze name", 1))
    (found,) = guards.check_firewall(clone, as_nobody)
    assert "interfaze" in found.text and found.path == str(zone.relative_to(clone))


@pytest.mark.parametrize("check", [guards.check_audit, guards.check_firewall])
def test_without_user_namespaces_neither_passes(check, clone):
    def run(argv, **_):
        if argv[0] != "unshare":
            return subprocess.CompletedProcess(argv, 0, b"", b"")
        return subprocess.CompletedProcess(
            argv, 1, b"", b"unshare: unshare failed: Operation not permitted\n"
        )

    with pytest.raises(CannotRun, match="user namespace"):
        check(clone, run)


SSHD = "etc/ssh/sshd_config.d/10-veilor.conf"


@pytest.fixture
def sshd(tools, clone):
    """Runs the check of sshd's files where there is an sshd; it passes before anything is spoiled."""
    try:
        assert guards.check_sshd(clone, tools.run) == []
    except CannotRun as error:
        pytest.skip(f"NOT RUN: {error}")
    return lambda: guards.check_sshd(clone, tools.run)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("MaxAuthTries 3", "MaxAuthTrys 3", 7, "MaxAuthTrys"),
        ("MaxAuthTries 3", "MaxAuthTries three", 7, "invalid"),
        ("MaxAuthTries 3", "PasswordAuthentication yes", 7, "another line before it decides"),
    ],
)
def test_sshd_reads_its_files_by_itself(old, new, line, words, clone, sshd):
    path = clone / "overlay" / SSHD
    path.write_text(path.read_text().replace(old, new))
    (found,) = sshd()
    assert (found.path, found.line) == (f"overlay/{SSHD}", line) and words in found.text


@pytest.mark.parametrize(
    "check", [units.check_units, settings.check_sysctl, guards.check_firewall, guards.check_polkit]
)
def test_without_the_programs_nothing_passes(check, clone):
    with pytest.raises(CannotRun):
        check(clone, None)
