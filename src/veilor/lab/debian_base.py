"""The stand-in base: a Debian 13 with the bootc front, as an encapsulated ostree commit in an OCI layout.

Everything passes through tar streams, so neither root nor a mounted image is needed, and owners stay.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from veilor.lab.cache import artefact, hash_tree
from veilor.lab.tools import SLIM, Tools, bootstrap_debian, host_certificates

# 2026-01-01T00:00:00Z: the time of everything we build, unless SOURCE_DATE_EPOCH says otherwise
EPOCH = 1767225600
PACKAGES = tuple(
    """systemd-sysv systemd-cryptsetup linux-image-amd64 dracut dracut-live ostree ostree-boot
    cryptsetup-bin skopeo python3 python3-gi gir1.2-ostree-1.0 udev dbus kmod iproute2 e2fsprogs
    dosfstools fdisk libpam-systemd zstd ca-certificates grub-common login passwd procps network-manager
    wpasupplicant hostapd iw firewalld usbguard chrony auditd polkitd openssh-server systemd-oomd
    systemd-zram-generator sudo""".split()
)
LINKS = {
    "home": "var/home",
    "root": "var/roothome",
    "opt": "var/opt",
    "srv": "var/srv",
    "mnt": "var/mnt",
    "media": "run/media",
    "usr/local": "../var/usrlocal",
    "ostree": "sysroot/ostree",
}
FOR_BOOTC = ("podman",)  # what the real bootc calls besides, when it removes old images
STAND_IN = (
    "org.veilor.stand-in"  # the label by which a report knows what of a base stands in for something else
)
NO_DESKTOP, DESKTOP = "no-desktop", "other-desktop"
PARTS = ("base-system", "kernel", "boot-loader", "no-selinux", NO_DESKTOP, DESKTOP)
FRONT = "bootc-front"
EMPTY = ("boot", "dev", "proc", "run", "sys", "tmp", "var", "sysroot")
GRUB_EFI = "usr/lib/bootupd/updates/EFI/BOOT/BOOTX64.EFI"
GRUB_BIOS = "usr/lib/bootupd/updates/bios"


def epoch() -> int:
    """The time stamp of everything built, in seconds since 1970."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))


def base_rootfs(cache: Path, source: Path, more: tuple[str, ...] = ()) -> Path:
    """The plain Debian tree with MORE packages as a tar file (about 500 MB; 80 s by mmdebstrap).

    Cached by packages and arrangement.
    """
    arrange = source / "stand-ins/base/arrange.py"
    conf = source / "stand-ins/base/rootfs/usr/lib/ostree/prepare-root.conf"
    packages = (*PACKAGES, *more)
    inputs = {"packages": " ".join(packages), "slim": SLIM, "arrange": arrange, "prepare-root": conf}
    hook = f'python3 {shlex.quote(str(arrange))} "$1"'
    return artefact(cache, "base-rootfs.tar", inputs, lambda dest: bootstrap_debian(dest, packages, [hook]))


def rust_programs(cache: Path, tools: Tools, source: Path) -> Path:
    """A folder with `ostree-ext-cli`, compiled from the published crate (3 to 8 minutes)."""
    crate = source / "stand-ins/rust"
    compiler = tools.versions(
        ("rustc", "cargo", "gcc", "libc6-dev", "libostree-dev", "libssl-dev", "libzstd-dev")
    )
    inputs = {"crate": hash_tree(crate), "compiler": compiler}

    def build(dest: Path) -> None:
        work = dest.with_name(dest.name + ".work")
        home = cache / "cargo"
        home.mkdir(parents=True, exist_ok=True)
        env = {"CARGO_HOME": str(home), "CARGO_TARGET_DIR": str(work / "target")}
        if host_certificates():
            bundle = "/etc/ssl/certs/ca-certificates.crt"
            env |= {"CARGO_HTTP_CAINFO": bundle, "SSL_CERT_FILE": bundle}
        try:
            shutil.copytree(crate, work / "crate")
            manifest = str(work / "crate/Cargo.toml")
            run = partial(tools.run, binds=[work, home], env=env, timeout=2400)
            run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", manifest])
            dest.mkdir()
            shutil.copy2(work / "target/release/ostree-ext-cli", dest / "ostree-ext-cli")
            for program in dest.iterdir():
                tools.run(["strip", str(program)], binds=[dest], timeout=60)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "rust", inputs, build)


