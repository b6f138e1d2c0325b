"""Turns a plain Debian tree into what an ostree deployment and the lab's live medium need; run by mmdebstrap
as a hook.

Argument: the tree. The kernel moves to /usr/lib/modules/<version>/vmlinuz and gets one initramfs for both
uses (LUKS root of a deployment, live root of the medium).
"""

import shutil
import subprocess
import sys
from pathlib import Path

tree = Path(sys.argv[1])
(version,) = [entry.name for entry in (tree / "usr/lib/modules").iterdir()]
modules = tree / "usr/lib/modules" / version
shutil.copyfile(tree / f"boot/vmlinuz-{version}", modules / "vmlinuz")
for leftover in (tree / "boot").iterdir():
    leftover.unlink()

conf = tree / "usr/lib/ostree/prepare-root.conf"
conf.parent.mkdir(parents=True, exist_ok=True)
shutil.copyfile(Path(__file__).parent / "rootfs/usr/lib/ostree/prepare-root.conf", conf)
subprocess.run(
    [
        "chroot",
        str(tree),
        "dracut",
        "--force",
        "--no-hostonly",
        "--zstd",
        "--reproducible",
        "--kver",
        version,
        "--add",
        "ostree crypt systemd-cryptsetup dmsquash-live",
        "--omit",
        "ecryptfs usrmount selinux",
        f"/usr/lib/modules/{version}/initramfs.img",
    ],
    check=True,
    timeout=900,
)
(modules / "initramfs.img").chmod(0o644)

# A deployment's files have no times of their own, by which Python would know its bytecode as current:
# compiled anew at each start, without a place to keep it, it takes seconds on an emulated processor.
subprocess.run(
    [
        "chroot",
        str(tree),
        "python3",
        "-m",
        "compileall",
        "-q",
        "-f",
        "--invalidation-mode",
        "unchecked-hash",
        "/usr/lib/python3",
        *(f"/{path.relative_to(tree)}" for path in (tree / "usr/lib").glob("python3.*")),
    ],
    check=True,
    timeout=900,
)

(tree / "usr/sbin/grub2-editenv").symlink_to("/usr/bin/grub-editenv")  # Fedora's name, which greenboot calls
(tree / "etc/machine-id").write_text("")  # empty: a new id on each machine, yet no "first boot" preset run
for name in ("etc/hostname", "etc/resolv.conf"):
    (tree / name).unlink(missing_ok=True)
(tree / "etc/hostname").write_text("veilor\n")
(tree / "etc/chrony/chrony.conf").unlink()
(tree / "etc/chrony/chrony.conf").symlink_to(
    "../chrony.conf"
)  # Fedora's place, where the image has its settings
for key in (tree / "etc/ssh").glob("ssh_host_*"):
    key.unlink()  # made by the package for whoever installs it: every machine would have the same
# Debian starts what it installs; the real base has no sshd to start, and these two only when they are asked
# for.
for unit in ("ssh.service", "ssh.socket"):
    (tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
    (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
for unit in (
    "hostapd.service",
    "usbguard-dbus.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
):
    for wants in (tree / "etc/systemd/system").glob(f"*.wants/{unit}"):
        wants.unlink()
