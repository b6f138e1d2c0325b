"""A machine in memory: the device's real programs on a folder, with models of GRUB, ostree and bootc in this
process.

What the boot loader does is read from the shipped GRUB fragment, and the programs are the shipped ones. Only
bootc, ostree, grub2-editenv and systemctl are modelled, without starting a process, so that a boot takes
milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from veilor.core import policy
from veilor.core.product import load
from veilor.core.statement import Statement
from veilor.device import (
    boot_counter,
    bootc,
    channel,
    checks,
    health,
    network,
    preflight,
    rollback,
    run,
    state,
    tell,
    update,
)

ROOT = Path(__file__).resolve().parents[2]
FRAGMENT = ROOT / "overlay/usr/lib/bootupd/grub2-static/configs.d/08_veilor.cfg"
BOOTSTRAP, OLD, NEW = "44.0", "44.1", "44.2"
QUALITIES = ("good", "fails its check", "hangs", "panics", "emergency", "shows black")
RECORDS = ("var/lib/veilor/state.json", "var/lib/veilor/health.json")


class Clock:
    """Time that passes only where somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class PowerCut(BaseException):
    """The power fails: what was in memory is gone, what was written stays."""


class Violation(Exception):
    """A state that must not be."""


def digest(version: str) -> str:
    return "sha256:" + hashlib.sha256(version.encode()).hexdigest()


def checksum(version: str) -> str:
    return hashlib.sha256(digest(version).encode()).hexdigest()


