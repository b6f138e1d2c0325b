"""Somebody attacks what the threat model claims of a running machine, with each control and without it.

Titles of checks begin with a claim's id, so that `veilor threats --record` knows whose they are: "ID: …" for
what has to hold, "ID negative control: …" for what has to be seen once the control is removed. What the base
lacks (SELinux, hardened_malloc, stripped set-user-ID bits, Brave) is NOT_RUN there, with the reason.
"""

from __future__ import annotations

import json
import secrets
import shlex
import tarfile
from typing import Any

from veilor.lab.evidence import NOBODY
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import World

AFTER = "life:second-boot"
STORY = (
    "A machine that follows the signed image was attacked by programs on it, and examined by its own doctor"
)
KEPT = (
    "-not",
    "-regex",
    r"/usr/\(bin/sudo\|lib64/\(glibc-hwcaps/[^/]*/\)?libhardened_malloc[a-z-]*\.so\|lib64/libno_rlimit_as\.so\)",
)
CLAIMS, DESK = "/usr/lib/veilor/claims.json", "/run/veilor-lab"
BRAVE = "/usr/lib/opt/brave.com/brave/brave"
# Of the first page's process: its domain, how its system calls are filtered, and whether its network is the
# machine's.
PAGES = """pid=$(pgrep -f -- '[-]-type=renderer' | head -1); tr -d '\\0' < /proc/$pid/attr/current; echo
awk '/^Seccomp:/ {print $2}' /proc/$pid/status
[ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/1/ns/net)" ] && echo shared || echo apart"""
MOVES = {
    "rebase": "supply.admin-asked: to move to another image",
    "cleanup": "supply.admin-asked: to remove the way back",
    "upgrade": "supply.one-updater: to have rpm-ostree update past the announcement",
}
GUARD = "/usr/share/polkit-1/rules.d/10-veilor-guard.rules"
MEASURED = """
import json, resource, subprocess, sys, time
began = time.monotonic()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"out": done.stdout, "seconds": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime,
                  "peak_mib": used.ru_maxrss / 1024}))
"""  # noqa: E501


def expect_refused(
    world: World, checks: Checks, claim: str, what: str, name: str, *arguments: str, nobody: bool = False
) -> None:
    """Expect that the try NAME is stopped."""
    seen = world.run_try(name, *arguments, nobody=nobody)
    checks.true(f"{claim}: {what}", seen not in ("ok", ""), seen, go_on=True)


def expect_held_by(
    world: World,
    checks: Checks,
    claim: str,
    what: str,
    name: str,
    settings: dict[str, str],
    nobody: bool = True,
) -> None:
    """Expect that the try NAME is refused, and is not with SETTINGS (sysctl, weak values): so the refusal is
    the control's doing.
    """
    expect_refused(world, checks, claim, what, name, nobody=nobody)
    before = {key: world.machine.run(["sysctl", "-n", key]).out.strip() for key in settings}
    try:
        for key, weak in settings.items():
            world.machine.run(["sysctl", "-w", f"{key}={weak}"])
        checks.equal(
            f"{claim} negative control: that {what} no longer holds",
            world.run_try(name, nobody=nobody),
            "ok",
            go_on=True,
        )
    finally:
        for key, value in before.items():
            world.machine.run(["sysctl", "-w", f"{key}={value}"])


