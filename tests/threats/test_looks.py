"""The doctor's looks one by one: what each takes for good, what not, and what it can't see."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from veilor.core import claims, policy
from veilor.core.product import load
from veilor.device.doctor import disk, trust
from veilor.device.doctor.observation import Unseen

sys.path.insert(0, str(Path(__file__).parent))
from box import BOOTED, MODEL, ROOT

CHECKS = {check.id: check for claim in MODEL.claims for check in claim.boot}


def seen(box, capsys, claim: str, check: str) -> dict:
    """What the doctor says of one CHECK of CLAIM."""
    _, said = box.doctor(capsys, "--claim", claim)
    return {one["id"]: one for one in said["claims"][0]["checks"]}[f"{claim}/{check}"]


def test_every_module_that_the_image_blocks_is_looked_for():
    blocked = {
        line.split()[1].replace("-", "_")
        for line in (ROOT / "overlay/usr/lib/modprobe.d/veilor.conf").read_text().splitlines()
        if line.startswith("install ")
    }
    named = {
        name for check in CHECKS.values() if check.kind == "modules-out" for name in check.arguments["names"]
    }
    assert named == blocked


def test_audit_rules_are_known_in_both_forms_that_auditctl_writes_and_one_that_is_gone_is_missed(box, capsys):
    rules = box.world["audit"]
    box.world["audit"] = rules.replace(
        "-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=wa -F key=", "-w /etc/shadow -p wa -k "
    )
    assert (
        "-w /etc/shadow" in box.world["audit"]
        and seen(box, capsys, "forensics.changes-are-logged", "audited")["status"] == "PASS"
    )
    box.world["audit"] = "\n".join(line for line in rules.splitlines() if "/etc/sudoers.d" not in line)
    one = seen(box, capsys, "forensics.changes-are-logged", "audited")
    left, all_ = (text.count("key=veilor-rights") for text in (box.world["audit"], rules))
    assert left < all_ and one["status"] == "FAIL" and f"{left} of {all_} for veilor-rights" in one["reason"]
    (box.folder / "bin/auditctl").write_text(
        "#!/bin/sh\necho 'You must be root to run this program.' >&2\nexit 4\n"
    )
    assert seen(box, capsys, "forensics.changes-are-logged", "audited")["status"] == "UNKNOWN"
    box.put("/usr/etc/audit/rules.d/30-veilor.rules", "# none\n")
    assert "no audit rule" in seen(box, capsys, "forensics.changes-are-logged", "audited")["reason"]


@pytest.mark.parametrize(
    ("zones", "status"),
    [
        ({}, "PASS"),
        ({"tailscale": {"interfaces": ["tailscale0"], "sources": []}}, "PASS"),
        ({"tailscale": {"interfaces": ["eth0"]}}, "FAIL"),
        ({"public": {"sources": ["192.0.2.0/24"]}}, "FAIL"),
        ("nonsense", "UNKNOWN"),
        ({"veilor": None}, "UNKNOWN"),
    ],
)
def test_an_interface_in_another_zone_is_seen_whatever_the_default_is(box, capsys, zones, status):
    box.world["bus"]["getActiveZones"] = zones
    assert seen(box, capsys, "network.silent", "zones")["status"] == status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda text: text.replace("authselectmode require", "AuthSelectMode Require"), "PASS"),
        (lambda text: text.replace("minsources 3", "# minsources 3"), "FAIL"),
        (lambda text: text + "minsources 1\n", "FAIL"),
        (lambda text: text + "confdir /etc/chrony.d\n", "UNKNOWN"),
    ],
)
def test_what_chrony_is_told_of_agreement(box, capsys, change, status):
    box.put("/etc/chrony.conf", change((box.root / "etc/chrony.conf").read_text()))
    assert seen(box, capsys, "time.authenticated", "says")["status"] == status


def hide(monkeypatch, function, place):
    """os.FUNCTION is not allowed to look into what ends with PLACE."""
    honest = getattr(os, function)

    def refuse(path):
        if str(path).endswith(place):
            raise PermissionError(13, "Permission denied")
        return honest(path)

    monkeypatch.setattr(os, function, refuse)


def test_a_rule_of_polkit_that_is_asked_before_ours_or_cannot_be_seen(box, capsys, monkeypatch):
    claim = "supply.admin-asked"
    assert seen(box, capsys, claim, "asked-first")["status"] == "PASS"
    box.put(
        "/run/polkit-1/rules.d/11-veilor-ask.rules", ""
    )  # at the same name by folder, and ours lies in the last
    one = seen(box, capsys, claim, "asked-first")
    assert one["status"] == "FAIL" and "/run/polkit-1/rules.d/11-veilor-ask.rules" in one["reason"]
    (box.root / "run/polkit-1/rules.d/11-veilor-ask.rules").unlink()
    box.put("/usr/share/polkit-1/rules.d/10-veilor-guard.rules", "")
    assert seen(box, capsys, claim, "asked-first")["status"] == "FAIL"
    box.put("/usr/share/polkit-1/rules.d/10-veilor-guard.rules", "return polkit.Result.AUTH_ADMIN;")
    hide(monkeypatch, "listdir", "/etc/polkit-1/rules.d")
    one = seen(box, capsys, claim, "asked-first")
    assert one["status"] == "UNKNOWN" and "/etc/polkit-1/rules.d" in one["reason"]


def test_a_folder_that_cannot_be_looked_into_is_no_proof_that_nothing_there_has_the_bit(box, monkeypatch):
    named = {"folders": ["/usr/bin", "/usr/nowhere"], "upper": ["/usr/lib"], "allowed": ["/usr/bin/su*"]}
    assert disk.setuid(**named).status is claims.Status.PASS
    (box.root / "usr/bin/hidden").mkdir()
    hide(monkeypatch, "scandir", "/hidden")
    with pytest.raises(Unseen, match="/usr/bin/hidden"):
        disk.setuid(**named)
    (box.root / "usr/bin/other").touch()
    (box.root / "usr/bin/other").chmod(0o2755)
    assert disk.setuid(**named).status is claims.Status.FAIL, "what was seen to be wrong is said all the same"


def test_an_image_that_nothing_here_announced_is_not_called_verified(box, capsys):
    path, digest = "/var/lib/veilor/state.json", BOOTED["image"]["imageDigest"]
    box.put(path, '{"channel": {"sequence": 5, "digest": "sha256:other"}}')
    one = seen(box, capsys, "supply.signed", "image-verified")
    assert one["status"] == "UNKNOWN" and digest in one["reason"]
    for record, text in (
        ("health.json", json.dumps({"healthy": [{"digest": digest, "by": "update"}]})),
        ("health.json", json.dumps({"armed": {"target": {"digest": digest}}})),
        ("firstboot-done", json.dumps({"digest": digest})),
    ):
        box.put(f"/var/lib/veilor/{record}", text)
        assert seen(box, capsys, "supply.signed", "image-verified")["status"] == "PASS"
        box.put(f"/var/lib/veilor/{record}", "{}")
    box.put("/var/lib/veilor/health.json", "[damaged")
    with pytest.raises(Unseen):
        trust.announced_digests()


def test_the_hashes_that_the_image_carries_are_those_of_its_keys(box, staged):
    """In the form that sha256sum checks; without them no key counts as shipped."""
    tree = staged
    lines = (tree / policy.SUMS.lstrip("/")).read_text().splitlines()
    product = load(ROOT / "product.toml")
    assert len(lines) == len(product.image_keys) + len(product.channel_keys) and all(
        "  /usr/share/pki/" in line for line in lines
    )
    for line in lines:
        total, path = line.split("  ")
        assert hashlib.sha256((tree / path.lstrip("/")).read_bytes()).hexdigest() == total
    assert trust.keys_as_shipped(product).status is claims.Status.PASS
    box.put(policy.SUMS, "")
    assert trust.keys_as_shipped(product).status is claims.Status.FAIL
