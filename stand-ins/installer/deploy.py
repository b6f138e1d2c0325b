"""Brings the image onto the mounted disk and makes it bootable, by Anaconda's steps in Anaconda's order."""

import os
import stat
from pathlib import Path

import habits
from ks import Kickstart
from storage import ROOT, SYSROOT, Storage
from system import Failed, console_arguments, run

REPO = f"{ROOT}/ostree/repo"
COMPLETION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ensure_completion.py")
ENVIRONMENT = {**os.environ, "PATH": "/usr/sbin:/usr/bin"}
ELF = b"\x7fELF"  # how a compiled program begins


def init_ostree(kickstart: Kickstart) -> None:
    """Make an empty ostree on the disk, with the kickstart's stateroot, and the source as a remote.

    Without `bootprefix`, as Anaconda makes it, entries name /ostree, which is right where /boot is a
    partition. `bootloader none` is the lab's alone: Fedora's ostree knows by itself that bootupd was here.
    """
    run("ostree", "admin", "init-fs", ROOT)
    for key, value in (("bootloader", "none"), ("readonly", "true")):
        run("ostree", "config", f"--repo={REPO}", "set", f"sysroot.{key}", value)
    run("ostree", "admin", "os-init", f"--sysroot={ROOT}", kickstart.stateroot)
    with open(f"{REPO}/config", "a") as config:
        config.write(habits.remote_text(kickstart))


def deploy_image(kickstart: Kickstart) -> str:
    """Pull the image and deploy it; the deployment's folder.

    No signature is verified here, as on Fedora's medium: the first boot fetches the image again under the
    shipped policy.
    """
    argv = ["ostree", "container", "image", "deploy", f"--sysroot={ROOT}"]
    argv.append(f"--stateroot={kickstart.stateroot}")
    argv.append(f"--imgref=ostree-unverified-image:{kickstart.transport}:{kickstart.url}")
    run(*argv, timeout=1800)
    folder = f"{ROOT}/ostree/deploy/{kickstart.stateroot}/deploy"
    found = [name for name in os.listdir(folder) if not name.endswith(".origin")]
    if len(found) != 1:
        raise Failed(f"{folder} holds {len(found)} deployments after the install, not one; start again")
    return f"{folder}/{found[0]}"


def mount_system(kickstart: Kickstart, deployment: str) -> None:
    """Mount the new system at SYSROOT as it will see itself, for the %post scripts and bootupctl."""
    os.makedirs(SYSROOT, exist_ok=True)
    var = f"{ROOT}/ostree/deploy/{kickstart.stateroot}/var"
    run("mount", "--bind", deployment, SYSROOT)
    run("mount", "--make-private", SYSROOT)
    run("mount", "--bind", f"{deployment}/usr", f"{SYSROOT}/usr")
    run("mount", "-o", "remount,bind,ro", f"{SYSROOT}/usr")
    for source, folder in (
        (var, "var"),
        (ROOT, "sysroot"),
        (f"{ROOT}/boot", "boot"),
        ("/dev", "dev"),
        ("/sys", "sys"),
        ("/run", "run"),
    ):
        bind = "--rbind" if folder in ("boot", "dev", "sys", "run") else "--bind"
        run("mount", bind, "--make-rslave", source, f"{SYSROOT}/{folder}")
    run("mount", "-t", "proc", "proc", f"{SYSROOT}/proc")
    run("mount", "-t", "tmpfs", "tmpfs", f"{SYSROOT}/tmp")
    # The folders that every deployment expects below /var. systemd makes them at boot, too late for scripts.
    prefixes = [f"--prefix=/var/{name}" for name in ("log", "home", "roothome")]
    run("systemd-tmpfiles", f"--root={SYSROOT}", "--create", *prefixes, check=False)
    cover_bootc()


