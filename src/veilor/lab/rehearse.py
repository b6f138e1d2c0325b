"""`veilor rehearse` and `veilor lab`: make what a scenario needs, run it, write the report."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from veilor.lab import debian_base, images, sabotage
from veilor.lab.cache import cache_root, hash_tree, locked
from veilor.lab.checkpoint import Checkpoints
from veilor.lab.flavour import DESKTOPS, FLAVOURS
from veilor.lab.live import live_medium
from veilor.lab.phases import failed_set_up, run_scenario, stop_on_signals
from veilor.lab.product import ProductFacts, read_product_facts
from veilor.lab.progress import PhaseProgress
from veilor.lab.report import load_not_applied, remove_report, write_report
from veilor.lab.result import About, Host, SourceState, Timing
from veilor.lab.scenario import Scenario, load_scenario
from veilor.lab.tools import Tools, ensure_host_programs, ensure_namespaces, tools_tree
from veilor.lab.verdict import EXIT, EXIT_INTERRUPTED, EXIT_USAGE, Fault, NotRun, UsageError, Verdict
from veilor.lab.world import Settings, World, probe_kvm

T = TypeVar("T")
NEEDED_GIB = 16
ALWAYS = ["test-keys", "lab-registry", "credentials", "virtual-devices"]
OF_THE_MEDIUM = ["installer-engine", "live-medium", "cheaper-kdf"]
BASE_HAS = {
    "bootc (/usr/bin/bootc)": "usr/bin/bootc",
    "kernel (/usr/lib/modules/*/vmlinuz)": "usr/lib/modules/*/vmlinuz",
}


def check_host(cache: Path) -> None:
    """Raise NotRun when this host cannot run a rehearsal at all: programs, namespaces, disk space."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free / (1 << 30)
    if free < NEEDED_GIB:
        raise NotRun(
            f"{cache} has {free:.0f} GiB free and a rehearsal needs {NEEDED_GIB}; make room, or set "
            "VEILOR_CACHE to a larger disk"
        )
    ensure_host_programs()
    ensure_namespaces()


class SetUp:
    """Does the steps before the first phase, prints each, and records how long it took."""

    def __init__(self) -> None:
        self.steps: list[Timing] = []

    def step(self, title: str, work: Callable[[], T]) -> T:
        """What WORK returns; TITLE names it on the terminal and in the report."""
        started = time.monotonic()
        print(f"set-up: {title} …", file=sys.stderr, flush=True)
        result = work()
        self.steps.append(Timing(title, time.monotonic() - started))
        return result


def fetch_base(tools: Tools, reference: str, dest: Path) -> Path:
    """The base that --base names in REFERENCE, as a layout folder.

    oci:DIR is used as it lies, docker://REF is copied to DEST. Raises UsageError for an image that no machine
    can boot.
    """
    if reference.startswith("oci:"):
        layout = Path(reference[4:]).absolute()
    else:
        tools.run(
            ["skopeo", "--insecure-policy", "copy", "--quiet", reference, f"oci:{dest}"],
            binds=[dest.parent],
            timeout=3600,
        )
        layout = dest
    config = images.read_manifest(layout)[1]
    labels = config.get("config", {}).get("Labels") or {}
    if not ({"containers.bootc", "ostree.bootable"} & set(labels)):
        raise UsageError(
            f"--base {reference}: the image has neither the label containers.bootc nor ostree.bootable, so "
            "it is not one that bootc can boot; take a bootc base image"
        )
    missing = images.missing_paths(layout, BASE_HAS)
    if missing:
        lacking = " and no ".join(missing)
        raise UsageError(
            f"--base {reference}: the image has no {lacking}, so no machine can live on it; take a bootc "
            "base image"
        )
    return layout


def named_stand_ins(config: dict[str, Any]) -> list[str]:
    """The ids of the stand-ins that the label of a base with the OCI configuration CONFIG names.

    They are of PARTS and FRONT, in that order.
    """
    labels = config.get("config", {}).get("Labels") or {}
    named = labels.get(debian_base.STAND_IN, "").split()
    return [part for part in (*debian_base.PARTS, debian_base.FRONT) if part in named]