@dataclass(frozen=True)
class Disk:
    """What outlives a power cut: deployments in the boot loader's order, GRUB's variables, our records by
    path.
    """

    order: tuple[str, ...]
    grub: tuple[tuple[str, str], ...] | None = ()  # None: there is no grubenv
    files: tuple[tuple[str, str], ...] = ()

    def key(self) -> tuple:
        """The same for disks that differ only in times."""
        return (
            self.order,
            self.grub,
            tuple((name, re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "T", text)) for name, text in self.files),
        )


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a step. `number`: of the write after which the power fails, or of the program that
    fails.
    """

    kind: str = "none"
    number: int = 0


@dataclass(frozen=True)
class Step:
    """One boot: whether the disk is unlocked, what the person does, how it ends, and what goes wrong."""

    unlock: bool = True
    doing: str = "nothing"
    ends: str = "restart"
    fault: Fault = Fault()

    def __str__(self) -> str:
        if not self.unlock:
            return "nobody unlocks"
        wrong = "" if self.fault.kind == "none" else f"; {self.fault.kind} {self.fault.number}"
        return f"unlocked, {self.doing}, {self.ends}{wrong}"


def read_fragment(text: str) -> tuple[dict[str, tuple[int, str]], tuple[int, str]]:
    """What the GRUB fragment TEXT does: counter before -> (entry that is started, counter after), and for any
    other value.
    """
    branches = re.findall(
        r'(?:if \[ "\$\{veilor_counter\}" = "([^"]*)" \]; then|(else))\n\s+set default=(\d)\n\s+set '
        r"veilor_counter=(-?\d)",
        text,
    )
    known = {value: (int(entry), after) for value, other, entry, after in branches if not other}
    [rest] = [(int(entry), after) for _, other, entry, after in branches if other]
    return known, rest


class Simulation:
    """A machine with a desktop below a folder, and the programs around ours. `quality`: what NEW does once it
    is unlocked. One that shows black passes its check, and nobody can log in.
    """

    def __init__(self, folder: Path, quality: str) -> None:
        self.root, self.quality = folder, quality
        self.branches, self.otherwise = read_fragment(FRAGMENT.read_text())
        product = load(ROOT / "product.toml")
        self.reference = product.image_ref
        self.put("usr/lib/veilor/product.toml", (ROOT / "product.toml").read_text())
        self.put("usr/lib/veilor/channel-floor.json", '{"schema": 1, "sequence": 0}')
        for prefix in ("etc", "usr/etc"):
            self.put(f"{prefix}/containers/policy.json", policy.render(product))
            self.put(f"{prefix}/containers/registries.d/veilor.yaml", policy.render_registries(product))
        for path in (path for paths in policy.scopes(product).values() for path in paths):
            self.put(path, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
        self.put("run/ostree-booted", "")
        self.put("boot/grub2/grubenv", "")
        self.put("dev/console", "")
        self.put("run/udev/data/c13:64", "E:ID_INPUT_KEYBOARD=1\n")
        self.put("usr/share/wayland-sessions/plasma.desktop", "")
        (self.root / "var/home").mkdir(parents=True)
        self.put("boot/grub2/grub.cfg", FRAGMENT.read_text())
        for version in (BOOTSTRAP, OLD, NEW):
            deployment = self.root / f"sysroot/ostree/deploy/veilor/deploy/{checksum(version)}.0"
            deployment.mkdir(parents=True)
            link = self.root / f"sysroot/ostree/boot.1/veilor/{version}/0"
            link.parent.mkdir(parents=True)
            link.symlink_to(deployment)
        self.announced = Statement(
            product.image_repo,
            product.tag,
            digest(NEW),
            NEW,
            7,
            datetime.now(UTC) - timedelta(days=1),
            datetime.now(UTC) + timedelta(days=900),
            datetime.now(UTC) - timedelta(days=1),
            0.0,
        )
        self.writes, self.calls, self.fault, self.reboot = 0, 0, Fault(), ""
        self.order: tuple[str, ...] = ()
        self.grub: dict[str, str] | None = {}
        self.staged: str | None = None
        self.locked = False
        self.running = ""
        self.logged_in = False

    def put(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    # -- the disk

    def restore(self, disk: Disk) -> None:
        """Make the machine's disk DISK; nothing is in memory."""
        self.order, self.grub = disk.order, None if disk.grub is None else dict(disk.grub)
        files = dict(disk.files)
        for path in RECORDS:
            file = self.root / path
            if path in files:
                self.put(path, files[path])
            else:
                file.unlink(missing_ok=True)
        self.write_entries()
        self.forget()

    def forget(self) -> None:
        """What a power cut does to memory."""
        self.staged, self.locked, self.running, self.logged_in = None, False, "", False
        for name in ("run/veilor", "run/motd.d"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "run/ostree/staged-deployment").unlink(missing_ok=True)

    def save(self) -> Disk:
        """What is on the disk now."""
        files = tuple(
            (path, (self.root / path).read_text()) for path in RECORDS if (self.root / path).exists()
        )
        return Disk(self.order, None if self.grub is None else tuple(sorted(self.grub.items())), files)

    def write_entries(self) -> None:
        """The boot loader's entries as ostree writes them: the highest number is started first."""
        folder = self.root / "boot/loader/entries"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, version in enumerate(self.order):
            text = f"title veilor-os {version}\noptions rw ostree=/ostree/boot.1/veilor/{version}/0\n"
            (folder / f"ostree-{len(self.order) - number}.conf").write_text(text)

    def wrote(self) -> None:
        """A write has reached the disk."""
        self.writes += 1
        if self.fault == Fault("power cut after write", self.writes):
            raise PowerCut

    # -- the programs around ours

    def start_program(self, argv: list[str], *, timeout: float, progress=None) -> run.Done:
        """In the place of run.run."""
        self.calls += 1
        if self.fault == Fault("program fails:", self.calls):
            return run.Done(1, "", "error: it failed")
        name, words = argv[0], argv[1:]
        out = getattr(self, name.replace("-", "_").replace("2", ""), lambda *words: "")(*words)
        return run.Done(0, out, "") if isinstance(out, str) else run.Done(1, "", "error: not possible")

    def entry(self, version: str | None, locked: bool = False) -> dict | None:
        if version is None:
            return None
        image = {"image": self.reference, "transport": "registry", "signature": "containerPolicy"}
        if version == BOOTSTRAP:
            image = {"image": "/run/install/repo/container", "transport": "oci"}
        return {
            "image": {
                "image": image,
                "imageDigest": digest(version),
                "version": version,
                "timestamp": "2026-01-01T00:00:00Z",
            },
            "downloadOnly": locked,
            "pinned": version == BOOTSTRAP,
            "incompatible": False,
            "ostree": {"checksum": checksum(version), "deploySerial": 0},
        }

    def skopeo(self, *words: str):
        return NEW  # whose hash is its digest

    def bootc(self, verb: str, *words: str):
        if verb == "status":
            rest = [version for version in self.order if version != self.running]
            status = {
                "booted": self.entry(self.running),
                "staged": self.entry(self.staged, self.locked),
                "rollback": self.entry(rest[0] if rest else None),
                "rollbackQueued": self.order[0] != self.running,
                "otherDeployments": [self.entry(version) for version in rest[1:]],
            }
            return json.dumps({"kind": "BootcHost", "status": status})
        if verb == "upgrade" and "--download-only" in words:
            self.staged, self.locked = NEW, True
        elif verb == "upgrade":
            self.locked = False
        elif verb == "rollback":
            rest = [version for version in self.order if version != self.running]
            self.staged = None
            head = (self.running, rest[0]) if self.order[0] != self.running else (rest[0], self.running)
            self.order = (*head, *rest[1:])
            self.write_entries()
            self.wrote()
        self.mark_staged()
        return ""

    def mark_staged(self) -> None:
        marker = self.root / "run/ostree/staged-deployment"
        if self.staged:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    def ostree(self, admin: str, verb: str, *words: str):
        listed = [version for version in (self.staged, *self.order) if version]
        if verb == "status":
            return "".join(
                f"{'*' if one == self.running else ' '} veilor {checksum(one)}.0\n" for one in listed
            )
        if verb == "undeploy":
            self.staged = None
            self.mark_staged()
        return ""

    def grub_editenv(self, path: str, verb: str, *words: str):
        if self.grub is None:
            return None
        if verb == "list":
            return "".join(f"{key}={value}\n" for key, value in self.grub.items())
        for word in words:
            key, _, value = word.partition("=")
            if verb == "unset":
                self.grub.pop(key, None)
            else:
                self.grub[key] = value
        self.wrote()
        return ""

    def systemctl(self, *words: str):
        if "reboot" in words:
            self.reboot = "forced" if "--force" in words else "clean"
        if words[0] == "show":
            name = "graphical.target" if words[-1] == "default.target" else words[-1]
            active = "inactive" if name == "rescue.target" else "active"
            return f"Id={name}\nLoadState=loaded\nActiveState={active}\nNRestarts=0\n"
        return "inactive\n" if words[0] == "is-active" else ""

    def loginctl(self, *words: str):
        user = {"session": "2", "seat": "seat0", "class": "user"}
        return json.dumps([{"session": "1", "seat": "seat0", "class": "greeter"}, *[user] * self.logged_in])

    # -- a boot

    def start(self) -> str:
        """What the boot loader does; the version that it starts."""
        entry = 0
        if self.grub and self.grub.get("veilor_counter"):
            entry, after = self.branches.get(self.grub["veilor_counter"], self.otherwise)
            self.grub["veilor_counter"] = after
        self.running = self.order[entry if entry < len(self.order) else 0]
        self.put("proc/cmdline", f"rw ostree=/ostree/boot.1/veilor/{self.running}/0")
        self.put("proc/uptime", "5000.0 1.0\n")
        return self.running

    def shut_down(self) -> None:
        """A clean shutdown: what is staged is put in place, then our unit for the counter stops."""
        self.shutting_down = True
        self.moment("count")
        if self.staged and not self.locked:
            kept = [
                version
                for version in self.order
                if version not in (self.running, self.staged) and version == BOOTSTRAP
            ]
            self.order, self.staged = (self.staged, self.running, *kept), None
            self.write_entries()
            self.mark_staged()
            self.wrote()
        self.moment("settle")

    def check(self) -> list[str]:
        """The part of the health check that NEW may fail."""
        failing = self.running == NEW and self.quality == "fails its check"
        return ["it does not work"] if failing else []

    def moment(self, name: str) -> int:
        return self.program(["health", name])

    def program(self, argv: list[str]) -> int:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = PROGRAMS[argv[0]].main(argv[1:])
        if "A fault in" in err.getvalue() + out.getvalue():
            raise Violation(f"{argv}: {err.getvalue()}{out.getvalue()}")
        return code

    def session(self, step: Step) -> None:
        """The boot of what runs, as far as it comes."""
        bad = self.quality if self.running == NEW else "good"
        if bad == "panics":
            return
        if bad == "emergency":
            self.moment("deadline")
            return
        self.moment("unlocked")
        if bad == "hangs":
            self.moment("deadline")
            return
        self.moment("return")
        if self.moment("check"):
            self.moment("failed")
        else:
            self.moment("healthy")
        if not self.reboot:
            self.moment("deadline")
        if not self.reboot and bad != "shows black":
            self.logged_in = True
            if (self.root / health.AWAITS_LOGIN.lstrip("/")).exists():
                self.moment("login")
        if not self.reboot and step.doing != "nothing":
            self.program(["update"] if step.doing == "update" else ["rollback", "--yes"])
        if self.reboot != "forced" and (self.reboot or step.ends == "restart"):
            self.shut_down()

    def take(self, disk: Disk, step: Step) -> Disk:
        """The disk after STEP was done on DISK; self says the rest: running, writes, calls, reboot."""
        self.restore(disk)
        self.writes, self.calls, self.fault, self.reboot = 0, 0, Fault(), ""
        self.shutting_down = False
        self.start()
        if step.unlock:
            self.fault = step.fault
            with contextlib.suppress(PowerCut), self.full_disk(step.fault.kind == "disk full"):
                self.session(step)
            self.fault = Fault()
        return self.save()

    @contextlib.contextmanager
    def full_disk(self, full: bool) -> Iterator[None]:
        self.full = full
        try:
            yield
        finally:
            self.full = False


