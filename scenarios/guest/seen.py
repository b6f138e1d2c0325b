"""What is looked at, or plugged in, inside a guest: sent there as text and started as `python3 -c … WHAT
[ARGUMENTS]`.

Each prints its answer: JSON where it is more than a word.
"""

import configparser
import glob
import json
import lzma
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import time
import tomllib

KEYBOARD = (
    "05010906a101050719e029e71500250175019508810295017508810395057501050819012905910295017503910395067508150025650507"
    "190029658100c0"
)  # the report descriptor of a boot keyboard: HID 1.11, appendix B.1


def sysctl():
    """Every `name = value` of the image's sysctl file that the running kernel doesn't have."""
    wrong = {}
    for line in open("/usr/lib/sysctl.d/60-veilor.conf"):
        name, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        try:
            found = open("/proc/sys/" + name.strip().replace(".", "/")).read().split()
        except OSError as error:
            found = [error.strerror]
        if found != value.split():
            wrong[name.strip()] = " ".join(found)
    return wrong


def kargs():
    """Every argument of the image's kargs.d that the kernel was not started with."""
    wanted = tomllib.load(open("/usr/lib/bootc/kargs.d/10-veilor.toml", "rb"))["kargs"]
    return [one for one in wanted if one not in open("/proc/cmdline").read().split()]


def unsign(name):
    """Copies the module NAME without its signature to /run/unsigned.ko."""
    (path,) = glob.glob(f"/usr/lib/modules/{os.uname().release}/kernel/**/{name}.ko*", recursive=True)
    data = lzma.open(path).read() if path.endswith(".xz") else open(path, "rb").read()
    assert data.endswith(b"~Module signature appended~\n")
    signature = int.from_bytes(
        data[-32:-28], "big"
    )  # struct module_signature: its last four bytes are the length
    open("/run/unsigned.ko", "wb").write(data[: -40 - signature])
    return "done"


def settings_of(path):
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    found.optionxform = str
    found.read(path)
    return found


def look():
    """What the look's settings name and the machine doesn't have: packages, colours, wallpaper, terminal
    profile.
    """
    named = []
    for package in settings_of("/etc/xdg/kdeglobals")["KDE"].values():
        home = f"/usr/share/plasma/look-and-feel/{package}"
        named += [f"{home}/metadata.json", f"{home}/contents/defaults"]
        defaults = settings_of(f"{home}/contents/defaults")
        for section in defaults.sections():
            for name, value in defaults[section].items():
                named += [f"/usr/share/color-schemes/{value}.colors"] * (name == "ColorScheme")
                named += [f"/usr/share/wallpapers/{value}/metadata.json"] * (
                    section.endswith("Wallpaper") and name == "Image"
                )
    named.append("/usr/share/konsole/" + settings_of("/etc/xdg/konsolerc")["Desktop Entry"]["DefaultProfile"])
    return sorted({path for path in named if not os.path.exists(path)})


def knock(kind, where):
    """What comes of a ping to WHERE, or of a knock at its port 8022."""
    try:
        if kind == "tcp":
            socket.create_connection((where, 8022), 4).close()
            return "open"
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as peer:
            peer.settimeout(4)
            total = sum(struct.unpack("!4H", struct.pack("!BBHHH", 8, 0, 0, 7, 1)))
            peer.sendto(
                struct.pack("!BBHHH", 8, 0, 0xFFFF - (total & 0xFFFF) - (total >> 16), 7, 1), (where, 0)
            )
            return "answer" if peer.recv(99)[20] == 0 else "refused"
    except TimeoutError:
        return "silence"
    except OSError:
        return "refused"


def usb():
    """USB devices by serial number: "works" for one that is let in and in use, else "let in" or "blocked"."""
    found = {}
    for path in glob.glob("/sys/bus/usb/devices/*/serial"):
        home = os.path.dirname(path)
        try:
            name, let_in = open(path).read().strip(), open(home + "/authorized").read().strip() == "1"
        except OSError:
            continue  # pulled just now
        used = glob.glob(home + "/*:*/*/input/input*") + glob.glob(home + "/*:*/host*")
        found[name] = "works" if let_in and used else "let in" if let_in else "blocked"
    return found


