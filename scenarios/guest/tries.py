"""What an attacker's program tries inside a guest. Each try prints "ok" when it went through, else the error
that stopped it.

Sent to the guest as text and started there as `python3 -c … TRY [ARGUMENTS]`, so it stands alone.
"""

import ctypes
import errno
import fcntl
import json
import lzma
import os
import pathlib
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def kallsyms():
    lines = open("/proc/kallsyms").read().splitlines()[:500]
    if not any(int(line.split()[0], 16) for line in lines):
        raise OSError(errno.EPERM, "")


def dmesg():
    if libc.klogctl(3, ctypes.create_string_buffer(4096), 4096) < 0:
        raise OSError(ctypes.get_errno(), "")


def perf():  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, the kernel included
    attributes = struct.pack("<IIQ", 1, 128, 0).ljust(128, b"\0")
    call(298, attributes, 0, -1, -1, 0)


def io_uring():
    call(425, 1, ctypes.create_string_buffer(120))


def userfaultfd():
    call(323, 0)


def bpf():  # BPF_MAP_CREATE: an array of one word
    call(321, 0, struct.pack("<IIIII", 2, 4, 4, 1, 0).ljust(128, b"\0"), 128)


def kexec():
    call(246, 0, 0, None, 0)


def mem():
    os.close(os.open("/dev/mem", os.O_RDWR))


def ptrace():
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    time.sleep(0.5)
    try:
        attacker = subprocess.run(
            [
                sys.executable,
                "-I",
                "-c",
                "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); "
                "sys.exit(ctypes.get_errno() if libc.ptrace(16, int(sys.argv[1]), None, None) < 0 else 0)",
                str(other.pid),
            ]
        )
        if attacker.returncode:
            raise OSError(attacker.returncode, "")
    finally:
        other.kill()


def core():
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o777)
    before = {path.name for path in pathlib.Path("/tmp").glob("core*")}
    child = os.fork()
    if not child:
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(9)
    os.waitpid(child, 0)
    time.sleep(1)
    made = [
        path
        for path in [*pathlib.Path("/tmp").glob("core*"), *pathlib.Path(folder).iterdir()]
        if path.name not in before
    ]
    for path in made:
        path.unlink()
    if not made:
        raise OSError(errno.EPERM, "")


def write(path):
    open(path, "w").close()
    os.unlink(path)


def symlink():  # as root through a link that nobody put into a folder that all may write
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777)
    target, link = os.path.join(folder, "target"), os.path.join(folder, "link")
    open(target, "w").close()
    os.symlink(target, link)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    open(link).close()


def hardlink():
    link = f"/tmp/veilor-lab-{os.getpid()}"
    os.link("/tmp/veilor-lab-roots", link)  # root's now, so only root could take it away


def userns():
    if libc.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), "")


def sudo():
    """Whom sudo makes root: an administrator by the right and by a wrong word, another account; then with a
    rule that asks nobody.
    """
    group = "wheel" if "\n%wheel" in open("/etc/sudoers").read() else "sudo"
    word, rule = os.urandom(8).hex(), pathlib.Path("/etc/sudoers.d/veilor-lab")

    def root(who, given):
        argv = [
            "setpriv",
            f"--reuid={who}",
            f"--regid={who}",
            "--init-groups",
            "sudo",
            "-k",
            "-S",
            "-p",
            "",
            "id",
            "-u",
        ]
        done = subprocess.run(argv, input=given + "\n", capture_output=True, text=True, timeout=170)
        return done.returncode == 0 and done.stdout.strip() == "0"

    try:
        for who, more in (("veilor-lab-a", ["-G", group]), ("veilor-lab-p", [])):
            subprocess.run(["useradd", "-M", "-U", *more, who], check=True, capture_output=True)
            subprocess.run(["chpasswd"], input=f"{who}:{word}\n", text=True, check=True, capture_output=True)
        found = {
            "group": group,
            "right": root("veilor-lab-a", word),
            "wrong": root("veilor-lab-a", word + "x"),
            "other": root("veilor-lab-p", word),
        }
        rule.write_text("ALL ALL=(ALL) NOPASSWD: ALL\n")
        rule.chmod(0o440)
        return json.dumps(
            found | {"unasked": [root("veilor-lab-a", word + "x"), root("veilor-lab-p", word + "x")]}
        )
    finally:
        rule.unlink(missing_ok=True)
        for who in ("veilor-lab-a", "veilor-lab-p"):
            subprocess.run(["userdel", who], capture_output=True)


