"""The fixes of what was wrong in 0.5.32, checked on a booted machine, with a negative control for each.

What the base lacks (USBGuard, firewalld, hostapd, dracut) is NOT_RUN there, with the reason.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from veilor.lab.machine import Machine
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks, OSFault
from veilor.lab.world import UNLOCK_TIMEOUT, World

AFTER = "life:second-boot"
STORY = (
    "Wi-Fi outlives suspend, the first boot its login, the keyboard its dock; firewall, graphics, look "
    "and the installer's logs hold"
)
SEEN = (Path(__file__).parent / "guest/seen.py").read_text()
DRIVER = "mac80211_hwsim"  # a Wi-Fi driver for radios that the kernel makes up
NEAR, FAR = "198.51.100.1", "198.51.100.2"  # TEST-NET-2 (RFC 5737): never routed
PEER, WIFI_KEY = "veilor-lab-peer", "correct horse 44 wireless"

# What of a new person's home would stand before the settings in /etc/xdg.
OWN = (
    "useradd --create-home veilor-lab && cd ~veilor-lab && find . -name 'kde*' -o -name 'plasma*' -o "
    "-name 'konsolerc' -o -name 'gtk-*'"
)
# Fedora's login units in their shape: what sets the first account up, then the login screen.
STAYS = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n"
LOGIN = {
    "systemd.extra-unit.plasma-setup.service": "[Unit]\nBefore=display-manager.service\n" + STAYS,
    "systemd.extra-unit.display-manager.service": "[Unit]\nAfter=systemd-user-sessions.service\n" + STAYS,
    "systemd.unit-dropin.graphical.target~veilor-lab": "[Unit]\nWants=plasma-setup.service "
    "display-manager.service\n",
}
FIRST_BOOT, STAMP = "veilor-firstboot-rebase.service", "/var/lib/veilor/firstboot-done"
ENROL = "veilor-usbguard-enroll.service"
RULES, ADDED = "/etc/usbguard/rules.conf", "/etc/usbguard/rules.d/90-added.conf"
SETTINGS = "/etc/usbguard/usbguard-daemon.conf"


def observe(world: World, what: str, *arguments: str, peer: bool = False) -> Any:
    """The answer of the function WHAT of guest/seen.py on the machine, or on its neighbour."""
    there = ["ip", "netns", "exec", PEER] if peer else []
    said = world.machine.run([*there, "python3", "-I", "-c", SEEN, what, *arguments], timeout=600).out.strip()
    return json.loads(said) if said[:1] in "[{" else said


def has_program(world: World, program: str) -> bool:
    """Whether the machine has PROGRAM."""
    return world.machine.run(["sh", "-c", 'command -v "$1"', "sh", program], check=False).code == 0


def unit_property(world: World, unit: str, name: str) -> str:
    """The property NAME of UNIT."""
    return world.machine.run(["systemctl", "show", "-P", name, unit]).out.strip()


# -- settings, the firewall, graphics, the look: one boot


def check_overlay_network(world: World, checks: Checks) -> None:
    """Check that a neighbour on the overlay network gets answers and pings, and nothing else.

    Negative control: without the zone not even those.
    """
    machine = world.machine
    if not has_program(world, "firewall-cmd"):
        checks.not_run("what the overlay network lets through", "this base has no firewalld")
        return
    machine.wait_unit("firewalld.service")
    for line in (
        f"netns add {PEER}",
        f"link add tailscale0 type veth peer name far0 netns {PEER}",
        f"address add {NEAR}/24 dev tailscale0",
        "link set tailscale0 up",
        f"-n {PEER} address add {FAR}/24 dev far0",
        f"-n {PEER} link set far0 up",
    ):
        machine.run(["ip", *line.split()])
    serve = "import socket, time\nserver = socket.create_server(('', 8022))\ntime.sleep(3600)"
    machine.run(["systemd-run", "--unit=veilor-lab-server", "python3", "-c", serve])
    machine.wait_until(
        ["ss", "-ltn", "sport = :8022"], lambda r: "8022" in r.out, 30, "a program that listens"
    )
    machine.run(["systemd-run", "--unit=veilor-lab-far", "ip", "netns", "exec", PEER, "python3", "-c", serve])

    def knock_from_both_sides() -> list[str]:
        return [
            observe(world, "knock", "ping", NEAR, peer=True),
            observe(world, "knock", "tcp", NEAR, peer=True),
            observe(world, "knock", "tcp", FAR),
        ]

    zone = machine.run(["firewall-cmd", "--get-zone-of-interface=tailscale0"]).out.strip()
    checks.equal("tailscale0 lies in a zone of its own", zone, "tailscale")
    want = (
        "a ping is answered, a program that listens is refused at once, and answers to this machine come in"
    )
    checks.equal(want, knock_from_both_sides(), ["answer", "refused", "open"])
    machine.run(["firewall-cmd", "--zone=tailscale", "--add-port=8022/tcp"])
    checks.equal("a port that the person opens for it is open", knock_from_both_sides()[1], "open")
    machine.run(["firewall-cmd", "--zone=tailscale", "--remove-port=8022/tcp"])
    machine.run(["firewall-cmd", "--zone=tailscale", "--remove-interface=tailscale0"])
    checks.equal(
        "without the zone the network is silent, as in 0.5.32",
        knock_from_both_sides()[:2],
        ["silence", "silence"],
    )
    machine.run(["firewall-cmd", "--zone=trusted", "--change-interface=tailscale0"])
    checks.equal("in “trusted” everything would be open", knock_from_both_sides()[1], "open")


def check_graphics_drivers_in_initramfs(world: World, checks: Checks) -> None:
    """Check that dracut takes the graphics drivers into an initramfs by the image's settings.

    Negative control: without them it doesn't.
    """
    if not has_program(world, "dracut"):
        checks.not_run("graphics drivers are in the initramfs", "this base has no dracut")
        return
    checks.equal(
        "dracut takes the graphics drivers into the initramfs",
        observe(world, "graphics", "yes"),
        ["amdgpu", "i915", "nouveau", "xe"],
    )
    checks.equal("without our settings it takes none", observe(world, "graphics", "no"), [])


def check_look_settings(world: World, checks: Checks) -> None:
    """Check that all that the look's settings name is there, and that nothing in a new home precedes them."""
    checks.equal("everything that the look's settings name is there", observe(world, "look"), [])
    own = world.machine.run(["sh", "-c", OWN]).out.split()
    checks.equal("nothing in a new person's home stands before the settings for all", own, [])
    world.machine.run(["mount", "-t", "tmpfs", "none", "/usr/share/plasma/look-and-feel"])
    checks.true(
        "a look-and-feel package that is gone is missed",
        "org.veilor.dark.desktop" in str(missed := observe(world, "look")),
        missed,
    )
    world.machine.run(["umount", "/usr/share/plasma/look-and-feel"])


