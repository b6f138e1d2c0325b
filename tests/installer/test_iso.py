"""The ISO: what gets into a medium, that it still boots the ways it did, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest

from veilor import cli
from veilor.build import iso, kickstart
from veilor.build.errors import BuildError
from veilor.core.product import load

KICKSTART = Path(__file__).resolve().parents[2] / "kickstart/install.ks"
MUTABLE = KICKSTART.with_name("veilor-os.ks")
WANTED = "inst.ks=hd:LABEL=VEILOR-OS-44:/ks.cfg"
PRODUCT = load(KICKSTART.parents[1] / "product.toml")
RECORDINGS = Path(__file__).parent / "data/anaconda-44.35"


def build(medium, layout, out, run):
    return iso.build_iso(medium, layout, KICKSTART, out, run=run, volid=None, epoch=1_767_225_600)


@pytest.fixture(scope="module")
def made(run, medium, new_layout, tmp_path_factory):
    work = tmp_path_factory.mktemp("made")
    return build(medium, new_layout(work / "layout"), work / "out/veilor-os.iso", run)


def extract(run, image, inside, dest):
    run(
        ["xorriso", "-osirrox", "on", "-indev", str(image), "-extract", inside, str(dest)],
        binds=[image.parent, dest.parent],
        timeout=60,
    )
    return dest


def test_everything_is_on_it(made, run, tmp_path):
    assert extract(run, made, "/ks.cfg", tmp_path / "ks.cfg").read_text() == iso.flatten_kickstart(KICKSTART)
    found = extract(run, made, "/container", tmp_path / "container")
    names = sorted(path.relative_to(found) for path in found.rglob("*") if path.is_file())
    source = made.parents[1] / "layout"
    assert names == sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    assert all((found / name).read_bytes() == (source / name).read_bytes() for name in names)


def test_every_entry_starts_with_the_kickstart(made, run, tmp_path):
    efi = tmp_path / "efi.img"
    offset, size = iso.read_medium(made).efi
    efi.write_bytes(made.read_bytes()[offset : offset + size])
    run(
        ["mcopy", "-i", str(efi), "::/EFI/BOOT/grub.cfg", str(tmp_path / "third.cfg")],
        binds=[tmp_path],
        timeout=60,
    )
    texts = [
        extract(run, made, inside, tmp_path / f"{n}.cfg").read_text()
        for n, inside in enumerate(iso.BOOT_CONFIGURATIONS)
    ]
    for text in [*texts, (tmp_path / "third.cfg").read_text()]:
        kernels = [line for line in text.splitlines() if re.match(r"\s*linux", line)]
        assert len(kernels) == 3 and all(WANTED in line and line.count("inst.ks=") == 1 for line in kernels)
        assert 'set default="0"' in text and "SMALL-MEDIUM" not in text


def entries(text):
    """title → kernel line, for the menu entries of GRUB's configuration TEXT that start a kernel."""
    found = iso.ENTRY.finditer(text)
    return {one["title"]: kernel[0].strip() for one in found if (kernel := iso.KERNEL_LINE.search(one[0]))}


def test_entries_of_a_real_medium_are_ours_and_its_rescue_is_left_alone():
    """The configuration that lorax 44.7 writes: see the data's README."""
    before = (RECORDINGS / "medium-grub.cfg").read_text()
    after = iso.edit_boot_configuration(before, "Fedora-E-dvd-x86_64-44", PRODUCT)
    assert "Fedora-E-dvd" not in after and "search --no-floppy --set=root -l 'VEILOR-OS-44'" in after
    made = entries(after)
    assert list(made) == [
        "Install veilor-os 44",
        "Install veilor-os 44 on partitions of your own",
        "Test this media & install veilor-os 44",
        "Install veilor-os 44 in basic graphics mode",
        "Rescue a Fedora system",
    ]
    rescue = made.pop("Rescue a Fedora system")
    assert rescue.endswith("inst.stage2=hd:LABEL=VEILOR-OS-44 inst.rescue quiet")
    for title, kernel in made.items():
        mode = "inst.graphical" if "your own" in title else "inst.text"
        assert kernel.endswith(f"{WANTED} {mode} inst.nosave=all"), title
    assert "nomodeset" in made["Install veilor-os 44 in basic graphics mode"]


def test_an_entry_says_one_display_mode_only():
    """Real Anaconda takes the last of inst.text and inst.graphical."""
    entry = "menuentry 'x' {\n linux /vmlinuz inst.graphical inst.cmdline inst.nosave=logs\n}\n"
    made = entries(iso.edit_boot_configuration(entry, "L", PRODUCT))
    assert [kernel.split()[2:] for kernel in made.values()] == [
        [WANTED, "inst.text", "inst.nosave=all"],
        [WANTED, "inst.graphical", "inst.nosave=all"],
    ]