POLICY = """<?xml version="1.0"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD polkit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/software/polkit/policyconfig-1.dtd"><policyconfig>{}</policyconfig>"""
ACTION = """<action id="org.projectatomic.rpmostree1.{}"><description>x</description><message>x</message><defaults>
<allow_any>yes</allow_any><allow_inactive>yes</allow_inactive><allow_active>yes</allow_active></defaults></action>"""  # noqa: E501


def polkit(*moves):
    """What polkit decides of MOVES for a program without rights, and what without our rules, as pkcheck's
    exit codes: 2, a password is asked for; 0, it may. The actions are rpm-ostree's; here nobody but our rules
    says that they are not for all."""
    actions = pathlib.Path("/etc/polkit-1/actions/org.projectatomic.rpmostree1.policy")
    guard = "/usr/share/polkit-1/rules.d/10-veilor-guard.rules"
    asks = subprocess.Popen(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "300"])

    def decided():
        subprocess.run(["systemctl", "restart", "polkit.service"], check=True, capture_output=True)
        ask = ["pkcheck", "--process", str(asks.pid), "--action-id"]
        return {
            move: subprocess.run(
                [*ask, f"org.projectatomic.rpmostree1.{move}"], capture_output=True
            ).returncode
            for move in moves
        }

    try:
        time.sleep(1)
        actions.parent.mkdir(parents=True, exist_ok=True)
        actions.write_text(POLICY.format("".join(map(ACTION.format, moves))))
        asked = decided()
        subprocess.run(["mount", "--bind", "/dev/null", guard], check=True)
        try:
            return json.dumps([asked, decided()])
        finally:
            subprocess.run(["umount", guard])
    finally:
        asks.kill()
        actions.unlink(missing_ok=True)
        subprocess.run(["systemctl", "restart", "polkit.service"], capture_output=True)


def write_after_free():
    for name in ("malloc", "free"):
        getattr(libc, name).restype, getattr(libc, name).argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.malloc.argtypes = [ctypes.c_size_t]
    some = [libc.malloc(256) for _ in range(2000)]
    for address in some:
        libc.free(address)
    for address in some:
        ctypes.memset(address + 128, 0x41, 8)
    for _ in range(4000):
        libc.malloc(256)


def insert(data):
    try:
        call(175, data, ctypes.c_ulong(len(data)), b"")
        return "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


def module():
    mark = b"~Module signature appended~\n"
    loaded = {line.split()[0] for line in open("/proc/modules")}
    for name in ("dummy", "ifb", "nlmon", "crc7", "ts_kmp"):
        found = [*pathlib.Path("/usr/lib/modules", os.uname().release).rglob(name + ".ko*")]
        if not found or name in loaded:
            continue
        data = found[0].read_bytes()
        if found[0].suffix == ".xz":
            data = lzma.decompress(data)
        elif found[0].suffix == ".zst":
            data = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
        if not data.endswith(mark):
            continue
        length = struct.unpack(">I", data[-len(mark) - 4 : -len(mark)])[0]
        bare = data[: len(data) - len(mark) - 12 - length]
        middle = len(bare) // 2
        # Its signature is still there.
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        result = {"name": name, "unsigned": insert(bare), "changed": insert(changed), "signed": insert(data)}
        subprocess.run(["rmmod", name], capture_output=True)
        return json.dumps(result)
    return json.dumps({"reason": "none of the small modules is signed"})


