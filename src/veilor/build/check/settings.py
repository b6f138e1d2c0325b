"""Settings of the kernel and the initramfs: sysctl.d, kargs.d, modprobe.d, dracut.conf.d, zram-generator."""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

from veilor.build.check.finding import Finding, lines_matching, run_tool
from veilor.build.check.units import settings_in

LAST_OF_THE_BASE = "55-"  # 55-hardening.conf
# Names that the kernel of the machine that checks may lack, and that of product.toml's Fedora has.
KNOWN_TO_FEDORA = {
    "kernel.io_uring_disabled",
    "kernel.yama.ptrace_scope",
    "vm.unprivileged_userfaultfd",
    "kernel.kexec_load_disabled",
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_harden",
    "dev.tty.ldisc_autoload",
    "kernel.sysrq",
}
# Settings that veilor-os must never ship, each with its reason.
NEVER_SYSCTL = {
    "kernel.modules_disabled": "it can't be taken back, so a driver that loads after suspend (Wi-Fi) stays "
    "away; "
    "module.sig_enforce=1 keeps unsigned modules out",
}
NEVER_KARG = {
    "i915.modeset": "it takes the effect from nomodeset",
    "amdgpu.modeset": "it takes the effect from nomodeset",
    "modules_disabled": "no such argument; see module.sig_enforce",
}
UNKNOWN = (
    "no kernel here knows {}: correct the name; or, when Fedora's kernel has it and this machine's lacks it, "
    "add it to KNOWN_TO_FEDORA in src/veilor/build/check/settings.py"
)
NEEDED_KARGS = ("module.sig_enforce=1", "panic=30")


def check_sysctl(root: Path, run: Callable | None) -> list[Finding]:
    """sysctl.d, by a dry run of sysctl: every line can be read, every name is known, none is set twice.

    Nothing is set on the machine that checks.
    """
    found: list[Finding] = []
    for path in settings_in(root, "usr/lib/sysctl.d", "*"):
        name = str(path.relative_to(root))
        seen: dict[str, int] = {}
        if path.name < LAST_OF_THE_BASE or not path.name.endswith(".conf"):
            found.append(
                Finding(
                    name,
                    0,
                    f"its name must end in .conf and sort after the base's {LAST_OF_THE_BASE}, or that "
                    "decides",
                )
            )
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            copy = Path(scratch, "sysctl.conf")
            copy.write_text(path.read_text())
            _, said = run_tool(run, ["sysctl", "--dry-run", f"--load={copy}"], [copy.parent])
        unknown = {
            key.replace("/", ".") for key in re.findall(r"cannot stat /proc/sys/(\S+):", said)
        } - KNOWN_TO_FEDORA
        for _, hit in lines_matching(said, r"\((\d+)\): invalid syntax"):
            found.append(
                Finding(name, int(hit[1]), "sysctl can't read this line; write it as in kernel.sysrq = 0")
            )
        for number, line in enumerate(path.read_text().splitlines(), 1):
            key = line.partition("=")[0].strip().lstrip("-")
            if not key or key.startswith(("#", ";")):
                continue
            if key in unknown:
                found.append(Finding(name, number, UNKNOWN.format(key)))
            if key in seen:
                found.append(
                    Finding(name, number, f"{key} is set in line {seen[key]} already; remove one of the two")
                )
            if key in NEVER_SYSCTL:
                found.append(
                    Finding(name, number, f"{key} must not be set: {NEVER_SYSCTL[key]}; remove the line")
                )
            seen[key] = number
    return found


def check_kargs(root: Path, run: Callable | None) -> list[Finding]:
    """kargs.d as bootc reads it: each argument once, and those there that other settings rely on.

    An unknown key is an error to bootc.
    """
    found: list[Finding] = []
    seen: dict[str, str] = {}
    files = settings_in(root, "usr/lib/bootc/kargs.d", "*")
    for path in files:
        name, text = str(path.relative_to(root)), path.read_text()
        try:
            said = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            at = re.search(r"line (\d+)", str(error))
            found.append(Finding(name, int(at[1]) if at else 0, f"bootc can't read it: {error}"))
            continue
        for key in set(said) - {"kargs", "match-architectures"}:
            found.append(
                Finding(
                    name,
                    line_that(text, key),
                    f"bootc takes kargs and match-architectures, not {key}; remove it",
                )
            )
        arguments = said.get("kargs")
        if not isinstance(arguments, list) or not all(
            isinstance(one, str) and one and not re.search(r"\s", one) for one in arguments
        ):
            found.append(
                Finding(
                    name,
                    line_that(text, "kargs"),
                    'kargs must be a list of arguments without spaces, as ["panic=30"]',
                )
            )
            continue
        for one in arguments:
            key, line = one.partition("=")[0], line_that(text, f'"{one}"')
            if one in seen:
                found.append(Finding(name, line, f"{one} is in {seen[one]} already; remove one of the two"))
            if key in NEVER_KARG:
                found.append(Finding(name, line, f"{one} must not be there: {NEVER_KARG[key]}; remove it"))
            seen[one] = name
    missing = [one for one in NEEDED_KARGS if one not in seen]
    if missing and not found:
        found.append(
            Finding(
                "overlay/usr/lib/bootc/kargs.d",
                0,
                f"{', '.join(missing)} is missing, and other settings rely on it; put it back",
            )
        )
    return found


