"""What an attacker's program tries inside a guest. Each try prints "ok" when it went through, else the error that stopped it.

Sent to the guest as text and started there as `python3 -c … TRY [ARGUMENTS]`, so it stands alone.
"""

import ctypes
import errno
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
        attacker = subprocess.run([sys.executable, "-I", "-c", "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True); "
            "sys.exit(ctypes.get_errno() if libc.ptrace(16, int(sys.argv[1]), None, None) < 0 else 0)", str(other.pid)])
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
    made = [path for path in [*pathlib.Path("/tmp").glob("core*"), *pathlib.Path(folder).iterdir()] if path.name not in before]
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
        length = struct.unpack(">I", data[-len(mark) - 4:-len(mark)])[0]
        bare = data[:len(data) - len(mark) - 12 - length]
        place = len(bare) // 2
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1:]  # its signature is still there
        result = {"name": name, "unsigned": insert(bare), "changed": insert(changed), "signed": insert(data)}
        subprocess.run(["rmmod", name], capture_output=True)
        return json.dumps(result)
    return json.dumps({"reason": "none of the small modules is signed"})

def scan(address, listen=""):
    ports = [int(listen)] if listen else list(range(1, 65536))
    server = socket.create_server(("0.0.0.0", int(listen or 0)))  # of the near side: it stays there
    if not listen:
        server.close()
    namespace = os.open("/run/netns/veilor-lab-peer", os.O_RDONLY)
    if libc.setns(namespace, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    opened = []
    for first in range(0, len(ports), 2000):
        waiting = {}
        poll = select.poll()
        for port in ports[first:first + 2000]:
            one = socket.socket()
            one.setblocking(False)
            if one.connect_ex((address, port)) in (0, errno.EINPROGRESS):
                waiting[one.fileno()] = (one, port)
                poll.register(one, select.POLLOUT)
            else:
                one.close()
        until = time.monotonic() + 3
        while waiting and time.monotonic() < until:
            for fd, _ in poll.poll(200):
                one, port = waiting.pop(fd)
                poll.unregister(fd)
                if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    opened.append(port)
                one.close()
        for one, _ in waiting.values():
            one.close()
    server.close()
    return json.dumps({"open": sorted(opened)})

try:
    print(globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:]) or "ok")
except OSError as error:
    print(errno.errorcode.get(error.errno, str(error)))