def grub_images(cache: Path, tools: Tools) -> Path:
    """A folder with GRUB: BOOTX64.EFI, boot.img, core.img, and the module `linux` for both platforms.

    They search the disk's boot partition for /grub2/grub.cfg.
    """
    modules = (  # without `linux`: see stand-ins/bootupctl/grub.cfg; relocator and mmap are what it needs
        "part_gpt part_msdos fat ext2 normal search search_fs_file search_fs_uuid search_label loadenv test "
        "echo "
        "configfile serial terminal regexp sleep reboot halt minicmd all_video font gfxterm true relocator "
        "mmap boot video"
    ).split()
    embedded = (
        "search --no-floppy --file --set=root /grub2/veilor-boot\nset "
        "prefix=($root)/grub2\nconfigfile ($root)/grub2/grub.cfg\n"
    )

    def build(dest: Path) -> None:
        dest.mkdir()
        (dest / "early.cfg").write_text(embedded)
        make = ["grub-mkimage", "-c", str(dest / "early.cfg")]
        run = partial(tools.run, binds=[dest], timeout=120)
        run([*make, "-O", "x86_64-efi", "-p", "/grub2", "-o", str(dest / "BOOTX64.EFI"), *modules])
        run([*make, "-O", "i386-pc", "-p", "/grub2", "-o", str(dest / "core.img"), "biosdisk", *modules])
        run(["cp", "/usr/lib/grub/i386-pc/boot.img", str(dest / "boot.img")])
        for platform in ("x86_64-efi", "i386-pc"):
            run(["cp", f"/usr/lib/grub/{platform}/linux.mod", str(dest / f"{platform}.linux.mod")])

    grub = tools.versions(("grub-efi-amd64-bin", "grub-pc-bin", "grub-common"))
    return artefact(cache, "grub", {"modules": " ".join(modules), "early": embedded, "grub": grub}, build)


@dataclass(frozen=True)
class TreeEntry:
    """Something to put into a tree, owned by root, at the path NAME without a leading slash.

    CONTENT is a file (Path or bytes), the target of a link (str), or None for a folder.
    """

    name: str
    content: Path | str | bytes | None
    mode: int


def added_files(source: Path, programs: Path, grub: Path, bootc: Path | None = None) -> Iterator[TreeEntry]:
    """What the stand-in base adds to Debian.

    PROGRAMS and GRUB are the folders of `rust_programs` and `grub_images`. BOOTC, if given, is the real one,
    in the place of the front.
    """
    stand_ins = source / "stand-ins"
    rootfs = stand_ins / "base/rootfs"
    for path in sorted(rootfs.rglob("*")):
        if path.is_symlink():
            yield TreeEntry(str(path.relative_to(rootfs)), os.readlink(path), 0o777)
        elif path.is_file():
            yield TreeEntry(str(path.relative_to(rootfs)), path, 0o644)
    if not bootc:
        for path in sorted((stand_ins / "bootc").glob("*.py")):
            yield TreeEntry(f"usr/lib/bootc-front/{path.name}", path, 0o644)
    yield TreeEntry("usr/bin/bootc", bootc or stand_ins / "bootc/bootc", 0o755)
    yield TreeEntry("usr/bin/bootupctl", stand_ins / "bootupctl/bootupctl", 0o755)
    yield TreeEntry("usr/lib/bootupd/grub.cfg", stand_ins / "bootupctl/grub.cfg", 0o644)
    yield TreeEntry("usr/libexec/libostree/ext/ostree-container", programs / "ostree-ext-cli", 0o755)
    yield TreeEntry(GRUB_EFI, grub / "BOOTX64.EFI", 0o644)
    for platform in ("x86_64-efi", "i386-pc"):
        module = grub / f"{platform}.linux.mod"
        yield TreeEntry(f"usr/lib/bootupd/updates/grub2/{platform}/linux.mod", module, 0o644)
    yield TreeEntry(f"{GRUB_BIOS}/boot.img", grub / "boot.img", 0o644)
    yield TreeEntry(f"{GRUB_BIOS}/core.img", grub / "core.img", 0o644)


class TreeWriter:
    """Writes members to a tar at DEST with the build's time stamp, making parent folders once."""

    def __init__(self, dest: Path) -> None:
        self.tar = tarfile.open(dest, "w", format=tarfile.PAX_FORMAT)
        self.made: set[str] = set()
        self.time = epoch()

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.tar.close()

    def copy(self, member: tarfile.TarInfo, data: IO[bytes] | None) -> None:
        """Add MEMBER as it is, except for its time and its headers that are no extended attributes."""
        member.mtime = self.time
        member.pax_headers = {
            name: value for name, value in member.pax_headers.items() if name.startswith("SCHILY.xattr")
        }
        self.made.add(member.name)
        self.tar.addfile(member, data)

    def add(self, entry: TreeEntry) -> None:
        """Add ENTRY, and before it the folders above that are not there yet."""
        parent = os.path.dirname(entry.name)
        if parent and parent not in self.made:
            self.add(TreeEntry(parent, None, 0o755))
        member = tarfile.TarInfo(entry.name)
        member.mode, member.mtime = entry.mode, self.time
        self.made.add(entry.name)
        content = entry.content
        if content is None:
            member.type = tarfile.DIRTYPE
            self.tar.addfile(member)
        elif isinstance(content, str):
            member.type, member.linkname = tarfile.SYMTYPE, content
            self.tar.addfile(member)
        else:
            data = content.read_bytes() if isinstance(content, Path) else content
            member.size = len(data)
            self.tar.addfile(member, io.BytesIO(data))