def cover_bootc() -> None:
    """Put our `bootc install ensure-completion` over the deployment's bootc until the installation ends.

    The lab's bootc front has no such verb. The real bootc, a compiled program, is left as it is.
    """
    bootc = f"{SYSROOT}/usr/bin/bootc"
    if not os.path.exists(bootc):
        return
    with open(bootc, "rb") as program:
        if program.read(len(ELF)) == ELF:
            return
    copy = f"{SYSROOT}/run/veilor-lab-bootc"
    with open(COMPLETION) as source, open(copy, "w") as out:
        out.write(source.read())
    os.chmod(copy, os.stat(copy).st_mode | stat.S_IXUSR)
    run("mount", "--bind", copy, bootc)


def set_kernel_arguments(kickstart: Kickstart, storage: Storage) -> None:
    """Merge what the disk needs into the boot entry, in the form and the order of Anaconda."""
    arguments = [f"rd.luks.uuid=luks-{storage.luks}", *kickstart.append, *console_arguments()]
    arguments.append(f"root=UUID={storage.uuids['/']}")
    if kickstart.keymap:
        arguments.append(f"vconsole.keymap={kickstart.keymap}")
    run_in_system("ostree", "admin", "instutil", "set-kargs", "--merge", *arguments, "rw")


def install_boot_loader(storage: Storage) -> None:
    """Have the new system's own bootupctl put the boot loader on the disk."""
    disk = storage.plan.disk.path
    flags = ("--auto", "--write-uuid", "--update-firmware")
    run_in_system("bootupctl", "backend", "install", *flags, "--device", disk, "/")


def run_in_system(*argv: str, timeout: float = 300) -> str:
    """Run ARGV in the new system; its output. Raises Failed."""
    return run("chroot", SYSROOT, *argv, timeout=timeout, env=ENVIRONMENT)


def configure(kickstart: Kickstart, storage: Storage, deployment: str) -> None:
    """Write fstab, crypttab and time zone into the deployment's /etc, and what Anaconda writes besides."""
    etc, luks = f"{deployment}/etc", storage.luks
    write_file(f"{etc}/fstab", fstab_text(storage.uuids))
    # x-initrd.attach: the initramfs opens the root's container, so shutting down must not try to close it.
    write_file(f"{etc}/crypttab", f"luks-{luks} UUID={luks} none discard,x-initrd.attach\n", 0o600)
    habits.write_settings(kickstart, Path(etc))
    zone = f"{etc}/localtime"
    if kickstart.timezone:
        if os.path.lexists(zone):
            os.unlink(zone)
        os.symlink(f"../usr/share/zoneinfo/{kickstart.timezone}", zone)
    lock_root(f"{etc}/shadow")


def fstab_text(uuids: dict[str, str]) -> str:
    """The text of fstab for the UUIDS of file systems by mount point.

    systemd waits for / without a limit: with its usual one a passphrase typed late would be too late.
    """
    rows = {
        "/": ("ext4", "defaults,x-systemd.device-timeout=0", "1 1"),
        "/boot": ("ext4", "defaults", "1 2"),
        "/boot/efi": ("vfat", "umask=0077,shortname=winnt", "0 2"),
    }
    return "".join(
        f"UUID={uuids[at]} {at} {kind} {options} {numbers}\n"
        for at, (kind, options, numbers) in rows.items()
        if at in uuids
    )


def lock_root(shadow: str) -> None:
    """Give root in the file SHADOW a password that nothing matches, when the image gave it another."""
    if not os.path.exists(shadow):
        return
    with open(shadow) as old:
        lines = [line.split(":") for line in old.read().splitlines()]
    for fields in lines:
        if fields[0] == "root" and not fields[1].startswith(("!", "*")):
            fields[1] = "!" + fields[1]
            text = "".join(":".join(one) + "\n" for one in lines)
            write_file(shadow, text, stat.S_IMODE(os.stat(shadow).st_mode))
            return


def write_file(path: str, text: str, mode: int = 0o644) -> None:
    """Write TEXT to a new file with MODE and move it to PATH; the owner of what was there stays."""
    with open(path + ".new", "w") as out:
        out.write(text)
    os.chmod(path + ".new", mode)
    if os.path.exists(path):
        old = os.stat(path)
        os.chown(path + ".new", old.st_uid, old.st_gid)
    os.rename(path + ".new", path)
