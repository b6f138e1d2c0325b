"""The world of a rehearsal: one machine with its disk, and what surrounds it (keys, registry, releases)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from veilor.lab import disk, images, sabotage
from veilor.lab.cache import cache_root
from veilor.lab.checkpoint import Checkpoints
from veilor.lab.debian_base import epoch
from veilor.lab.evidence import PROMPT, Evidence
from veilor.lab.flavour import machine_parts, make_disks
from veilor.lab.machine import OVMF_VARS, DiskFile, Hardware, Machine
from veilor.lab.product import ProductFacts
from veilor.lab.registry import Registry
from veilor.lab.result import Timing
from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault, OSFault

PASSPHRASE = b"correct horse 44 battery"
GiB = 1 << 30
UNLOCK_TIMEOUT = 240.0


@dataclass
class Settings:
    """What one rehearsal was asked for, and the parts that other code made for it.

    `build` has the product's makers (see `veilor.cli.product_tools`). `rootfs` is the tree of the scenario's
    flavour, as a tar, for one whose machines are not installed.
    """

    source: Path
    base: Path
    medium: Path
    tools: Tools
    product: ProductFacts
    build: SimpleNamespace
    work: Path
    accel: str = "tcg"
    firmware: str = "uefi"
    sabotage: str | None = None
    stand_in_medium: bool = True
    disk_bytes: int = 12 * GiB
    rootfs: Path | None = None

    @property
    def image_sabotage(self) -> str | None:
        """The sabotage, if it changes every image: its checkpoints are other machines than the plain ones."""
        if not self.sabotage:
            return None
        chosen = sabotage.SABOTAGES[self.sabotage]
        changes_every_image = chosen.tree is not None and not chosen.since
        return self.sabotage if changes_every_image else None


@dataclass
class Release:
    """An image in the registry: its version, manifest digest and the size of its last layer, compressed."""

    version: str
    digest: str
    layer_bytes: int
    layout: Path


@dataclass
class Notes:
    """What a world remembers between phases, in its checkpoints.

    `sequence` is the number of the last statement that was announced in order, `releases` the manifest digest
    of each published version, `measured` what phases measured, by a name of theirs.
    """

    sequence: int = 0
    releases: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass
class World(Evidence):
    """One machine from its empty disk on, and what surrounds it.

    The runner saves and restores it between phases. Counters and lists only ever grow.
    """

    settings: Settings
    checkpoints: Checkpoints
    boots: int = 0
    screenshots: list[tuple[Path, str]] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def __post_init__(self) -> None:
        self.dir = self.settings.work
        self.console_log = self.dir / "console.log"  # what all boots so far said
        self._machine: Machine | None = None
        self._registry: Registry | None = None
        self.reset()

    @property
    def machine(self) -> Machine:
        """The machine that runs. Raises LabFault when none does."""
        if self._machine is None:
            raise LabFault("the machine is off: a phase has to start it before it asks it something")
        return self._machine

    @property
    def registry(self) -> Registry:
        """The registry that runs. Raises LabFault when none does."""
        if self._registry is None:
            raise LabFault("no registry runs: a phase has to publish something, or start a machine, before")
        return self._registry

    # -- state between phases

    def reset(self) -> None:
        """Go back to an empty disk, an empty registry and no keys."""
        self.stop()
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        run = self.settings.tools.run
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), str(self.settings.disk_bytes)],
            binds=[self.state],
            timeout=60,
        )
        shutil.copyfile(self.settings.tools.root / OVMF_VARS, self.uefi_vars)
        self.notes = Notes()

    @property
    def state(self) -> Path:
        """The folder with all that a checkpoint keeps."""
        return self.dir / "state"

    @property
    def disk(self) -> Path:
        """The machine's disk, a qcow2 file."""
        return self.state / "disk.qcow2"

    @property
    def uefi_vars(self) -> Path:
        """The machine's firmware variables."""
        return self.state / "uefi.fd"

    @property
    def keys(self) -> Path:
        """The folder with a folder per key pair."""
        return self.state / "keys"

    def save_checkpoint(self, name: str, key: str) -> None:
        """Stop everything and keep disk, firmware variables, registry, keys and notes as checkpoint NAME.

        KEY says everything that went in. A sabotaged run that shares the plain run's checkpoints keeps none.
        """
        self.stop()
        if self.settings.sabotage and not self.settings.image_sabotage:
            return  # these share the plain run's checkpoints, and must not write one
        (self.state / "notes.json").write_text(json.dumps(asdict(self.notes)))
        started = time.monotonic()
        self.checkpoints.save(name, key, {path.name: path for path in self.state.iterdir()})
        self.timings.append(Timing("checkpoints", time.monotonic() - started))

    def restore_checkpoint(self, name: str, key: str) -> None:
        """Stop everything and go back to the checkpoint NAME with KEY. Raises NoCheckpoint or LabFault."""
        self.stop()
        self.checkpoints.get(name, key)  # before the state is gone
        shutil.rmtree(self.state, ignore_errors=True)
        self.checkpoints.restore(name, key, self.state)
        self.notes = Notes(**json.loads((self.state / "notes.json").read_text()))

    def stop(self) -> None:
        """End machine and registry, whatever they are doing."""
        self._stop_machine()
        if self._registry:
            self._registry.stop()
            self._registry = None

    def _stop_machine(self) -> None:
        if self._machine:
            self._machine.stop()
            self._machine = None

    # -- registry and releases

    def open_registry(self) -> Registry:
        """The lab's registry, started when it isn't yet."""
        if self._registry is None:
            self._registry = Registry(
                self.settings.tools, self.state / "registry", self.settings.product.registry
            ).start()
        return self._registry

    def make_keys(self) -> None:
        """Make four new key pairs in the product's slots, and a stranger's.

        Only the public halves go into images.
        """
        slots = [*self.settings.product.image_keys, *self.settings.product.channel_keys, "stranger.pub"]
        for slot in slots:
            self.settings.build.generate_keys(self.keys / Path(slot).stem, self.settings.tools.run)

    def write_public_keys(self) -> Path:
        """Write the public halves under the slots' names to a folder, as `stage` takes it; its path."""
        folder = self.state / "public-keys"
        folder.mkdir(exist_ok=True)
        for slot in (*self.settings.product.image_keys, *self.settings.product.channel_keys):
            shutil.copyfile(self.keys / Path(slot).stem / "cosign.pub", folder / slot)
        return folder

    def private_key(self, slot: str) -> Path:
        """The private half for a slot such as `veilor-image-a.pub`."""
        return self.keys / Path(slot).stem / "cosign.key"

    def make_image(self, version: str, mutate: Callable[[Path], None] | None = None) -> Release:
        """Build the product's image of VERSION in a layout of its own.

        It is the base, the staged tree (changed by the sabotage, and by MUTATE) and a release layer.
        """
        started = time.monotonic()
        tree, layout = self.dir / "stage" / version, self.dir / "layouts" / version
        for path in (tree, layout):
            shutil.rmtree(path, ignore_errors=True)
        self.settings.build.stage(self.settings.source, tree, self.write_public_keys(), 0)
        sabotage.apply_to_tree(self.settings.sabotage, tree, version)
        if mutate:
            mutate(tree)
        release = images.release_layer(version)
        layers = [("veilor-os", images.tree_layer(tree)), ("release", release)]
        title = {"org.opencontainers.image.title": self.settings.product.name}
        digest = images.add_layers(self.settings.base, layout, layers, version, title)
        last = images.read_manifest(layout)[0]["layers"][-1]["size"]
        self.timings.append(Timing("images", time.monotonic() - started))
        return Release(version, digest, last, layout)

    def make_iso(self, release: Release) -> Path:
        """Write the bootstrap ISO, RELEASE and the kickstart in the boot medium; its path."""
        started = time.monotonic()
        iso, kickstart = self.dir / "veilor-os.iso", self.settings.source / "kickstart/install.ks"
        self.settings.build.build_iso(
            self.settings.medium,
            release.layout,
            kickstart,
            iso,
            volid=None,
            run=self.settings.tools.run,
            epoch=epoch(),
        )
        self.timings.append(Timing("iso", time.monotonic() - started))
        return iso

    def break_policy(self, tree: Path) -> None:
        """Change the staged TREE of an update so that it breaks.

        Its container policy then lets anything in, which its health check has to see.
        """
        (tree / "etc/containers/policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def publish(
        self, release: Release, *, announce: bool = True, key: str | None = None, sign: bool = True
    ) -> None:
        """Push RELEASE under the product's tag, sign it by digest and announce it on the channel.

        KEY is the slot of the image's key, the first by default. Raises LabFault when the registry keeps
        another digest.
        """
        registry, product = self.open_registry(), self.settings.product
        pushed = registry.push(release.layout, product.image_repository, product.tag)
        if pushed != release.digest:
            raise LabFault(f"the registry keeps {release.version} as {pushed}, not as {release.digest}")
        if sign:
            self.sign(
                product.image_repository, release.digest, self.private_key(key or product.image_keys[0])
            )
        self.notes.releases[release.version] = release.digest
        if announce:
            self.announce(release.version, release.digest)

    def sign(self, repository: str, digest: str, key: Path) -> None:
        """Sign REPOSITORY@DIGEST in the lab's registry under the product's own name."""
        registry = self.open_registry()
        self.settings.build.sign_image(
            f"127.0.0.1:{registry.port}/{repository}@{digest}",
            key,
            identity=f"{self.settings.product.registry}/{repository}",
            run=self.settings.tools.run,
            ca=registry.ca,
        )

    def announce(
        self,
        version: str,
        digest: str,
        *,
        sequence: int | None = None,
        key: str | None = None,
        age: int = 0,
        **more: Any,
    ) -> int:
        """Publish a statement for DIGEST, issued AGE days ago and good for two weeks; its sequence number.

        It is the next in the sequence, or has the number SEQUENCE. KEY is the slot of the channel's key, the
        first by default. MORE: what `make_statement` takes as well.
        """
        registry, product = self.open_registry(), self.settings.product
        if sequence is None:
            self.notes.sequence += 1
            sequence = self.notes.sequence
        issued = int(time.time()) - 60 - age * 86400
        statement = self.settings.build.make_statement(
            product, digest=digest, version=version, sequence=sequence, issued=issued, **more
        )
        self.settings.build.publish(
            statement,
            f"127.0.0.1:{registry.port}/{product.channel_repository}",
            product.tag,
            self.private_key(key or product.channel_keys[0]),
            identity=f"{product.registry}/{product.channel_repository}",
            run=self.settings.tools.run,
            ca=registry.ca,
            work=self.dir,
        )
        return sequence

    # -- boots

    def hardware(
        self,
        *,
        network: bool = True,
        medium: Path | None = None,
        extra: list[DiskFile] | None = None,
        **more: Any,
    ) -> Hardware:
        """The machine as it is plugged together for a boot.

        The disk of MEDIUM goes first, EXTRA disks last; with NETWORK the registry is there. MORE: fields of
        Hardware.
        """
        disks = [DiskFile(medium, "raw", read_only=True)] if medium else []
        disks += [DiskFile(self.disk, "qcow2"), *(extra or [])]
        if network:
            registry = self.open_registry()
            more |= {
                "registry": registry.port,
                "registry_name": self.settings.product.registry,
                "ca": registry.ca,
            }
        return Hardware(disks, self.settings.firmware, self.uefi_vars, self.settings.accel, **more)

    def power_on(self, hardware: Hardware | None = None) -> Machine:
        """Start the machine, which counts as a boot, and end the one before if it still runs.

        Raises LabFault when the disk image is damaged or QEMU does not start.
        """
        self._stop_machine()
        disk.check_image(self.settings.tools, self.disk)
        self.boots += 1
        with self.console_log.open("ab") as log:
            log.write(f"\n\n===== boot {self.boots} =====\n".encode())
        self._machine = Machine(self.settings.tools, hardware or self.hardware(), self.console_log).start()
        self._machine.resume_cpus()
        return self._machine

    def type_passphrase(self, passphrase: bytes = PASSPHRASE, start: int = 0) -> int:
        """Wait for the prompt of the encrypted disk and answer it; the console's offset behind the prompt."""
        behind = self.machine.wait_console(PROMPT, UNLOCK_TIMEOUT, "the passphrase prompt", start)
        time.sleep(1.0)  # the agent of the prompt opens the terminal just after it has written to it
        self.machine.console.send(passphrase + b"\n")
        return behind

    def boot(self, hardware: Hardware | None = None, allowed: frozenset[str] = frozenset()) -> Machine:
        """Power on, unlock, wait for the agent and the end of start-up, and check the console.

        ALLOWED names the forbidden words that this boot may say; see console.py. Raises OSFault and LabFault.
        """
        started = time.monotonic()
        machine = self.power_on(hardware)
        self.type_passphrase()
        machine.wait_agent(UNLOCK_TIMEOUT)
        self.wait_startup_end()
        self.check_console(allowed)
        self.timings.append(Timing("boots", time.monotonic() - started))
        return machine

    def make_locked_disks(self, arguments: str) -> list[Path]:
        """Make the disks of a machine of the scenario's flavour that asks for its passphrase.

        It is started with kernel ARGUMENTS besides those of an installed machine.
        """
        tree, what, cache = self.dir / "stage" / "locked", self.settings, cache_root()
        if what.rootfs is None:
            raise LabFault("the scenario names no FLAVOUR whose machines have such disks")
        what.build.stage(what.source, tree, None, 0)
        # An emulated machine finds its graphics later than a real one; until then Plymouth would take text
        # for good.
        settings = tree / "etc/plymouth/plymouthd.conf"
        settings.write_text(settings.read_text().replace("DeviceTimeout=8", "DeviceTimeout=90"))
        parts = machine_parts(cache, what.rootfs, tree, PASSPHRASE)
        return make_disks(
            parts,
            tree,
            self.dir / f"locked-{self.boots}",
            tools=what.tools,
            cache=cache,
            source=what.source,
            arguments=arguments,
        )

    def apply_sabotage(self, point: str) -> None:
        """Let the chosen sabotage act, if POINT is where it does."""
        sabotage.apply_live(self.settings.sabotage, point, self)

    def wait_startup_end(self) -> None:
        """Wait until start-up has ended."""
        self.machine.wait_until(
            ["systemctl", "is-system-running"],
            lambda r: r.out.strip() not in ("initializing", "starting", ""),
            180,
            "the end of start-up",
        )

    def check_console(self, allowed: frozenset[str] = frozenset()) -> None:
        """Raise OSFault when this boot's console said something forbidden that is not ALLOWED."""
        hits = self.machine.console.find_forbidden(allowed)
        if hits:
            raise OSFault("the console said what it never may: " + "; ".join(hits))

    def shut_down(self, timeout: float = 150) -> None:
        """Shut the machine down as a person does, so that what is staged is finalized; check the console."""
        started = time.monotonic()
        machine = self.machine
        machine.power_off(timeout)
        self.check_console()
        self._stop_machine()
        self.timings.append(Timing("shutdowns", time.monotonic() - started))

    def cut_power(self) -> None:
        """End the machine without a warning."""
        self.machine.cut_power()
        self._machine = None

    def take_screenshot(self, name: str, caption: str) -> None:
        """Keep a picture of the screen for the report; NAME goes into its file's name."""
        path = self.dir / "screenshots" / f"{len(self.screenshots):02d}-{name}.png"
        self.screenshots.append((self.machine.screenshot(path), caption))


def probe_kvm(tools: Tools, kernel: Path) -> bool:
    """Whether KVM really works here: KERNEL has to miss its root under it within 20 s.

    /dev/kvm that exists proves nothing: on some hosts a stock kernel hangs on it in its first instructions.
    """
    if not Path("/dev/kvm").exists():
        return False
    argv = ["timeout", "-s", "KILL", "20", "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host"]
    argv += ["-m", "512", "-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"]
    argv += ["-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            tools.argv(argv, [kernel.parent]),
            capture_output=True,
            timeout=40,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return b"Unable to mount root fs" in done.stdout