@phase(
    "settings",
    "Settings hold, the overlay network has its zone, graphics and look are in place",
    starts_from="second-boot",
    independent=True,
)
def settings(world: World, checks: Checks) -> None:
    machine = world.boot()
    checks.equal("every sysctl setting of the image is in effect", observe(world, "sysctl"), {})
    checks.equal("every kernel argument of the image was given", observe(world, "kargs"), [])
    checks.true(
        "the kernel is locked down", "[confidentiality]" in world.read_file("/sys/kernel/security/lockdown")
    )
    tried = machine.run(["modprobe", "thunderbolt"], check=False)
    checks.true(
        "a blocked driver does not load",
        tried.code != 0 and "thunderbolt" not in world.read_file("/proc/modules"),
        tried.err,
    )
    check_overlay_network(world, checks)
    check_graphics_drivers_in_initramfs(world, checks)
    check_look_settings(world, checks)
    machine.run(["sysctl", "-w", "kernel.kptr_restrict=0"])
    checks.equal(
        "a setting that was taken back is missed", observe(world, "sysctl"), {"kernel.kptr_restrict": "0"}
    )
    world.shut_down()


# -- the first boot


@phase(
    "first-boot-order",
    "The first-boot unit runs before the login and holds nobody up",
    starts_from="install",
    independent=True,
)
def first_boot_order(world: World, checks: Checks) -> None:
    machine = world.boot(world.hardware(network=False, kernel_says=LOGIN))
    machine.wait_unit("display-manager.service")
    units = (FIRST_BOOT, "plasma-setup.service", "display-manager.service")
    began = [int(unit_property(world, unit, "InactiveExitTimestampMonotonic") or 0) for unit in units]
    checks.true(
        "it starts before the first account is made and the login screen comes up",
        0 < began[0] < began[1] < began[2],
        began,
    )
    checks.equal(
        "the login screen does not wait for it",
        [unit_property(world, unit, "ActiveState") for unit in units],
        ["active"] * 3,
    )
    cycle = ["journalctl", "-b", "--grep", "ordering cycle", "--output", "cat"]
    checks.equal("systemd finds no ordering cycle", machine.run(cycle, check=False).out, "")

    def start_again() -> str:
        for verb in ("stop", "reset-failed", "start"):
            machine.run(["systemctl", verb, FIRST_BOOT], check=verb != "reset-failed")
        return unit_property(world, FIRST_BOOT, "ActiveState")

    checks.equal("started again, it goes on", start_again(), "active")
    world.write_file(STAMP, "{}\n")
    checks.equal("once it is done, it does not start", start_again(), "inactive")
    machine.run(["rm", STAMP])
    machine.run(["systemctl", "disable", FIRST_BOOT])
    world.shut_down()

    machine = world.boot(world.hardware(network=False, kernel_says=LOGIN))
    machine.wait_unit("display-manager.service")
    never = unit_property(world, FIRST_BOOT, "InactiveExitTimestampMonotonic")
    checks.equal("without its WantedBy the login comes, and it never runs", never, "0")
    machine.run(["systemctl", "enable", FIRST_BOOT])
    machine.run(["sync"])
    world.cut_power()

    late = {f"systemd.unit-dropin.{FIRST_BOOT}~veilor-lab": "[Unit]\nAfter=graphical.target\n"}
    said = world.boot(world.hardware(network=False, kernel_says=LOGIN | late)).run(cycle, check=False).out
    checks.true(
        "behind the graphical target, as in 0.5.32, it has no place: systemd breaks a cycle",
        "ordering cycle" in said,
        said[-400:],
    )
    world.cut_power()