@phase(
    "processes",
    "A program without rights looks for a way into the kernel and into other programs",
    starts_from="second-boot",
    independent=True,
)
def processes(world: World, checks: Checks) -> None:
    world.boot()
    addresses, less = "local.kernel-addresses", "local.less-kernel"
    expect_held_by(
        world,
        checks,
        addresses,
        "not even root is shown the kernel's addresses",
        "kallsyms",
        {"kernel.kptr_restrict": "1"},
        nobody=False,
    )
    expect_held_by(
        world,
        checks,
        addresses,
        "the kernel's log is kept from programs without rights",
        "dmesg",
        {"kernel.dmesg_restrict": "0"},
    )
    expect_held_by(
        world, checks, addresses, "the kernel can't be profiled", "perf", {"kernel.perf_event_paranoid": "1"}
    )
    expect_held_by(world, checks, less, "there is no io_uring", "io_uring", {"kernel.io_uring_disabled": "0"})
    expect_held_by(
        world,
        checks,
        less,
        "the kernel's page faults can't be handled",
        "userfaultfd",
        {"vm.unprivileged_userfaultfd": "1"},
    )
    expect_held_by(
        world,
        checks,
        less,
        "an old kind of terminal is not loaded",
        "terminal",
        {"dev.tty.ldisc_autoload": "1"},
    )
    world.machine.run(["modprobe", "--remove", "ppp_async"], check=False)
    expect_refused(world, checks, less, "there is no BPF", "bpf", nobody=True)
    checks.equal(
        f"{less} negative control: root may use BPF, so it is refused for want of rights",
        world.run_try("bpf"),
        "ok",
        go_on=True,
    )
    expect_held_by(
        world,
        checks,
        "local.ptrace",
        "another program of the same account can't be read",
        "ptrace",
        {"kernel.yama.ptrace_scope": "0"},
    )
    expect_held_by(
        world,
        checks,
        "forensics.no-crash-dumps",
        "a program that crashes leaves no memory behind",
        "core",
        {"kernel.core_pattern": "/tmp/core.%p"},
    )
    check_memory_misuse(world, checks)
    world.shut_down()


def check_memory_misuse(world: World, checks: Checks) -> None:
    """A program writes to memory that it gave back."""
    plain = world.run_try("write-after-free", nobody=True)
    title = "browser.memory: a program that writes to memory it gave back is ended"
    if not world.has_path("/usr/lib64/libhardened_malloc.so"):
        checks.not_run(title, f"this base has no hardened_malloc (here: {plain or 'ended'})")
        checks.equal("browser.memory negative control: it goes on unnoticed", plain, "ok", go_on=True)
    else:
        checks.true(title, plain != "ok", plain or "ended", go_on=True)


@phase(
    "kernel-modules",
    "Root tries to load a module that nobody signed, one that is blocked, and another kernel",
    starts_from="second-boot",
    independent=True,
)
def kernel_modules(world: World, checks: Checks) -> None:
    world.boot()
    check_signed_modules(world, checks)
    expect_refused(world, checks, "local.modules", "no other kernel is started from this one", "kexec")
    expect_refused(world, checks, "local.modules", "root can't write the kernel's memory", "mem")
    check_blocked_modules(world, checks)
    world.shut_down()


def check_signed_modules(world: World, checks: Checks) -> None:
    """A module of this kernel is loaded as it is, without its signature, and with one byte changed."""
    said = world.run_try("module")
    try:
        seen = json.loads(said)
    except ValueError:
        seen = {"reason": said[-200:] or "the try said nothing"}
    if "signed" not in seen:
        checks.not_run(
            "local.modules: a module whose signature was cut off",
            f"no signed module to try with: {seen.get('reason')}",
        )
    else:
        checks.true(
            "local.modules: without its signature a module is not loaded",
            seen["unsigned"] not in ("ok", ""),
            seen,
            go_on=True,
        )
        checks.true(
            "local.modules: nor with one byte changed", seen["changed"] not in ("ok", ""), seen, go_on=True
        )
        checks.equal(
            "local.modules negative control: the same module is loaded when its signature is whole",
            seen["signed"],
            "ok",
            go_on=True,
        )


def check_blocked_modules(world: World, checks: Checks) -> None:
    """Modules that modprobe.d blocks are asked for by their names, and past the block."""
    for claim, names in (
        ("usb.dma", ("thunderbolt", "firewire-core")),
        ("network.old-protocols", ("sctp", "tipc")),
    ):
        for name in names:
            blocked = world.machine.run(["modprobe", name], check=False)
            checks.true(
                f"{claim}: {name} can't be loaded by its name", blocked.code != 0, blocked.err, go_on=True
            )
        if world.machine.run(["modinfo", names[0]], check=False).code:
            checks.not_run(
                f"{claim} negative control: past the block {names[0]} is loaded",
                "this kernel has no such module",
            )
            continue
        freed = world.machine.run(["modprobe", "--ignore-install", names[0]], check=False)
        checks.equal(
            f"{claim} negative control: past the block {names[0]} is loaded", freed.code, 0, go_on=True
        )
        world.machine.run(["modprobe", "--remove", "--ignore-remove", names[0]], check=False)


