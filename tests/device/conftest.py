"""A machine without a machine: a folder as its root, fakes on PATH, and reboots with GRUB's counter and
ostree's order.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.core import policy
from veilor.core.product import load
from veilor.device import checks, health, network, preflight, run
from veilor.device import main as programs

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from loader_entries import write_loader_entries  # noqa: E402
from simulation import Clock  # noqa: E402

FRAGMENT = ROOT / "overlay/usr/lib/bootupd/grub2-static/configs.d/08_veilor.cfg"
PRODUCT = load(ROOT / "product.toml")
REF = PRODUCT.image_ref
NAMES = (
    "bootc",
    "ostree",
    "skopeo",
    "grub2-editenv",
    "systemctl",
    "loginctl",
    "plymouth",
    "mount",
    "busctl",
    "usbguard",
    "timedatectl",
)
KEY = "-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(b"stand-in").decode() + "\n-----END PUBLIC KEY-----\n"


# what udev keeps of one
KEYBOARD = "S:input/by-path/platform-i8042-serio-0-event-kbd\nE:ID_INPUT=1\nE:ID_INPUT_KEYBOARD=1\n"


def digest(version: str) -> str:
    """The digest of the image of VERSION."""
    return "sha256:" + hashlib.sha256(version.encode()).hexdigest()


def entry(
    version: str,
    *,
    signed: bool = True,
    transport: str = "registry",
    reference: str = REF,
    serial: int = 0,
    **more,
) -> dict:
    """A deployment of VERSION as bootc's status shows it."""
    image = {"image": reference, "transport": transport} | (
        {"signature": "containerPolicy"} if signed else {}
    )
    return {
        "image": {
            "image": image,
            "imageDigest": digest(version),
            "version": version,
            "timestamp": "2026-01-01T00:00:00Z",
            "architecture": "amd64",
        },
        "downloadOnly": False,
        "pinned": False,
        "incompatible": False,
        "cachedUpdate": None,
        "ostree": {
            "checksum": hashlib.sha256(digest(version).encode()).hexdigest(),
            "deploySerial": serial,
            "stateroot": "veilor",
        },
    } | more


def bootstrap(version: str = "44.0", **more) -> dict:
    """The deployment that an installer wrote."""
    return entry(version, signed=False, transport="oci", reference="/run/install/repo/container", **more)


# A program on PATH. The subshell leaves the script's own standard output as it is: fake.py opens it by /proc.
CLIENT = """#!/bin/sh
reply={folder}/reply-$$
mkfifo "$reply" || exit 1
(printf '%s\\0' "$#" {folder} {name} $$ $PPID "$@") >{requests}
read -r code <"$reply"
exit "${{code:-1}}"
"""


def deployment_name(entry: dict) -> str:
    """How ostree names the folder of ENTRY's deployment."""
    return f"{entry['ostree']['checksum']}.{entry['ostree']['deploySerial']}"