def line_that(text: str, words: str) -> int:
    """The first line with WORDS that is no comment, 0 without one."""
    return next(
        (
            number
            for number, line in enumerate(text.splitlines(), 1)
            if words in line and not line.lstrip().startswith("#")
        ),
        0,
    )


def check_modprobe(root: Path, run: Callable | None) -> list[Finding]:
    """modprobe.d, by modprobe: no line that it ignores.

    A file's name leaves a person's exceptions their effect.
    """
    found: list[Finding] = []
    files = settings_in(root, "usr/lib/modprobe.d", "*")
    for path in files:
        name = str(path.relative_to(root))
        if path.name <= "99-" or not path.name.endswith(".conf"):
            why = (
                "its name must end in .conf and sort after 99-, where a person makes exceptions: the "
                "first line for a module counts"
            )
            found.append(Finding(name, 0, why))
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            Path(scratch, path.name).write_text(path.read_text())
            _, said = run_tool(run, ["modprobe", f"--config={scratch}", "--showconfig"], [Path(scratch)])
        for _, hit in lines_matching(said, r"ERROR: .* line (\d+): (ignoring.+)$"):
            found.append(
                Finding(name, int(hit[1]), f"modprobe is {hit[2]}; correct the line, see modprobe.d(5)")
            )
        for number, hit in lines_matching(path.read_text(), r"^install\s+\S+\s+(?!/usr/bin/false$)(.*)$"):
            found.append(
                Finding(
                    name,
                    number,
                    f"a module is kept out by /usr/bin/false, not by {hit[1]!r}; write "
                    "install MODULE /usr/bin/false",
                )
            )
    return found


def check_dracut(root: Path, run: Callable | None) -> list[Finding]:
    """dracut.conf.d: shell assignments, and the spaces by which dracut puts lists together."""
    found = []
    for path in settings_in(root, "usr/lib/dracut/dracut.conf.d", "*"):
        name = str(path.relative_to(root))
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            added = re.fullmatch(r'[a-z0-9_]+\+=(".*")', line)
            if not added and not re.fullmatch(r'[a-z0-9_]+="[^"]*"', line):
                found.append(
                    Finding(name, number, f'dracut takes NAME="VALUE" or NAME+=" VALUES ", not {line!r}')
                )
            elif added and not re.fullmatch(r'" [^"]* "', added[1]):
                found.append(
                    Finding(
                        name,
                        number,
                        "a list that is added to needs a space at both ends, or its words run into others",
                    )
                )
    return found


ZRAM = "usr/lib/systemd/zram-generator.conf.d"


def check_zram(root: Path, run: Callable | None) -> list[Finding]:
    """zram-generator makes a swap device from the configuration, on a machine of 8 GiB."""
    found = []
    for path in settings_in(root, ZRAM, "*.conf"):
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            tree = Path(scratch)
            for folder in (ZRAM, "proc", "out"):
                (tree / folder).mkdir(parents=True)
            (tree / ZRAM / path.name).write_text(path.read_text())
            (tree / "proc/meminfo").write_text("MemTotal:        8388608 kB\n")
            (tree / "proc/cmdline").write_text("\n")
            generator = "/usr/lib/systemd/system-generators/zram-generator"
            code, said = run_tool(
                run, ["env", f"ZRAM_GENERATOR_ROOT={tree}", generator, *[f"{tree}/out"] * 3], [tree]
            )
            made = (tree / "out/dev-zram0.swap").exists()
        wrong = [
            line
            for line in said.splitlines()
            if re.search(r"(?i)unknown|error|couldn't|failed to parse|invalid", line)
        ]
        if code or wrong or not made:
            told = (
                wrong[0].replace(scratch, "")
                if wrong
                else f"zram-generator makes no swap from it (exit code {code})"
            )
            found.append(Finding(str(path.relative_to(root)), 0, told))
    return found
