"""Somebody tries: what the threat model claims of a running machine is attacked, and the control taken away to see it fail.

Titles of checks begin with the claim's id, so that `veilor threats --record` knows whose they are. What the base lacks
(SELinux, USBGuard, a firewall, hardened_malloc) is NOT_RUN there, with the reason.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from veilor.lab import disk
from veilor.lab.life import PASSPHRASE, Life
from veilor.lab.machine import REGISTRY_ADDRESS, Machine
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks

AFTER = "life:second-boot"
STORY = "A machine that follows the signed image was looked at from outside, scanned, and attacked by programs without rights"
CLAIMS = "/usr/lib/veilor/claims.json"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
TRIES = (Path(__file__).parent / "guest/tries.py").read_text()
NEAR, FAR = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 (RFC 5737): never routed
PEER = "veilor-lab-peer"
MEASURED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"out": done.stdout, "cpu": used.ru_utime + used.ru_stime, "peak_kib": used.ru_maxrss}))
"""


def has(life: Life, path: str) -> bool:
    """Whether the machine has PATH."""
    return life.machine.run(["test", "-e", path], check=False).code == 0


def attempt(life: Life, name: str, *arguments: str, nobody: bool = True) -> str:
    """What came of the try NAME of guest/tries.py on the machine: "ok", or the name of the error that stopped it."""
    argv = [*(NOBODY if nobody else []), "python3", "-I", "-c", TRIES, name, *arguments]
    return life.machine.run(argv, check=False, timeout=900).out.strip()


def add_peer(machine: Machine, interface: str) -> None:
    """Put a neighbour on a cable whose near end is INTERFACE, in a network namespace of its own."""
    for line in (
        f"netns add {PEER}",
        f"link add {interface} type veth peer name far0 netns {PEER}",
        f"address add {NEAR}/24 dev {interface}",
        f"link set {interface} up",
        f"-n {PEER} address add {FAR}/24 dev far0",
        f"-n {PEER} link set far0 up",
    ):
        machine.run(["ip", *line.split()])
    machine.wait_until(["ip", "-n", PEER, "-j", "link", "show", "far0"], lambda r: '"UP"' in r.out, 30, "the neighbour's cable")


def remove_peer(machine: Machine, interface: str) -> None:
    """Take the neighbour away."""
    machine.run(["ip", "link", "delete", interface], check=False)
    machine.run(["ip", "netns", "delete", PEER], check=False)


def weaken(life: Life, checks: Checks, claim: str, what: str, name: str, settings: dict[str, str], nobody: bool = True) -> None:
    """The try NAME is refused; with SETTINGS (sysctl, weak values) it is not, so that the refusal is the control's doing."""
    checks.true(f"{claim}: {what}", (seen := attempt(life, name, nobody=nobody)) not in ("ok", ""), seen, go_on=True)
    before = {key: life.machine.run(["sysctl", "-n", key]).out.strip() for key in settings}
    try:
        for key, weak in settings.items():
            life.machine.run(["sysctl", "-w", f"{key}={weak}"])
        checks.equal(f"{claim}: with the control taken away it succeeds ({what})", attempt(life, name, nobody=nobody), "ok", go_on=True)
    finally:
        for key, value in before.items():
            life.machine.run(["sysctl", "-w", f"{key}={value}"])