# -- USB


def plug_in(world: World, serial: str, port: str, driver: str = "usb-kbd") -> None:
    """Plug a device, a keyboard unless DRIVER says otherwise, with SERIAL into PORT."""
    world.machine.qmp.cmd("device_add", driver=driver, id=serial, serial=serial, bus="xhci.0", port=port)


def usb_state(world: World, serial: str) -> str:
    """The state of the device SERIAL now: works, blocked or gone."""
    return str(observe(world, "usb").get(serial, "gone"))


def wait_usb_state(world: World, serial: str, what: str, timeout: float = 20) -> str:
    """Wait until the device SERIAL is in the state WHAT (works, blocked, gone); the state it is in.

    One that is to be blocked is asked for again 3 s later, since it has to stay so.
    """
    deadline = time.monotonic() + timeout
    while (state := usb_state(world, serial)) != what and time.monotonic() < deadline:
        time.sleep(0.5)
    if what == "blocked":
        time.sleep(3)
        state = usb_state(world, serial)
    return state


def unplug(world: World, serial: str) -> None:
    """Pull the device SERIAL."""
    world.machine.qmp.cmd("device_del", id=serial)
    wait_usb_state(world, serial, "gone")


def restart_usbguard(world: World, rules: str | None = None) -> None:
    """Restart usbguard, with RULES as the enrolled ones if given."""
    if rules is not None:
        world.write_file(RULES, rules)
    world.machine.run(["systemctl", "restart", "usbguard.service"], check=False)
    time.sleep(3)


def start_with_keyboard(world: World, port: str) -> None:
    """Boot with the person's keyboard in PORT, plugged in before the firmware looks."""
    world.power_on(world.hardware(usb=True))
    plug_in(world, "MINE", port)
    world.type_passphrase()
    world.machine.wait_agent(UNLOCK_TIMEOUT)
    world.wait_startup_end()
    world.check_console()