STARTING = (
    boot_counter,
    bootc,
    channel,
    checks,
    health,
    tell,
    update,
)  # the modules that start programs in what is explored
PROGRAMS = {"health": health, "update": update, "rollback": rollback}


@contextlib.contextmanager
def in_place(simulation: Simulation) -> Iterator[None]:
    """The device's programs act on SIMULATION: its folder is their root, and they start its programs."""
    replaced: list[tuple[object, str, object]] = []

    def put(owner: object, name: str, value: object) -> None:
        replaced.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    original_replace, original_lock = state.replace_file, state.exclusive_lock

    def exclusive_lock(wait: float = 5):
        if simulation.fault.kind == "lock held":
            raise run.DeviceError("Another veilor program is running", facts={"lock": "held"})
        return original_lock(wait)

    def replace_file(path: str, data: bytes, mode: int) -> None:
        if simulation.full and path.startswith("/var"):
            facts = {"errno": errno.ENOSPC}
            raise run.DeviceError(f"{path} cannot be written (No space left on device)", facts=facts)
        original_replace(path, data, mode)
        if path.startswith("/var"):
            simulation.wrote()

    simulation.full = False
    spawning = run.run
    for module in STARTING:
        if module.run is spawning:
            put(module, "run", simulation.start_program)
    put(run, "ROOT", simulation.root)
    put(state, "replace_file", replace_file)
    put(state, "exclusive_lock", exclusive_lock)
    put(os, "geteuid", lambda: 0)
    put(os, "fsync", lambda fd: None)
    put(channel, "announced", lambda facts, running: (simulation.announced, ()))
    put(network, "connected", lambda: True)
    put(preflight, "free", lambda path: 1 << 40)
    put(time, "sleep", lambda seconds: None)
    put(checks, "CHECKS", {**checks.CHECKS, "explored": checks.Check(simulation.check)})
    for module in (checks, health):
        put(module, "time", Clock())
    try:
        yield
    finally:
        for owner, name, value in reversed(replaced):
            setattr(owner, name, value)