@phase("disk-off", "The disk is taken out and read", starts_from="second-boot", independent=True)
def disk_off(life: Life, checks: Checks) -> None:
    inside, outside, held = (secrets.token_hex(24) for _ in range(3))
    machine = life.boot()
    life.write_file("/var/home/diary.txt", inside)
    machine.run(["mount", "-o", "remount,rw", "/boot"])  # the health check leaves it read-only
    life.write_file("/boot/veilor-lab.txt", outside)
    life.write_file("/run/veilor-lab/held", held)  # in memory alone: swap is the way by which it could reach a disk
    device = machine.run(["blkid", "-t", "TYPE=crypto_LUKS", "-o", "device"]).out.split()[0]
    dumped = machine.run(
        [
            "sh",
            "-c",
            'cryptsetup luksDump --dump-volume-key --volume-key-file /run/veilor-lab/key --batch-mode --key-file - "$1"'
            " && base64 -w0 /run/veilor-lab/key && rm /run/veilor-lab/key",
            "sh",
            device,
        ],
        stdin=PASSPHRASE,
        check=False,
        timeout=300,
    )
    searched = PASSPHRASE + b"\n" + outside.encode() + b"\n"
    found = machine.run(["grep", "-rlaF", "-f", "-", "/var/log", "/var/lib", "/etc", "/boot"], check=False, stdin=searched, timeout=300)
    checks.equal(
        "laptop.no-second-copy: the passphrase is in no log, setting or state, where a planted word is found",
        found.out.split(),
        ["/boot/veilor-lab.txt"],
        go_on=True,
    )
    life.shut_down()

    raw = life.raw_disk()
    whole = [(0, raw.stat().st_size)]
    try:
        checks.true("laptop.encrypted: the search finds what lies in the clear (/boot)", disk.find(raw, [outside.encode()], whole))
        checks.equal("laptop.encrypted: a file of the person's can't be found", disk.find(raw, [inside.encode()], whole), [], go_on=True)
        checks.equal("laptop.no-swap-on-disk: what lay in memory isn't there", disk.find(raw, [held.encode()], whole), [], go_on=True)
        checks.equal("laptop.no-second-copy: nor the passphrase", disk.find(raw, [PASSPHRASE], whole), [], go_on=True)
        root = max(disk.read_gpt(raw), key=lambda part: part.size)
        header = disk.luks_header(raw, root)
        checks.equal("laptop.encrypted: one way in, by argon2id", (header["slots"], header["kdf"]), (1, "argon2id"), go_on=True)
        if dumped.code == 0 and len(key := base64.b64decode(dumped.out)) >= 32:
            checks.equal(
                "laptop.no-second-copy: nor the key that the passphrase opens", disk.find(raw, [key[:32], key[-32:]], whole), [], go_on=True
            )
        else:
            checks.not_run("laptop.no-second-copy: nor the key that the passphrase opens", f"cryptsetup gave none out: {dumped.err[-200:]}")
    finally:
        raw.unlink()


def processes(life: Life, checks: Checks) -> None:
    """A program without rights looks for a way into the kernel and into other programs."""
    weaken(
        life,
        checks,
        "local.kernel-addresses",
        "not even root is shown the kernel's addresses",
        "kallsyms",
        {"kernel.kptr_restrict": "1"},
        nobody=False,
    )
    weaken(
        life,
        checks,
        "local.kernel-addresses",
        "the kernel's log is kept from programs without rights",
        "dmesg",
        {"kernel.dmesg_restrict": "0"},
    )
    weaken(life, checks, "local.kernel-addresses", "the kernel can't be profiled", "perf", {"kernel.perf_event_paranoid": "1"})
    weaken(life, checks, "local.less-kernel", "no io_uring", "io_uring", {"kernel.io_uring_disabled": "0"})
    weaken(life, checks, "local.less-kernel", "no page faults of the kernel's handled", "userfaultfd", {"vm.unprivileged_userfaultfd": "1"})
    checks.true("local.less-kernel: no BPF", (seen := attempt(life, "bpf")) not in ("ok", ""), seen, go_on=True)
    checks.equal("local.less-kernel: root may, so the refusal is for want of rights", attempt(life, "bpf", nobody=False), "ok", go_on=True)
    weaken(life, checks, "local.ptrace", "another program of the same account can't be read", "ptrace", {"kernel.yama.ptrace_scope": "0"})
    weaken(
        life,
        checks,
        "forensics.no-crash-dumps",
        "a program that crashes leaves no memory behind",
        "core",
        {"kernel.core_pattern": "/tmp/core.%p"},
    )


