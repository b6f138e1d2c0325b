"""One virtual machine: QEMU with disks, a serial console, QMP, the lab's agent and the product's registry.

Every wait has a limit, in seconds that the host gave to QEMU. What a silent guest means depends on QEMU: as
long as it lives, the guest is to blame (OSFault); when it died without being asked, or its emulated processor
lost a timer, the rehearsal is (LabFault).
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qemu.qmp.legacy import QEMUMonitorProtocol

from veilor.lab.agent import GUEST_PROGRAM, GUEST_UNIT, PORT_NAME, Agent, AgentGone, Reply
from veilor.lab.clock import Clock
from veilor.lab.console import Console
from veilor.lab.screen import Screen, read_ppm
from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault, OSFault

REGISTRY_ADDRESS = "10.0.2.100"
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
OVMF_VARS = "usr/share/OVMF/OVMF_VARS_4M.fd"
# A kernel that says this had a timer set that never fired, with its processors idle. QEMU without KVM was
# seen to lose the second processor's timer so, before any program of the system ran; whatever waits for RCU
# then waits for ever.
LOST_TIMER = re.compile(rb"rcu: \S+ kthread timer wakeup didn't happen for \d+ jiffies")


@dataclass(frozen=True)
class DiskFile:
    """A file that is a disk of the machine; FORMAT is QEMU's name for it, raw or qcow2."""

    path: Path
    format: str = "raw"
    read_only: bool = False


@dataclass
class Hardware:
    """What a boot is given.

    REGISTRY is a loopback port, None for no network card; with one, CA is the file of its authority's
    certificate. SHARE is a folder of the host's for the installer's logs (virtio-9p). KERNEL_SAYS are further
    system credentials, by their names.
    """

    disks: list[DiskFile]
    firmware: str = "uefi"
    uefi_vars: Path | None = None
    accel: str = "tcg"
    memory_mib: int = 3072
    registry: int | None = None
    registry_name: str = "ghcr.io"
    ca: Path | None = None
    usb: bool = False
    share: Path | None = None
    kernel_says: dict[str, str] = field(default_factory=dict)


def credentials(hardware: Hardware) -> dict[str, bytes]:
    """The system credentials that bring agent, registry name and CA into a guest, by their names.

    Its image and disk stay as they are.
    """

    def file_line(path: str, data: bytes, mode: str) -> str:
        return f"f+~ {path} {mode} root root - {base64.b64encode(data).decode()}\n"

    files = "d /run/veilor-lab 0755 root root -\n" + file_line(
        "/run/veilor-lab/agent.py", GUEST_PROGRAM.encode(), "0644"
    )
    if hardware.registry is not None:
        assert hardware.ca, "a registry has an authority"
        name = hardware.registry_name
        files += file_line("/etc/hosts", f"127.0.0.1 localhost\n{REGISTRY_ADDRESS} {name}\n".encode(), "0644")
        files += f"d /etc/containers/certs.d/{name} 0755 root root -\n"
        files += file_line(f"/etc/containers/certs.d/{name}/ca.crt", hardware.ca.read_bytes(), "0644")
    return {
        "tmpfiles.extra": files.encode(),
        "systemd.extra-unit.veilor-lab-agent.service": GUEST_UNIT.encode(),
        "systemd.unit-dropin.sysinit.target~veilor-lab": b"[Unit]\nWants=veilor-lab-agent.service\n",
        **{name: text.encode() for name, text in hardware.kernel_says.items()},
    }