def check_enrolled_at_first_start(world: World, checks: Checks) -> str:
    """Check that the machine has enrolled its keyboard by itself; the rules that it made."""
    world.machine.wait_unit(ENROL, "inactive", 120)
    rules = world.read_file(RULES)
    checks.true(
        "the first start has let in the keyboard that was there, by itself", 'serial "MINE"' in rules, rules
    )
    checks.equal(
        "by what it is, not by hash or port", [word for word in ("hash", "via-port") if word in rules], []
    )
    checks.equal("usbguard runs", unit_property(world, "usbguard.service", "ActiveState"), "active")
    checks.equal("the keyboard works", observe(world, "usb").get("MINE"), "works")
    checks.true("the person is told", "USB devices" in world.login_notice(), world.login_notice())
    return rules


def check_other_usb_devices(world: World, checks: Checks) -> None:
    """Check what becomes of devices beside the person's keyboard, on its dock or in its stead."""
    plug_in(world, "SECOND", "2")
    checks.equal(
        "a second keyboard of the same make is blocked", wait_usb_state(world, "SECOND", "blocked"), "blocked"
    )
    unplug(world, "MINE")
    plug_in(world, "DOCK", "3", "usb-hub")
    plug_in(world, "MINE", "3.1")
    checks.equal("the keyboard moves to a dock and works", wait_usb_state(world, "MINE", "works"), "works")
    observe(world, "gadget", "STICK")
    checks.equal(
        "a keyboard that is a drive as well is blocked", wait_usb_state(world, "STICK", "blocked"), "blocked"
    )
    world.machine.run(["sh", "-c", "echo >/sys/kernel/config/usb_gadget/lab/UDC"])
    unplug(world, "SECOND")
    unplug(world, "MINE")
    world.machine.run(["sh", "-c", "ls /sys/class/udc | head -1 >/sys/kernel/config/usb_gadget/lab/UDC"])
    checks.equal("also when no other keyboard is there", wait_usb_state(world, "STICK", "blocked"), "blocked")
    plug_in(world, "NEW", "4")
    checks.equal(
        "in the place of a broken keyboard a new one works", wait_usb_state(world, "NEW", "works"), "works"
    )
    unplug(world, "NEW")
    plug_in(world, "MINE", "3.1")
    checks.equal("the old one comes back", wait_usb_state(world, "MINE", "works"), "works")


def check_without_the_fix(world: World, checks: Checks, rules: str) -> None:
    """Negative controls: the same with what 0.5.32 shipped, and without the image's settings."""
    machine = world.machine
    restart_usbguard(world, machine.run(["usbguard", "generate-policy"]).out)
    checks.equal(
        "with the rules of 0.5.32 the keyboard works where it is", observe(world, "usb").get("MINE"), "works"
    )
    unplug(world, "MINE")
    plug_in(world, "MINE", "1")
    checks.equal(
        "and is lost when it is plugged in elsewhere", wait_usb_state(world, "MINE", "blocked"), "blocked"
    )
    restart_usbguard(world, rules)
    checks.equal("with ours it is back", wait_usb_state(world, "MINE", "works"), "works")

    restart_usbguard(world, "")
    checks.equal(
        "before any enrolment usbguard does not start",
        unit_property(world, "usbguard.service", "ActiveState"),
        "inactive",
    )
    checks.equal("and the keyboard works", observe(world, "usb").get("MINE"), "works")
    world.write_file("/run/systemd/system/usbguard.service.d/99-lab.conf", "[Unit]\nConditionFileNotEmpty=\n")
    machine.run(["systemctl", "daemon-reload"])
    restart_usbguard(world)
    checks.equal(
        "without that condition the only keyboard would be locked out",
        wait_usb_state(world, "MINE", "blocked"),
        "blocked",
    )
    machine.run(["rm", "/run/systemd/system/usbguard.service.d/99-lab.conf"])
    machine.run(["systemctl", "daemon-reload"])
    restart_usbguard(world, rules)

    machine.run(["sed", "-i", "s/^ImplicitPolicyTarget=.*/ImplicitPolicyTarget=allow/", SETTINGS])
    restart_usbguard(world)
    checks.equal(
        "with another default the keyboard with a drive gets in",
        wait_usb_state(world, "STICK", "works"),
        "works",
    )