@phase("modules", "Root tries to load a module that nobody signed, and another kernel", starts_from="second-boot", independent=True)
def modules(life: Life, checks: Checks) -> None:
    life.boot()
    said = attempt(life, "module", nobody=False)
    try:
        seen = json.loads(said)
    except ValueError:
        seen = {"reason": said[-200:] or "the try said nothing"}
    if "signed" not in seen:
        checks.not_run("local.modules: a module whose signature was cut off", f"no signed module to try with: {seen.get('reason')}")
    else:
        checks.equal("local.modules: with its signature a module is loaded, after the start as well", seen["signed"], "ok", go_on=True)
        checks.true("local.modules: without it, it is not", seen["unsigned"] not in ("ok", ""), seen["unsigned"], go_on=True)
        checks.true("local.modules: nor with one byte changed", seen["changed"] not in ("ok", ""), seen["changed"], go_on=True)
    for plug in ("thunderbolt", "firewire-core"):
        blocked = life.machine.run(["modprobe", plug], check=False)
        checks.true(f"usb.dma: {plug} can't be loaded by its name", blocked.code != 0, blocked.err, go_on=True)
    blocked = life.machine.run(["modprobe", "sctp"], check=False)
    checks.true("network.old-protocols: a blocked protocol can't be loaded by its name", blocked.code != 0, blocked.err, go_on=True)
    freed = life.machine.run(["modprobe", "--ignore-install", "sctp"], check=False)
    checks.true(
        "network.old-protocols: past the block it can, so it is the block",
        freed.code == 0 or "not found" in freed.err,
        freed.err,
        go_on=True,
    )
    life.machine.run(["modprobe", "-r", "--ignore-remove", "sctp"], check=False)
    kexec = attempt(life, "kexec", nobody=False)
    checks.true("local.modules: no other kernel is started from this one", kexec not in ("ok", ""), kexec, go_on=True)
    memory = attempt(life, "mem", nobody=False)
    checks.true("local.modules: root can't write the kernel's memory", memory not in ("ok", ""), memory, go_on=True)
    life.shut_down()


def rights(life: Life, checks: Checks) -> None:
    """More rights than given: the system's files, set-user-ID programs, namespaces, links in shared folders."""
    machine = life.machine
    checks.equal(
        "local.system-fixed: root can't change a program", attempt(life, "write", "/usr/bin/veilor-lab", nobody=False), "EROFS", go_on=True
    )
    checks.equal(
        "local.system-fixed: elsewhere it can write", attempt(life, "write", "/var/lib/veilor-lab", nobody=False), "ok", go_on=True
    )
    weaken(
        life,
        checks,
        "local.links",
        "a link of another user's in a shared folder is not followed",
        "symlink",
        {"fs.protected_symlinks": "0"},
        nobody=False,
    )
    machine.run(["touch", "/tmp/veilor-lab-roots"])
    weaken(life, checks, "local.links", "another user's file is not linked to", "hardlink", {"fs.protected_hardlinks": "0"})
    if not has(life, "/usr/libexec/secureblue"):
        checks.not_run("local.setuid: no program with root's rights but sudo", "this base does not take them away as secureblue does")
    else:
        listed = machine.run(["find", "/usr", "-xdev", "-type", "f", "-perm", "/6000"], timeout=300).out.split()
        extra = [path for path in listed if path != "/usr/bin/sudo" and not path.startswith("/usr/lib64/lib")]
        checks.equal("local.setuid: no program with root's rights but sudo", extra, [], go_on=True)
    made = attempt(life, "userns")
    if not has(life, "/sys/fs/selinux/enforce"):
        checks.not_run("local.userns: no namespace of one's own", f"SELinux refuses it, and this base has none (here: {made})")
    else:
        checks.true("local.userns: no namespace of one's own", made not in ("ok", ""), made, go_on=True)


def memory(life: Life, checks: Checks) -> None:
    """A program writes to memory that it has given back."""
    plain = attempt(life, "write-after-free")
    if not has(life, "/usr/lib64/libhardened_malloc.so"):
        checks.not_run(
            "browser.memory: it is ended before the write can be used", f"this base has no hardened_malloc (here: {plain or 'ended'})"
        )
        checks.equal("browser.memory: with the usual allocator it goes on unnoticed, so the try can fail", plain, "ok", go_on=True)
    else:
        checks.true("browser.memory: it is ended before the write can be used", plain != "ok", plain or "ended")


@phase("programs", "A program runs on the machine and wants more than it was given", starts_from="second-boot", independent=True)
def programs(life: Life, checks: Checks) -> None:
    life.boot()
    processes(life, checks)
    rights(life, checks)
    memory(life, checks)
    updaters(life, checks)
    life.shut_down()