def vsyscall():  # a page at an address that every program knows
    if "[vsyscall]" not in open("/proc/self/maps").read():
        raise OSError(errno.ENOENT, "")


def merged():  # kernel objects of different kinds in one cache: such a cache has a made-up name with a colon
    if not any(":" in path.name for path in pathlib.Path("/sys/kernel/slab").iterdir()):
        raise OSError(errno.ENOENT, "")


def terminal():  # TIOCSETD: have the kernel load a line discipline (N_PPP) for a terminal of one's own
    _, slave = os.openpty()
    fcntl.ioctl(slave, 0x5423, struct.pack("i", 3))


def fifo():  # as root into a pipe that nobody put into a folder that all may write
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o1777)
    path = os.path.join(folder, "pipe")
    os.mkfifo(path)
    os.chown(path, 65534, 65534)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def enter_peer():
    namespace = os.open("/run/netns/veilor-lab-peer", os.O_RDONLY)
    if libc.setns(namespace, 0) < 0:
        raise OSError(ctypes.get_errno(), "")


def connect_all(address, ports):
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    family, opened = socket.AF_INET6 if ":" in address else socket.AF_INET, []
    for first in range(0, len(ports), 4000):
        waiting, poll = {}, select.poll()
        for port in ports[first : first + 4000]:
            one = socket.socket(family)
            one.setblocking(False)
            if one.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                waiting[one.fileno()] = (one, port)
                poll.register(one, select.POLLOUT)
            else:
                one.close()
        until = time.monotonic() + 2
        while waiting and time.monotonic() < until:
            for fd, _ in poll.poll(200):
                one, port = waiting.pop(fd)
                poll.unregister(fd)
                if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    opened.append(port)
                one.close()
        for one, _ in waiting.values():
            one.close()
    return sorted(opened)


def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.settimeout(3)
        one.sendto(
            struct.pack("!BBHHH", 8, 0, 0xF7FF - 1 - 7, 7, 1), (address, 0)
        )  # an echo request, its checksum worked out
        try:
            return one.recv(99)[20] == 0
        except TimeoutError:
            return False


def scan(v4, v6, listen):
    """What the neighbour reaches while a program of this machine listens on LISTEN, TCP and UDP, old and new
    addresses.
    """
    listen = int(listen)
    server = socket.create_server(
        ("::", listen), family=socket.AF_INET6, dualstack_ipv6=True
    )  # of the near side: it stays there
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", listen))
    datagrams.settimeout(2)
    enter_peer()
    found = {
        "open": connect_all(v4, list(range(1, 65536))),
        "open6": connect_all(v6, [22, 111, 139, 445, 631, 1716, 5353, 5355, listen]),
    }
    found["ping"] = ping(v4)
    for address, family in ((v4, socket.AF_INET), (v6, socket.AF_INET6)):
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.sendto(address.encode(), (address, listen))
    heard = []
    for _ in range(2):
        try:
            heard.append(datagrams.recv(99).decode())
        except TimeoutError:
            break
    server.close()
    return json.dumps({**found, "datagrams": sorted(heard)})


def knock(address, port):
    enter_peer()
    if not connect_all(address, [int(port)]):
        raise OSError(errno.ETIMEDOUT, "")


def liar(address, ahead):
    """Answer whoever asks for the time on the neighbour's side, AHEAD seconds wrong (RFC 5905: mode 4,
    stratum 1).
    """
    enter_peer()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 123))
    while True:
        asked, who = server.recvfrom(512)
        now = struct.pack("!Q", int((time.time() + 2208988800 + int(ahead)) * 2**32))
        head = struct.pack("!BBbbII4s", 0x24, 1, asked[2], -20, 0, 1, b"LAB\0")
        server.sendto(head + now + asked[40:48] + now + now, who)


