"""Turns a plain Debian tree into what an ostree deployment and the lab's live medium need.

mmdebstrap runs it as a hook. Argument: the tree. The kernel moves to /usr/lib/modules/<version>/vmlinuz and
gets one initramfs for both uses (LUKS root of a deployment, live root of the medium).
"""

import shutil
import subprocess
import sys
from pathlib import Path

LIMIT = 900  # seconds for dracut and for the compilation, on a slow machine
DRACUT = ("dracut", "--force", "--no-hostonly", "--zstd", "--reproducible")
MODULES = "ostree crypt systemd-cryptsetup dmsquash-live"
LEFT_OUT = "ecryptfs usrmount selinux"
COMPILE = ("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
# Debian starts what it installs. The real base has no sshd that could be started, so these two are masked.
MASKED = ("ssh.service", "ssh.socket")
# These start only where the image or a rehearsal asks for them.
DISABLED = (
    "hostapd.service",
    "usbguard-dbus.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
)


def run_in(tree: Path, *argv: str) -> None:
    """Run ARGV in TREE. Raises CalledProcessError or TimeoutExpired."""
    subprocess.run(["chroot", str(tree), *argv], check=True, timeout=LIMIT)


def move_kernel(tree: Path) -> Path:
    """Move the kernel of TREE out of /boot, which is empty in an image; its folder below /usr/lib/modules."""
    (modules,) = (tree / "usr/lib/modules").iterdir()
    shutil.copyfile(tree / f"boot/vmlinuz-{modules.name}", modules / "vmlinuz")
    for leftover in (tree / "boot").iterdir():
        leftover.unlink()
    return modules


def make_initramfs(tree: Path, modules: Path) -> None:
    """Make the initramfs for the kernel in the folder MODULES."""
    conf = tree / "usr/lib/ostree/prepare-root.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).parent / "rootfs/usr/lib/ostree/prepare-root.conf", conf)
    image = f"/usr/lib/modules/{modules.name}/initramfs.img"
    run_in(tree, *DRACUT, "--kver", modules.name, "--add", MODULES, "--omit", LEFT_OUT, image)
    (modules / "initramfs.img").chmod(0o644)


def compile_python(tree: Path) -> None:
    """Compile Python's modules, so that they count as current by a hash of their text.

    A deployment's files have no times of their own, by which Python would know its bytecode as current.
    Without this it would compile all anew at each start, which takes seconds on an emulated processor.
    """
    folders = [f"/{path.relative_to(tree)}" for path in (tree / "usr/lib").glob("python3.*")]
    run_in(tree, *COMPILE, "/usr/lib/python3", *folders)


def fit_to_fedora(tree: Path) -> None:
    """Give files the names and contents that Fedora's base has."""
    (tree / "usr/sbin/grub2-editenv").symlink_to("/usr/bin/grub-editenv")  # Fedora's name
    (tree / "etc/machine-id").write_text(
        ""
    )  # empty: a new id on each machine, yet no "first boot" preset run
    for name in ("etc/hostname", "etc/resolv.conf"):
        (tree / name).unlink(missing_ok=True)
    (tree / "etc/hostname").write_text("veilor\n")
    chrony = tree / "etc/chrony/chrony.conf"
    chrony.unlink()
    chrony.symlink_to("../chrony.conf")  # where Fedora's chrony reads the image's settings
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()  # the package makes them as it is installed: every machine would have the same


def stop_services(tree: Path) -> None:
    """Mask and disable what Debian starts and the real base does not."""
    units = tree / "etc/systemd/system"
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for unit in DISABLED:
        for wants in units.glob(f"*.wants/{unit}"):
            wants.unlink()


def main() -> None:
    """Arrange the tree that the command line names."""
    tree = Path(sys.argv[1])
    modules = move_kernel(tree)
    make_initramfs(tree, modules)
    compile_python(tree)
    fit_to_fedora(tree)
    stop_services(tree)


if __name__ == "__main__":
    main()