def labels(path):
    """The labels in the volume descriptors of the ISO at PATH: in ASCII, and for Joliet (ECMA-119, 8.4)."""
    found, data = {}, path.read_bytes()[: 64 * 2048]
    for start in range(16 * 2048, len(data), 2048):
        kind, text = data[start], data[start + 40 : start + 72]
        if data[start + 1 : start + 6] != b"CD001" or kind == 255:
            break
        if kind in (1, 2):
            found[kind] = text.decode("ascii" if kind == 1 else "utf-16-be").strip(" \0")
    return found


def test_the_label_is_ours_and_ways_to_boot_stay(made, medium, run):
    before, after = iso.read_medium(medium), iso.read_medium(made)
    assert labels(medium) == dict.fromkeys((1, 2), "SMALL-MEDIUM")
    assert labels(made) == {1: "VEILOR-OS-44"}  # xorriso writes no Joliet here
    assert (before.label, after.label) == ("SMALL-MEDIUM", "VEILOR-OS-44")
    assert after.efi is not None
    ways = [iso.Job(before, path.parent, 0, run, PRODUCT).ways_to_boot(path) for path in (medium, made)]
    assert ways[0] == ways[1] == ["BIOS", "UEFI"]
    assert made.read_bytes()[510:512] == b"\x55\xaa"


def test_checksums(made, run):
    sums = made.with_name("SHA256SUMS")
    run(
        ["sh", "-c", f"cd {made.parent} && sha256sum --check --strict {sums}"],
        binds=[made.parent],
        timeout=60,
    )
    run(["checkisomd5", str(made)], binds=[made.parent], timeout=120)


def test_same_bytes_in_another_folder_at_another_time(made, medium, run, new_layout, tmp_path):
    time.sleep(2.1)  # longer than the resolution of FAT's clock
    layout = tmp_path / "elsewhere"
    new_layout(layout, (1, 2, 3))  # so that inode numbers come in another order
    os.utime(layout / "index.json", (5, 5))
    (layout / "index.json").chmod(0o600)
    assert build(medium, layout, tmp_path / "again.iso", run).read_bytes() == made.read_bytes()


def test_the_mutable_fallback_has_its_kickstart_and_no_image(run, medium, tmp_path):
    made = iso.build_iso(medium, None, MUTABLE, tmp_path / "mutable.iso", run=run)
    said = extract(run, made, "/ks.cfg", tmp_path / "ks.cfg").read_text()
    assert (
        said == kickstart.flatten(MUTABLE) and "\nurl --metalink=" in said and "ostreecontainer" not in said
    )
    assert WANTED in extract(run, made, iso.BOOT_CONFIGURATIONS[0], tmp_path / "grub.cfg").read_text()
    listed = run(
        ["xorriso", "-indev", str(made), "-find", "/", "-maxdepth", "1"], binds=[tmp_path], timeout=60
    ).stdout.decode()
    assert "/ks.cfg" in listed and "/container" not in listed
    assert iso.Job(iso.read_medium(medium), tmp_path, 0, run, PRODUCT).ways_to_boot(made) == ["BIOS", "UEFI"]


@pytest.mark.parametrize(
    ("spoilt", "old", "new"),
    [
        ("veilor-os.ks", "poweroff", "ignoredisk --only-use=sda"),
        ("snippets/storage.ks", "--luks-version=luks2", "--luks-version=luks1"),
    ],
)
def test_the_mutable_fallback_keeps_the_rules_that_it_can(spoilt, old, new, tmp_path):
    shutil.copytree(MUTABLE.parent, tmp_path / "kickstart")
    path = tmp_path / "kickstart" / spoilt
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BuildError, match="must not go onto a medium"):
        iso.build_iso(
            small(tmp_path / "x.iso"),
            None,
            tmp_path / "kickstart/veilor-os.ks",
            tmp_path / "out.iso",
            run=never,
        )


def test_only_the_fallback_is_made_while_nobody_holds_our_keys(
    run, medium, layout, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cli, "runner", lambda args: run)
    argv = ["iso", "--medium", str(medium), "--out", str(tmp_path / "out.iso")]
    monkeypatch.setattr("veilor.build.readiness.placeholder_keys", lambda *_: ["veilor-image-a.pub"])
    assert cli.main([*argv, "--layout", str(layout)]) == 1 and not (tmp_path / "out.iso").exists()
    assert cli.main([*argv, "--mutable"]) == 0 and (tmp_path / "out.iso").exists()
    with pytest.raises(SystemExit):  # neither is a slip that would end in the wrong system
        cli.main(argv)


