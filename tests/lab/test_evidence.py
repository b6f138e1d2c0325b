"""What is read off console and registry log, on samples that have it and samples that don't."""

import re
from types import SimpleNamespace

import pytest

from veilor.lab.console import FORBIDDEN, find_forbidden, without_escapes
from veilor.lab.evidence import PROMPT, Evidence
from veilor.lab.registry import Request

IMAGE = "/v2/veilor/veilor-os"
LAYER = f"{IMAGE}/blobs/sha256:{'a' * 64}"
SIGNATURE = f"{IMAGE}/manifests/sha256-{'b' * 64}.sig"
SAID = {
    "kernel panic": "Kernel panic - not syncing: VFS",
    "kernel oops": "Oops: 0000 [#1]",
    "soft lockup": "watchdog: BUG: soft lockup - CPU#0",
    "emergency mode": "You are in emergency mode. After logging in",
    "file system error": "EXT4-fs error (device dm-0)",
    "traceback": "Traceback (most recent call last):",
    "failed to mount": "Failed to mount boot.mount",
    "grub prompt": "grub> ",
}


class Bench(Evidence):
    """Without a machine of its own: a test gives it what it needs of one."""

    machine = None


@pytest.fixture
def world():
    made = Bench()
    made.settings = SimpleNamespace(product=SimpleNamespace(image_repository="veilor/veilor-os"))
    return made


def get(path, size=10, status=200, method="GET"):
    return Request(method, path, status, size, "")


def test_each_forbidden_thing_is_seen_named_and_can_be_allowed():
    assert SAID.keys() == FORBIDDEN.keys()
    for name, line in SAID.items():
        data = f"all well\n[  1.0] {line}\nmore\n".encode()
        assert any(hit.startswith(f"{name}: ") and line[:10].strip() in hit for hit in find_forbidden(data))
        assert not any(hit.startswith(name) for hit in find_forbidden(data, frozenset({name})))
    assert find_forbidden(b"[ OK ] Reached target multi-user.target\nEXT4-fs (dm-0): re-mounted\n") == []


def test_escapes_are_taken_out_and_words_stay():
    assert (
        without_escapes(b"\x1b[0;32m  OK  \x1b[0m Started \x1b[1;39mone\x1b[0m.\r\n")
        == "  OK   Started one.\n"
    )


def test_the_prompt_is_known_without_a_newline():
    said = b"\x1b[0;1;39mPlease enter passphrase for disk luks-4a1a37bf: (press TAB for no echo) "
    assert len(re.findall(PROMPT, said)) == 1
    assert not re.findall(PROMPT, b"Starting Cryptography Setup for luks-4a1a37bf")


def test_bytes_of_layers_are_those_of_large_blobs_of_the_image(world):
    asked = [
        get(LAYER, 1_000_000),
        get(LAYER, 900),
        get(LAYER, 5, method="HEAD"),
        get(SIGNATURE, 200_000),
        get(LAYER.replace("veilor-os", "veilor-os-channel"), 900_000),
    ]
    assert world.layer_bytes(asked) == 1_000_000


def test_a_signature_has_to_come_first_and_at_all(world):
    layer = get(LAYER, 1_000_000)
    assert world.signature_before_layers([get(SIGNATURE), layer])
    assert not world.signature_before_layers([layer, get(SIGNATURE)])
    assert not world.signature_before_layers([layer])
    assert not world.signature_before_layers([get(SIGNATURE, status=404), layer])
    assert not world.signature_before_layers([get(SIGNATURE)])


def test_offered_disks_are_read_by_serial(world):
    console = (
        "  1) vdb  12.0 GiB  empty  (disk1)\n  2) sdc  16.0 GiB  a partition table  (ACME Disk disk2)\n"
        "     vda is left out: the installation medium\n"
    )
    world.machine = SimpleNamespace(console=SimpleNamespace(text=lambda: console))
    assert world.offered_disks() == {"disk1": "1", "disk2": "2"}
