"""USB devices in a made-up /sys: what usbguard-daemon reads of a device, and the file by which it lets the
device in.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

CONTROLLER = "devices/pci0000:00/0000:00:14.0"
KEYBOARD, MOUSE, VENDOR_HID, STORAGE, NETWORK, HUB = (
    (3, 1, 1),
    (3, 1, 2),
    (3, 0, 0),
    (8, 6, 0x50),
    (2, 6, 0),
    (9, 0, 0),
)


@dataclass(frozen=True)
class Device:
    """A device at PORT (such as 1-2; usb1 is a bus's root hub) with INTERFACES as (class, subclass,
    protocol).
    """

    port: str
    vendor: int
    product: int
    name: str
    interfaces: tuple[tuple[int, int, int], ...]
    serial: str = ""
    let_in: bool = (
        True  # before the daemon starts: a device that comes while it runs is not (AuthorizedDefault=none)
    )

    def descriptors(self) -> bytes:
        """Device, configuration and interface descriptors as the kernel shows them (USB 2.0, chapter 9.6)."""
        device_class = 9 if self.interfaces[0][0] == 9 else 0
        device = struct.pack(
            "<BBHBBBBHHHBBBB",
            18,
            1,
            0x200,
            device_class,
            0,
            0,
            64,
            self.vendor,
            self.product,
            0x100,
            1,
            2,
            3,
            1,
        )
        parts = b"".join(
            struct.pack("<9B", 9, 4, number, 0, 0, *kind, 0) for number, kind in enumerate(self.interfaces)
        )
        return (
            device
            + struct.pack("<BBHBBBBB", 9, 2, 9 + len(parts), len(self.interfaces), 1, 0, 0xA0, 50)
            + parts
        )

    def plug(self, sysfs: Path, number: int) -> None:
        """Put the device into the tree SYSFS as the kernel's NUMBERth."""
        bus = int(self.port.removeprefix("usb").split("-")[0])
        inside = f"usb{bus}" if self.port.startswith("usb") else f"usb{bus}/{self.port}"
        folder = sysfs / CONTROLLER / inside
        (folder / "port").mkdir(parents=True)
        (sysfs / CONTROLLER / "uevent").write_text("DRIVER=xhci_hcd\n")
        name = f"bus/usb/{bus:03}/{number:03}"
        texts = {
            "idVendor": f"{self.vendor:04x}",
            "idProduct": f"{self.product:04x}",
            "product": self.name,
            "authorized": str(int(self.let_in)),
            "authorized_default": "1",
            "busnum": str(bus),
            "devnum": str(number),
            "port/connect_type": "hotplug",
            "uevent": f"MAJOR=189\nMINOR={number}\nDEVNAME={name}\nDEVTYPE=usb_device\nDRIVER=usb\nBUSNUM={bus:03}\nDEVNUM={number:03}",  # noqa: E501
        }
        texts["remove"] = ""  # the daemon writes 1 to turn a device away for good
        if self.serial:
            texts["serial"] = self.serial
        for file, text in texts.items():
            (folder / file).write_text(text + "\n")
        (folder / "descriptors").write_bytes(self.descriptors())
        (folder / "subsystem").symlink_to("/sys/bus/usb")
        link = sysfs / "bus/usb/devices" / self.port
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder, link.parent))


def plug_all(sysfs: Path, devices: tuple[Device, ...]) -> Path:
    """A tree with a root hub for every bus that is named, then DEVICES in their order."""
    roots = [
        Device(f"usb{bus}", 0x1D6B, 2, "xHCI Host Controller", (HUB,), f"0000:00:14.{bus}")
        for bus in sorted({device.port.split("-")[0] for device in devices})
    ]
    for number, device in enumerate((*roots, *devices), 1):
        device.plug(sysfs, number)
    return sysfs
