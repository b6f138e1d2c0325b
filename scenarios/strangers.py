"""Strangers around the machine: a neighbour on the network, a network that lies, a device plugged in.

Titles of checks are as in attacks.py. Each door is then opened, to see that it was the control that kept it
shut.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from typing import Any

from veilor.lab.machine import REGISTRY_ADDRESS, Machine
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import Release, World

AFTER = "life:second-boot"
STORY = (
    "A machine that follows the signed image was scanned by a neighbour, lied to by its network, and "
    "had strange devices plugged in"
)
# Addresses for documentation, which are never routed (RFC 5737, 3849).
NEAR, FAR = "198.51.100.1", "198.51.100.2"
NEAR6, FAR6 = "2001:db8::1", "2001:db8::2"
PEER, DESK, LISTENS = "veilor-lab-peer", "/run/veilor-lab", "8022"
YEAR = 365 * 86400


def add_peer(machine: Machine, interface: str) -> None:
    """Put a neighbour on a cable whose near end is INTERFACE, in a network namespace of its own."""
    for line in (
        f"netns add {PEER}",
        f"link add {interface} type veth peer name far0 netns {PEER}",
        f"address add {NEAR}/24 dev {interface}",
        f"address add {NEAR6}/64 dev {interface} nodad",
        f"link set {interface} up",
        f"-n {PEER} address add {FAR}/24 dev far0",
        f"-n {PEER} address add {FAR6}/64 dev far0 nodad",
        f"-n {PEER} link set far0 up",
    ):
        machine.run(["ip", *line.split()])
    machine.wait_until(
        ["ip", "-n", PEER, "-j", "link", "show", "far0"],
        lambda r: '"UP"' in r.out,
        30,
        "the neighbour's cable",
    )


def remove_peer(machine: Machine, interface: str) -> None:
    """Remove the neighbour."""
    machine.run(["ip", "link", "delete", interface], check=False)
    machine.run(["ip", "netns", "delete", PEER], check=False)


def scan_ports(world: World) -> dict[str, Any]:
    """What the neighbour reaches of every port while a program of the machine listens on LISTENS."""
    said = world.run_try("scan", NEAR, NEAR6, LISTENS)
    try:
        reached: dict[str, Any] = json.loads(said)
    except ValueError:
        return {"trouble": said}
    return reached


def check_ports(world: World, checks: Checks, interface: str, claim: str, answers_ping: bool) -> None:
    """Check what a scan of every port of INTERFACE finds, with the firewall and past it.

    Afterwards the interface is in the zone `trusted`.
    """
    firewall, port = world.has_path("/usr/sbin/firewalld"), int(LISTENS)
    title = (
        f"{claim}: a program that listens is not reached on {interface}, by no port, old or new "
        "addresses, TCP or UDP"
    )
    if firewall:
        seen = scan_ports(world)
        nothing = {"open": [], "open6": [], "ping": answers_ping, "datagrams": []}
        checks.equal(f"{title}; pings are {'answered' if answers_ping else 'not'}", seen, nothing, go_on=True)
        checks.true(
            f"ssh.no-server: port 22 is closed on {interface}",
            22 not in seen.get("open", [22]),
            seen,
            go_on=True,
        )
        world.machine.run(["firewall-cmd", "-q", "--zone=trusted", f"--change-interface={interface}"])
    else:
        checks.not_run(title, "this base has no firewalld")
    seen = scan_ports(world)
    checks.equal(
        f"network.nothing-listens: past the firewall nothing but that program answers on {interface}",
        seen.get("open"),
        [port],
        go_on=True,
    )
    checks.true(
        "network.nothing-listens negative control: a program that listens is seen by the scan",
        port in seen.get("open", []),
        seen,
        go_on=True,
    )
    if firewall:
        everything = {"open": [port], "open6": [port], "ping": True, "datagrams": [NEAR, NEAR6]}
        checks.equal(
            f"{claim} negative control: past the firewall it is reached on {interface}",
            seen,
            everything,
            go_on=True,
        )


def try_ssh_login(world: World, *options: str) -> tuple[int, str]:
    """Let the neighbour try to log in by ssh with OPTIONS; the exit code and the last words of ssh."""
    fixed = [
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "ConnectTimeout=20",
    ]
    argv = [
        "ip",
        "netns",
        "exec",
        PEER,
        "env",
        f"SSH_ASKPASS={DESK}/ask",
        "SSH_ASKPASS_REQUIRE=force",
        "ssh",
        *fixed,
        *options,
        "true",
    ]
    done = world.machine.run(argv, check=False, timeout=120)
    return done.code, done.err.strip()[-200:]


def start_ssh_server(world: World, *options: str) -> None:
    """Start the ssh server as root might, with more OPTIONS."""
    world.machine.run(["systemctl", "stop", "veilor-lab-sshd.service"], check=False)
    world.machine.run(["systemctl", "reset-failed", "veilor-lab-sshd.service"], check=False)
    argv = ["systemd-run", "--quiet", "--unit=veilor-lab-sshd", "/usr/sbin/sshd", "-D"]
    world.machine.run([*argv, *(part for option in options for part in ("-o", option))])
    world.machine.wait_until(
        ["ss", "-Hltn", "sport = :22"], lambda r: bool(r.out.strip()), 30, "the ssh server"
    )


def check_ssh_logins(world: World, checks: Checks, interface: str) -> None:
    """Check whom an ssh server lets in that root has started.

    INTERFACE is one that the firewall lets through.
    """
    machine, keys = world.machine, "ssh.keys-only"
    if not world.has_path("/usr/sbin/sshd"):
        checks.not_run(f"{keys}: a password is not taken", "this base has no ssh server")
        return
    for unit in ("ssh.service", "sshd.service"):
        state = machine.run(["systemctl", "is-active", unit], check=False).out.strip()
        checks.true(
            f"ssh.no-server: {unit} does not run", state in ("inactive", "unknown"), state, go_on=True
        )
    word = secrets.token_hex(8)
    world.write_file(f"{DESK}/ask", f"#!/bin/sh\necho {word}\n")
    for line in (
        f"chmod 755 {DESK}/ask; mkdir -p /run/sshd; ssh-keygen -A; useradd -m labuser && echo "
        f"labuser:{word} | chpasswd",
        f"for n in 1 2 3 4 5; do ssh-keygen -q -t ed25519 -N '' -f {DESK}/k$n; done",
        f"umask 077; for home in /root /home/labuser; do mkdir -p $home/.ssh; cp {DESK}/k1.pub "
        "$home/.ssh/authorized_keys; done",
        "chown -R labuser /home/labuser/.ssh",
    ):
        machine.run(["sh", "-c", line])
    by_word = ["-o", "PubkeyAuthentication=no", f"labuser@{NEAR}"]
    many = [part for n in (2, 3, 4, 5) for part in ("-i", f"{DESK}/k{n}")] + [
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "PasswordAuthentication=no",
    ]
    start_ssh_server(world)
    code, said = try_ssh_login(world, *by_word)
    checks.true(
        f"{keys}: the right password is not taken",
        code == 255 and "Permission denied" in said,
        (code, said),
        go_on=True,
    )
    code, said = try_ssh_login(world, "-i", f"{DESK}/k1", f"root@{NEAR}")
    checks.true(
        f"{keys}: nor root's key", code == 255 and "Permission denied" in said, (code, said), go_on=True
    )
    code, said = try_ssh_login(world, *many, f"labuser@{NEAR}")
    checks.true(
        f"{keys}: after three wrong keys it hangs up",
        code == 255 and "Too many" in said,
        (code, said),
        go_on=True,
    )
    checks.equal(
        f"{keys}: the person's own key lets them in",
        try_ssh_login(world, "-i", f"{DESK}/k1", f"labuser@{NEAR}")[0],
        0,
        go_on=True,
    )
    start_ssh_server(world, "PasswordAuthentication=yes", "PermitRootLogin=yes", "MaxAuthTries=9")
    checks.equal(
        f"{keys} negative control: the password is taken", try_ssh_login(world, *by_word)[0], 0, go_on=True
    )
    checks.equal(
        f"{keys} negative control: root is let in",
        try_ssh_login(world, "-i", f"{DESK}/k1", f"root@{NEAR}")[0],
        0,
        go_on=True,
    )
    code, said = try_ssh_login(world, *many, f"labuser@{NEAR}")
    checks.true(
        f"{keys} negative control: it lets them go on trying",
        code == 255 and "Too many" not in said,
        (code, said),
        go_on=True,
    )
    if world.has_path("/usr/sbin/firewalld"):
        seen = world.run_try("knock", NEAR, "22")
        checks.equal(
            "ssh.no-server negative control: past the firewall a server that root started is reached",
            seen,
            "ok",
            go_on=True,
        )
        machine.run(["firewall-cmd", "-q", "--zone=veilor", f"--change-interface={interface}"])
        seen = world.run_try("knock", NEAR, "22")
        checks.equal(
            "ssh.no-server: even one that root has started is reached by nobody on the network",
            seen,
            "ETIMEDOUT",
            go_on=True,
        )
    machine.run(["systemctl", "stop", "veilor-lab-sshd.service"])


def clock_shift_by_chrony(world: World, settings: str) -> float:
    """The seconds by which chronyd moves the clock when it is started with SETTINGS.

    The clock is then put back.
    """
    world.write_file(f"{DESK}/chrony.conf", settings + f"\npidfile {DESK}/chronyd.pid\nbindcmdaddress /\n")
    before = world.run_try("clock")
    world.machine.run(["chronyd", "-q", "-t", "40", "-f", f"{DESK}/chrony.conf"], check=False, timeout=90)
    after = world.run_try("clock")
    world.run_try("set-clock", before)
    return float(after) - float(before)


def check_forged_time(world: World, checks: Checks) -> None:
    """Check that a server on the path, which says that it is a year later, does not set the clock."""
    claim, machine = "time.authenticated", world.machine
    if not world.has_path("/usr/sbin/chronyd"):
        checks.not_run(f"{claim}: a server without NTS can't set the clock", "this base has no chrony")
        return
    machine.run(["systemctl", "stop", "chronyd.service"], check=False)
    tries = (world.settings.source / "scenarios/guest/tries.py").read_text()
    world.write_file(f"{DESK}/tries.py", tries)
    machine.run(
        [
            "systemd-run",
            "--quiet",
            "--unit=veilor-lab-liar",
            "python3",
            "-I",
            f"{DESK}/tries.py",
            "liar",
            FAR,
            str(YEAR),
        ]
    )
    shipped = world.read_file("/etc/chrony.conf") + f"\nserver {FAR} iburst\n"
    shift = clock_shift_by_chrony(world, shipped)
    checks.true(
        f"{claim}: a server without NTS can't set the clock", abs(shift) < 60, f"{shift:.0f} s", go_on=True
    )
    weak = shipped.replace("authselectmode require", "authselectmode ignore").replace(
        "minsources 3", "minsources 1"
    )
    shift = clock_shift_by_chrony(world, weak)
    checks.true(
        f"{claim} negative control: it sets the clock a year ahead",
        abs(shift - YEAR) < 3600,
        f"{shift:.0f} s",
        go_on=True,
    )
    machine.run(["systemctl", "stop", "veilor-lab-liar.service"], check=False)
    machine.run(["systemctl", "start", "chronyd.service"], check=False)


@contextlib.contextmanager
def lying_resolver(world: World, honest: str) -> Iterator[str]:
    """Let the neighbour answer for names; yields what it says of the registry's.

    HONEST is the text of /etc/hosts, whose line for the registry is gone meanwhile.
    """
    name, resolv, unit = world.settings.product.registry, "/etc/resolv.conf", "veilor-lab-resolver.service"
    before = world.machine.run(["cat", resolv], check=False).out
    world.write_file(f"{DESK}/tries.py", (world.settings.source / "scenarios/guest/tries.py").read_text())
    world.machine.run(
        ["systemd-run", "--quiet", f"--unit={unit}", "python3", "-I", f"{DESK}/tries.py", "resolver", FAR]
    )
    try:
        world.write_file(resolv, f"nameserver {FAR}\n")
        world.write_file("/etc/hosts", "".join(line for line in honest.splitlines(True) if name not in line))
        # it takes a moment to start
        asks = f"for n in $(seq 30); do getent ahostsv4 {name} && break; sleep 1; done"
        yield world.machine.run(["sh", "-c", asks], check=False, timeout=600).out.strip()
    finally:
        world.write_file("/etc/hosts", honest)
        world.write_file(resolv, before)
        world.machine.run(["systemctl", "stop", unit], check=False)


def check_forged_names(world: World, checks: Checks, release: Release) -> None:
    """Check that no update is taken while the registry's name leads elsewhere or the clock is wrong.

    RELEASE is newer than what runs, and is there.
    """
    claim = "time.update-path"
    old = world.notes.releases["44.1"]
    world.publish(release)
    honest = world.read_file("/etc/hosts")

    def update() -> tuple[str | None, str, bool]:
        done = world.run_program("veilor-update", timeout=900)
        staged = world.bootc_status()["staged"]
        return (
            staged and staged["image"]["imageDigest"],
            f"{done.code}: {done.text.strip()[-300:]}",
            "Traceback" not in done.text,
        )

    def check_nothing_staged(how: str) -> None:
        got, said, sound = update()
        checks.equal(f"{claim}: with a name forged {how} nothing is staged", got, None, go_on=True)
        checks.true(
            f"{claim}: forged {how}, it is said in a sentence",
            sound and not said.startswith("0:"),
            said,
            go_on=True,
        )

    world.write_file("/etc/hosts", honest.replace(REGISTRY_ADDRESS, "127.0.0.1"))
    check_nothing_staged("in /etc/hosts")
    with lying_resolver(world, honest) as heard:
        if FAR in heard:
            check_nothing_staged("by the resolver of the network")
        else:
            checks.not_run(
                f"{claim}: with a name forged by the resolver of the network nothing is staged",
                f"nobody asked it: {heard}",
            )
    got, said, _ = update()
    checks.equal(f"{claim} negative control: by its right name the release is taken", got, release.digest)
    world.announce("44.1", old, sequence=1)  # rightly signed, and older than what this machine has seen
    now = world.run_try("clock")
    for what, shift in (("ten years back", -10 * YEAR), ("three weeks ahead", 21 * 86400)):
        world.run_try("set-clock", str(float(now) + shift))
        got, said, sound = update()
        checks.equal(f"{claim}: {what}, an older statement is not taken", got, release.digest, go_on=True)
        checks.true(f"{claim}: {what}, it is no crash", sound, said, go_on=True)
    world.run_try("set-clock", now)


@phase(
    "network",
    "A neighbour scans every port and tries passwords; the network lies",
    starts_from="second-boot",
    independent=True,
)
def network(world: World, checks: Checks) -> None:
    release = world.make_image("44.2")
    world.boot()
    for interface, claim, ping in (
        ("tailscale0", "network.overlay", True),
        ("wlan-lab0", "network.silent", False),
    ):
        add_peer(world.machine, interface)
        try:
            check_ports(world, checks, interface, claim, ping)
            if interface == "wlan-lab0":
                check_ssh_logins(world, checks, interface)
                check_forged_time(world, checks)
                check_forged_names(world, checks, release)
        finally:
            remove_peer(world.machine, interface)
    world.shut_down()


@phase(
    "usb", "Devices are plugged in that were not there before", starts_from="second-boot", independent=True
)
def usb(world: World, checks: Checks) -> None:
    claim = "usb.later-devices"
    hardware = world.hardware()
    hardware.usb = True
    machine = world.boot(hardware)
    if not world.has_path("/usr/bin/usbguard"):
        checks.not_run(
            f"{claim}: a second keyboard, a stick and a network card do nothing", "this base has no USBGuard"
        )
        world.shut_down()
        return

    def usb_state(serial: str, *functions: str) -> dict[str, Any]:
        """What became of the device with SERIAL, which is plugged in now if it is given FUNCTIONS."""
        said = world.run_try("plug" if functions else "seen", serial, *functions)
        try:
            state: dict[str, Any] = json.loads(said)
        except ValueError:
            return {"authorized": None, "drivers": [], "trouble": said}
        return state

    every, nothing = ("hid", "mass_storage", "ecm"), {"authorized": False, "drivers": []}
    machine.run(["systemctl", "stop", "usbguard.service"])
    machine.run(
        ["modprobe", "-a", "dummy_hcd", "libcomposite"]
    )  # a controller of its own, which lets in what comes
    works = usb_state("LAB0", *every)
    checks.true(
        f"{claim} negative control: a device that is keyboard, stick and network card at once works",
        len(works["drivers"]) == 3,
        works,
        go_on=True,
    )
    world.run_try("unplug", "LAB0")
    mine = {"driver": "usb-kbd", "bus": "xhci.0", "id": "mine", "serial": "MINE"}
    machine.qmp.cmd("device_add", **mine, port="1")
    usb_state("MINE")
    done = world.run_program("veilor-usbguard-enroll")
    checks.equal(f"{claim}: the enrolment ends well", done.code, 0)
    works = {"authorized": True, "drivers": ["usbhid"]}
    checks.equal(f"{claim}: the keyboard that was there works", usb_state("MINE"), works, go_on=True)
    machine.qmp.cmd("device_add", driver="usb-kbd", bus="xhci.0", id="second", serial="SECOND")
    checks.equal(f"{claim}: a second keyboard does nothing", usb_state("SECOND"), nothing, go_on=True)
    for number, (what, functions) in enumerate(
        [
            ("a keyboard that is a stick and a network card as well", every),
            ("a stick", every[1:2]),
            ("a network card", every[2:]),
        ],
        1,
    ):
        checks.equal(
            f"{claim}: {what} does nothing", usb_state(f"LAB{number}", *functions), nothing, go_on=True
        )
        if number < 3:
            world.run_try("unplug", f"LAB{number}")
    listed = machine.run(["usbguard", "list-devices", "--blocked"]).out
    checks.true(
        f"{claim}: they are listed as blocked", "SECOND" in listed and "LAB3" in listed, listed, go_on=True
    )
    (card,) = [line.split(":")[0] for line in listed.splitlines() if "LAB3" in line]
    machine.run(["usbguard", "allow-device", card])
    allowed = usb_state("LAB3")
    checks.true(
        f"{claim} negative control: allowed by root, the network card works",
        allowed["authorized"] and allowed["drivers"],
        allowed,
        go_on=True,
    )
    machine.qmp.cmd("device_del", id="mine")
    machine.run(["sleep", "2"])
    machine.qmp.cmd("device_add", **(mine | {"id": "moved"}), port="3")  # the second keyboard took 2
    checks.equal(
        f"{claim}: the enrolled keyboard works in another port", usb_state("MINE"), works, go_on=True
    )
    world.shut_down()
