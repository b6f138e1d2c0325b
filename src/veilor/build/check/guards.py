"""Settings of firewalld, USBGuard, polkit, audit, chrony and sshd, and desktop entries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.check.finding import (
    LIMIT,
    CannotRun,
    Finding,
    at_least_one,
    line_of,
    lines_matching,
    run_tool,
)
from veilor.build.check.units import settings_in
from veilor.build.stage import stage

FIREWALLD, ZONES = "overlay/etc/firewalld/firewalld.conf", "overlay/usr/lib/firewalld/zones"
# Two programs read nothing for anyone but root. In a user namespace everyone is, and no setting of this
# machine is in reach.
AS_ROOT = ["unshare", "--user", "--map-root-user"]
USBGUARD = "usr/share/veilor/usbguard"
APPLICATIONS = "usr/share/applications"
SHELL_COPY = "cp -a /usr/lib/firewalld {tree}/default && cp {tree}/zones/* {tree}/default/zones/"


def check_firewall(root: Path, run: Callable | None) -> list[Finding]:
    """The zones and firewalld.conf, by firewalld's own check.

    Each zone is checked alone, so that a finding names its file.
    """
    found = []
    for zone in settings_in(root, "usr/lib/firewalld/zones", "*"):
        said = offline(root, run, [zone], "--check-config")
        if said:
            at = re.search(r"line (\d+)", said)
            words = re.search(r"Unexpected (?:element|attribute) (\S+)", said)
            line = int(at[1]) if at else line_of(zone.read_text(), f"<{words[1]}") if words else 0
            found.append(Finding(str(zone.relative_to(root)), line, said))
    if not found and at_least_one(list(root.glob(FIREWALLD)), FIREWALLD):
        said = offline(root, run, settings_in(root, "usr/lib/firewalld/zones", "*"), "--get-default-zone")
        if said:
            found.append(Finding(FIREWALLD, line_of((root / FIREWALLD).read_text(), "DefaultZone="), said))
    return found


def offline(root: Path, run: Callable | None, zones: list[Path], verb: str) -> str:
    """The first error message of firewall-offline-cmd, in one line; empty when it has none."""
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        tree = Path(scratch)
        (tree / "zones").mkdir()
        (tree / "system").mkdir()
        for zone in zones:
            shutil.copy(zone, tree / "zones")
        (tree / "system/firewalld.conf").write_text("DefaultZone=public\n")
        if verb != "--check-config":
            shutil.copy(root / FIREWALLD, tree / "system")
        code, said = run_tool(run, ["sh", "-c", SHELL_COPY.format(tree=tree)], [tree])
        if code:
            raise CannotRun(
                f"firewalld's own zones can't be copied from the tools tree: {said.strip()[-200:]}"
            )
        places = ["--default-config", f"{tree}/default", "--system-config", f"{tree}/system"]
        code, said = as_root(run, ["firewall-offline-cmd", *places, verb], [tree])
    wrong = [line for line in said.splitlines() if re.search(r"(?i)error|warning|not valid|invalid", line)]
    return (
        " ".join(wrong[0].replace(scratch, "").split())
        if wrong
        else f"firewalld ends with {code}"
        if code
        else ""
    )


def as_root(run: Callable | None, argv: list[str], binds: list[Path]) -> tuple[int, str]:
    """Run ARGV in the tools tree as root of a user namespace, whoever we are; answers as `run_tool`.

    Raises CannotRun where there are no user namespaces, or the program is missing.
    """
    code, said = run_tool(run, [*AS_ROOT, *argv], binds)
    if lacking := re.search(
        r"unshare: .+|(?i:must be root|need to be root)|audit support not in kernel", said
    ):
        raise CannotRun(
            f"{argv[0]} can't be run as root of a user namespace here ({lacking[0]}); "
            "allow user namespaces, or run `veilor lab tools` where the program is missing"
        )
    return code, said


def check_usbguard(root: Path, run: Callable | None) -> list[Finding]:
    """The image's rules by USBGuard's own parser, and no setting that its daemon doesn't know."""
    found = []
    for path in settings_in(root, USBGUARD, "[0-9][0-9]-*.conf"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                code, said = run_tool(run, ["usbguard-rule-parser", line], [])
                if code or "ERROR" in said:
                    why = next((one for one in said.splitlines() if "ERROR" in one), said)
                    found.append(
                        Finding(
                            str(path.relative_to(root)),
                            number,
                            f"USBGuard can't read this rule, see usbguard-rules.conf(5): {why}",
                        )
                    )
    conf = root / "overlay" / USBGUARD / "usbguard-daemon.conf"
    if conf.exists():
        _, example = run_tool(run, ["cat", "/etc/usbguard/usbguard-daemon.conf"], [])
        known = set(re.findall(r"^#?\s*([A-Z]\w+)=", example, re.M))
        for number, hit in lines_matching(conf.read_text(), r"^([^#\s][^=]*)(=?)"):
            if hit[1].strip() not in known or not hit[2]:
                found.append(
                    Finding(
                        str(conf.relative_to(root)),
                        number,
                        f"usbguard-daemon knows no setting {hit[1].strip()}; see usbguard-daemon.conf(5)",
                    )
                )
    return found


# What a rules file finds in polkitd: the object and its results. Duktape is the engine that polkitd runs them
# in.
POLKIT = """var polkit = {Result: {NO: "no", YES: "yes", AUTH_SELF: "auth_self", AUTH_SELF_KEEP: "auth_self_keep", AUTH_ADMIN: "auth_admin",
  AUTH_ADMIN_KEEP: "auth_admin_keep", NOT_HANDLED: null}, rules: [], addRule: function (rule) { polkit.rules.push(rule); },
  addAdminRule: function (rule) {}, log: function (text) {}, spawn: function (argv) { return ""; }};
"""  # noqa: E501


def check_polkit(root: Path, run: Callable | None) -> list[Finding]:
    """polkit's rules, loaded by the JavaScript engine that polkit has.

    Ours come before the base's, by their names.
    """
    found = []
    for path in settings_in(root, "usr/share/polkit-1/rules.d", "*.rules"):
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            script = Path(scratch, "rules.js")
            script.write_text(
                POLKIT.replace("\n", " ") + path.read_text()
            )  # in one line, so that lines keep their numbers
            code, said = run_tool(run, ["duk", str(script)], [script.parent])
        if code or "Error" in said:
            at = re.search(r"\(line (\d+)", said)  # of a syntax error; of others duk tells no line to rely on
            why = said.strip().splitlines()[0] if said.strip() else f"exit code {code}"
            found.append(
                Finding(str(path.relative_to(root)), int(at[1]) if at else 0, f"polkit can't load it: {why}")
            )
    return found


# What auditctl says when it has understood a rule and the kernel then takes none from a user namespace.
UNDERSTOOD = "The audit system is disabled"
REMARKS = (UNDERSTOOD, "Old style watch rules are slower", "There was an error while processing parameters")


def check_audit(root: Path, run: Callable | None) -> list[Finding]:
    """audit's rules, each by auditctl, and each for both ways into the kernel.

    From a user namespace the kernel takes no rule, so none is ever loaded here. The rule is given on the
    command line, since in a file it is not even read before the kernel is asked.
    """
    found = []
    for path in settings_in(root, "etc/audit/rules.d", "*.rules"):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if "arch=b64" in line and line.replace("arch=b64", "arch=b32") not in lines:
                found.append(
                    Finding(
                        str(path.relative_to(root)),
                        number,
                        "a program that calls the kernel by its 32-bit way is not "
                        "seen: the same rule with arch=b32 is missing",
                    )
                )
            if (
                not line.strip() or line.startswith("#") or line == "-i"
            ):  # -i is no rule: go on after one that can't be loaded
                continue
            _, said = as_root(run, ["auditctl", *line.split()], [])
            wrong = [one for one in said.splitlines() if one.strip() and one not in REMARKS]
            if wrong or UNDERSTOOD not in said:
                why = wrong[0] if wrong else "no reason given"
                found.append(
                    Finding(
                        str(path.relative_to(root)),
                        number,
                        f"auditctl can't read this rule, see audit.rules(7): {why}",
                    )
                )
    return found


def check_chrony(root: Path, run: Callable | None) -> list[Finding]:
    """chrony.conf, by chronyd; and every source proves who it is."""
    (path,) = settings_in(root, "etc", "chrony.conf")
    name, text = str(path.relative_to(root)), path.read_text()
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        copy = Path(scratch, "chrony.conf")
        copy.write_text(text)
        code, said = run_tool(run, ["chronyd", "-p", "-f", str(copy)], [copy.parent])
    found = []
    if code:
        hit = re.search(r"(?:error|Fatal error) : (.+?) at line (\d+)", said)
        found.append(
            Finding(
                name,
                int(hit[2]) if hit else 0,
                f"chronyd can't read it: {hit[1] if hit else said.strip()[-200:]}",
            )
        )
    for number, hit in lines_matching(text, r"^\s*(?:server|pool|peer)\s.*"):
        if "nts" not in hit[0].split():
            found.append(
                Finding(
                    name,
                    number,
                    f"{hit[0].split()[1]} is asked without nts, so anyone on the way can answer; add nts to "
                    "the line",
                )
            )
    return found


def check_sshd(root: Path, run: Callable | None) -> list[Finding]:
    """Our files for sshd, by sshd itself: what a file says is what sshd goes by.

    `-G` reads them as `-t` does, but needs neither host keys nor root. Of two values for one word sshd
    takes the first, and that has to be ours.
    """
    found = []
    for path in settings_in(root, "etc/ssh/sshd_config.d", "*.conf"):
        name, text = str(path.relative_to(root)), path.read_text()
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            copy = Path(scratch, path.name)
            copy.write_text(text)
            code, said = by_sshd(run, ["-G", "-f", str(copy)], [copy.parent])
        if re.search(r"(?:unknown|illegal) option -- G", said):
            raise CannotRun(
                "this sshd is older than OpenSSH 9.3 and can't read a file alone; install a newer "
                "openssh-server"
            )
        wrong = lines_matching(said, rf"^{re.escape(str(copy))}:? line (\d+):? (.+)$") if code else []
        found += [Finding(name, int(hit[1]), f"sshd can't read it: {hit[2]}") for _, hit in wrong]
        if code and not wrong:
            found.append(Finding(name, 0, f"sshd can't read it: {said.strip()[-200:]}"))
        effective = said.lower().splitlines()
        for number, hit in lines_matching(text, r"^\s*([A-Za-z]\w+)[\s=]+(.+?)\s*$") if not code else ():
            if f"{hit[1]} {hit[2]}".lower() not in effective:
                found.append(
                    Finding(
                        name,
                        number,
                        f"sshd does not go by {hit[0].strip()!r}: another line before it decides; remove one "
                        "of the two",
                    )
                )
    return found


def by_sshd(run: Callable | None, arguments: list[str], binds: list[Path]) -> tuple[int, str]:
    """Run sshd with ARGUMENTS: the tools tree's, else this machine's. Raises CannotRun without either."""
    try:
        return run_tool(run, ["sshd", *arguments], binds)
    except CannotRun:
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if not program:
            raise CannotRun(
                "neither the tools tree nor this machine has sshd; install openssh-server"
            ) from None
    done = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def check_desktop_entries(root: Path, run: Callable | None) -> list[Finding]:
    """Every program's desktop entry, as it is staged, by desktop-file-validate."""
    found = []
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        tree = stage(root, Path(scratch, "tree"))
        for path in at_least_one(
            sorted((tree / APPLICATIONS).rglob("*.desktop")), f"artwork/tree/{APPLICATIONS}"
        ):
            inside = path.relative_to(tree)
            name = next(
                (
                    f"{home}/{inside}"
                    for home in ("overlay", "artwork/tree")
                    if (root / home / inside).exists()
                ),
                "artwork/tree",
            )
            _, said = run_tool(run, ["desktop-file-validate", str(path)], [path.parent])
            found += [
                Finding(name, 0, hit[1]) for _, hit in lines_matching(said, r": (?:error|warning): (.+)$")
            ]
    return found