@phase(
    "usb",
    "A keyboard moves with its dock, a second one and one with a drive stay out, nobody is locked out",
    starts_from="second-boot",
    independent=True,
)
def usb(world: World, checks: Checks) -> None:
    start_with_keyboard(world, "1")
    machine = world.machine
    listed = machine.run(
        ["stat", "-c", "%a", SETTINGS, RULES, "/etc/usbguard/rules.d/50-veilor.conf", ADDED]
    ).out.split()
    checks.equal("root alone reads USBGuard's settings and rules", listed, ["600"] * 4)
    if not has_program(world, "usbguard"):
        checks.not_run("keyboards, docks and drives", "this base has no USBGuard")
        world.shut_down()
        return
    rules = check_enrolled_at_first_start(world, checks)
    if machine.run(["modprobe", "--all", "dummy_hcd", "libcomposite"], check=False).code:
        checks.not_run("a keyboard that is a drive as well", "the kernel has no dummy_hcd to plug it into")
        world.shut_down()
        return
    check_other_usb_devices(world, checks)
    check_without_the_fix(world, checks, rules)
    world.write_file(ADDED, "allow id 1234:0001\n")
    world.shut_down()

    start_with_keyboard(world, "4")
    checks.equal(
        "after a restart the keyboard works in another port", wait_usb_state(world, "MINE", "works"), "works"
    )
    checks.equal("and usbguard runs", unit_property(world, "usbguard.service", "ActiveState"), "active")
    checks.equal("nothing was enrolled again", world.read_file(RULES), rules)
    checks.true(
        "a start brings the image's own settings back",
        "\nImplicitPolicyTarget=block" in world.read_file(SETTINGS),
    )
    checks.equal("and keeps the person's rules", world.read_file(ADDED), "allow id 1234:0001\n")
    world.shut_down()


# -- Wi-Fi


def count_radios(world: World) -> int:
    """How many Wi-Fi radios the kernel drives."""
    return len(
        world.machine.run(["sh", "-c", "ls /sys/class/ieee80211 2>/dev/null"], check=False).out.split()
    )


def is_suspended(machine: Machine) -> bool:
    """Whether QEMU says that MACHINE sleeps."""
    state = machine.qmp.cmd("query-status")
    return isinstance(state, dict) and state["status"] == "suspended"


def suspend_and_wake(world: World) -> None:
    """Suspend to memory and wake again. Raises OSFault when the machine doesn't sleep."""
    machine = world.machine
    machine.run(["systemd-run", "--no-block", "systemctl", "suspend"])
    deadline = time.monotonic() + 60
    while not is_suspended(machine):
        if time.monotonic() > deadline:
            raise OSFault("the machine did not go to sleep within 60 s of being asked to")
        time.sleep(0.5)
    machine.qmp.cmd("system_wakeup")
    machine.wait_unit("systemd-suspend.service", "inactive", 120)


def is_on_wifi(world: World, timeout: float = 90) -> bool:
    """Whether NetworkManager is on the access point's network within TIMEOUT seconds.

    A packet has to get there and back.
    """
    state = ["nmcli", "-g", "GENERAL.STATE", "connection", "show", "veilor-lab"]
    deadline = time.monotonic() + timeout
    while world.machine.run(state, check=False).out.strip() != "activated":
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return bool(observe(world, "knock", "tcp", FAR) == "refused")  # nothing listens there, and it says so