def gadget(serial):
    """Plug in a device that is a keyboard and a drive at once, on a host
    controller that the kernel makes up.
    """
    root, disk = pathlib.Path("/sys/kernel/config/usb_gadget/lab"), pathlib.Path("/run/veilor-lab/stick")
    for folder in ("strings/0x409", "configs/c.1", "functions/hid.k", "functions/mass_storage.s"):
        (root / folder).mkdir(parents=True)
    disk.write_bytes(bytes(1 << 20))
    texts = {
        "idVendor": "0x1234",
        "idProduct": "0x0002",
        "strings/0x409/serialnumber": serial,
        "strings/0x409/product": "Stick",
        "functions/hid.k/protocol": "1",
        "functions/hid.k/subclass": "1",
        "functions/hid.k/report_length": "8",
        "functions/mass_storage.s/lun.0/file": str(disk),
    }
    for name, text in texts.items():
        (root / name).write_text(text)
    (root / "functions/hid.k/report_desc").write_bytes(bytes.fromhex(KEYBOARD))
    for name in ("hid.k", "mass_storage.s"):
        os.symlink(root / "functions" / name, root / "configs/c.1" / name)
    (root / "UDC").write_text(sorted(os.listdir("/sys/class/udc"))[0])
    return "done"


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def access_point(peer, address, key):
    """Load the driver with two radios, and put one of them behind a WPA2 access point in the network
    namespace PEER.
    """
    run("modprobe", "mac80211_hwsim", "radios=2")
    run("ip", "netns", "add", peer)
    run(
        "iw",
        "phy",
        max(os.listdir("/sys/class/ieee80211"), key=lambda name: (len(name), name)),
        "set",
        "netns",
        "name",
        peer,
    )
    (device,) = (
        name for name in run("ip", "netns", "exec", peer, "ls", "/sys/class/net").split() if name != "lo"
    )
    lines = (
        f"interface={device}",
        "driver=nl80211",
        "ssid=veilor-lab",
        "hw_mode=g",
        "channel=1",
        "wpa=2",
        "wpa_key_mgmt=WPA-PSK",
        "rsn_pairwise=CCMP",
        f"wpa_passphrase={key}",
        "",
    )
    pathlib.Path("/run/veilor-lab/hostapd.conf").write_text("\n".join(lines))
    run(
        "ip",
        "netns",
        "exec",
        peer,
        "hostapd",
        "-B",
        "-P",
        "/run/veilor-lab/hostapd.pid",
        "/run/veilor-lab/hostapd.conf",
    )
    run("ip", "-n", peer, "address", "add", f"{address}/24", "dev", device)
    return "done"


def no_access_point(peer):
    """Take the access point and the driver away."""
    os.kill(int(open("/run/veilor-lab/hostapd.pid").read()), 15)
    run("ip", "netns", "delete", peer)
    for _ in range(40):
        if not subprocess.run(["modprobe", "--remove", "mac80211_hwsim"], capture_output=True).returncode:
            return "done"
        time.sleep(0.5)
    raise SystemExit("the driver does not go")


def graphics(ours):
    """The graphics drivers that dracut takes into the smallest initramfs, with OUR settings ("yes") or with
    none.
    """
    folder, other, made = "/usr/lib/dracut/dracut.conf.d", "/run/veilor-lab/dracut", "/var/tmp/veilor-lab.img"
    os.makedirs(other, exist_ok=True)
    if ours == "yes":
        lines = open(f"{folder}/60-veilor.conf").read().splitlines()
        if not shutil.which("loadkeys"):  # nothing to load a keyboard layout with: dracut would refuse
            lines = [line for line in lines if "i18n" not in line]
        pathlib.Path(other, "60-veilor.conf").write_text("\n".join([*lines, ""]))
    run("mount", "--bind", other, folder)
    try:
        run(
            "dracut",
            "--quiet",
            "--force",
            "--no-hostonly",
            "--no-early-microcode",
            "--no-compress",
            "--modules",
            "bash",
            "--tmpdir",
            "/var/tmp",
            made,
        )
    finally:
        run("umount", folder)
        shutil.rmtree(other)
    names = {
        os.path.basename(path).partition(".ko")[0]
        for path in run("sh", "-c", f"cpio -it --quiet <{made}").split()
        if ".ko" in path
    }
    os.unlink(made)
    return sorted(names & {"amdgpu", "i915", "nouveau", "xe"})


answer = globals()[sys.argv[1]](*sys.argv[2:])
print(answer if isinstance(answer, str) else json.dumps(answer))