@phase(
    "rights",
    "A program wants more rights than it was given",
    starts_from="second-boot",
    independent=True,
)
def rights(world: World, checks: Checks) -> None:
    world.boot()
    check_system_files(world, checks)
    check_links(world, checks)
    check_set_user_id(world, checks)
    check_sudo(world, checks)
    check_namespaces(world, checks)
    world.shut_down()


def check_system_files(world: World, checks: Checks) -> None:
    """Root writes to the system's files."""
    machine = world.machine
    expect_refused(
        world, checks, "local.system-fixed", "root can't change a program", "write", "/usr/bin/veilor-lab"
    )
    write = "mount -o remount,bind,rw /usr && touch /usr/bin/veilor-lab && rm /usr/bin/veilor-lab"
    opened = machine.run(["unshare", "-m", "sh", "-c", write], check=False)
    checks.equal(
        "local.system-fixed negative control: mounted to be written, it can be", opened.code, 0, go_on=True
    )


def check_links(world: World, checks: Checks) -> None:
    """Links and pipes that another user put into a shared folder."""
    expect_held_by(
        world,
        checks,
        "local.links",
        "a link of another user's in a shared folder is not followed",
        "symlink",
        {"fs.protected_symlinks": "0"},
        nobody=False,
    )
    expect_held_by(
        world,
        checks,
        "local.links",
        "a pipe of another user's there is not opened",
        "fifo",
        {"fs.protected_fifos": "0"},
        nobody=False,
    )
    world.machine.run(["touch", "/tmp/veilor-lab-roots"])
    expect_held_by(
        world,
        checks,
        "local.links",
        "another user's file is not linked to",
        "hardlink",
        {"fs.protected_hardlinks": "0"},
    )


def check_set_user_id(world: World, checks: Checks) -> None:
    """Programs that start with root's rights."""
    title = "local.setuid: no program with root's rights except sudo"
    if not world.has_path("/usr/libexec/secureblue"):
        checks.not_run(title, "this base does not strip them as secureblue does")
        return
    found = world.machine.run(["find", "/usr", "-xdev", "-type", "f", "-perm", "/6000", *KEPT], timeout=300)
    checks.equal(title, found.out.split(), [], go_on=True)


def check_sudo(world: World, checks: Checks) -> None:
    """Whom sudo makes root."""
    if not world.has_path("/usr/bin/sudo"):
        checks.not_run("local.sudo: whom sudo makes root", "this base has no sudo")
        return
    said = world.run_try("sudo")
    seen = json.loads(said) if said.startswith("{") else {"trouble": said}
    checks.true(
        f"local.sudo: by the base's rules who is in {seen.get('group')} becomes root with the right "
        "password, and nobody else",
        [seen.get(one) for one in ("right", "wrong", "other")] == [True, False, False],
        seen,
        go_on=True,
    )
    checks.equal(
        "local.sudo negative control: by a rule that asks nobody both are root",
        seen.get("unasked"),
        [True, True],
        go_on=True,
    )
    if seen.get("group") != "wheel":
        checks.not_run("local.sudo: that group is wheel", "sudo's rules are Debian's on this base")


def check_namespaces(world: World, checks: Checks) -> None:
    """A program without rights makes a user namespace of its own."""
    made = world.run_try("userns", nobody=True)
    if not world.has_path("/sys/fs/selinux/enforce"):
        checks.not_run(
            "local.userns: no namespace of one's own",
            f"SELinux refuses it, and this base has none (here: {made})",
        )
    else:
        checks.true("local.userns: no namespace of one's own", made not in ("ok", ""), made, go_on=True)


@phase(
    "updaters",
    "Another updater is started, and another image asked for",
    starts_from="second-boot",
    independent=True,
)
def updaters(world: World, checks: Checks) -> None:
    world.boot()
    check_update_units(world, checks)
    check_update_moves(world, checks)
    world.shut_down()