def resolver(address):
    """Answer whoever asks for a name on the neighbour's side that it is the neighbour's ADDRESS (RFC 1035; to
    AAAA: nothing).
    """
    enter_peer()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        asked, who = server.recvfrom(512)
        question = asked[12 : asked.index(b"\0", 12) + 5]
        given = (
            b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) if question[-4:-2] == b"\0\1" else b""
        )
        server.sendto(
            asked[:2] + b"\x81\x80\0\1" + (b"\0\1" if given else b"\0\0") + b"\0\0\0\0" + question + given,
            who,
        )


def clock():  # how far the clock is from the time since the start, which nothing sets
    return str(time.time() - time.monotonic())


def set_clock(offset):
    time.clock_settime(time.CLOCK_REALTIME, float(offset) + time.monotonic())


GADGETS = pathlib.Path("/sys/kernel/config/usb_gadget")
KEYBOARD = (
    bytes.fromhex(  # a report descriptor as of a keyboard that a BIOS understands (HID 1.11, appendix B)
        "05010906a101050719e029e715002501750195088102950175088103950575010508190129059102"
        "95017503910395067508150025650507190029658100c0"
    )
)


def seen(serial):
    """What became of the USB device with SERIAL: whether the kernel lets it in, and which drivers took it."""
    until, last = time.monotonic() + 8, None
    while time.monotonic() < until:
        for device in pathlib.Path("/sys/bus/usb/devices").glob("*"):
            if (device / "serial").exists() and (device / "serial").read_text().strip() == serial:
                drivers = sorted(
                    {
                        (part / "driver").resolve().name
                        for part in device.glob("*:*")
                        if (part / "driver").exists()
                    }
                )
                last = {"authorized": (device / "authorized").read_text().strip() == "1", "drivers": drivers}
        time.sleep(0.5)
    if last is None:
        raise OSError(errno.ENODEV, "")
    return json.dumps(last)


def plug(serial, *functions):
    """Plug in a device with SERIAL that is all of FUNCTIONS (hid, mass_storage, ecm), by the kernel's own
    dummy controller.
    """
    gadget = GADGETS / serial
    (gadget / "strings/0x409").mkdir(parents=True)
    (gadget / "configs/c.1").mkdir(parents=True)
    identity = {
        "idVendor": "0x1d6b",
        "idProduct": "0x0104",
        "bcdUSB": "0x0200",
        "strings/0x409/serialnumber": serial,
        "strings/0x409/product": "Lab device",
    }
    for name, text in identity.items():
        (gadget / name).write_text(text)
    for function in functions:
        part = gadget / "functions" / f"{function}.lab"
        part.mkdir(parents=True)
        if function == "hid":
            for name, text in (
                ("protocol", b"1"),
                ("subclass", b"1"),
                ("report_length", b"8"),
                ("report_desc", KEYBOARD),
            ):
                (part / name).write_bytes(text)
        if function == "mass_storage":
            backing = pathlib.Path("/run/veilor-lab", f"{serial}.img")
            backing.write_bytes(b"veilor" * 200000)
            (part / "lun.0/file").write_text(str(backing))
        (gadget / "configs/c.1" / part.name).symlink_to(part)
    controller = sorted(
        path.name for path in pathlib.Path("/sys/class/udc").iterdir() if path.name.startswith("dummy")
    )[0]
    (gadget / "UDC").write_text(controller)
    return seen(serial)


def unplug(serial):
    gadget = GADGETS / serial
    (gadget / "UDC").write_text("\n")
    for link in (gadget / "configs/c.1").iterdir():
        if link.is_symlink():
            link.unlink()
    parts = (*(gadget / "functions").iterdir(), gadget / "configs/c.1", gadget / "strings/0x409")
    for folder in (*parts, gadget):
        folder.rmdir()


try:
    print(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:]) or "ok")
except OSError as error:
    print(errno.errorcode.get(error.errno, str(error)))