@phase(
    "wifi-after-suspend",
    "Wi-Fi comes back after suspend; a module that nobody signed stays out",
    starts_from="second-boot",
    independent=True,
)
def wifi_after_suspend(world: World, checks: Checks) -> None:
    machine = world.boot()
    machine.run(["modprobe", DRIVER, "radios=1"])
    checks.equal("a signed driver loads", count_radios(world), 1)
    machine.run(["modprobe", "--remove", DRIVER])
    observe(world, "unsign", DRIVER)
    refused = machine.run(["insmod", "/run/unsigned.ko"], check=False)
    checks.true(
        "local.modules: the same driver without its signature is refused",
        refused.code != 0 and count_radios(world) == 0,
        refused.err,
    )

    missing = [name for name in ("nmcli", "hostapd", "iw") if not has_program(world, name)]
    if missing:
        checks.not_run(
            "local.modules: Wi-Fi by a real access point", f"this base has no {' and no '.join(missing)}"
        )
        world.shut_down()
        return
    observe(world, "access_point", PEER, FAR, WIFI_KEY)
    machine.run(
        [
            "nmcli",
            "connection",
            "add",
            "type",
            "wifi",
            "con-name",
            "veilor-lab",
            "ifname",
            "*",
            "ssid",
            "veilor-lab",
            "wifi-sec.key-mgmt",
            "wpa-psk",
            "wifi-sec.psk",
            WIFI_KEY,
            "ipv4.method",
            "manual",
            "ipv4.addresses",
            f"{NEAR}/24",
            "ipv6.method",
            "disabled",
            "connection.autoconnect-retries",
            "0",
        ]
    )
    checks.true("NetworkManager finds the network and is on it", is_on_wifi(world))
    observe(world, "no_access_point", PEER)
    suspend_and_wake(world)
    slept = world.read_file("/sys/power/suspend_stats/success").strip()
    checks.equal("the machine slept, with the driver gone", (slept, count_radios(world)), ("1", 0))
    observe(world, "access_point", PEER, FAR, WIFI_KEY)
    checks.true(
        "local.modules: the driver loads after the suspend, and Wi-Fi comes back by itself", is_on_wifi(world)
    )
    observe(world, "no_access_point", PEER)

    machine.run(["sysctl", "-w", "kernel.modules_disabled=1"])
    latched = machine.run(["modprobe", DRIVER, "radios=2"], check=False)
    checks.true(
        "local.modules negative control: with 0.5.32's latch the driver stays away",
        latched.code != 0 and count_radios(world) == 0,
        latched.err,
    )
    checks.true("and Wi-Fi stays dead", not is_on_wifi(world, 20))
    world.shut_down()


# -- the installer's logs

WITHOUT_LOGS = """
sed '/^cat > .*keep_logs.py/,/^EOF$/d' /run/install/repo/ks.cfg >/run/veilor-lab/ks.cfg
rm /run/veilor-install/keep_logs.py
mount --bind /run/veilor-lab/ks.cfg /run/install/repo/ks.cfg
systemctl restart veilor-lab-anaconda.service
"""


@phase(
    "install-logs",
    "An installation that is refused says so, leaves its logs on the host, and switches off",
    starts_from="second-boot",
    independent=True,
)
def install_logs(world: World, checks: Checks) -> None:
    if not world.settings.stand_in_medium:
        checks.not_run("its logs are on the host", "only the stand-in for Anaconda is told to give up here")
        return
    share = world.dir / "failed-logs"
    share.mkdir(exist_ok=True)
    iso = world.make_iso(world.make_image("44.0"))
    machine = world.power_on(world.hardware(network=False, medium=iso, share=share))

    def quit_installation(start: int) -> tuple[int, list[str]]:
        """Type quit at the question behind the offset START.

        Returns the offset behind the end, and the names of the logs.
        """
        at = machine.wait_console(
            rb"Install to which disk\? ", 240, "the installer's question for a disk", start
        )
        machine.console.send(b"quit\n")
        at = machine.wait_console(rb"Not installed: [^\r\n]*", 60, "the sentence that it is refused", at)
        at = machine.wait_console(rb"Press Enter to switch off", 120, "the logs to be kept", at)
        return at, sorted(path.name for path in share.iterdir())

    at, names = quit_installation(0)
    checks.true("its logs are on the host", {"program.log", "veilor-choose-disk.log"} <= set(names), names)
    said = (share / "veilor-choose-disk.log").read_text()
    checks.true("and say why it ended", "no disk was chosen" in said, said[-300:])
    for path in share.iterdir():
        path.unlink()
    machine.run(["sh", "-ec", WITHOUT_LOGS])
    checks.equal(
        "negative control: without the script that keeps them nothing is left", quit_installation(at)[1], []
    )
    machine.console.send(b"\n")
    machine.wait_end(90, "the machine to switch off by itself")
    checks.true(
        "the installer's own error was not shown", "Pane is dead" not in machine.console.text(), go_on=True
    )
    world.stop()
