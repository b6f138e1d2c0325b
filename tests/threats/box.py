"""A machine for veilor-doctor to look at: a folder as its root, and programs on PATH that answer as told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from veilor.build import stage
from veilor.build.threats.model import load_model, render_claims
from veilor.core import claims, policy
from veilor.core.product import load
from veilor.device import main as programs

ROOT = Path(__file__).resolve().parents[2]
MODEL = load_model(ROOT)
REF = load(ROOT / "product.toml").image_ref
BOOTED = {
    "image": {
        "image": {"image": REF, "transport": "registry", "signature": "containerPolicy"},
        "imageDigest": "sha256:" + "a" * 64,
    },
    "ostree": {"checksum": "b" * 64, "deploySerial": 0},
}
STATUS = {
    "kind": "BootcHost",
    "status": {"booted": BOOTED, "staged": None, "rollback": None, "rollbackQueued": False},
}


class Box:
    """A folder as the machine's root, and programs on PATH that answer with what `world` says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.world = folder, folder / "root", {}
        for name in ("busctl", "bootc", "auditctl"):
            path = folder / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E -I {folder}/fake.py {name} "$@"\n')
            path.chmod(0o755)
        (folder / "fake.py").write_text(
            "import json, sys\nworld = json.load(open(sys.argv[0][:-7] + 'world.json'))\nname, argv = "
            "sys.argv[1], sys.argv[2:]\n"
            "if name == 'bootc': print(json.dumps(world['bootc'])); sys.exit()\n"
            "if name == 'auditctl': print(world['audit']); sys.exit()\n"
            "if 'ListUnitsByNames' in argv:\n"
            "    names = argv[argv.index('as') + 2:]\n"
            "    rows = [[n, n, *world['units'].get(n, ['not-found', 'inactive']), ''] for n in names]\n"
            "    print(json.dumps({'type': 'a(ssssssouso)', 'data': [rows]})); sys.exit()\n"
            "for key, value in world['bus'].items():\n"
            "    if key in argv: print(json.dumps({'type': 's', 'data': [value]})); sys.exit()\n"
            "print('no such name', file=sys.stderr); sys.exit(1)\n"
        )

    def put(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def save(self) -> None:
        (self.folder / "world.json").write_text(json.dumps(self.world))

    def doctor(self, capsys, *argv: str) -> tuple[int, dict]:
        self.save()
        capsys.readouterr()
        code = programs.main(["doctor", "--json", *argv])
        return code, json.loads(capsys.readouterr().out)

    def make_good(self) -> None:
        """Everything that MODEL's boot checks ask for."""
        product = load(ROOT / "product.toml")
        self.put(claims.PATH, render_claims(MODEL))
        self.put("/usr/lib/veilor/product.toml", (ROOT / "product.toml").read_text())
        self.put("/usr/lib/veilor/channel-floor.json", '{"schema": 1, "sequence": 3}')
        self.put(
            "/var/lib/veilor/state.json",
            json.dumps({"channel": {"sequence": 5, "digest": BOOTED["image"]["imageDigest"]}}),
        )
        self.put("/etc/containers/policy.json", policy.render(product))
        for number, path in enumerate(path for paths in policy.scopes(product).values() for path in paths):
            self.put(path, f"key {number}\n")
        self.put(policy.SUMS, stage.sums(self.root, product))
        for name in ("10-veilor-guard.rules", "11-veilor-ask.rules"):
            self.put(
                f"/usr/share/polkit-1/rules.d/{name}",
                (ROOT / "overlay/usr/share/polkit-1/rules.d" / name).read_text(),
            )
        self.put("/usr/share/polkit-1/rules.d/50-default.rules", "")
        self.put("/etc/polkit-1/rules.d/49-mine.rules", "")
        cmdline, self.world = (
            ["ro"],
            {"bootc": STATUS, "units": {}, "bus": {"getActiveZones": {"veilor": {"interfaces": ["eth0"]}}}},
        )
        self.world["audit"] = (ROOT / "overlay/etc/audit/rules.d/30-veilor.rules").read_text()
        self.put("/usr/etc/audit/rules.d/30-veilor.rules", self.world["audit"])
        for check in (check for claim in MODEL.claims for check in claim.boot):
            given = check.arguments
            if check.kind == "sysctl":
                self.put("/proc/sys/" + given["key"].replace(".", "/"), given["want"] + "\n")
            elif check.kind == "karg":
                cmdline.append(given["argument"])
            elif check.kind == "unit":
                self.world["units"][given["name"]] = [
                    (given.get("load") or ["loaded"])[0],
                    given.get("active", "active"),
                ]
            elif check.kind == "dbus-answer":
                self.world["bus"][given["method"]] = given["want"]
            if check.when:
                (self.root / check.when.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self.put("/sys/bus/usb/devices/usb1/authorized_default", "0\n")
        self.put("/proc/cmdline", " ".join(cmdline))
        self.put("/proc/modules", "ext4 1 1 - Live 0x0\n")
        self.put("/sys/module/module/parameters/sig_enforce", "Y\n")
        self.put("/sys/kernel/security/lockdown", "none integrity [confidentiality]\n")
        self.put("/sys/fs/selinux/enforce", "1")
        self.put("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\6\0\0\0\1")
        self.put("/proc/self/maps", "7f r-xp 0 fd:0 1 /usr/lib64/libhardened_malloc.so\n")
        self.put("/proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 100 0 100\n")
        self.put(
            "/proc/self/mountinfo",
            "1 0 252:0 / / ro - overlay overlay ro\n2 1 252:0 / /sysroot rw - ext4 /dev/mapper/luks rw\n"
            "3 1 252:0 / /var rw - ext4 /dev/mapper/luks rw\n",
        )
        self.put("/sys/dev/block/252:0/dm/uuid", "CRYPT-LUKS2-0000-luks\n")
        self.put(
            "/proc/net/tcp", "head\n 0: 0100007F:0277 00000000:0000 0A\n 1: 00000000:0016 00000000:0000 01\n"
        )
        self.put("/proc/net/udp", "head\n 0: 00000000:0044 00000000:0000 07\n")
        self.put("/etc/chrony.conf", (ROOT / "overlay/etc/chrony.conf").read_text())
        self.put(
            "/etc/ssh/sshd_config.d/10-veilor.conf",
            (ROOT / "overlay/etc/ssh/sshd_config.d/10-veilor.conf").read_text(),
        )
        self.put("/etc/ssh/sshd_config.d/50-redhat.conf", "PasswordAuthentication yes\nX11Forwarding yes\n")
        self.put("/usr/bin/sudo", "")
        (self.root / "usr/bin/sudo").chmod(0o4111)
        shutil.copytree(self.root / "etc", self.root / "usr/etc", symlinks=True, dirs_exist_ok=True)
        for check in (check for claim in MODEL.claims for check in claim.boot if check.kind == "as-shipped"):
            for name in check.arguments["names"]:
                for folder in ("etc", "usr/etc") if (ROOT / "overlay/etc" / name).is_file() else ():
                    self.put(f"/{folder}/{name}", (ROOT / "overlay/etc" / name).read_text())
