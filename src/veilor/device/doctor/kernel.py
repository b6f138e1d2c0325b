"""Checks of what the kernel says of itself in /proc and /sys."""

from veilor.device.doctor.observation import Observation, Unseen, judge, judge_list, not_applicable, read_text
from veilor.device.run import at


def sysctl(key: str, want: str, at_least: bool = False) -> Observation:
    """The kernel setting KEY has the value WANT, or with AT_LEAST a number that is no lower."""
    content = read_text("/proc/sys/" + key.replace(".", "/"))
    if content is None:
        return judge(False, f"this kernel has no {key}")
    value = " ".join(content.split())
    try:
        good = int(value) >= int(want) if at_least else value == want
    except ValueError:
        good = False
    wanted = f"{want} or more" if at_least else want
    return judge(good, f"{key} is {value}" + ("" if good else f", not {wanted}"))


def karg(argument: str) -> Observation:
    """The kernel was started with ARGUMENT, and no other value for its name follows: the last one counts."""
    name = argument.split("=")[0]
    same = _kargs([name])
    good = bool(same) and same[-1] == argument
    return judge(good, f"the kernel was started with {' '.join(same) or f'no {name}'}")


def no_karg(names: list[str]) -> Observation:
    """The kernel was started without any argument of these NAMES."""
    found = _kargs(names)
    none = f"no {' or '.join(names)} on the command line"
    return judge(not found, f"the kernel was started with {', '.join(found)}" if found else none)


def _kargs(names: list[str]) -> list[str]:
    """The kernel's arguments whose name is one of NAMES, as given and in order."""
    given = (read_text("/proc/cmdline") or "").split()
    return [argument for argument in given if argument.split("=")[0] in names]


def lockdown(level: str) -> Observation:
    """The kernel's lockdown is LEVEL: the word in brackets in securityfs."""
    text = read_text("/sys/kernel/security/lockdown")
    if text is None:
        return judge(False, "this kernel has no lockdown, or securityfs is not mounted")
    current = next((word.strip("[]") for word in text.split() if word.startswith("[")), "unknown")
    return judge(current == level, f"lockdown is {current}")


def modules_signed() -> Observation:
    """The kernel takes only modules that are signed by a key it knows."""
    if not at("/proc/modules").exists():
        return not_applicable("this kernel loads no modules at all")
    signed = read_text("/sys/module/module/parameters/sig_enforce") == "Y"
    return judge(signed, "unsigned modules are refused" if signed else "an unsigned module would be taken")


def modules_out(names: list[str]) -> Observation:
    """None of the modules NAMES is loaded."""
    loaded = {line.split()[0] for line in (read_text("/proc/modules") or "").splitlines() if line}
    found = sorted(loaded & set(names))
    return judge_list(found, "loaded", f"none of {', '.join(names)} is loaded")


def selinux() -> Observation:
    """SELinux enforces its policy."""
    enforce = read_text("/sys/fs/selinux/enforce")
    if enforce is None:
        return judge(False, "SELinux is not there")
    return judge(enforce == "1", "SELinux is enforcing" if enforce == "1" else "SELinux only warns")


def mapped(library: str) -> Observation:
    """Programs run with LIBRARY loaded: this very program has it."""
    maps = read_text("/proc/self/maps")
    if maps is None:
        raise Unseen("/proc/self/maps is not there")
    good = any(line.rsplit("/", 1)[-1] == library for line in maps.splitlines())
    return judge(good, f"{library} is {'' if good else 'not '}loaded into programs")


def usb_waits() -> Observation:
    """What is plugged into any USB bus waits until it is allowed (authorized_default of the bus is 0)."""
    buses = sorted(bus.name for bus in at("/sys/bus/usb/devices").glob("usb*"))
    if not buses:
        return judge(False, "0 USB buses, on which each new device waits")
    authorized = {bus: read_text(f"/sys/bus/usb/devices/{bus}/authorized_default") for bus in buses}
    lets_in = [bus for bus in buses if authorized[bus] != "0"]
    return judge_list(
        lets_in, "lets in what is plugged in", f"{len(buses)} USB buses, on which each new device waits"
    )


def secure_boot() -> Observation:
    """The firmware checks what it starts: the variable's last byte, after four of attributes, is 1."""
    if not at("/sys/firmware/efi").exists():
        return not_applicable("this machine was started by a BIOS, which has no Secure Boot")
    variables = at("/sys/firmware/efi/efivars")
    found = sorted(variables.glob("SecureBoot-*")) if variables.is_dir() else []
    if not found:
        raise Unseen("the firmware's variables are not readable here")
    try:
        on = found[0].read_bytes()[-1:] == b"\x01"
    except OSError as error:
        raise Unseen(f"the firmware's variable cannot be read ({error.strerror})") from None
    return judge(on, f"Secure Boot is {'on' if on else 'off'}")
