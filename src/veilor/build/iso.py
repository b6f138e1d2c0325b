"""The bootstrap ISO: a boot medium with our kickstart and image put into it, and started with that kickstart.

The medium may be Fedora's netinst or any other with GRUB's configuration in the usual places. What makes it
bootable (BIOS, UEFI, from a disc or a stick) is replayed by xorriso as it was. Label and titles become ours:
one entry asks as text, the next opens the installer's windows, for partitions of one's own. An entry that
rescues a system stays without our kickstart, which would install. The same inputs and epoch give the same
bytes, wherever they lie.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilor.build.errors import BuildError, HostError
from veilor.build.facts import FILE
from veilor.build.kickstart import CHECKS, FALLBACK, SOURCE_ROOT, flatten_kickstart
from veilor.core.product import Product, load

EPOCH = 1767225600  # 2026-01-01T00:00:00Z, unless the caller says otherwise
MiB = 1 << 20
SECTOR = 512
BOOT_CONFIGURATIONS = ("/boot/grub2/grub.cfg", "/EFI/BOOT/grub.cfg")
EFI_COPY = "::/EFI/BOOT/grub.cfg"
EFI_PARTITION = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
KERNEL_LINE = re.compile(r"^(\s*linux(?:efi|16)?\s+\S+)(.*)$", re.M)
DEFAULT_ENTRY = re.compile(r"""^(\s*set\s+default=)["']?[^"'\s]*["']?\s*$""", re.M)
# A menu entry of GRUB, as lorax and our lab write it: title in quotes, its end alone on a line.
ENTRY = re.compile(
    r"""^(?P<indent>[ \t]*)menuentry\s+(?P<quote>['"])(?P<title>.*?)(?P=quote).*?^(?P=indent)\}""",
    re.M | re.S,
)
OTHERS_NAME = re.compile(r"Fedora(?:[ -]\w+)*? \d+")
# What an entry of ours says anew, whatever it said before. `inst.nosave`: the installer leaves neither logs
# nor kickstart, since ours keeps the logs where they are named.
SAID_ANEW = (
    "inst.ks=",
    "ks=",
    "inst.text",
    "inst.graphical",
    "inst.cmdline",
    "inst.noninteractive",
    "inst.nosave",
)
RESCUE = "inst.rescue"
OWN_PARTITIONS = "Install {name} on partitions of your own"


@dataclass(frozen=True)
class Medium:
    """A boot medium: its volume label, and where its EFI partition lies, in bytes (None when it has none)."""

    path: Path
    label: str
    efi: tuple[int, int] | None


def read_medium(path: Path) -> Medium:
    """What the file at PATH is. Raises BuildError when it isn't an ISO image."""
    try:
        with path.open("rb") as iso:
            start = iso.read(64 * 1024)
    except OSError as error:
        raise BuildError(
            f"{path} can't be read ({error.strerror}); give a boot medium, such as Fedora's netinst ISO"
        ) from None
    if start[32769:32774] != b"CD001":
        raise BuildError(f"{path} is not an ISO image; give a boot medium, such as Fedora's netinst ISO")
    label = start[32808:32840].decode("ascii", "replace").rstrip()
    if not label:
        raise BuildError(
            f"{path} has no volume label, so nothing started from it could find the kickstart; use another "
            "medium"
        )
    return Medium(path, label, efi_partition(start))


def efi_partition(start: bytes) -> tuple[int, int] | None:
    """Offset and size in bytes of the EFI partition in the GPT, or else the MBR, at the START of a medium."""
    if start[SECTOR : SECTOR + 8] == b"EFI PART":
        first, count, size = struct.unpack_from("<QII", start, SECTOR + 72)
        for number in range(min(count, 64)):
            entry = start[first * SECTOR + number * size :][:128]
            if len(entry) == 128 and guid(entry[:16]) == EFI_PARTITION:
                low, high = struct.unpack_from("<QQ", entry, 32)
                return low * SECTOR, (high - low + 1) * SECTOR
    if start[510:512] == b"\x55\xaa":
        for number in range(4):
            entry = start[446 + 16 * number :][:16]
            if entry[4] == 0xEF:
                low, length = struct.unpack_from("<II", entry, 8)
                return low * SECTOR, length * SECTOR
    return None


def guid(raw: bytes) -> str:
    """A GUID as it is written, from its 16 bytes in a partition table."""
    a, b, c = struct.unpack_from("<IHH", raw)
    return f"{a:08X}-{b:04X}-{c:04X}-{raw[8:10].hex()}-{raw[10:].hex()}".upper()


def volume_label(product: Product) -> str:
    """The label of PRODUCT's medium, in the characters that such labels have (ECMA-119 and the hyphen)."""
    return f"{product.name}-{product.version}".upper()


def edit_boot_configuration(text: str, label: str, product: Product) -> str:
    """GRUB's configuration TEXT for a medium of PRODUCT that had the LABEL: each entry that installs has our
    kickstart, asks as text and bears our name; a second one opens windows. The first entry is the default.
    """
    new = volume_label(product)
    for old in (label, label.replace(" ", "\\x20")):
        text = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, text)
    name = f"{product.name} {product.version}"
    doubled = False

    def edited(found: re.Match[str]) -> str:
        """An entry that starts a kernel as ours, the first one with its sibling; any other as it is."""
        nonlocal doubled
        entry, title = found[0], found["title"]
        if not KERNEL_LINE.search(entry) or RESCUE in entry.split():
            return entry
        ours = entry.replace(title, OTHERS_NAME.sub(name, title), 1)
        written = with_kickstart(ours, new, "inst.text")
        if not doubled:
            doubled = True
            sibling = entry.replace(title, OWN_PARTITIONS.format(name=name), 1)
            written += "\n" + with_kickstart(sibling, new, "inst.graphical")
        return written

    return DEFAULT_ENTRY.sub(r'\g<1>"0"', ENTRY.sub(edited, text))


