"""Looks at what the kernel says of itself in /proc and /sys."""

from veilor.device.doctor.observation import Observation, Unseen, judge, not_applicable, read_text
from veilor.device.run import at


def sysctl(key: str, want: str, at_least: bool = False) -> Observation:
    """The kernel setting KEY has the value WANT, or with AT_LEAST a number that is no lower."""
    path = "/proc/sys/" + key.replace(".", "/")
    found = read_text(path)
    if found is None:
        return judge(False, f"this kernel has no {key}")
    value = " ".join(found.split())
    try:
        good = int(value) >= int(want) if at_least else value == want
    except ValueError:
        good = False
    return judge(good, f"{key} is {value}" + ("" if good else f", not {want}" + " or more" * at_least))


def karg(argument: str) -> Observation:
    """The kernel was started with ARGUMENT, and with nothing else for the same name after it (the last one
    counts).
    """
    given = (read_text("/proc/cmdline") or "").split()
    name = argument.split("=")[0]
    same = [one for one in given if one.split("=")[0] == name]
    good = bool(same) and same[-1] == argument
    return judge(good, f"the kernel was started with {' '.join(same) or f'no {name}'}")


def no_karg(names: list[str]) -> Observation:
    """The kernel was started without any argument of these NAMES."""
    given = [one for one in (read_text("/proc/cmdline") or "").split() if one.split("=")[0] in names]
    return judge(
        not given,
        f"the kernel was started with {', '.join(given)}"
        if given
        else f"no {' or '.join(names)} on the command line",
    )


def lockdown(level: str) -> Observation:
    """The kernel's lockdown is LEVEL: the word in brackets in securityfs."""
    text = read_text("/sys/kernel/security/lockdown")
    if text is None:
        return judge(False, "this kernel has no lockdown, or securityfs is not mounted")
    now = next((word.strip("[]") for word in text.split() if word.startswith("[")), "unknown")
    return judge(now == level, f"lockdown is {now}")


def modules_signed() -> Observation:
    """The kernel takes only modules that are signed by a key it knows."""
    if at("/proc/modules").exists() is False:
        return not_applicable("this kernel loads no modules at all")
    found = read_text("/sys/module/module/parameters/sig_enforce")
    return judge(
        found == "Y", "unsigned modules are refused" if found == "Y" else "an unsigned module would be taken"
    )


def modules_out(names: list[str]) -> Observation:
    """None of the modules NAMES is loaded."""
    loaded = {line.split()[0] for line in (read_text("/proc/modules") or "").splitlines() if line}
    found = sorted(loaded & set(names))
    return judge(
        not found, f"loaded: {', '.join(found)}" if found else f"none of {', '.join(names)} is loaded"
    )


def selinux() -> Observation:
    """SELinux enforces its policy."""
    found = read_text("/sys/fs/selinux/enforce")
    if found is None:
        return judge(False, "SELinux is not there")
    return judge(found == "1", "SELinux is enforcing" if found == "1" else "SELinux only warns")


def mapped(library: str) -> Observation:
    """Programs run with LIBRARY loaded: it is in this very one."""
    maps = read_text("/proc/self/maps")
    if maps is None:
        raise Unseen("/proc/self/maps is not there")
    good = any(line.rsplit("/", 1)[-1] == library for line in maps.splitlines())
    return judge(good, f"{library} is {'' if good else 'not '}loaded into programs")


def usb_waits() -> Observation:
    """What is plugged into any USB bus waits until it is allowed: the bus takes nothing by itself
    (authorized_default).
    """
    said = {
        bus.name: read_text(f"/sys/bus/usb/devices/{bus.name}/authorized_default")
        for bus in at("/sys/bus/usb/devices").glob("usb*")
    }
    lets_in = sorted(name for name, text in said.items() if text != "0")
    return judge(
        bool(said) and not lets_in,
        f"lets in what is plugged in: {', '.join(lets_in)}"
        if lets_in
        else f"{len(said)} USB buses, on which each new device waits",
    )


def secure_boot() -> Observation:
    """The firmware checks what it starts (the variable's last byte, after four of attributes)."""
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