def rehearse(args: argparse.Namespace, build: SimpleNamespace, source: Path) -> int:
    """Run one scenario from beginning to end; the exit code of its verdict.

    ARGS are those of `veilor rehearse`, BUILD the product's makers (see `veilor.cli.product_tools`), SOURCE
    the repository. Raises UsageError, Fault and OSError.
    """
    if args.sabotage == "list":
        for name, one in sorted(sabotage.SABOTAGES.items()):
            print(f"{name:26} {one.title}")
        return 0
    scenario = load_scenario_asked_for(args, source)
    report_dir = Path(args.report or source / "build/report")
    check_arguments(args)
    about = About(
        args.base or "Debian 13 stand-in",
        Host("?", "?", os.cpu_count() or 1),
        ALWAYS + ([] if args.medium else OF_THE_MEDIUM),
        args.sabotage,
        source=SourceState(**build.snapshot(source)),
    )
    with locked(report_dir / ".lock", wait=False) as ours:
        if not ours:
            raise UsageError(
                f"another rehearsal is writing its report to {report_dir}; wait for it, or give this one "
                "--report DIR"
            )
        remove_report(report_dir)
        return run_and_report(args, build, source, scenario, about, report_dir)


def load_scenario_asked_for(args: argparse.Namespace, source: Path) -> Scenario:
    """The scenario that ARGS name, as far as --until. Raises UsageError for what does not fit together."""
    if args.sabotage and args.sabotage not in sabotage.SABOTAGES:
        raise UsageError(
            f"no sabotage is called {args.sabotage}; there are: {', '.join(sorted(sabotage.SABOTAGES))}"
        )
    whole = load_scenario(args.scenario, source / "scenarios")
    scenario = whole.up_to(args.until) if args.until else whole
    if args.start and whole.position_of(args.start) >= len(scenario.phases):
        raise UsageError(f"--from {args.start} is behind --until {args.until}; begin earlier, or end later")
    if not args.sabotage:
        return scenario
    noticed_in = sabotage.SABOTAGES[args.sabotage].phase
    if noticed_in not in [phase.name for phase in scenario.phases]:
        raise UsageError(
            f"--sabotage {args.sabotage} is to be noticed in {noticed_in}, which is not among "
            f"{scenario.name}'s phases asked for"
        )
    if args.start and scenario.position_of(args.start) > scenario.position_of(noticed_in):
        raise UsageError(
            f"--from {args.start} is behind {noticed_in}, where --sabotage {args.sabotage} is to be noticed; "
            "begin earlier"
        )
    return scenario


