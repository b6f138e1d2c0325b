"""veilor-doctor: every claim holds on a machine made so, and each thing taken away is noticed by the check
that names it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from veilor.build.threats.model import SETTLED
from veilor.core import claims
from veilor.device import main as programs
from veilor.device.doctor import disk, program

sys.path.insert(0, str(Path(__file__).parent))
from box import BOOTED, MODEL, ROOT, STATUS, Box


def test_on_a_machine_that_keeps_its_claims_everything_passes(box, capsys):
    code, said = box.doctor(capsys)
    assert [
        (one["id"], check) for one in said["claims"] for check in one["checks"] if check["status"] != "PASS"
    ] == []
    assert code == 0 and said["counts"]["FAIL"] == said["counts"]["UNKNOWN"] == 0
    assert said["not_visible_here"] and {one["id"] for one in said["claims"]} == {
        one.id for one in MODEL.claims if one.boot
    }
    jsonschema.validate(
        said, json.loads((ROOT / "overlay/usr/share/veilor/schema/doctor.schema.json").read_text())
    )


def spoil(box: Box, check: claims.Check, monkeypatch) -> None:
    """Take away what CHECK looks for."""
    given, put = check.arguments, box.put
    if check.kind == "sysctl":
        put(
            "/proc/sys/" + given["key"].replace(".", "/"),
            "core" if given["want"].startswith("|") else str(int(given["want"]) - 1),
        )
    elif check.kind == "karg":
        put(
            "/proc/cmdline",
            (box.root / "proc/cmdline").read_text() + f" {given['argument'].split('=')[0]}=weaker",
        )
    elif check.kind == "unit":
        box.world["units"][given["name"]] = ["not-found" if given.get("load") else "loaded", "failed"]
    elif check.kind == "dbus-answer":
        box.world["bus"][given["method"]] = "trusted"
    elif check.kind == "zones":
        box.world["bus"]["getActiveZones"]["trusted"] = {"interfaces": ["eth1"]}
    elif check.kind == "audited":
        box.world["audit"] = "No rules"
    elif check.kind == "read-only":
        monkeypatch.setattr(os, "statvfs", lambda path: type("Answer", (), {"f_flag": 0}))
    elif check.kind == "label":
        monkeypatch.setattr(os, "getxattr", lambda path, name: b"system_u:object_r:bin_t:s0\0")
    elif check.kind == "image-verified":
        box.world["bootc"] = {
            "kind": "BootcHost",
            "status": {
                **STATUS["status"],
                "booted": {
                    **BOOTED,
                    "image": {
                        **BOOTED["image"],
                        "image": {"image": "/run/install/repo/container", "transport": "oci"},
                    },
                },
            },
        }
    elif check.kind == "as-shipped":
        # a zone may be opened by a person, which is named and fails nothing
        put(f"/etc/{next(one for one in given['names'] if 'zones/' not in one)}", "another\n")
    elif check.kind == "setuid":
        (box.root / "usr/bin/other").touch()
        (box.root / "usr/bin/other").chmod(0o4755)
    else:
        put(
            *{
                "no-karg": ("/proc/cmdline", "ro rd.luks.key=/key"),
                "modules-signed": ("/sys/module/module/parameters/sig_enforce", "N"),
                "lockdown": ("/sys/kernel/security/lockdown", "none [integrity] confidentiality"),
                "selinux": ("/sys/fs/selinux/enforce", "0"),
                "secure-boot": (
                    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
                    "\6\0\0\0\0",
                ),
                "modules-out": ("/proc/modules", f"{given.get('names', ['x'])[0]} 1 0 - Live 0x0\n"),
                "mapped": ("/proc/self/maps", ""),
                "encrypted": ("/sys/dev/block/252:0/dm/uuid", "LVM-0000"),
                "swap-safe": ("/proc/swaps", "head\n/var/swap file 1 0 1\n"),
                "listening": ("/proc/net/tcp", "head\n 0: 00000000:0016 00000000:0000 0A\n"),
                "every-source": ("/etc/chrony.conf", "server a nts\nserver b\n"),
                "policy-intact": ("/etc/containers/policy.json", "{}"),
                "keys-as-shipped": (
                    "/usr/share/pki/containers/veilor-image-a.pub",
                    "another, and like no other",
                ),
                "usb-waits": ("/sys/bus/usb/devices/usb2/authorized_default", "1\n"),
                "asked-first": (
                    "/etc/polkit-1/rules.d/10-a.rules",
                    "polkit.addRule(function () { return polkit.Result.YES; });\n",
                ),
                "says": ("/etc/chrony.conf", "authselectmode prefer\nminsources 3\n"),
                "first-said": ("/etc/ssh/sshd_config.d/01-other.conf", "PasswordAuthentication yes\n"),
                "statement-remembered": ("/var/lib/veilor/state.json", '{"channel": {"sequence": 1}}'),
            }[check.kind]
        )
    if check.kind == "swap-safe":
        put("/sys/dev/block/252:0/dm/uuid", "LVM-0000")


CHECKS = {check.id: (claim, check) for claim in MODEL.claims for check in claim.boot}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_whose_control_is_taken_away_fails_and_says_what_mends_it(name, box, capsys, monkeypatch):
    claim, check = CHECKS[name]
    spoil(box, check, monkeypatch)
    code, said = box.doctor(capsys, "--claim", claim.id)
    seen = {one["id"]: one for one in said["claims"][0]["checks"]}[name]
    if claim.state == "opt-in":
        assert (seen["status"], code) == ("NOT_APPLICABLE", 0) and seen["reason"].startswith("not chosen: ")
    else:
        assert (seen["status"], seen["mend"], said["claims"][0]["status"], code) == (
            "FAIL",
            check.mend,
            "FAIL",
            1,
        )


def test_a_file_of_the_overlay_that_a_claim_rests_on_is_held_against_the_images():
    """Whether it lies in /etc, or a file there would hide it."""
    checks = {
        name: check.arguments["names"] for name, (_, check) in CHECKS.items() if check.kind == "as-shipped"
    }
    named = {one for names in checks.values() for one in names}
    assert {"chrony.conf", "firewalld/firewalld.conf", "firewalld/zones/veilor.xml"} <= named
    assert {"audit/rules.d/30-veilor.rules", "ssh/sshd_config.d/10-veilor.conf"} <= named
    for claim in MODEL.claims:
        rests = [one for one in claim.controls if one.startswith("overlay/etc/")]  # never a zone
        if claim.state == "enforced" and rests and {one.split("#")[0][12:] for one in rests} - SETTLED:
            assert f"{claim.id}/as-shipped" in checks


def test_what_a_person_opened_in_the_firewall_is_named_and_fails_nothing(box, capsys):
    box.put("/etc/firewalld/zones/veilor.xml", "<zone><service name='kdeconnect'/></zone>")
    _, said = box.doctor(capsys, "--claim", "network.silent")
    seen = {one["id"]: one for one in said["claims"][0]["checks"]}["network.silent/as-shipped"]
    assert seen["status"] == "PASS" and "opened: /etc/firewalld/zones/veilor.xml" in seen["reason"]
    box.put("/etc/firewalld/firewalld.conf", "DefaultZone=public")
    _, said = box.doctor(capsys, "--claim", "network.silent")
    seen = {one["id"]: one for one in said["claims"][0]["checks"]}["network.silent/as-shipped"]
    assert seen["status"] == "FAIL" and "zones" not in seen["reason"]


def test_without_the_images_own_it_is_unknown_and_never_passes(box, capsys):
    shutil.rmtree(box.root / "usr/etc")
    _, said = box.doctor(capsys, "--claim", "time.authenticated")
    seen = {one["id"]: one for one in said["claims"][0]["checks"]}["time.authenticated/as-shipped"]
    assert seen["status"] == "UNKNOWN" and "no /usr/etc" in seen["reason"]


def test_every_kind_of_look_is_used_by_a_claim():
    used = {check.kind for _, check in CHECKS.values()}
    assert used <= program.KINDS
    assert program.KINDS - used == set(), "a look that no claim uses is code without a reason"


def test_without_root_what_only_root_sees_is_unknown_and_never_passes(box, capsys, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, said = box.doctor(capsys, "--claim", "supply.installed")
    assert code == 7 and said["claims"][0]["status"] == "UNKNOWN" and "sudo" in said["next"]
    assert "root" in said["claims"][0]["checks"][0]["reason"]


def test_a_silent_bus_is_unknown(box, capsys):
    (box.folder / "bin/busctl").write_text("#!/bin/sh\necho 'Failed to connect' >&2\nexit 1\n")
    code, said = box.doctor(capsys, "--claim", "network.silent")
    assert code == 7 and {
        one["status"] for one in said["claims"][0]["checks"] if not one["id"].endswith("/as-shipped")
    } == {"UNKNOWN"}


def test_what_the_machine_has_not_is_not_applicable(box, capsys):
    (box.root / "sys/class/net/tailscale0").rmdir()
    _, said = box.doctor(capsys, "--claim", "network.overlay")
    assert (
        said["claims"][0]["checks"][0]["status"] == "NOT_APPLICABLE"
        and "tailscale0" in said["claims"][0]["checks"][0]["reason"]
    )


def test_a_fault_of_its_own_leaves_the_other_claims(box, capsys, monkeypatch):
    monkeypatch.setitem(program.PLAIN, "encrypted", lambda **_: 1 / 0)
    code, said = box.doctor(capsys)
    status = {one["id"]: one["status"] for one in said["claims"]}
    assert code == 7 and status["laptop.encrypted"] == "UNKNOWN" and status["local.ptrace"] == "PASS"


def test_a_file_that_must_not_be_read_is_unknown(box, monkeypatch):
    def refuse(self):
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    finding = program.observe(
        claims.Check("x/y", "sysctl", {"key": "kernel.kptr_restrict", "want": "2"}, ""), None
    )
    assert finding.status is claims.Status.UNKNOWN and "only root" in finding.reason


def test_a_strange_claim_is_refused_before_anything_is_looked_at(box, capsys):
    code, said = box.doctor(capsys, "--claim", "laptop.nonsense")
    assert code == 2 and "laptop.nonsense" in said["what"] and "claims" not in said


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "claims": [{"id": 1}]}'])
def test_damaged_claims_are_said_in_a_line(box, capsys, text):
    box.put(claims.PATH, text)
    code, said = box.doctor(capsys)
    assert code == 1 and claims.PATH in said["what"]


def test_people_get_a_line_for_each_claim_the_worst_first(box, capsys):
    box.put("/sys/fs/selinux/enforce", "0")
    box.save()
    assert programs.main(["doctor"]) == 1
    out = capsys.readouterr()
    assert (
        out.out.startswith("FAIL")
        and "local.userns" in out.out.splitlines()[0]
        and "to fix:" in out.out.splitlines()[1]
    )
    assert out.err.count("\n") == 1
    assert programs.main(["doctor", "--list"]) == 0 and "laptop.asleep" in capsys.readouterr().out


def test_encryption_beneath_other_layers_counts_and_one_bare_disk_among_them_does_not(box):
    base = "/sys/dev/block"
    box.put(f"{base}/252:0/dm/uuid", "LVM-0000")
    for name in ("a", "b"):
        box.put(f"{base}/252:0/slaves/{name}/dev", "253:1" if name == "a" else "253:2")
        box.put(f"{base}/253:{1 if name == 'a' else 2}/dm/uuid", "CRYPT-LUKS2-1")
    assert disk.in_luks("252:0")
    box.put(f"{base}/253:2/dm/uuid", "LVM-1")
    assert not disk.in_luks("252:0")


def test_the_worst_status_stands_for_the_whole():
    status = claims.Status
    assert claims.worst([]) is None
    assert claims.worst([status.PASS, status.NOT_APPLICABLE]) is status.PASS
    assert claims.worst([status.PASS, status.UNKNOWN]) is status.UNKNOWN
    assert claims.worst(list(status)) is status.FAIL


def test_the_staged_doctor_is_quick_and_small_and_never_crashes_on_a_strange_machine(tmp_path, staged):
    """On whatever machine the tests run: a second of processor time and 40 MiB at most."""
    tree = shutil.copytree(staged, tmp_path / "tree", symlinks=True)
    script = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, done.stdout, done.stderr, used.ru_utime + used.ru_stime, "
        "used.ru_maxrss / 1024]))"
    )
    start = (
        "import pathlib, sys\nsys.path.insert(0, sys.argv[1])\nfrom veilor.device.doctor import program\n"
        "program.load = lambda: "
        "program.claims.parse(pathlib.Path(sys.argv[2]).read_text())\nsys.exit(program.main(['--json']))"
    )
    argv = [
        sys.executable,
        "-I",
        "-c",
        script,
        sys.executable,
        "-I",
        "-c",
        start,
        str(tree / "usr/lib/veilor/app"),
        str(tree / claims.PATH.lstrip("/")),
    ]
    code, out, err, cpu, peak = json.loads(
        subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    )
    assert code in (0, 1, 7) and "fault in veilor-doctor" not in out and not err
    assert cpu < 1 and peak < 40, (cpu, peak)