def check_update_units(world: World, checks: Checks) -> None:
    """The base's updaters can't be started; our own timer waits, and can be."""
    machine, one = world.machine, "supply.one-updater"
    for unit in (
        "bootc-fetch-apply-updates.timer",
        "bootc-upgrade.timer",
        "rpm-ostreed-automatic.timer",
        "upgrade-on-boot.service",
    ):
        loaded = machine.run(["systemctl", "show", "-P", "LoadState", unit]).out.strip()
        started = machine.run(["systemctl", "start", unit], check=False)
        checks.true(
            f"{one}: {unit} can't be started",
            loaded == "masked" and started.code != 0,
            (loaded, started.err),
            go_on=True,
        )
    ours = "veilor-update-stage.timer"
    waits = machine.run(["systemctl", "is-active", ours], check=False).out.strip()
    checks.equal("supply.mended-soon: ours is waiting", waits, "active", go_on=True)
    machine.run(["systemctl", "mask", "--runtime", "--now", ours])
    masked = machine.run(["systemctl", "start", ours], check=False).code != 0
    machine.run(["systemctl", "unmask", "--runtime", ours])
    started = machine.run(["systemctl", "start", ours], check=False)
    checks.true(
        f"{one} negative control: one that is not masked starts",
        masked and started.code == 0,
        started.err,
        go_on=True,
    )
    checks.true("supply.mended-soon negative control: turned off it would not start", masked, go_on=True)


def check_update_moves(world: World, checks: Checks) -> None:
    """What polkit decides of rpm-ostree's ways past us, for a program without rights."""
    said = world.run_try("polkit", *MOVES) if world.has_path("/usr/bin/pkcheck") else ""
    asked, unasked = json.loads(said) if said.startswith("[") else ({}, {})
    for move, title in MOVES.items():
        if not world.has_path("/usr/bin/pkcheck"):
            checks.not_run(f"{title} an administrator's password is asked for", "this base has no polkit")
            continue
        checks.equal(
            f"{title} an administrator's password is asked for", asked.get(move, said), 2, go_on=True
        )
        checks.equal(
            f"{title.replace(':', ' negative control:', 1)} nobody is asked",
            unasked.get(move, said),
            0,
            go_on=True,
        )


@phase(
    "audit-log",
    "An account is changed, and the audit log says so",
    starts_from="second-boot",
    independent=True,
)
def audit_log(world: World, checks: Checks) -> None:
    machine = world.boot()
    title = "forensics.changes-are-logged: a change to the accounts is written down"
    if not world.has_path("/usr/sbin/auditd"):
        checks.not_run(title, "this base has no audit service")
        world.shut_down()
        return
    search = ["ausearch", "--input-logs", "--start", "boot", "-k", "veilor-accounts", "-f", "/etc/shadow"]
    machine.run(["touch", "/etc/shadow"])
    checks.equal(
        title, machine.run(["sh", "-c", f"sleep 1; {shlex.join(search)}"], check=False).code, 0, go_on=True
    )
    before = machine.run(["sh", "-c", f"{shlex.join(search)} | grep -c ^time"], check=False).out.strip()
    machine.run(["auditctl", "-D"])
    machine.run(["touch", "/etc/shadow"])
    after = machine.run(
        ["sh", "-c", f"sleep 1; {shlex.join(search)} | grep -c ^time"], check=False
    ).out.strip()
    checks.equal(
        "forensics.changes-are-logged negative control: nothing is written down",
        after,
        before,
        go_on=True,
    )
    machine.run(["augenrules", "--load"], check=False)
    world.shut_down()


@phase(
    "browser",
    "A page's process is inspected from outside of the browser",
    starts_from="second-boot",
    independent=True,
)
def browser(world: World, checks: Checks) -> None:
    title = (
        "browser.sandbox: a page's process is in Brave's domain, and cut off from system calls and the "
        "network"
    )
    machine = world.boot()
    runs: tuple[tuple[list[str], bool, str], ...] = (
        ([], True, title),
        (["--no-sandbox"], False, "browser.sandbox negative control: started so, it is not"),
    )
    if not (world.has_path(BRAVE) and world.has_path("/sys/fs/selinux/enforce")):
        checks.not_run(title, "this base has neither Brave nor SELinux")
        runs = ()
    for flags, wanted, said in runs:
        person = [
            "runcon",
            "-r",
            "unconfined_r",
            "-t",
            "unconfined_t",
            *NOBODY,
            "env",
            "HOME=/tmp/veilor-lab-page",
        ]
        machine.run(
            [
                "systemd-run",
                "--quiet",
                "--unit=veilor-lab-page",
                *person,
                "veilor-brave",
                "--headless",
                *flags,
                "about:blank",
            ]
        )
        seen = machine.run(
            ["sh", "-c", f"sleep 15; {PAGES}; systemctl stop veilor-lab-page.service"], check=False
        ).out.split()
        apart = len(seen) == 3 and ":brave_t:" in seen[0] and seen[1] == "2" and seen[2] == "apart"
        checks.true(said, len(seen) == 3 and apart == wanted, seen, go_on=True)
    world.shut_down()