@phase("exposed", "A neighbour on the same network scans every port", starts_from="second-boot", independent=True)
def exposed(life: Life, checks: Checks) -> None:
    life.boot()
    firewall = has(life, "/usr/sbin/firewalld")
    for interface, claim in (("wlan-lab0", "network.silent"), ("tailscale0", "network.overlay")):
        add_peer(life.machine, interface)
        try:
            scan = json.loads(attempt(life, "scan", NEAR, nobody=False) or "{}")
            checks.equal(f"network.nothing-listens: nothing answers on {interface}", scan.get("open"), [], go_on=True)
            checks.true(
                f"ssh.no-server: nobody can try passwords over {interface}", 22 not in scan.get("open", [22]), scan.get("open"), go_on=True
            )
            listening = json.loads(attempt(life, "scan", NEAR, "8022", nobody=False) or "{}").get("open")
            if firewall:
                checks.equal(f"{claim}: a program that listens is not reached from {interface}", listening, [], go_on=True)
                life.machine.run(["firewall-cmd", "--zone=trusted", f"--change-interface={interface}"])
                seen = json.loads(attempt(life, "scan", NEAR, "8022", nobody=False) or "{}").get("open")
                checks.equal(f"{claim}: past the firewall it is", seen, [8022], go_on=True)
            else:
                checks.not_run(f"{claim}: a program that listens is not reached from {interface}", "this base has no firewalld")
                checks.equal("network.nothing-listens: a program that listens is seen by the scan", listening, [8022], go_on=True)
        finally:
            remove_peer(life.machine, interface)
    life.shut_down()


def updaters(life: Life, checks: Checks) -> None:
    """Another updater is started."""
    for unit in ("bootc-fetch-apply-updates.timer", "rpm-ostreed-automatic.timer", "upgrade-on-boot.service", "greenboot-rollback.service"):
        loaded = life.machine.run(["systemctl", "show", "-P", "LoadState", unit]).out.strip()
        started = life.machine.run(["systemctl", "start", unit], check=False)
        checks.true(
            f"supply.one-updater: {unit} can't be started", loaded == "masked" and started.code != 0, (loaded, started.err), go_on=True
        )
    started = life.machine.run(["systemctl", "start", "veilor-update-stage.timer"], check=False)
    checks.equal("supply.one-updater: ours can, so it is not systemd that refuses", started.code, 0, go_on=True)
    checks.equal("supply.mended-soon: the look for a release is started", started.code, 0, go_on=True)
    checks.not_run("supply.admin-asked: a program can't move the machine to another image", "this base has no polkit agent to answer for")
    if not has(life, "/usr/sbin/auditctl"):
        checks.not_run("forensics.changes-are-logged: a change to the accounts is written down", "this base has no audit service")
    else:
        life.machine.run(["touch", "/etc/shadow"])
        found = life.machine.run(["ausearch", "-k", "veilor-accounts", "-f", "/etc/shadow"], check=False)
        checks.equal("forensics.changes-are-logged: a change to the accounts is written down", found.code, 0, go_on=True)


@phase("path", "The network forges the time and the registry's name", starts_from="second-boot", independent=True)
def path(life: Life, checks: Checks) -> None:
    release = life.make_image("44.2")
    machine = life.boot()
    old = life.notes["releases"]["44.1"]
    life.publish(release)
    honest = life.read_file("/etc/hosts")
    life.write_file("/etc/hosts", honest.replace(REGISTRY_ADDRESS, "127.0.0.1"))
    done = life.veilor("veilor-update", timeout=900)
    said = f"{done.code}: {done.text.strip()[-300:]}"
    checks.true("time.update-path: with a forged name nothing is staged", life.status()["staged"] is None, said, go_on=True)
    checks.true("time.update-path: and it is said in a sentence", done.code != 0 and "Traceback" not in done.text, said, go_on=True)
    life.write_file("/etc/hosts", honest)

    done = life.veilor("veilor-update", timeout=900)
    staged = life.status()["staged"]
    got = staged and staged["image"]["imageDigest"]
    checks.equal("time.update-path: with honest names the release is taken", got, release.digest)
    life.announce("44.1", old, sequence=1)  # rightly signed, and older than what this machine has seen
    now = int(machine.run(["date", "+%s"]).out)
    for what, shift in (("ten years back", -10 * 365 * 86400), ("three weeks ahead", 21 * 86400)):
        machine.run(["date", "-s", f"@{now + shift}"])
        done = life.veilor("veilor-update", timeout=900)
        said = f"{done.code}: {done.text.strip()[-300:]}"
        staged = life.status()["staged"]
        got = staged and staged["image"]["imageDigest"]
        checks.true(f"time.update-path: {what}, an older statement is not taken", got == release.digest, said, go_on=True)
        checks.true(f"time.update-path: {what}, it is no crash", "Traceback" not in done.text, said, go_on=True)
    machine.run(["date", "-s", f"@{now + 60}"])
    if not has(life, "/usr/sbin/chronyd"):
        checks.not_run("time.authenticated: a server without NTS can't set the clock", "this base has no chrony")
    else:
        machine.run(["chronyc", "add", "server", "192.0.2.9", "iburst"], check=False)
        sources = machine.run(["chronyc", "-c", "-n", "authdata"], check=False).out.splitlines()
        bare = [line.split(",") for line in sources if line.startswith("192.0.2.9,")]
        selected = machine.run(["chronyc", "-c", "-n", "selectdata"], check=False).out.splitlines()
        chosen = [line for line in selected if "192.0.2.9" in line and line.split(",")[0] in ("*", "+")]
        checks.true("time.authenticated: a server without NTS can't set the clock", bare and not chosen, selected)
    life.shut_down()