def run_and_report(
    args: argparse.Namespace,
    build: SimpleNamespace,
    source: Path,
    scenario: Scenario,
    about: About,
    report_dir: Path,
) -> int:
    """Set up what SCENARIO needs, run it and write its report to REPORT_DIR, which is locked.

    The exit code of the verdict.
    """
    cache, product = cache_root(), read_product_facts(source)
    work = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=make_work_folder(cache)))
    world = None
    try:
        try:
            desktop = DESKTOPS.get(scenario.flavour, ())
            settings = set_up(args, build, source, cache, work, product, about, desktop)
            if scenario.flavour in FLAVOURS:
                settings.rootfs = debian_base.base_rootfs(cache, source, FLAVOURS[scenario.flavour])
            kind = scenario.flavour if desktop else "plain"
            store = Checkpoints(
                cache / "checkpoints", f"{settings.image_sabotage or kind}-{settings.firmware}", keep=1
            )
            world = World(settings, store)
        except Fault as fault:
            run = failed_set_up(scenario, fault, about)
            write_report(run, report_dir)
            print(f"{run.verdict}: {fault}", file=sys.stderr)
            return run.exit_code
        inputs = {
            "base": images.read_manifest(settings.base)[2],
            "source": hash_sources(source),
            "firmware": settings.firmware,
            "accel": settings.accel,
            "sabotage": settings.image_sabotage or "",
            "medium": hash_tree(settings.medium) if args.medium else settings.medium.parent.name,
        }
        run = run_scenario(
            scenario,
            world,
            inputs=inputs,
            start=args.start,
            resume=args.sabotage and sabotage.SABOTAGES[args.sabotage].begins,
            about=about,
            records=store,
            keep_records=not args.sabotage or bool(settings.image_sabotage),
            report=lambda run: write_report(run, report_dir),
            progress=PhaseProgress(len(scenario.phases)),
        )
        print(f"{run.verdict}: report in {report_dir}/index.html", file=sys.stderr)
        if about.source != SourceState(**build.snapshot(source)):
            about.source = None
        if args.sabotage and not run.interrupted:
            about.noticed, line = sabotage.was_noticed(args.sabotage, run)
            print(line, file=sys.stderr)
        write_report(run, report_dir)
        if args.prove:
            return 0 if about.noticed else run.exit_code or EXIT[Verdict.OS_FAULT]
        return run.exit_code
    finally:
        if world:
            world.stop()
        if args.keep:
            (work / "pid").unlink(missing_ok=True)  # so that no later rehearsal removes it
            print(f"kept in {work}; remove it when you have seen enough", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UsageError for what can be seen to be wrong with ARGS before minutes are spent on set-up."""
    if args.base and not args.base.startswith(("oci:", "docker://")):
        raise UsageError(f"--base {args.base}: want oci:DIR or docker://REFERENCE")
    if args.base and args.base.startswith("oci:") and not Path(args.base[4:], "index.json").is_file():
        raise UsageError(f"--base {args.base}: no OCI layout lies there; `veilor lab base DIR` writes one")
    if args.medium and not Path(args.medium).is_file():
        what = "a folder" if Path(args.medium).is_dir() else "not there"
        raise UsageError(f"--medium {args.medium}: it is {what}; give the file of a Fedora netinst ISO")
    if args.report and Path(args.report).exists() and not Path(args.report).is_dir():
        raise UsageError(
            f"--report {args.report}: it is a file; name a folder, which is made where there is none"
        )
    if args.prove and not args.sabotage:
        raise UsageError("--prove says that a sabotage was noticed; name one with --sabotage")


def make_work_folder(cache: Path) -> Path:
    """The folder in CACHE under which each rehearsal has its own.

    Those of rehearsals that have ended are removed.
    """
    folder = cache / "work"
    folder.mkdir(parents=True, exist_ok=True)
    for old in Path(tempfile.gettempdir()).glob("veilor-vm-*-*"):
        if not Path("/proc", old.name.split("-")[2]).exists():
            shutil.rmtree(old, ignore_errors=True)
    for old in folder.iterdir():
        owner = old / "pid"
        try:
            os.kill(int(owner.read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(old, ignore_errors=True)
        except (OSError, ValueError):
            continue
    return folder


def hash_sources(source: Path) -> str:
    """One hash over what of this repository goes into a machine."""
    code = (f"src/veilor/{part}" for part in ("core", "device", "build", "lab"))
    names = ["overlay", "artwork", "threats", "kickstart", "product.toml", *code]
    return "".join(hash_tree(source / name) for name in names)


def set_up(
    args: argparse.Namespace,
    build: SimpleNamespace,
    source: Path,
    cache: Path,
    work: Path,
    product: ProductFacts,
    about: About,
    desktop: tuple[str, ...] = (),
) -> Settings:
    """Make everything that the first phase needs, the stand-in base with the packages of a DESKTOP.

    What it was is written into ABOUT. Raises NotRun, LabFault or UsageError with one line that says what to
    do.
    """
    (work / "pid").write_text(str(os.getpid()))
    check_host(cache)
    todo = SetUp()
    about.set_up = todo.steps
    tools = todo.step("tools tree", lambda: tools_tree(cache))
    rootfs = todo.step("Debian base tree", lambda: debian_base.base_rootfs(cache, source))
    todo.step("programs from crates", lambda: debian_base.rust_programs(cache, tools, source))
    if args.base:
        layout = todo.step("base", lambda: fetch_base(tools, args.base, work / "base"))
    else:
        layout = todo.step(
            "stand-in base image", lambda: debian_base.base_layout(cache, tools, source, desktop=desktop)
        )
    about.stand_ins += named_stand_ins(images.read_manifest(layout)[1])
    if desktop and debian_base.NO_DESKTOP in about.stand_ins:
        raise UsageError(
            f"--base {args.base}: this base has no desktop, which is what is rehearsed; leave --base out, "
            "or give one with it"
        )
    has = DESKTOPS["desktop"] if debian_base.DESKTOP in about.stand_ins else ()
    about.not_applied = load_not_applied(has=has) if "base-system" in about.stand_ins else []
    if args.medium:
        medium = Path(args.medium).absolute()
        try:
            build.read_medium(medium)
        except Fault as fault:
            raise UsageError(f"--medium {args.medium}: {fault}") from None
    else:
        medium = todo.step("live medium", lambda: live_medium(cache, tools, source))
    kernel = todo.step("probe of the accelerator", lambda: debian_base.base_kernel(cache, rootfs))
    accel = "kvm" if probe_kvm(tools, kernel) else "tcg"
    version = tools.run(["qemu-system-x86_64", "--version"], timeout=30).stdout.decode().splitlines()[0]
    about.host = Host(accel, version.removeprefix("QEMU emulator version "), os.cpu_count() or 1)
    if accel == "tcg":
        about.stand_ins.append("tcg")
    return Settings(
        source,
        layout,
        medium,
        tools,
        product,
        build,
        work,
        accel,
        "bios" if args.bios else "uefi",
        args.sabotage,
        not args.medium,
    )


def main(args: argparse.Namespace, build: SimpleNamespace) -> int:
    """Run `veilor rehearse` with parsed ARGS and BUILD, the product's own makers; the process's exit code."""
    try:
        with stop_on_signals():
            return rehearse(args, build, build.source_root)
    except KeyboardInterrupt:
        print("veilor rehearse: interrupted; machine and servers are stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except UsageError as error:
        print(f"veilor rehearse: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Fault as fault:
        print(f"{fault.verdict}: {fault}", file=sys.stderr)
        return EXIT[fault.verdict]
    except OSError as error:
        print(
            f"{Verdict.LAB_FAULT}: this host refused something the rehearsal needs ({error}); see to it and "
            "run again",
            file=sys.stderr,
        )
        return EXIT[Verdict.LAB_FAULT]


def _is_new_or_empty(dest: Path) -> bool:
    """Whether DEST is an empty folder, or can be made as one in a folder that is there."""
    if not dest.absolute().parent.is_dir():
        return False
    if not dest.exists():
        return True
    return dest.is_dir() and not any(dest.iterdir())


def write_base(dest: Path, source: Path, bootc: Path | None = None) -> int:
    """Run `veilor lab base DIR`: write the stand-in base as an OCI layout to DEST; the exit code.

    With the program BOOTC it takes the place of the front.
    """
    if not _is_new_or_empty(dest):
        print(
            f"veilor lab base: {dest} is no new or empty folder in one that is there; name another",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        cache = cache_root()
        with stop_on_signals():
            check_host(cache)
            tools = tools_tree(cache)
            if bootc:
                bootc = bootc.absolute()
                said = tools.run([str(bootc), "--version"], binds=[bootc.parent], timeout=60, check=False)
                if said.returncode or not said.stdout.startswith(b"bootc"):
                    print(
                        f"veilor lab base: {bootc} is no bootc that runs on Debian 13; give one that was "
                        "compiled there",
                        file=sys.stderr,
                    )
                    return EXIT_USAGE
            layout = debian_base.base_layout(cache, tools, source, bootc)
        with tempfile.TemporaryDirectory(prefix=f".{dest.name}.", dir=dest.absolute().parent) as scratch:
            shutil.copytree(layout, Path(scratch, "layout"))
            Path(scratch, "layout").rename(dest)
    except Fault as fault:
        print(f"{fault.verdict}: {fault}", file=sys.stderr)
        return EXIT[fault.verdict]
    print(f"oci:{dest}")
    return 0
