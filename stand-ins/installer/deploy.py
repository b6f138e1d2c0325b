"""Brings the image onto the mounted disk and makes it bootable, by the steps and in the order that Anaconda
takes.
"""

import os
import stat

from ks import Kickstart
from storage import ROOT, SYSROOT, Storage
from system import Failed, consoles, run

REPO = f"{ROOT}/ostree/repo"
COMPLETION = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ensure_completion.py")
OSTREE = {**os.environ, "PATH": "/usr/sbin:/usr/bin"}


def init(ks: Kickstart) -> None:
    """An empty ostree on the disk. `bootprefix` since /boot is a partition of its own: entries name
    /boot/ostree, and the link makes that right on the partition too. `bootloader none` since bootupd's static
    configuration reads the entries."""
    run("ostree", "admin", "init-fs", "--modern", ROOT)
    for key, value in (("bootloader", "none"), ("readonly", "true"), ("bootprefix", "true")):
        run("ostree", "config", f"--repo={REPO}", "set", f"sysroot.{key}", value)
    run("ostree", "admin", "os-init", f"--sysroot={ROOT}", ks.stateroot)
    if not os.path.lexists(f"{ROOT}/boot/boot"):
        os.symlink(".", f"{ROOT}/boot/boot")


def deploy(ks: Kickstart) -> str:
    """Pull the image and deploy it; the deployment's folder."""
    run(
        "ostree",
        "container",
        "image",
        "deploy",
        f"--sysroot={ROOT}",
        f"--stateroot={ks.stateroot}",
        f"--imgref=ostree-unverified-image:{ks.transport}:{ks.url}",
        timeout=1800,
    )
    folder = f"{ROOT}/ostree/deploy/{ks.stateroot}/deploy"
    found = [name for name in os.listdir(folder) if not name.endswith(".origin")]
    if len(found) != 1:
        raise Failed(f"{folder} holds {len(found)} deployments after the install, not one; start again")
    return f"{folder}/{found[0]}"


def show_system(ks: Kickstart, deployment: str) -> None:
    """Bind the new system together at SYSROOT as it will see itself, for %post and the boot loader's own
    program.
    """
    os.makedirs(SYSROOT, exist_ok=True)
    var = f"{ROOT}/ostree/deploy/{ks.stateroot}/var"
    run("mount", "--bind", deployment, SYSROOT)
    run("mount", "--make-private", SYSROOT)
    run("mount", "--bind", f"{deployment}/usr", f"{SYSROOT}/usr")
    run("mount", "-o", "remount,bind,ro", f"{SYSROOT}/usr")
    for source, place in (
        (var, "var"),
        (ROOT, "sysroot"),
        (f"{ROOT}/boot", "boot"),
        ("/dev", "dev"),
        ("/sys", "sys"),
    ):
        recursive = "--rbind" if place in ("boot", "dev", "sys") else "--bind"
        run("mount", recursive, "--make-rslave", source, f"{SYSROOT}/{place}")
    run("mount", "-t", "proc", "proc", f"{SYSROOT}/proc")
    for place in ("run", "tmp"):
        run("mount", "-t", "tmpfs", "tmpfs", f"{SYSROOT}/{place}")
    # The folders that every deployment expects below /var; systemd makes them at boot, but scripts run
    # before.
    prefixes = [f"--prefix=/var/{name}" for name in ("log", "home", "roothome")]
    run("systemd-tmpfiles", f"--root={SYSROOT}", "--create", *prefixes, check=False)
    stand_in_for_bootc()


def stand_in_for_bootc() -> None:
    """Put our `bootc install ensure-completion` over the deployment's bootc for the length of the install,
    unless that is the real one, a compiled program: the lab's front has no such verb."""
    real = f"{SYSROOT}/usr/bin/bootc"
    if not os.path.exists(real):
        return
    with open(real, "rb") as program:
        if program.read(4) == b"\x7fELF":
            return
    copy = f"{SYSROOT}/run/veilor-lab-bootc"
    with open(COMPLETION) as source, open(copy, "w") as out:
        out.write(source.read())
    os.chmod(copy, os.stat(copy).st_mode | stat.S_IXUSR)
    run("mount", "--bind", copy, real)


def set_kernel_arguments(ks: Kickstart, done: Storage) -> None:
    """Merge what the disk needs into the boot entry: the form and the order are Anaconda's."""
    arguments = [f"rd.luks.uuid=luks-{done.luks}", *ks.append, *consoles(), f"root=UUID={done.uuids['/']}"]
    if ks.keymap:
        arguments.append(f"vconsole.keymap={ks.keymap}")
    chroot("ostree", "admin", "instutil", "set-kargs", "--merge", *arguments, "rw")


def install_boot_loader(done: Storage) -> None:
    """Have the new system's own bootupd put the boot loader on the disk."""
    chroot("bootupctl", "backend", "install", "--auto", "--write-uuid", "--device", done.plan.disk.path, "/")


def chroot(*argv: str, timeout: float = 300) -> str:
    """Run ARGV in the new system."""
    return run("chroot", SYSROOT, *argv, timeout=timeout, env=OSTREE)


def configure(ks: Kickstart, done: Storage, deployment: str) -> None:
    """fstab, crypttab, keymap, language and time zone in the deployment's /etc."""
    etc = f"{deployment}/etc"
    write(f"{etc}/fstab", fstab(done.uuids))
    # x-initrd.attach: the root's container is opened by the initramfs, so shutting down must not try to close
    # it.
    write(f"{etc}/crypttab", f"luks-{done.luks} UUID={done.luks} none discard,x-initrd.attach\n", 0o600)
    if ks.keymap:
        write(f"{etc}/vconsole.conf", f"KEYMAP={ks.keymap}\n")
    if ks.lang:
        write(f"{etc}/locale.conf", f"LANG={ks.lang}\n")
    zone = f"{etc}/localtime"
    if ks.timezone:
        if os.path.lexists(zone):
            os.unlink(zone)
        os.symlink(f"../usr/share/zoneinfo/{ks.timezone}", zone)
    lock_root(f"{etc}/shadow")


def fstab(uuids: dict[str, str]) -> str:
    """The text of fstab for file systems by mount point. Without the limit a passphrase typed late would be
    too late.
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
    """Give root a password that nothing matches, when the image gave it another."""
    if not os.path.exists(shadow):
        return
    with open(shadow) as old:
        lines = [line.split(":") for line in old.read().splitlines()]
    for fields in lines:
        if fields[0] == "root" and not fields[1].startswith(("!", "*")):
            fields[1] = "!" + fields[1]
            write(
                shadow, "".join(":".join(one) + "\n" for one in lines), stat.S_IMODE(os.stat(shadow).st_mode)
            )
            return


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write TEXT to a new file at PATH and move it into place; owner and mode as given."""
    with open(path + ".new", "w") as out:
        out.write(text)
    os.chmod(path + ".new", mode)
    if os.path.exists(path):
        was = os.stat(path)
        os.chown(path + ".new", was.st_uid, was.st_gid)
    os.rename(path + ".new", path)