# What a claim's check asks firewalld for, and what one opens in the zone so that the answer is another one.
OPENED = {
    "getPorts": "port=631/tcp",
    "getServices": "service=ipp",
    "getRichRules": "rich-rule='rule service name=ipp accept'",
}


def show_instead(path: str, text: str) -> str:
    """Shell that makes PATH say TEXT to what comes after it in the same mount namespace."""
    other = f"{DESK}/{secrets.token_hex(4)}"
    return f"printf '%s\\n' {shlex.quote(text)} > {other}; mount --bind {other} {path}"


def removal_of(kind: str, given: dict[str, Any]) -> tuple[str, str]:
    """How the control behind a check of this KIND is removed, and how it is put back: shell, run before and
    after.

    What can't be changed before the next start (arguments, lockdown) is laid over for the doctor's eyes
    alone, who runs in a mount namespace of its own; the rest is changed on the machine.
    """
    name = given.get("name", "")
    if kind == "sysctl":
        key, want = given["key"], given["want"]
        weak = "core" if not want.lstrip("-").isdigit() else str(int(want) - 1) if want != "0" else "1"
        path = "/proc/sys/" + key.replace(".", "/")
        return (
            f"sysctl -qw {key}={weak} 2>/dev/null || {{ {show_instead(path, weak)}; }}",
            f"sysctl -qw {shlex.quote(f'{key}={want}')}",
        )
    if kind == "unit" and given.get("load") == ["masked"]:
        link = f"/etc/systemd/system/{name}"
        return f"rm {link}; systemctl daemon-reload", f"ln -s /dev/null {link}; systemctl daemon-reload"
    if kind == "unit" and given.get("active") == "inactive":
        unit = (
            f"/run/systemd/system.control/{name}"  # goes before what the base has of that name, masked or not
        )
        listens, runs = (
            f"[Socket]\\nListenStream={DESK}/{name}\\nAccept=yes",
            "[Service]\\nExecStart=/usr/bin/sleep 300",
        )
        what = listens if name.endswith(".socket") else runs
        start = f"mkdir -p /run/systemd/system.control; printf '{what}\\n' > {unit}"
        return (
            f"{start}; systemctl daemon-reload; systemctl start {name}",
            f"systemctl stop {name}; rm {unit}; systemctl daemon-reload",
        )
    if kind == "unit" and not given.get("active"):
        return f"systemctl mask --runtime {name}", f"systemctl unmask --runtime {name}"
    if kind == "unit":
        return f"systemctl stop {name}", f"systemctl start {name}"
    if kind == "dbus-answer" and given["method"] in OPENED:
        opened = OPENED[given["method"]]
        return (
            f"firewall-cmd -q --zone=veilor --add-{opened}",
            f"firewall-cmd -q --zone=veilor --remove-{opened}",
        )
    if kind == "dbus-answer" and given["method"] == "getDefaultZone":
        return (
            "firewall-cmd -q --set-default-zone=public",
            f"firewall-cmd -q --set-default-zone={given['want']}",
        )
    if kind == "dbus-answer":
        zone = "firewall-cmd -q --zone={} --change-interface=" + given["arguments"][-1]
        return zone.format("trusted"), zone.format(given["want"])
    zone, bus = (
        "firewall-cmd -q --zone=trusted --{}-interface=veilor-lab0",
        "/sys/bus/usb/devices/usb*/authorized_default",
    )
    listen = shlex.quote("import socket, time; kept = socket.create_server(('', 8022)); time.sleep(60)")
    live = {
        "audited": ("auditctl -D", "augenrules --load"),
        "zones": (zone.format("add"), zone.format("remove")),
        "listening": (
            f"systemd-run -q --unit=veilor-lab-listens python3 -c {listen}; sleep 3",
            "systemctl stop veilor-lab-listens",
        ),
        "usb-waits": (
            f"for bus in {bus}; do echo 1 > $bus; done",
            f"for bus in {bus}; do echo 0 > $bus; done",
        ),
    }
    if kind in live:
        return live[kind]
    other = f"{DESK}/{secrets.token_hex(4)}"
    if (
        kind == "as-shipped"
    ):  # the image, not /etc, is changed: one folder for all that are looked at together
        image = f"{DESK}/another-etc"
        path = shlex.quote(f"{image}/{given['names'][0]}")
        return (
            f"mkdir -p $(dirname {path}); rm -f {path}; echo another > {path}; "
            f"mountpoint -q /usr/etc || mount --bind {image} /usr/etc",
            "true",
        )
    return {
        "karg": f"sed 's|{given.get('argument')}|quiet|' /proc/cmdline > {other}; mount --bind {other} "
        "/proc/cmdline",
        "no-karg": f'echo "$(cat /proc/cmdline) {(given.get("names") or [""])[0]}=x" > {other}; mount '
        f"--bind {other} /proc/cmdline",
        "lockdown": show_instead("/sys/kernel/security/lockdown", "[none] integrity confidentiality"),
        "modules-signed": show_instead("/sys/module/module/parameters/sig_enforce", "N"),
        "modules-out": show_instead("/proc/modules", f"{(given.get('names') or [''])[0]} 1 0 - Live 0x0"),
        "encrypted": "mount --bind /boot /var",
        "read-only": "mount -o remount,bind,rw /usr",
        "swap-safe": f"{{ head -1 /proc/swaps; echo $(findmnt -no SOURCE /boot) partition 1 0 -2; }} > "
        f"{other}; "
        f"mount --bind {other} /proc/swaps",
        "policy-intact": show_instead(
            "/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}'
        ),
        "keys-as-shipped": show_instead("/usr/share/pki/containers/veilor-image-b.pub", "another key"),
        "statement-remembered": show_instead("/var/lib/veilor/state.json", '{"channel": {"sequence": -1}}'),
        "every-source": f"{{ cat /etc/chrony.conf; echo 'server 192.0.2.9'; }} > {other}; mount --bind "
        f"{other} /etc/chrony.conf",
        "says": f"sed 's/^authselectmode .*/authselectmode prefer/' /etc/chrony.conf > {other}; mount "
        f"--bind {other} /etc/chrony.conf",
        "asked-first": f"mount --bind /dev/null {GUARD}",
        "first-said": show_instead(given.get("folder", "") + "/10-veilor.conf", "# nothing"),
        "image-verified": "bootc status --format=json --format-version=1 | sed "
        f"'s/containerPolicy/insecure/g' > {DESK}/said; "
        f"printf '#!/bin/sh\\ncat {DESK}/said\\n' > {other}; chmod +x {other}; mount --bind {other} "
        "/usr/bin/bootc",
    }.get(kind, ""), "true"


