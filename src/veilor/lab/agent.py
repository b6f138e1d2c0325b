"""The lab's agent inside a guest: a small program behind a virtio-serial port that runs commands.

It comes in through SMBIOS system credentials, so that neither image nor disk holds anything of it. Each
request is one line of JSON {"id", "argv", "stdin", "timeout"}, each answer one line {"id", "code", "out",
"err"}, with the texts in base64.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilor.lab.clock import POLL_SECONDS

PORT_NAME = "org.veilor.lab.0"
GUEST_PROGRAM = f"""
import base64, json, os, subprocess, tempfile
port = os.open("/dev/virtio-ports/{PORT_NAME}", os.O_RDWR)
pending = b""
def answer(**fields):
    data = json.dumps(fields).encode() + b"\\n"
    while data:
        data = data[os.write(port, data):]
answer(hello=open("/proc/sys/kernel/random/boot_id").read().strip())
while True:
    chunk = os.read(port, 65536)
    if not chunk:
        import time; time.sleep(0.2); continue
    pending += chunk
    while b"\\n" in pending:
        line, pending = pending.split(b"\\n", 1)
        try:
            ask = json.loads(line)
        except ValueError:
            continue
        outputs = [tempfile.TemporaryFile("w+b", dir="/run") for _ in range(2)]  # no pipes: what the command leaves behind may hold them
        try:
            code, said = subprocess.run(ask["argv"], input=base64.b64decode(ask["stdin"]), stdout=outputs[0], stderr=outputs[1],
                                        timeout=ask["timeout"], cwd="/").returncode, b""
        except subprocess.TimeoutExpired:
            code, said = 124, b"lab agent: timed out"
        except OSError as error:
            code, said = 127, str(error).encode()
        out, err = (output.seek(0) or output.read() for output in outputs)
        err += said
        answer(id=ask["id"], code=code, out=base64.b64encode(out).decode(), err=base64.b64encode(err).decode())
"""  # noqa: E501
GUEST_UNIT = f"""[Unit]
Description=veilor lab agent
DefaultDependencies=no
After=systemd-tmpfiles-setup.service systemd-udev-settle.service dbus.socket
ConditionPathExists=!/etc/initrd-release
[Service]
ExecStart=/bin/sh -c 'until test -e /dev/virtio-ports/{PORT_NAME}; do sleep 0.2; done; exec python3 -I /run/veilor-lab/agent.py'
Restart=always
RestartSec=1
KillMode=process
"""  # noqa: E501


class AgentGone(Exception):
    """The agent did not answer in time or its port closed. What that means is the caller's to judge."""


@dataclass(frozen=True)
class Reply:
    """A guest command's exit code and its outputs as text."""

    code: int
    out: str
    err: str


class Agent:
    """Talks to the guest's agent over the QEMU side of the port at PATH; limits are seconds of CLOCK."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._pending = b""
        self._next = 0
        self.boot_id: str | None = None

    def _read_answer(self, deadline: float) -> dict[str, Any]:
        """The next answer; empty when it is no JSON. Raises AgentGone at DEADLINE or when the port closes."""
        while b"\n" not in self._pending:
            left = deadline - self.clock()
            if left <= 0:
                raise AgentGone("the guest's agent did not answer in time")
            self._socket.settimeout(min(left, POLL_SECONDS))
            try:
                data = self._socket.recv(1 << 20)
            except TimeoutError:
                continue
            except OSError as error:
                raise AgentGone(f"the agent's port closed ({error})") from None
            if not data:
                raise AgentGone("the agent's port closed")
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            return {}
        return answer

    def wait_hello(self, timeout: float) -> str:
        """Wait for the agent's first answer in this boot; the boot id. Raises AgentGone."""
        deadline = self.clock() + timeout
        while True:
            hello: str | None = self._read_answer(deadline).get("hello")
            if hello:
                self.boot_id = hello
                return hello

    def discard_input(self) -> None:
        """Discard every answer that has come by now.

        They are of an earlier boot than the one that is waited for.
        """
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1 << 20):
                pass
        self._pending = b""

    def run(self, argv: list[str], timeout: float = 60, stdin: bytes = b"") -> Reply:
        """Run ARGV in the guest, which ends it after TIMEOUT seconds.

        Exit 124 means that it was ended, 127 that it could not be started. Raises AgentGone.
        """
        self._next += 1
        ask = {"id": self._next, "argv": argv, "timeout": timeout, "stdin": base64.b64encode(stdin).decode()}
        self._socket.settimeout(30)
        try:
            self._socket.sendall(json.dumps(ask).encode() + b"\n")
        except OSError as error:
            raise AgentGone(f"the agent's port does not take a request ({error})") from None
        deadline = self.clock() + timeout + 30
        while True:
            reply = self._read_answer(deadline)
            if reply.get("id") == self._next:
                out, err = (base64.b64decode(reply[key]).decode(errors="replace") for key in ("out", "err"))
                return Reply(reply["code"], out, err)

    def close(self) -> None:
        """Close the port."""
        self._socket.close()