def test_nothing_else_is_left_beside_it(made):
    assert sorted(path.name for path in made.parent.iterdir()) == ["SHA256SUMS", "veilor-os.iso"]


def never(*args, **kwargs):
    raise AssertionError("nothing may be started")


def small(path: Path, label: bytes = b"LABEL") -> Path:
    data = bytearray(64 * 1024)
    data[32769:32774] = b"CD001"
    data[32808:32840] = label.ljust(32)
    path.write_bytes(data)
    return path


def test_refuses_what_is_no_iso(layout, tmp_path):
    (tmp_path / "x.iso").write_bytes(b"x" * 100_000)
    with pytest.raises(BuildError, match="is not an ISO image"):
        build(tmp_path / "x.iso", layout, tmp_path / "out.iso", never)
    with pytest.raises(BuildError, match="can't be read"):
        build(tmp_path / "none.iso", layout, tmp_path / "out.iso", never)


def test_refuses_a_medium_without_a_label(layout, tmp_path):
    with pytest.raises(BuildError, match="no volume label"):
        build(small(tmp_path / "x.iso", b""), layout, tmp_path / "out.iso", never)


def test_refuses_another_label_than_the_one_meant(layout, tmp_path):
    with pytest.raises(BuildError, match="has the label LABEL, not OTHER"):
        iso.build_iso(
            small(tmp_path / "x.iso"), layout, KICKSTART, tmp_path / "out.iso", run=never, volid="OTHER"
        )


def test_refuses_what_is_no_layout(layout, tmp_path):
    (layout / "oci-layout").unlink()
    with pytest.raises(BuildError, match="is not an OCI layout"):
        build(small(tmp_path / "x.iso"), layout, tmp_path / "out.iso", never)


def test_refuses_when_the_disk_is_full(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(iso.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(iso.MiB))
    with pytest.raises(BuildError, match="has 1 MiB free"):
        build(small(tmp_path / "x.iso"), layout, tmp_path / "out.iso", never)


def test_refuses_a_medium_that_starts_no_kernel(run, layout, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/readme").write_text("nothing here boots")
    run(
        [
            "xorriso",
            "-as",
            "mkisofs",
            "-quiet",
            "-V",
            "DATA",
            "-o",
            str(tmp_path / "x.iso"),
            str(tmp_path / "tree"),
        ],
        binds=[tmp_path],
        timeout=60,
    )
    with pytest.raises(BuildError, match="no boot configuration"):
        build(tmp_path / "x.iso", layout, tmp_path / "out.iso", run)
    assert not (tmp_path / "out.iso").exists() and not list(tmp_path.glob(".veilor-iso-*"))


def test_refuses_what_xorriso_left_broken(run, medium, layout, tmp_path):
    def breaking(argv, **kwargs):
        done = run(argv, **kwargs)
        if "-commit" in argv:
            made = Path(argv[argv.index("-outdev") + 1])
            made.write_bytes(made.read_bytes()[:380_000])
        return done

    (tmp_path / "out.iso").write_text("the one before")
    with pytest.raises(BuildError, match="did not survive the rewriting"):
        build(medium, layout, tmp_path / "out.iso", breaking)
    assert (tmp_path / "out.iso").read_text() == "the one before"


def test_refuses_a_kickstart_that_breaks_the_rules(layout, tmp_path):
    bad = tmp_path / "bad.ks"
    bad.write_text("clearpart --all\nautopart\n")
    with pytest.raises(BuildError, match="must not go onto a medium"):
        iso.build_iso(small(tmp_path / "x.iso"), layout, bad, tmp_path / "out.iso", run=never)


def test_other_checksums_stay(tmp_path):
    (tmp_path / "SHA256SUMS").write_text("aa  a.iso\nbb  b.iso\n")
    (tmp_path / "b.iso").write_bytes(b"")
    iso.note_checksum(tmp_path / "b.iso")
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    assert lines == ["aa  a.iso", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b.iso"]


def test_a_label_with_a_space_is_found_as_grub_and_the_kernel_write_it():
    entry = "search -l 'A B'\nmenuentry 'x' {\n linux /vmlinuz inst.stage2=hd:LABEL=A\\x20B quiet\n}\n"
    after = iso.edit_boot_configuration(entry, "A B", PRODUCT)
    assert "-l 'VEILOR-OS-44'" in after and after.count("stage2=hd:LABEL=VEILOR-OS-44 ") == 2