# Imports the programs once and runs each in a fork of its own: what it reads is where and which, what it
# writes the exit code. A Python of its own for each run would take ten times as long to start as to run.
STARTER = """
import importlib, json, os, sys
from pathlib import Path
os.geteuid = lambda: 0
from veilor.device import main, preflight, run
preflight.free = lambda path: 1 << 40
for name in main.PROGRAMS.values():
    importlib.import_module("veilor.device." + name)
for line in sys.stdin:
    root, path, program = json.loads(line)
    child = os.fork()
    if not child:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        run.ROOT, run.PATH = Path(root), path
        code = 1  # what Python ends with after an exception
        try:
            code = main.main([program])
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
HELPERS: list[subprocess.Popen[str]] = []  # who play the programs on PATH
STARTERS: list[subprocess.Popen[str]] = []  # those that wait for work; a test may use several side by side


def start_starter() -> subprocess.Popen[str]:
    """A process of STARTER. It ends when its input does."""
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]}
    return subprocess.Popen(
        [sys.executable, "-c", STARTER], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@functools.cache
def start_fakes() -> Path:
    """The pipe through which the programs on PATH reach fake.py, which the first call starts."""
    folder = Path(tempfile.mkdtemp(prefix="veilor-fakes-"))
    os.mkfifo(folder / "requests")
    argv = [sys.executable, ROOT / "tests/device/fake.py", folder / "requests"]
    HELPERS.append(subprocess.Popen(argv, stdin=subprocess.PIPE, text=True))
    return folder / "requests"


def pytest_sessionfinish() -> None:
    for helper in [*STARTERS, *HELPERS]:
        helper.communicate(timeout=30)
    if HELPERS:
        shutil.rmtree(start_fakes().parent)


class Machine:
    """Everything below FOLDER; `world` is what the fakes see."""

    digest, entry, bootstrap = staticmethod(digest), staticmethod(entry), staticmethod(bootstrap)

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        product = load(ROOT / "product.toml")
        self.put("usr/lib/veilor/product.toml", (ROOT / "product.toml").read_text())
        self.put("usr/lib/veilor/channel-floor.json", '{"schema": 1, "sequence": 0}')
        self.put("etc/containers/policy.json", policy.render(product))
        self.put("etc/containers/registries.d/veilor.yaml", policy.render_registries(product))
        for paths in policy.scopes(product).values():
            for path in paths:
                self.put(path, KEY)
        self.put("boot/grub2/grubenv", "")
        self.put("boot/grub2/grub.cfg", FRAGMENT.read_text())
        self.put("dev/console", "")
        self.put("run/ostree-booted", "")
        self.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        self.put("run/udev/data/c13:64", KEYBOARD)
        (self.root / "var/home").mkdir(parents=True)
        requests, fakes = start_fakes(), folder / "bin"
        fakes.mkdir()
        for name in NAMES:
            (fakes / name).write_text(
                CLIENT.format(folder=shlex.quote(str(folder)), name=name, requests=requests)
            )
            (fakes / name).chmod(0o755)
        self.path = f"{fakes}:{run.PATH}"
        self.world = {
            "status": {
                "apiVersion": "org.containers.bootc/v1",
                "kind": "BootcHost",
                "metadata": {"name": "host"},
                "spec": {},
                "status": {"booted": None, "staged": None, "rollback": None, "rollbackQueued": False},
            },
            "registry": {"digest": digest("44.1"), "version": "44.1"},
            "channel": {"raw": ""},
        }
        self.save()

    def put(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def save(self) -> None:
        (self.folder / "world.json").write_text(json.dumps(self.world))

    def load(self) -> None:
        self.world = json.loads((self.folder / "world.json").read_text())

    @property
    def status(self) -> dict:
        self.load()
        return self.world["status"]["status"]

    def deployments(self, booted=None, *, staged=None, rollback=None, others=(), queued=False) -> None:
        """Put these deployments on the machine."""
        self.load()
        self.world["status"]["status"] = {
            "booted": booted,
            "staged": staged,
            "rollback": rollback,
            "rollbackQueued": queued,
            "otherDeployments": list(others),
        }
        self.save()
        marker = self.root / "run/ostree/staged-deployment"
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch() if staged else marker.unlink(missing_ok=True)
        if booted:
            pair = (rollback, booted) if queued else (booted, rollback)
            names = [deployment_name(old) for old in (*pair, *others) if old]
            write_loader_entries(str(self.root), names)
            self.boot_into(booted)

    def boot_into(self, booted: dict) -> None:
        """Make the kernel's command line that of BOOTED."""
        name = deployment_name(booted)
        real = self.root / "sysroot/ostree/deploy/veilor/deploy" / name
        real.mkdir(parents=True, exist_ok=True)
        link = self.root / "sysroot/ostree/boot.1/veilor/abc/0"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../../deploy/veilor/deploy/{name}")
        self.put("proc/cmdline", "BOOT_IMAGE=/vmlinuz rw ostree=/ostree/boot.1/veilor/abc/0 panic=30")

    def release(self, version: str, **announced) -> None:
        """VERSION is what the registry's tag means, and what the next statement announces."""
        self.load()
        self.world["registry"] = {
            "digest": digest(version),
            "version": version,
        }  # and signed by a key that fits
        self.save()
        self.announce(version, **announced)

    def announce(self, version: str, sequence: int | None = None, expires_in: float = 14, **changes) -> None:
        """The channel's statement is about VERSION now; SEQUENCE counts up by itself."""
        self.load()
        self.sequence = sequence if sequence is not None else getattr(self, "sequence", 0) + 1
        now = datetime.now(UTC)
        said = {
            "schema": 1,
            "repository": PRODUCT.image_repo,
            "tag": PRODUCT.tag,
            "digest": digest(version),
            "version": version,
            "sequence": self.sequence,
            "issued": f"{now - timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}",
            "expires": f"{now + timedelta(days=expires_in):%Y-%m-%dT%H:%M:%SZ}",
            "rollout": {"start": f"{now:%Y-%m-%dT%H:%M:%SZ}", "hours": 0},
        } | changes
        self.world["channel"] = {"raw": json.dumps(said)}
        self.save()

    def change(self, part: str, **values) -> None:
        """Change a part of the fakes' world."""
        self.load()
        self.world.setdefault(part, {}).update(values)
        self.save()

    def calls(self, *start: str) -> list[list[str]]:
        """The calls so far that begin with START; without one, all that matter."""
        file = self.folder / "calls.jsonl"
        made = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [
            argv
            for argv in made
            if argv[: len(start)] == list(start) and (start or argv[0] not in ("plymouth", "timedatectl"))
        ]

    def forget_calls(self) -> None:
        (self.folder / "calls.jsonl").unlink(missing_ok=True)

    def json(self, path: str) -> dict:
        return json.loads((self.root / path.lstrip("/")).read_text())

    def text(self, path: str) -> str:
        file = self.root / path.lstrip("/")
        return file.read_text() if file.exists() else ""

    @property
    def grub(self) -> dict:
        return dict(line.split("=", 1) for line in self.text("boot/grub2/grubenv").splitlines())

    @property
    def armed(self) -> str | None:
        """The digest of the version that is noted to be on trial."""
        record = json.loads(self.text("var/lib/veilor/health.json") or "{}")
        return record["armed"]["target"]["digest"] if record.get("armed") else None

    def world_reboots(self) -> int:
        """How often the machine was asked to restart."""
        self.load()
        return self.world.get("reboots", 0)

    def killed_run(self, program: str) -> int:
        """Run PROGRAM in a process of its own, which the fakes may kill; its exit code, -9 after kill -9."""
        starter = STARTERS.pop() if STARTERS else start_starter()
        starter.stdin.write(json.dumps([str(self.root), self.path, program]) + "\n")
        starter.stdin.flush()
        code = int(starter.stdout.readline())
        STARTERS.append(starter)
        return code

    # -- reboots: ostree's finalizing, GRUB's counter, the units of a boot
    # ------------------------------------------------

    def power_on(self, *, clean: bool = False, unlock: bool = True) -> str:
        """End this boot (CLEAN: a shutdown that puts what is staged in place), let GRUB choose; the version
        that boots.
        """
        if clean:
            self.moment("count")
        self.load()
        now = self.world["status"]["status"]
        if clean and now["staged"] and not now["staged"]["downloadOnly"]:
            kept = [old for old in (now["rollback"], *now["otherDeployments"]) if old and old["pinned"]]
            now |= {"order": [now["staged"], now["booted"], *kept]}
        else:
            pair = (
                [now["rollback"], now["booted"]]
                if now["rollbackQueued"]
                else [now["booted"], now["rollback"]]
            )
            now |= {"order": now.get("order") or [old for old in (*pair, *now["otherDeployments"]) if old]}
        order, grub = now.pop("order"), self.grub
        if clean:
            write_loader_entries(str(self.root), [deployment_name(old) for old in order])
            self.moment("settle")
            grub = self.grub
        choice = 0
        if "veilor_counter" in grub:  # as the GRUB fragment of the overlay does
            count = int(grub["veilor_counter"])
            choice, after = {0: (1, -1), -1: (0, 0)}.get(count, (0, count - 1))
            grub["veilor_counter"] = str(after)
        self.put("boot/grub2/grubenv", "".join(f"{key}={value}\n" for key, value in grub.items()))
        booted = order[choice if choice < len(order) else 0]
        rest = [old for old in order if old is not booted]
        shutil.rmtree(self.root / "run/veilor", ignore_errors=True)
        shutil.rmtree(self.root / "run/motd.d", ignore_errors=True)
        self.deployments(
            booted,
            rollback=rest[0] if rest else None,
            others=rest[1:],
            queued=bool(rest) and order.index(rest[0]) == 0,
        )
        if unlock:
            self.moment("unlocked")
            self.moment("return")
        return booted["image"]["version"]

    def moment(self, name: str) -> SimpleNamespace:
        return self.program("health", name)

    def judge_boot(self, good: bool = True) -> None:
        """The check of this boot and what systemd starts after it; without GOOD it fails by something else's
        fault.
        """
        if self.moment("check").code == 0 and good:
            self.moment("healthy")
        else:
            self.moment("failed")