def write_tree(rootfs: Path, dest: Path, added: Sequence[TreeEntry], *, ostree: bool) -> None:
    """Write the tar ROOTFS to the tar DEST with ADDED on top.

    With OSTREE it becomes the tree of a commit: /etc lies in /usr/etc, /home and others are links, and /var
    is empty.
    """

    def location(name: str) -> str:
        in_etc = name == "etc" or name.startswith("etc/")
        return f"usr/{name}" if ostree and in_etc else name

    replaced = {location(entry.name) for entry in added}
    with tarfile.open(rootfs) as source, TreeWriter(dest) as out:
        for member in source:
            name = member.name.removeprefix("./").strip("/")
            if _is_left_out(name, ostree) or location(name) in replaced or member.ischr() or member.isblk():
                continue
            member.name = location(name)
            if member.islnk():
                member.linkname = location(member.linkname.removeprefix("./"))
            out.copy(member, source.extractfile(member) if member.isreg() else None)
        if ostree:
            for name in EMPTY:
                out.add(TreeEntry(name, None, 0o1777 if name == "tmp" else 0o755))
            for name, target in LINKS.items():
                out.add(TreeEntry(name, target, 0o777))
        for entry in added:
            out.add(replace(entry, name=location(entry.name)))


def _is_left_out(name: str, ostree: bool) -> bool:
    """Whether what Debian has at NAME does not go into the tree; see `write_tree` for OSTREE."""
    top = name.split("/")[0]
    if name in ("", "."):
        return True
    if top in ("dev", "proc", "run", "sys", "tmp") and name != top:
        return True
    if not ostree:
        return False
    return top in (*LINKS, *EMPTY) or name == "usr/local" or name.startswith("usr/local/")


def base_layout(
    cache: Path, tools: Tools, source: Path, bootc: Path | None = None, desktop: tuple[str, ...] = ()
) -> Path:
    """The stand-in base as an OCI layout folder, cached by everything that goes into it.

    BOOTC, if given, is the real one, compiled on Debian 13; DESKTOP are the packages of a desktop to add.
    """
    rootfs = base_rootfs(cache, source, (*(FOR_BOOTC if bootc else ()), *desktop))
    other = NO_DESKTOP if desktop else DESKTOP
    named = [part for part in PARTS if part != other] + ([] if bootc else [FRONT])
    programs = rust_programs(cache, tools, source)
    grub = grub_images(cache, tools)
    added = list(added_files(source, programs, grub, bootc))
    inputs = {
        "rootfs": rootfs.parent.name + rootfs.name,
        "programs": hash_tree(programs),
        "grub": hash_tree(grub),
        "stand-ins": hash_tree(source / "stand-ins/base")
        + hash_tree(source / "stand-ins/bootc")
        + hash_tree(source / "stand-ins/bootupctl"),
        "epoch": str(epoch()),
        "writer": Path(__file__),
        "bootc": bootc or FRONT,
        "label": " ".join(named),
    }

    def build(dest: Path) -> None:
        work = dest.with_name(dest.name + ".work")
        work.mkdir()
        try:
            write_tree(rootfs, work / "tree.tar", added, ostree=True)
            shutil.copy2(programs / "ostree-ext-cli", work / "ostree-ext-cli")
            repo = f"--repo={work}/repo"
            run = partial(tools.run, binds=[work, dest.parent], timeout=900)
            run(["ostree", repo, "init", "--mode=bare-user"])
            commit = [
                "--branch=base",
                "--bootable",
                f"--tree=tar={work}/tree.tar",
                "--tar-autocreate-parents",
                "--no-xattrs",
            ]
            run(["ostree", repo, "commit", *commit, f"--timestamp=@{epoch()}"])
            labels = [
                "--label=containers.bootc=1",
                "--label=ostree.bootable=true",
                f"--label={STAND_IN}={' '.join(named)}",
            ]
            run(
                [
                    str(work / "ostree-ext-cli"),
                    "container",
                    "encapsulate",
                    repo,
                    *labels,
                    "base",
                    f"oci:{dest}",
                ]
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "base", inputs, build)


def base_kernel(cache: Path, rootfs: Path) -> Path:
    """The base's kernel as a file, for a probe of the accelerator."""

    def build(dest: Path) -> None:
        with tarfile.open(rootfs) as tree:
            for member in tree:
                if member.name.endswith("/vmlinuz") and (data := tree.extractfile(member)):
                    dest.write_bytes(data.read())
                    return

    return artefact(cache, "kernel", {"rootfs": rootfs.parent.name}, build)