@phase("usb", "Devices are plugged in that were not there before", starts_from="second-boot", independent=True)
def usb(life: Life, checks: Checks) -> None:
    title = "usb.later-devices: a second keyboard, a stick and a network card do nothing"
    hardware = life.hardware()
    hardware.usb = True
    machine = life.boot(hardware)
    if not has(life, "/usr/bin/usbguard"):
        checks.not_run(title, "this base has no USBGuard")
    elif machine.run(["systemctl", "is-active", "usbguard.service"], check=False).out.strip() != "active":
        checks.not_run(title, "USBGuard waits for its enrolment, and nobody enrolled here")
    else:
        for driver in ("usb-kbd", "usb-net"):
            machine.qmp.cmd("device_add", driver=driver, bus="xhci.0", id=f"lab-{driver}")
        machine.wait_until(["usbguard", "list-devices"], lambda r: r.out.count("QEMU") >= 2, 30, "the devices to be seen")
        listed = machine.run(["usbguard", "list-devices"]).out
        checks.true(title, all(" block " in f" {line} " for line in listed.splitlines() if "QEMU" in line), listed)
        number = next(line.split(":")[0] for line in listed.splitlines() if "QEMU" in line)
        machine.run(["usbguard", "allow-device", number])
        listed = machine.run(["usbguard", "list-devices", "--allowed"]).out
        checks.true("usb.later-devices: allowed by root it works", "QEMU" in listed, listed)
    life.shut_down()


@phase("doctor", "The machine's own doctor agrees, and notices what is taken away", starts_from="second-boot", independent=True)
def doctor(life: Life, checks: Checks) -> None:
    machine = life.boot()
    said = json.loads(machine.run(["python3", "-I", "-c", MEASURED, "veilor-doctor", "--json"], check=False, timeout=300).out)
    cpu, peak, report = said["cpu"], said["peak_kib"] / 1024, json.loads(said["out"])
    life.notes["doctor"] = {"cpu": cpu, "peak_mib": peak}
    checks.true("doctor: less than 40 MiB of memory", peak < 40, f"{peak:.1f} MiB, {cpu:.2f} s of processor time")
    shipped = {claim["id"]: {check["id"]: check for check in claim["checks"]} for claim in json.loads(life.read_file(CLAIMS))["claims"]}
    for seen in report["claims"]:
        for one in seen["checks"]:
            check = shipped[seen["id"]][one["id"]]
            title, missing = f"{seen['id']}: the doctor sees {one['id']}", check["capability"]
            if missing and not has(life, missing):
                checks.not_run(title, f"this base has no {missing}; the doctor says {one['status']} ({one['reason']})")
            else:
                good = ("PASS", "NOT_APPLICABLE") if check["when"] or seen["state"] == "opt-in" else ("PASS",)
                checks.true(title, one["status"] in good, f"{one['status']}: {one['reason']}", go_on=True)
    tried = 0
    for claim, all_ in shipped.items():
        for check in all_.values():
            key, want = check["arguments"].get("key"), check["arguments"].get("want", "")
            if check["kind"] != "sysctl" or not want.isdigit() or want == "0":
                continue
            before = machine.run(["sysctl", "-n", key], check=False).out.strip()
            if before != want or machine.run(["sysctl", "-w", f"{key}={int(want) - 1}"], check=False).code:
                continue  # some can't be lowered before the next start: that is their point
            again = json.loads(machine.run(["veilor-doctor", "--json", "--claim", claim], check=False).out)
            status = {one["id"]: one["status"] for one in again["claims"][0]["checks"]}[check["id"]]
            machine.run(["sysctl", "-w", f"{key}={want}"])
            tried += 1
            checks.equal(f"{claim}: the doctor notices {key} lowered", status, "FAIL", go_on=True)
    checks.true("doctor: settings were lowered to see it", tried > 5, f"{tried} settings")
    life.shut_down()