@pytest.fixture
def machine(tmp_path, monkeypatch, capsys):
    """A Machine whose programs run in this process: machine.program("update", "--json") -> code, out, err,
    data.
    """
    assert all(helper.poll() is None for helper in HELPERS), "fake.py has ended: every program would hang"
    found = Machine(tmp_path)
    monkeypatch.setattr(run, "ROOT", found.root)
    monkeypatch.setattr(run, "PATH", found.path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for module in (checks, health):
        monkeypatch.setattr(module, "time", Clock())
    monkeypatch.setattr(preflight, "free", lambda path: 1 << 40)  # not this computer's own disk
    monkeypatch.setattr(preflight, "reserved", lambda: 0)
    monkeypatch.setattr(network, "probe", lambda registry: "unknown")  # nor its network

    def program(*argv: str) -> SimpleNamespace:
        capsys.readouterr()
        code = programs.main(list(argv))
        said = capsys.readouterr()
        assert "Traceback" not in said.err and "A fault in" not in said.out + said.err, said.err
        return SimpleNamespace(
            code=code,
            out=said.out,
            err=said.err,
            text=said.out + said.err,
            data=json.loads(said.out) if "--json" in argv else None,
        )

    found.program = program
    return found


@pytest.fixture
def v1(machine):
    """A machine that runs 44.1 with the bootstrap behind it, while 44.2 is released and announced."""
    machine.deployments(machine.entry("44.1"), rollback=machine.bootstrap())
    machine.announce("44.1")
    assert machine.program("update").code == 0
    machine.release("44.2")
    machine.forget_calls()
    return machine


@pytest.fixture
def updated(machine):
    """A machine that runs 44.1 (bootstrap pinned behind it), with 44.2 staged, counted and shut down."""
    machine.deployments(machine.entry("44.1"), rollback=machine.bootstrap(pinned=True))
    machine.release("44.2")
    assert machine.program("update").code == 0
    return machine
