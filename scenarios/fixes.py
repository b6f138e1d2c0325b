"""The fixes of what was wrong before, seen on a booted machine, and missed where they are taken away."""

from __future__ import annotations

import json
import time

from veilor.lab.life import Life
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks, OSFault

AFTER = "life:second-boot"
STORY = "On the machine that runs the signed image, the settings hold, unsigned drivers stay out, and Wi-Fi comes back after suspend"
DRIVER = "mac80211_hwsim"  # a Wi-Fi driver for a radio that the kernel makes up

# Every `name = value` of the image's sysctl file that the running kernel doesn't have, as JSON.
SYSCTL = """
import json
wrong = {}
for line in open("/usr/lib/sysctl.d/60-veilor.conf"):
    name, equals, value = line.partition("=")
    if not equals or line.startswith("#"):
        continue
    try:
        has = open("/proc/sys/" + name.strip().replace(".", "/")).read().split()
    except OSError as error:
        has = [error.strerror]
    if has != value.split():
        wrong[name.strip()] = " ".join(has)
print(json.dumps(wrong))
"""
# Every argument of the image's kargs.d that the kernel was not started with, as JSON.
KARGS = """
import json, tomllib
wanted = tomllib.load(open("/usr/lib/bootc/kargs.d/10-veilor.toml", "rb"))["kargs"]
print(json.dumps([one for one in wanted if one not in open("/proc/cmdline").read().split()]))
"""
# Copies the driver without its signature to /run/unsigned.ko.
UNSIGN = f"""
import glob, lzma, os
(path,) = glob.glob(f"/usr/lib/modules/{{os.uname().release}}/kernel/**/{DRIVER}.ko*", recursive=True)
data = lzma.open(path).read() if path.endswith(".xz") else open(path, "rb").read()
assert data.endswith(b"~Module signature appended~\\n")
signature = int.from_bytes(data[-32:-28], "big")  # struct module_signature: its last four bytes are the length
open("/run/unsigned.ko", "wb").write(data[:-40 - signature])
"""


def sysctl_missed(life: Life) -> dict[str, str]:
    """The image's sysctl settings that don't hold on the running machine, with what it has instead."""
    return json.loads(life.machine.run(["python3", "-c", SYSCTL]).out)


def radios(life: Life) -> int:
    """How many Wi-Fi radios the kernel drives."""
    return len(life.machine.run(["sh", "-c", "ls /sys/class/ieee80211 2>/dev/null"], check=False).out.split())


def suspend(life: Life) -> None:
    """Suspend to memory and wake again. Raises OSFault when the machine doesn't sleep."""
    machine = life.machine
    machine.run(["systemd-run", "--no-block", "systemctl", "suspend"])
    deadline = time.monotonic() + 60
    while machine.qmp.cmd("query-status")["status"] != "suspended":
        if time.monotonic() > deadline:
            raise OSFault("the machine did not go to sleep within 60 s of being asked to")
        time.sleep(0.5)
    machine.qmp.cmd("system_wakeup")
    machine.wait_unit("systemd-suspend.service", "inactive", 120)


@phase("settings", "The settings that claims rest on hold on the running machine")
def settings(life: Life, checks: Checks) -> None:
    machine = life.boot()
    checks.equal("every sysctl setting of the image is in effect", sysctl_missed(life), {})
    checks.equal("every kernel argument of the image was given", json.loads(machine.run(["python3", "-c", KARGS]).out), [])
    checks.true("the kernel is locked down", "[confidentiality]" in life.read_file("/sys/kernel/security/lockdown"))
    tried = machine.run(["modprobe", "thunderbolt"], check=False)
    checks.true("a blocked driver does not load", tried.code != 0 and "thunderbolt" not in life.read_file("/proc/modules"), tried.err)
    machine.run(["sysctl", "-w", "kernel.kptr_restrict=0"])
    checks.equal("a setting that was taken back is missed", sysctl_missed(life), {"kernel.kptr_restrict": "0"})
    life.shut_down()


@phase("usb-rules", "USBGuard's settings lie ready, and it waits for the enrolment")
def usb_rules(life: Life, checks: Checks) -> None:
    machine = life.boot()
    listed = machine.run(["stat", "-c", "%a %n", "/etc/usbguard/usbguard-daemon.conf", "/etc/usbguard/rules.d/50-veilor.conf",
                          "/etc/usbguard/rules.d/90-added.conf", "/etc/usbguard/rules.conf"]).out
    checks.true("root alone reads them", all(line.startswith("600 ") for line in listed.splitlines()), listed)
    checks.equal("nobody has enrolled yet", life.read_file("/etc/usbguard/rules.conf"), "")
    life.write_file("/etc/usbguard/rules.d/90-added.conf", "allow id 1234:0001\n")
    life.write_file("/etc/usbguard/usbguard-daemon.conf", "ImplicitPolicyTarget=allow\n")
    life.shut_down()
    life.boot()
    checks.true("a start brings the image's own settings back",
                "ImplicitPolicyTarget=block" in life.read_file("/etc/usbguard/usbguard-daemon.conf"))
    checks.equal("and keeps the person's rules", life.read_file("/etc/usbguard/rules.d/90-added.conf"), "allow id 1234:0001\n")
    life.shut_down()


@phase("wifi-after-suspend", "A Wi-Fi driver loads after suspend, an unsigned one never")
def wifi_after_suspend(life: Life, checks: Checks) -> None:
    machine = life.boot()
    machine.run(["modprobe", DRIVER, "radios=1"])
    checks.equal("a signed driver loads", radios(life), 1)
    machine.run(["modprobe", "--remove", DRIVER])
    suspend(life)
    checks.equal("the driver is gone", radios(life), 0)
    machine.run(["modprobe", DRIVER, "radios=1"])
    checks.equal("after the suspend it loads again", radios(life), 1)
    machine.run(["modprobe", "--remove", DRIVER])

    machine.run(["python3", "-c", UNSIGN])
    refused = machine.run(["insmod", "/run/unsigned.ko"], check=False)
    checks.true("the same driver without its signature is refused", refused.code != 0 and radios(life) == 0, refused.err)

    machine.run(["sysctl", "-w", "kernel.modules_disabled=1"])
    latched = machine.run(["modprobe", DRIVER, "radios=1"], check=False)
    checks.true("with the latch of 0.5.32 the driver would stay away", latched.code != 0 and radios(life) == 0, latched.err)
    life.shut_down()
