"""The stand-in base: a Debian 13 as an encapsulated ostree commit in an OCI layout, with the bootc front in
it.

Everything passes through tar streams, so neither root nor a mounted image is needed, and owners stay as they
are.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

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
    """The plain Debian tree with MORE packages as a tar file (about 500 MB; 80 s by mmdebstrap), cached by
    packages and arrangement.
    """
    arrange = source / "stand-ins/base/arrange.py"
    conf = source / "stand-ins/base/rootfs/usr/lib/ostree/prepare-root.conf"
    packages = (*PACKAGES, *more)
    inputs = {"packages": " ".join(packages), "slim": SLIM, "arrange": arrange, "prepare-root": conf}
    hook = f'python3 {shlex.quote(str(arrange))} "$1"'
    return artefact(cache, "base-rootfs.tar", inputs, lambda dest: bootstrap_debian(dest, packages, [hook]))


def rust_programs(cache: Path, tools: Tools, source: Path) -> Path:
    """A folder with `ostree-ext-cli` and `greenboot`, compiled from the published crates (three to eight
    minutes).
    """
    crate = source / "stand-ins/rust"
    compiler = tools.versions(
        ("rustc", "cargo", "gcc", "libc6-dev", "libostree-dev", "libssl-dev", "libzstd-dev")
    )
    inputs = {"crate": hash_tree(crate), "compiler": compiler, "greenboot": "0.0.1"}

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
            run = {"binds": [work, home], "env": env, "timeout": 2400}
            tools.run(
                ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", manifest], **run
            )
            tools.run(
                [
                    "cargo",
                    "install",
                    "--quiet",
                    "--locked",
                    "--version",
                    "0.0.1",
                    "--root",
                    str(work),
                    "greenboot",
                ],
                **run,
            )
            dest.mkdir()
            shutil.copy2(work / "target/release/ostree-ext-cli", dest / "ostree-ext-cli")
            shutil.copy2(work / "bin/greenboot", dest / "greenboot")
            for program in dest.iterdir():
                tools.run(["strip", str(program)], binds=[dest], timeout=60)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "rust", inputs, build)


def grub_images(cache: Path, tools: Tools) -> Path:
    """A folder with BOOTX64.EFI, boot.img and core.img that look for /grub2/grub.cfg on the disk's boot
    partition.
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
        run = {"binds": [dest], "timeout": 120}
        tools.run(
            [*make, "-O", "x86_64-efi", "-p", "/grub2", "-o", str(dest / "BOOTX64.EFI"), *modules], **run
        )
        tools.run(
            [*make, "-O", "i386-pc", "-p", "/grub2", "-o", str(dest / "core.img"), "biosdisk", *modules],
            **run,
        )
        tools.run(["cp", "/usr/lib/grub/i386-pc/boot.img", str(dest / "boot.img")], **run)
        for platform in ("x86_64-efi", "i386-pc"):
            tools.run(
                ["cp", f"/usr/lib/grub/{platform}/linux.mod", str(dest / f"{platform}.linux.mod")], **run
            )

    grub = tools.versions(("grub-efi-amd64-bin", "grub-pc-bin", "grub-common"))
    return artefact(cache, "grub", {"modules": " ".join(modules), "early": embedded, "grub": grub}, build)


def added_files(
    source: Path, programs: Path, grub: Path, bootc: Path | None = None
) -> Iterator[tuple[str, Path | str, int]]:
    """What the stand-in base adds to Debian: (path, file or link target, mode). BOOTC: the real one in the
    place of the front.
    """
    stand_ins = source / "stand-ins"
    rootfs = stand_ins / "base/rootfs"
    for path in sorted(rootfs.rglob("*")):
        if path.is_symlink():
            yield str(path.relative_to(rootfs)), os.readlink(path), 0o777
        elif path.is_file():
            yield str(path.relative_to(rootfs)), path, 0o644
    for path in () if bootc else sorted((stand_ins / "bootc").glob("*.py")):
        yield f"usr/lib/bootc-front/{path.name}", path, 0o644
    yield "usr/bin/bootc", bootc or stand_ins / "bootc/bootc", 0o755
    yield "usr/bin/bootupctl", stand_ins / "bootupctl/bootupctl", 0o755
    yield "usr/lib/bootupd/grub.cfg", stand_ins / "bootupctl/grub.cfg", 0o644
    yield "usr/libexec/libostree/ext/ostree-container", programs / "ostree-ext-cli", 0o755
    yield "usr/libexec/greenboot/greenboot", programs / "greenboot", 0o755
    yield GRUB_EFI, grub / "BOOTX64.EFI", 0o644
    for platform in ("x86_64-efi", "i386-pc"):
        yield f"usr/lib/bootupd/updates/grub2/{platform}/linux.mod", grub / f"{platform}.linux.mod", 0o644
    yield f"{GRUB_BIOS}/boot.img", grub / "boot.img", 0o644
    yield f"{GRUB_BIOS}/core.img", grub / "core.img", 0o644


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

    def copy(self, member: tarfile.TarInfo, data: io.BufferedReader | None) -> None:
        """Add MEMBER as it is but for its time."""
        member.mtime = self.time
        member.pax_headers = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr")}
        self.made.add(member.name)
        self.tar.addfile(member, data)

    def add(self, name: str, content: Path | str | bytes | None, mode: int) -> None:
        """Add a file (Path or bytes), a link (str) or a folder (None) owned by root."""
        parent = os.path.dirname(name)
        if parent and parent not in self.made:
            self.add(parent, None, 0o755)
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = mode, self.time
        self.made.add(name)
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