def with_kickstart(entry: str, label: str, mode: str) -> str:
    """A menu ENTRY whose kernel gets our kickstart from the medium LABEL and the display MODE."""

    def line(found: re.Match[str]) -> str:
        """The kernel's line, with our arguments last: of those that contradict each other the last counts."""
        kept = [word for word in found[2].split() if not word.startswith(SAID_ANEW)]
        return " ".join([found[1], *kept, f"inst.ks=hd:LABEL={label}:/ks.cfg", mode, "inst.nosave=all"])

    return KERNEL_LINE.sub(line, entry)


def has_kernel_line(text: str) -> bool:
    """Whether the boot configuration TEXT starts a kernel."""
    return KERNEL_LINE.search(text) is not None


def check_layout(layout: Path) -> int:
    """The bytes in the OCI layout at LAYOUT. Raises BuildError when it isn't one."""
    for name in ("oci-layout", "index.json", "blobs/sha256"):
        if not (layout / name).exists():
            raise BuildError(
                f"{layout} is not an OCI layout ({name} is missing); make one, for example by skopeo copy … "
                "oci:DIR"
            )
    return sum(path.stat().st_size for path in layout.rglob("*") if path.is_file())


def check_space(folder: Path, needed: int) -> None:
    """Raise HostError unless FOLDER has room for NEEDED bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise HostError(
            f"{folder} has {free // MiB} MiB free and the ISO needs {needed // MiB} MiB; free some, or "
            "write elsewhere"
        )


def build_iso(
    medium: Path,
    oci_layout: Path | None,
    kickstart: Path,
    out: Path,
    *,
    run: Callable,
    volid: str | None = None,
    epoch: int = EPOCH,
) -> Path:
    """Write OUT: the boot MEDIUM with KICKSTART (flattened and checked) as /ks.cfg, OCI_LAYOUT as /container.

    Without a layout it installs from the network, and its kickstart keeps the rules that such a one can
    keep. SHA256SUMS beside OUT gets its checksum. VOLID, when given, is the label the medium has to have.
    RUN starts xorriso, mtools and implantisomd5. Returns OUT. Raises BuildError, with OUT as it was, when
    an input is not what it should be.
    """
    medium, oci_layout, out = medium.absolute(), oci_layout and oci_layout.absolute(), out.absolute()
    text = flatten_kickstart(kickstart, CHECKS if oci_layout else FALLBACK)
    found = read_medium(medium)
    if volid is not None and volid != found.label:
        raise BuildError(f"{medium} has the label {found.label}, not {volid}; use the medium that was meant")
    size = check_layout(oci_layout) if oci_layout else 0
    out.parent.mkdir(parents=True, exist_ok=True)
    check_space(out.parent, medium.stat().st_size + size + 64 * MiB)
    with tempfile.TemporaryDirectory(prefix=".veilor-iso-", dir=out.parent) as scratch:
        job = Job(found, Path(scratch), epoch, run, load(SOURCE_ROOT / FILE))
        (job.work / "ks.cfg").write_text(text, encoding="utf-8")
        made = job.write(oci_layout)
        job.judge(made, medium.stat().st_size + size)
        os.replace(made, out)
    note_checksum(out)
    return out


@dataclass(frozen=True)
class Job:
    """One ISO being made in the folder WORK."""

    medium: Medium
    work: Path
    epoch: int
    run: Callable
    product: Product

    def tool(self, argv: list[str], *, more: tuple[Path, ...] = (), timeout: float = 600, check: bool = True):
        """Run ARGV, which sees the work folder, the medium's and MORE; answers as `run`."""
        env = {"SOURCE_DATE_EPOCH": str(self.epoch), "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}
        return self.run(
            argv, binds=[self.work, self.medium.path.parent, *more], env=env, timeout=timeout, check=check
        )

    def boot_configurations(self) -> dict[str, Path]:
        """The medium's boot configurations, edited: path on the medium → file.

        Raises BuildError when none of them starts a kernel.
        """
        edited, kernels = {}, False
        for number, inside in enumerate(BOOT_CONFIGURATIONS):
            file = self.work / f"grub{number}.cfg"
            self.tool(
                ["xorriso", "-osirrox", "on", "-indev", str(self.medium.path), "-extract", inside, str(file)],
                check=False,
            )
            if file.exists():
                file.chmod(0o644)
                text = file.read_text(encoding="utf-8", errors="surrogateescape")
                kernels |= has_kernel_line(text)
                file.write_text(
                    edit_boot_configuration(text, self.medium.label, self.product),
                    encoding="utf-8",
                    errors="surrogateescape",
                )
                edited[inside] = file
        if not kernels:
            raise BuildError(
                f"{self.medium.path} has no boot configuration that starts a kernel (looked for "
                f"{' and '.join(BOOT_CONFIGURATIONS)}); use a medium that boots by GRUB 2"
            )
        return edited

    def efi_image(self) -> Path | None:
        """The medium's EFI partition with our kickstart in its copy of the boot configuration.

        None when it has no such copy.
        """
        if self.medium.efi is None:
            return None
        offset, size = self.medium.efi
        image, copy = self.work / "efi.img", self.work / "efi-grub.cfg"
        with self.medium.path.open("rb") as iso, image.open("wb") as part:
            iso.seek(offset)
            while size > 0:
                data = iso.read(min(size, MiB))
                if not data:
                    raise BuildError(
                        f"{self.medium.path} ends within its EFI partition: it is cut short; fetch it anew"
                    )
                size -= part.write(data)
        self.tool(["mcopy", "-n", "-i", str(image), EFI_COPY, str(copy)], check=False)
        if not copy.exists() or not has_kernel_line(copy.read_text(encoding="utf-8")):
            return None
        copy.write_text(
            edit_boot_configuration(copy.read_text(encoding="utf-8"), self.medium.label, self.product),
            encoding="utf-8",
        )
        os.utime(copy, (self.epoch, self.epoch))
        self.tool(["mcopy", "-o", "-m", "-i", str(image), str(copy), EFI_COPY])
        return image

    def write(self, layout: Path | None) -> Path:
        """Write the ISO into the work folder; its path."""
        made = self.work / "made.iso"
        boot = self.boot_configurations()
        efi = self.efi_image()
        argv = [
            "xorriso",
            "-abort_on",
            "FAILURE",
            "-return_with",
            "FAILURE",
            "32",
            "-report_about",
            "WARNING",
        ]
        argv += ["-indev", str(self.medium.path), "-outdev", str(made), "-boot_image", "any", "replay"]
        argv += ["-volid", volume_label(self.product)]
        argv += [
            "-map",
            str(self.work / "ks.cfg"),
            "/ks.cfg",
            *(("-map", str(layout), "/container") if layout else ()),
        ]
        for place, file in boot.items():
            argv += ["-map", str(file), place]
        for place in ("/ks.cfg", *(("/container",) if layout else ()), *boot):
            argv += ["-chown_r", "0", place, "--", "-chgrp_r", "0", place, "--"]
            for kind, mode in (("d", "0755"), ("f", "0644")):
                argv += ["-find", place, "-type", kind, "-exec", "chmod", mode, "--"]
            argv += ["-alter_date_r", "b", f"={self.epoch}", place, "--"]
        if efi:
            argv += ["-append_partition", "2", EFI_PARTITION, str(efi)]
        self.tool([*argv, "-commit"], more=(layout,) if layout else (), timeout=1800)
        return made

    def judge(self, made: Path, least: int) -> None:
        """Raise BuildError unless MADE is whole and boots the ways its medium did; then give it its checksum.

        LEAST is the bytes that went in. xorriso is known to end well over a medium whose partitions
        overlap, leaving a stub.
        """
        if made.stat().st_size < least * 9 // 10 or self.ways_to_boot(made) != self.ways_to_boot(
            self.medium.path
        ):
            raise BuildError(
                f"{self.medium.path} did not survive the rewriting (its boot records can't be replayed); "
                "use another medium"
            )
        self.tool(["implantisomd5", "--force", str(made)], timeout=600)

    def ways_to_boot(self, iso: Path) -> list[str]:
        """The platforms that the El Torito catalogue of ISO names."""
        said = self.tool(
            ["xorriso", "-indev", str(iso), "-report_el_torito", "plain"], check=False
        ).stdout.decode(errors="replace")
        return re.findall(r"^El Torito boot img :\s+\d+\s+(\S+)", said, re.M)


def note_checksum(iso: Path) -> None:
    """Put the checksum of ISO into SHA256SUMS beside it, other lines kept."""
    with iso.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    sums = iso.with_name("SHA256SUMS")
    kept = (
        [line for line in sums.read_text().splitlines() if line.split("  ", 1)[-1] != iso.name]
        if sums.exists()
        else []
    )
    new = sums.with_name(f".{sums.name}.new")
    new.write_text(
        "\n".join(sorted([*kept, f"{digest}  {iso.name}"], key=lambda line: line.split("  ", 1)[-1])) + "\n"
    )
    os.replace(new, sums)