@phase(
    "doctor",
    "The machine's own doctor agrees, and notices each control that is removed",
    starts_from="second-boot",
    independent=True,
)
def doctor(world: World, checks: Checks) -> None:
    hardware = world.hardware()
    hardware.usb = True
    machine = world.boot(hardware)
    machine.run(
        ["ip", "link", "add", "tailscale0", "type", "dummy"], check=False
    )  # so that its zone can be looked at
    world.run_program("veilor-usbguard-enroll")
    said = json.loads(
        machine.run(
            ["python3", "-I", "-c", MEASURED, "veilor-doctor", "--json"], check=False, timeout=300
        ).out
    )
    report = json.loads(said.pop("out"))
    world.notes.measured["doctor"] = said
    checks.true("doctor: less than 40 MiB of memory", said["peak_mib"] < 40, said, go_on=True)
    held: dict[str, list[Any]] = {}
    shipped = {
        claim["id"]: {check["id"]: check for check in claim["checks"]}
        for claim in json.loads(world.read_file(CLAIMS))["claims"]
    }
    for seen in report["claims"]:
        for one in seen["checks"]:
            check, title = shipped[seen["id"]][one["id"]], f"the doctor sees {one['id'].split('/', 1)[1]}"
            if check["capability"] and not world.has_path(check["capability"]):
                checks.not_run(
                    f"{seen['id']}: {title}",
                    f"this base has no {check['capability']}; here {one['status']} ({one['reason']})",
                )
            elif (
                one["status"] == "NOT_APPLICABLE" or seen["state"] == "opt-in" and one["status"] == "UNKNOWN"
            ):
                checks.not_run(f"{seen['id']}: {title}", f"{one['status']}: {one['reason']}")
            elif checks.true(
                f"{seen['id']}: {title}",
                one["status"] == "PASS",
                f"{one['status']}: {one['reason']}",
                go_on=True,
            ):
                together = (
                    check["kind"] if check["kind"] in ("sysctl", "karg", "unit", "as-shipped") else one["id"]
                )  # each look takes seconds
                held.setdefault(together, []).append((seen["id"], one["id"], seen["state"], check))
    for group in held.values():
        expect_missed(world, checks, group)
    compare_with_lynis(world, checks, said["seconds"])
    world.shut_down()