def write_tree(
    rootfs: Path, dest: Path, added: list[tuple[str, Path | str | bytes | None, int]], *, ostree: bool
) -> None:
    """Write the tar ROOTFS to DEST with ADDED on top; OSTREE moves /etc to /usr/etc, links /home and empties
    /var.
    """
    place = (
        (lambda name: "usr/" + name if name == "etc" or name.startswith("etc/") else name)
        if ostree
        else (lambda name: name)
    )
    replaced = {place(name) for name, _, _ in added}
    with tarfile.open(rootfs) as source, TreeWriter(dest) as out:
        for member in source:
            name = member.name.removeprefix("./").strip("/")
            top = name.split("/")[0]
            if not name or name == "." or place(name) in replaced or member.ischr() or member.isblk():
                continue
            if top in ("dev", "proc", "run", "sys", "tmp") and name != top:
                continue
            if ostree and (top in (*LINKS, *EMPTY) or name == "usr/local" or name.startswith("usr/local/")):
                continue
            member.name = place(name)
            if member.islnk():
                member.linkname = place(member.linkname.removeprefix("./"))
            out.copy(member, source.extractfile(member) if member.isreg() else None)
        if ostree:
            for name in EMPTY:
                out.add(name, None, 0o1777 if name == "tmp" else 0o755)
            for name, target in LINKS.items():
                out.add(name, target, 0o777)
        for name, content, mode in added:
            out.add(place(name), content, mode)


def base_layout(
    cache: Path, tools: Tools, source: Path, bootc: Path | None = None, desktop: tuple[str, ...] = ()
) -> Path:
    """The stand-in base as an OCI layout folder, cached by everything that goes into it.

    BOOTC: the real one, compiled on Debian 13. DESKTOP: the packages of a desktop that it has besides.
    """
    rootfs = base_rootfs(cache, source, (*(FOR_BOOTC if bootc else ()), *desktop))
    stands = [part for part in PARTS if part != (NO_DESKTOP if desktop else DESKTOP)] + (
        [] if bootc else [FRONT]
    )
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
        "label": " ".join(stands),
    }

    def build(dest: Path) -> None:
        work = dest.with_name(dest.name + ".work")
        work.mkdir()
        try:
            write_tree(rootfs, work / "tree.tar", added, ostree=True)
            shutil.copy2(programs / "ostree-ext-cli", work / "ostree-ext-cli")
            repo, run = f"--repo={work}/repo", {"binds": [work, dest.parent], "timeout": 900}
            tools.run(["ostree", repo, "init", "--mode=bare-user"], **run)
            commit = [
                "--branch=base",
                "--bootable",
                f"--tree=tar={work}/tree.tar",
                "--tar-autocreate-parents",
                "--no-xattrs",
            ]
            tools.run(["ostree", repo, "commit", *commit, f"--timestamp=@{epoch()}"], **run)
            labels = [
                "--label=containers.bootc=1",
                "--label=ostree.bootable=true",
                f"--label={STAND_IN}={' '.join(stands)}",
            ]
            tools.run(
                [
                    str(work / "ostree-ext-cli"),
                    "container",
                    "encapsulate",
                    repo,
                    *labels,
                    "base",
                    f"oci:{dest}",
                ],
                **run,
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "base", inputs, build)


def base_kernel(cache: Path, rootfs: Path) -> Path:
    """The base's kernel as a file, for a probe of the accelerator."""

    def build(dest: Path) -> None:
        with tarfile.open(rootfs) as tree:
            for member in tree:
                if member.name.endswith("/vmlinuz"):
                    dest.write_bytes(tree.extractfile(member).read())
                    return

    return artefact(cache, "kernel", {"rootfs": rootfs.parent.name}, build)
