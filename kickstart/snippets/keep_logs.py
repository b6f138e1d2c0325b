"""Keeps the installation's logs, however it ends: in the new system, and outside of a virtual machine.

Outside: a folder shared over virtio-9p with the tag `veilor-logs`, or a virtio-serial port of the name
`org.veilor.logs`, which gets a tar. Never fails: what isn't there is left out. Only the files in LOGS are
taken; none of them holds a passphrase.
"""

import glob
import io
import os
import select
import shutil
import subprocess
import tarfile
import time

LOGS = (
    "/tmp/anaconda.log",
    "/tmp/storage.log",
    "/tmp/program.log",
    "/tmp/packaging.log",
    "/tmp/dbus.log",
    "/tmp/syslog",
    "/tmp/anaconda-tb-*",
    "/tmp/ks-script-*.log",
    "/tmp/veilor-*.log",
    "/tmp/veilor-target.ks",
)
# The deployment as the installer shows it, then the stateroot's own /var, for when it didn't come that far.
# The stateroot's name is ours where our kickstart deploys, and another where image-builder's own line does.
TARGETS = ("/mnt/sysroot/var", "/mnt/sysimage/ostree/deploy/*/var")
TAG = "veilor-logs"
TAGS = "/sys/bus/virtio/drivers/9pnet_virtio/virtio*/mount_tag"
SHARE = "/run/veilor-logs"
PORT = "/dev/virtio-ports/org.veilor.logs"
SECONDS = 30  # the limit of each step


def list_logs():
    """The paths of the logs there are."""
    return sorted({path for pattern in LOGS for path in glob.glob(pattern) if os.path.isfile(path)})


def copy_to(folder):
    """Copy every log into FOLDER, readable for root alone."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for path in list_logs():
        copy = os.path.join(folder, os.path.basename(path))
        shutil.copyfile(path, copy)
        os.chmod(copy, 0o600)


def keep_in_target():
    """Copy the logs to /var/log/veilor-install of the new system; its /var, or None when it isn't there."""
    for pattern in TARGETS:
        for var in sorted(glob.glob(pattern)):
            if os.path.isdir(var):
                copy_to(os.path.join(var, "log/veilor-install"))
                return var
    return None


def read_tag(path):
    """The name of a shared folder, which the kernel ends with a zero byte."""
    with open(path) as tag:
        return tag.read().strip("\0\n ")


def keep_on_share():
    """Copy the logs to the host's shared folder; its tag, or None when the host offers none."""
    subprocess.run(["modprobe", "--quiet", "9pnet_virtio"], timeout=SECONDS)
    if TAG not in [read_tag(path) for path in glob.glob(TAGS)]:
        return None
    os.makedirs(SHARE, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "9p", "-o", "trans=virtio,version=9p2000.L", TAG, SHARE], check=True, timeout=SECONDS
    )
    try:
        copy_to(SHARE)
    finally:
        subprocess.run(["umount", SHARE], timeout=SECONDS)
    return TAG


def keep_on_port():
    """Send the logs as a tar to the host's serial port; its path, or None when the host offers none.

    A host that doesn't read is given up after SECONDS.
    """
    if not os.path.exists(PORT):
        return None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in list_logs():
            tar.add(path, os.path.basename(path))
    data, deadline = memoryview(packed.getvalue()), time.monotonic() + SECONDS
    port = os.open(PORT, os.O_WRONLY | os.O_NONBLOCK)
    try:
        while data and time.monotonic() < deadline:
            if select.select([], [port], [], 1.0)[1]:
                data = data[os.write(port, data[:65536]) :]
    finally:
        os.close(port)
    return PORT


def main():
    """Try all three; what happened is said in this script's own log."""
    for keep in (keep_in_target, keep_on_share, keep_on_port):
        try:
            where = keep()
            print(f"{keep.__name__}: {where or 'no such place'}")
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{keep.__name__}: {error}")


if __name__ == "__main__":
    main()
