"""What a scenario holds in its hands: one machine's disks, its registry and releases, and the boots it goes
through.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from veilor.lab import disk, images, sabotage
from veilor.lab.cache import cache_root
from veilor.lab.checkpoint import Checkpoints
from veilor.lab.debian_base import epoch
from veilor.lab.evidence import PROMPT, Evidence
from veilor.lab.flavour import machine_parts, make_disks
from veilor.lab.machine import OVMF_VARS, Hardware, Machine
from veilor.lab.registry import Registry
from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault, OSFault

PASSPHRASE = b"correct horse 44 battery"
GiB = 1 << 30
UNLOCK_TIMEOUT = 240.0


@dataclass
class Settings:
    """What one rehearsal was asked for, and the parts that other code made for it."""

    source: Path
    base: Path
    medium: Path
    tools: Tools
    product: SimpleNamespace
    build: SimpleNamespace
    work: Path
    accel: str = "tcg"
    firmware: str = "uefi"
    sabotage: str | None = None
    stand_in_medium: bool = True
    disk_bytes: int = 12 * GiB
    rootfs: Path | None = None  # of the scenario's flavour, as a tar

    @property
    def image_sabotage(self) -> str | None:
        """The sabotage, if it changes every image: its checkpoints are other machines than the plain ones."""
        what = sabotage.SABOTAGES.get(self.sabotage or "")
        return self.sabotage if what and what.tree and not what.since else None


@dataclass
class Release:
    """An image in the registry: its version, manifest digest and the size of its last layer, compressed."""

    version: str
    digest: str
    layer_bytes: int
    layout: Path


@dataclass
class World(Evidence):
    """One machine from its empty disk on. The runner saves and restores it between phases."""

    settings: Settings
    checkpoints: Checkpoints
    boots: int = 0
    screenshots: list[tuple[Path, str]] = field(default_factory=list)
    timings: list[tuple[str, float]] = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    machine: Machine | None = None
    registry: Registry | None = None

    def __post_init__(self) -> None:
        self.dir = self.settings.work
        self.console_log = self.dir / "console.log"
        self.reset()

    # -- state between phases
    # -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to an empty disk, an empty registry and new keys."""
        self.stop()
        for name in ("state",):
            shutil.rmtree(self.dir / name, ignore_errors=True)
        self.state.mkdir(parents=True)
        run = self.settings.tools.run
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(self.disk), str(self.settings.disk_bytes)],
            binds=[self.state],
            timeout=60,
        )
        shutil.copyfile(self.settings.tools.root / OVMF_VARS, self.uefi_vars)
        self.notes = {"sequence": 0, "releases": {}}

    @property
    def state(self) -> Path:
        return self.dir / "state"

    @property
    def disk(self) -> Path:
        return self.state / "disk.qcow2"

    @property
    def uefi_vars(self) -> Path:
        return self.state / "uefi.fd"

    @property
    def keys(self) -> Path:
        return self.state / "keys"

    def save_checkpoint(self, name: str, key: str) -> None:
        """Put away disk, firmware variables, registry, keys and notes; the machine must be off."""
        self.stop()
        if self.settings.sabotage and not self.settings.image_sabotage:
            return  # these share the plain run's checkpoints, and must not write one
        (self.state / "notes.json").write_text(json.dumps(self.notes))
        started = time.monotonic()
        self.checkpoints.save(name, key, {path.name: path for path in self.state.iterdir()})
        self.timings.append(("checkpoints", time.monotonic() - started))

    def restore_checkpoint(self, name: str, key: str) -> None:
        """Take the state of a checkpoint back. Raises NoCheckpoint when there is none."""
        self.stop()
        kept = self.checkpoints.get(name, key)
        shutil.rmtree(self.state, ignore_errors=True)
        self.checkpoints.restore(name, key, self.state)
        assert kept
        self.notes = json.loads((self.state / "notes.json").read_text())

    def stop(self) -> None:
        """End machine and registry, whatever they are doing."""
        if self.machine:
            self.machine.stop()
            self.machine = None
        if self.registry:
            self.registry.stop()
            self.registry = None

    # -- registry and releases
    # ------------------------------------------------------------------------------------

    def open_registry(self) -> Registry:
        """The lab's registry, started when it isn't yet."""
        if self.registry is None:
            self.registry = Registry(
                self.settings.tools, self.state / "registry", self.settings.product.registry
            ).start()
        return self.registry

    def make_keys(self) -> None:
        """Four new key pairs in the product's slots, and a stranger's; only the
        public halves go into images.
        """
        slots = [*self.settings.product.image_keys, *self.settings.product.channel_keys, "stranger.pub"]
        for slot in slots:
            self.settings.build.generate_keys(self.keys / Path(slot).stem, self.settings.tools.run)

    def write_public_keys(self) -> Path:
        """A folder with the public halves under the slots' names, as `stage` takes it."""
        folder = self.state / "public-keys"
        folder.mkdir(exist_ok=True)
        for slot in (*self.settings.product.image_keys, *self.settings.product.channel_keys):
            shutil.copyfile(self.keys / Path(slot).stem / "cosign.pub", folder / slot)
        return folder

    def private_key(self, slot: str) -> Path:
        """The private half for a slot such as `veilor-image-a.pub`."""
        return self.keys / Path(slot).stem / "cosign.key"

    def make_image(self, version: str, mutate=None) -> Release:
        """Build the product's image of VERSION in a layout of its own: base, staged tree (changed by MUTATE),
        release layer.
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
        self.timings.append(("images", time.monotonic() - started))
        return Release(version, digest, last, layout)

    def make_iso(self, release: Release) -> Path:
        """The bootstrap ISO: RELEASE and the kickstart in the lab's (or the given) boot medium."""
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
        self.timings.append(("iso", time.monotonic() - started))
        return iso

    def break_policy(self, tree: Path) -> None:
        """The mutation of the update that breaks: its container policy lets anything in, which its health
        check has to see.
        """
        (tree / "etc/containers/policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def publish(
        self, release: Release, *, announce: bool = True, key: str | None = None, sign: bool = True
    ) -> None:
        """Push RELEASE under the product's tag, sign it by digest with KEY (a slot), and announce it on the
        channel.
        """
        registry, product = self.open_registry(), self.settings.product
        pushed = registry.push(release.layout, product.image_repository, product.tag)
        if pushed != release.digest:
            raise LabFault(f"the registry keeps {release.version} as {pushed}, not as {release.digest}")
        if sign:
            self.sign(
                product.image_repository, release.digest, self.private_key(key or product.image_keys[0])
            )
        self.notes["releases"][release.version] = release.digest
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
        **more,
    ) -> int:
        """Publish a statement for DIGEST as the next in SEQUENCE (or that one), issued AGE days ago and good
        for two weeks; the sequence number. MORE: what `make_statement` takes as well."""
        registry, product = self.open_registry(), self.settings.product
        if sequence is None:
            self.notes["sequence"] += 1
            sequence = self.notes["sequence"]
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
    # ----------------------------------------------------------------------------------------------------

    def hardware(
        self, *, network: bool = True, medium: Path | None = None, extra: list | None = None, **more
    ) -> Hardware:
        """The machine as it is plugged together for a boot; MEDIUM goes first, EXTRA disks last. MORE: fields
        of Hardware.
        """
        disks = [(medium, "raw", True)] if medium else []
        disks += [(self.disk, "qcow2", False), *(extra or [])]
        registry = self.open_registry() if network else None
        online = (
            {"registry": registry.port, "registry_name": self.settings.product.registry, "ca": registry.ca}
            if registry
            else {}
        )
        return Hardware(disks, self.settings.firmware, self.uefi_vars, self.settings.accel, **online, **more)

    def power_on(self, hardware: Hardware | None = None) -> Machine:
        """Start the machine; counts as a boot."""
        if self.machine:
            self.machine.stop()
        disk.check_image(self.settings.tools, self.disk)
        self.boots += 1
        with self.console_log.open("ab") as log:
            log.write(f"\n\n===== boot {self.boots} =====\n".encode())
        self.machine = Machine(self.settings.tools, hardware or self.hardware(), self.console_log).start()
        self.machine.resume_cpus()
        return self.machine

    def type_passphrase(self, passphrase: bytes = PASSPHRASE, start: int = 0) -> int:
        """Wait for the prompt of the encrypted disk and answer it; the console's offset behind the prompt."""
        behind = self.machine.wait_console(PROMPT, UNLOCK_TIMEOUT, "the passphrase prompt", start)
        time.sleep(1.0)  # the agent of the prompt opens the terminal just after it has written to it
        self.machine.console.send(passphrase + b"\n")
        return behind

    def boot(self, hardware: Hardware | None = None, allowed: frozenset[str] = frozenset()) -> Machine:
        """Power on, unlock, wait for the agent and the end of start-up; judged by what the console says."""
        started = time.monotonic()
        machine = self.power_on(hardware)
        self.type_passphrase()
        machine.wait_agent(UNLOCK_TIMEOUT)
        self.wait_startup_end()
        self.check_console(allowed)
        self.timings.append(("boots", time.monotonic() - started))
        return machine

    def make_locked_disks(self, arguments: str) -> list[Path]:
        """The disks of a machine of the scenario's flavour that asks for its passphrase, started with kernel
        ARGUMENTS besides.
        """
        tree, what, cache = self.dir / "stage" / "locked", self.settings, cache_root()
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
        """Let the chosen sabotage act, when POINT is its moment."""
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
        """Raise OSFault when this boot's console said something it never may."""
        hits = self.machine.console.find_forbidden(allowed)
        if hits:
            raise OSFault("the console said what it never may: " + "; ".join(hits))

    def shut_down(self, timeout: float = 150) -> None:
        """Shut the machine down as a person does, staged work finalized, and judge its last words."""
        started = time.monotonic()
        machine = self.machine
        machine.power_off(timeout)
        self.check_console()
        machine.stop()
        self.machine = None
        self.timings.append(("shutdowns", time.monotonic() - started))

    def cut_power(self) -> None:
        """End the machine without a warning."""
        self.machine.cut_power()
        self.machine = None

    def take_screenshot(self, name: str, caption: str) -> None:
        """Keep a screenshot for the report."""
        path = self.dir / "screenshots" / f"{len(self.screenshots):02d}-{name}.png"
        self.screenshots.append((self.machine.screenshot(path), caption))


def probe_kvm(tools: Tools, kernel: Path) -> bool:
    """Whether KVM really works here: KERNEL has to start under it and get as far as missing its root, within
    20 s.

    /dev/kvm that exists proves nothing: on some hosts a stock kernel hangs on it in its first instructions.
    """
    if not Path("/dev/kvm").exists():
        return False
    argv = [
        "timeout",
        "-s",
        "KILL",
        "20",
        "qemu-system-x86_64",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "512",
        "-display",
        "none",
    ]
    argv += [
        "-nodefaults",
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        str(kernel),
        "-append",
        "console=ttyS0 panic=-1",
    ]
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