def expect_missed(world: World, checks: Checks, group: list[tuple[str, str, str, dict[str, Any]]]) -> None:
    """Expect that the doctor says FAIL of checks that passed, once their controls are removed (of what is a
    person's choice: not chosen).
    """
    ways = [removal_of(check["kind"], check["arguments"]) for _, _, _, check in group]
    look = "; ".join(
        ["{ " + "; ".join(away or "true" for away, _ in ways) + "; } >&2", "veilor-doctor --json"]
    )
    asked = "".join(f" --claim {claim}" for claim in sorted({claim for claim, _, _, _ in group}))
    done = world.machine.run(["unshare", "-m", "sh", "-c", look + asked], check=False, timeout=300)
    undone = world.machine.run(["sh", "-c", "; ".join(back for _, back in ways)], check=False, timeout=300)
    try:
        found = {one["id"]: one for claim in json.loads(done.out)["claims"] for one in claim["checks"]}
    except (ValueError, LookupError):
        found = {}
    for (claim, name, state, check), (away, _) in zip(group, ways, strict=True):
        title, wanted = (
            f"{claim} negative control: the doctor misses {name.split('/', 1)[1]}",
            "NOT_APPLICABLE" if state == "opt-in" else "FAIL",
        )
        if not away:
            checks.not_run(title, f"nothing removes on a running machine what {check['kind']} checks")
            continue
        one = found.get(name, {"status": "nothing", "reason": done.err[-300:]})
        checks.true(title, one["status"] == wanted, f"{one['status']}: {one['reason']}", go_on=True)
    if undone.code:
        checks.not_run("doctor: what was removed is put back", undone.err[-300:])


def compare_with_lynis(world: World, checks: Checks, seconds: float) -> None:
    """Expect that lynis, put beside the system, still runs after ten times as long as the doctor took; it is
    ended then.
    """
    packed = world.dir / "lynis.tar"
    with tarfile.open(packed, "w") as tar:
        for part in ("usr/share/lynis", "etc/lynis", "usr/sbin/lynis"):
            tar.add(world.settings.tools.root / part, part)
    world.machine.run(
        ["sh", "-c", f"mkdir -p {DESK}/lynis && tar -C {DESK}/lynis -xf -"],
        stdin=packed.read_bytes(),
        timeout=120,
    )
    audit = (
        f"../../sbin/lynis audit system --profile {DESK}/lynis/etc/lynis/default.prf --plugindir "
        f"{DESK}/lynis/etc/lynis/plugins "
        f"--quick --quiet --no-colors --logfile {DESK}/lynis.log --report-file {DESK}/lynis.dat"
    )
    start = f"cd {DESK}/lynis/usr/share/lynis && exec timeout {10 * seconds:.0f} {audit}"
    theirs = json.loads(
        world.machine.run(["python3", "-I", "-c", MEASURED, "sh", "-c", start], check=False, timeout=1500).out
    )
    done = world.machine.run(
        ["grep", "-c", "Performing test ID", f"{DESK}/lynis.log"], check=False
    ).out.strip()
    world.notes.measured["lynis"] = {key: value for key, value in theirs.items() if key != "out"} | {
        "tests": done
    }
    title = "doctor: at most a tenth of the time that lynis takes on the same machine"
    checks.true(
        title,
        int(done or 0) >= 1 and theirs["seconds"] >= 10 * seconds - 1,
        f"{seconds:.1f} s; {world.notes.measured['lynis']}",
        go_on=True,
    )