class Machine:
    """A running guest. `start` it, and always `stop` it."""

    process: subprocess.Popen[bytes]
    console: Console
    agent: Agent
    qmp: QEMUMonitorProtocol
    clock: Clock

    def __init__(self, tools: Tools, hardware: Hardware, log: Path) -> None:
        self.tools, self.hardware = tools, hardware
        self._dir = tempfile.TemporaryDirectory(prefix=f"veilor-vm-{os.getpid()}-")
        self.dir = Path(self._dir.name)
        self.log = log
        self._ended = False

    def start(self) -> Machine:
        """Start QEMU and connect to it. Raises LabFault when QEMU does not come up."""
        argv = self._argv()
        binds = [
            self.dir,
            *{disk.path.parent for disk in self.hardware.disks},
            *filter(None, [self.hardware.share]),
        ]
        if self.hardware.uefi_vars:
            binds.append(self.hardware.uefi_vars.parent)
        self.process = self.tools.start(argv, binds=binds, log=self.dir / "qemu.log")
        for name in ("qmp", "serial", "agent"):
            self._await_socket(self.dir / name)
        self.clock = Clock(self.process.pid)
        self.console = Console(self.dir / "serial", self.log, self.clock)
        self.agent = Agent(self.dir / "agent", self.clock)
        self.qmp = QEMUMonitorProtocol(str(self.dir / "qmp"))
        self.qmp.connect()
        self.qmp.settimeout(30)
        return self

    def _argv(self) -> list[str]:
        hw = self.hardware
        argv = [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-machine",
            "q35",
            "-smp",
            "2",
            "-m",
            str(hw.memory_mib),
        ]
        argv += [
            "-accel",
            "kvm" if hw.accel == "kvm" else "tcg,thread=multi",
            "-cpu",
            "host" if hw.accel == "kvm" else "max",
        ]
        argv += ["-display", "none", "-vga", "std", "-device", "virtio-rng-pci", "-rtc", "base=utc"]
        if hw.firmware == "uefi":
            argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF}"]
            argv += ["-drive", f"if=pflash,unit=1,format=raw,file={hw.uefi_vars}"]
        for number, disk in enumerate(hw.disks):
            mode = "on" if disk.read_only else "off"
            argv += [
                "-drive",
                f"if=none,id=d{number},file={disk.path},format={disk.format},readonly={mode},"
                "cache=unsafe,discard=unmap",
            ]
            argv += ["-device", f"virtio-blk-pci,drive=d{number},serial=disk{number},bootindex={number + 1}"]
        argv += [
            "-chardev",
            f"socket,id=serial,path={self.dir}/serial,server=on,wait=off",
            "-serial",
            "chardev:serial",
        ]
        argv += [
            "-chardev",
            f"socket,id=agent,path={self.dir}/agent,server=on,wait=off",
            "-device",
            "virtio-serial-pci",
        ]
        argv += ["-device", f"virtserialport,chardev=agent,name={PORT_NAME}"]
        argv += ["-device", "qemu-xhci,id=xhci"] if hw.usb else []
        argv += (
            ["-virtfs", f"local,path={hw.share},mount_tag=veilor-logs,security_model=none"]
            if hw.share
            else []
        )
        argv += ["-qmp", f"unix:{self.dir}/qmp,server=on,wait=off", "-S"]
        if hw.registry is None:
            argv += ["-nic", "none"]
        else:
            relay = f"socat - TCP4:127.0.0.1:{hw.registry}"
            argv += [
                "-netdev",
                f"user,id=net0,ipv6=off,restrict=on,guestfwd=tcp:{REGISTRY_ADDRESS}:443-cmd:{relay}",
            ]
            argv += ["-device", "virtio-net-pci,netdev=net0,romfile="]
        for number, (name, data) in enumerate(sorted(credentials(hw).items())):
            path = self.dir / f"credential{number}"
            path.write_text(f"io.systemd.credential.binary:{name}={base64.b64encode(data).decode()}")
            argv += ["-smbios", f"type=11,path={path}"]
        (self.dir / "qemu.argv").write_text(shlex.join(argv))
        return argv

    def _await_socket(self, path: Path) -> None:
        deadline = time.monotonic() + 30
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.dir / "qemu.log").read_text(errors="replace").strip()[-400:]
                self.stop()
                raise LabFault(f"QEMU did not start: {said or 'it said nothing'}")
            time.sleep(0.05)

    def resume_cpus(self) -> None:
        """Let the stopped CPUs run, once console and agent listen (so that no byte is lost)."""
        self.qmp.cmd("cont")

    def fault_for_silence(self, what: str, last: str = "") -> Exception:
        """The fault to raise when WHAT did not happen in time.

        LAST is what was heard instead; without it the end of the console is told.
        """
        if self.process.poll() is not None and not self._ended:
            said = (self.dir / "qemu.log").read_text(errors="replace").strip()[-200:]
            return LabFault(f"QEMU died while waiting for {what} (exit {self.process.returncode}) {said}")
        if self.hardware.accel == "tcg" and self.console.count(LOST_TIMER.pattern):
            return LabFault(
                f"the emulated processor lost a timer, as the guest's kernel says, while waiting for {what}"
            )
        if not last:
            tail = self.console.text().strip().splitlines()[-3:]
            last = f"the console's last words: {' / '.join(tail)[-300:]}"
        return OSFault(f"{what} did not come; {last}")

    def wait_console(self, pattern: bytes, timeout: float, what: str, start: int = 0) -> int:
        """Wait until the console says PATTERN at or after the offset START; the offset behind it.

        WHAT names it in the fault. Raises OSFault or LabFault when it does not within TIMEOUT seconds.
        """
        found = self.console.wait_for(pattern, timeout, start)
        if found is None:
            raise self.fault_for_silence(what)
        return found

    def wait_agent(self, timeout: float = 180) -> str:
        """Wait until the guest's agent has said hello; the boot id."""
        try:
            return self.agent.wait_hello(timeout)
        except AgentGone:
            raise self.fault_for_silence("the guest's agent") from None

    def run(self, argv: list[str], timeout: float = 60, check: bool = True, stdin: bytes = b"") -> Reply:
        """Run ARGV in the guest; with CHECK a non-zero exit is an OSFault."""
        try:
            reply = self.agent.run(argv, timeout, stdin)
        except AgentGone as gone:
            raise self.fault_for_silence(f"an answer to `{shlex.join(argv)[:80]}` ({gone})") from None
        if check and reply.code:
            said = (reply.err or reply.out).strip().splitlines()
            raise OSFault(
                f"`{shlex.join(argv)[:120]}` ended with {reply.code} in the guest: "
                f"{' / '.join(said[-3:])[-400:]}"
            )
        return reply

    def wait_unit(self, unit: str, state: str = "active", timeout: float = 120) -> None:
        """Wait until systemd says UNIT is in STATE."""
        self.wait_until(
            ["systemctl", "is-active", unit],
            lambda r: r.out.strip() == state,
            timeout,
            f"{unit} to be {state}",
        )

    def wait_until(self, argv: list[str], good: Callable[[Reply], bool], timeout: float, what: str) -> Reply:
        """Repeat ARGV in the guest until GOOD(reply); the reply.

        WHAT names it in the fault. Raises OSFault or LabFault after TIMEOUT seconds.
        """
        deadline = self.clock() + timeout
        while True:
            reply = self.run(argv, timeout=60, check=False)
            if good(reply):
                return reply
            if self.clock() > deadline:
                said = (
                    f"last answer after {timeout:.0f} s: {reply.code} "
                    f"{(reply.out or reply.err).strip()[-300:]}"
                )
                raise self.fault_for_silence(what, said)
            time.sleep(1)

    def screenshot(self, path: Path) -> Path:
        """Write the screen as a PNG to PATH."""
        shot = self.dir / "screen.png"
        self.qmp.cmd("screendump", filename=str(shot), format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(shot.read_bytes())
        return path

    def screen(self) -> Screen:
        """What the screen shows now, as pixels."""
        shot = self.dir / "screen.ppm"
        self.qmp.cmd("screendump", filename=str(shot))
        return read_ppm(shot.read_bytes())

    def wait_screen(self, good: Callable[[Screen], bool], timeout: float, what: str) -> Screen:
        """Wait until the screen is GOOD; what it shows then.

        WHAT names it in the fault. Raises OSFault or LabFault after TIMEOUT seconds.
        """
        deadline = self.clock() + timeout
        while not good(shown := self.screen()):
            if self.clock() > deadline or self.process.poll() is not None:
                raise self.fault_for_silence(f"{what} on the screen")
            time.sleep(1)
        return shown

    def set_link(self, up: bool) -> None:
        """Plug the network cable in or out."""
        self.qmp.cmd("set_link", name="net0", up=up)

    def power_off(self, timeout: float = 120) -> None:
        """Ask the guest to shut down and wait for QEMU to end."""
        self._ended = True
        with contextlib.suppress(AgentGone):
            self.agent.run(["systemctl", "poweroff", "--no-block"], timeout=20)
        self.wait_end(timeout, "the machine to power off")

    def wait_end(self, timeout: float, what: str) -> None:
        """Wait until QEMU has ended by itself; OSFault when it does not."""
        self._ended = True
        deadline = self.clock() + timeout
        while self.process.poll() is None:
            if self.clock() > deadline:
                self._ended = False
                raise self.fault_for_silence(what)
            time.sleep(0.1)

    def cut_power(self) -> None:
        """Kill QEMU as a power cut does: nothing the guest had not written reaches the disk."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """End QEMU however it is, and remove what it left. Safe to call twice."""
        if hasattr(self, "process"):
            if self.process.poll() is None:
                self._ended = True
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)
        # What `start` did not come to is not there.
        if hasattr(self, "console"):
            # bubblewrap is gone before QEMU is, and only QEMU's end gives the disk free.
            self.console.wait_end(30)
        if hasattr(self, "agent"):
            self.agent.close()
        if hasattr(self, "console"):
            self.console.close()
        if hasattr(self, "qmp"):
            with contextlib.suppress(Exception):  # the far end is gone: closing is all we want
                self.qmp.close()
            del self.qmp
        self._dir.cleanup()
