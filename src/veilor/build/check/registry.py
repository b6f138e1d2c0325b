"""Every check by name, and the walk over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from veilor.build.check import (
    containers,
    fedora,
    guards,
    image_tree,
    kickstarts,
    names,
    pages,
    recipe,
    selinux,
    settings,
    shell,
    syntax,
    threats,
    tree,
    units,
    workflows,
)
from veilor.build.check.finding import CannotRun, Finding, NothingToCheck, Notice, Remark

Check = Callable[[Path, Callable | None], list[Finding]]

# Each takes the repository's root and the tools tree's runner (None: there is no tree), and says what is
# wrong.
CHECKS: list[tuple[str, Check]] = [
    ("generated pages", pages.check_pages),
    ("staged tree", tree.check_staged_tree),
    ("threat model", threats.check_threats),
    ("results of rehearsals", threats.check_results),
    ("kickstarts by pykickstart", kickstarts.check_kickstarts),
    ("recipe by BlueBuild's schemas", recipe.check_schema),
    ("recipe by bluebuild", recipe.check_bluebuild),
    ("what the recipe names", recipe.check_files),
    ("what the scripts assume of the base", recipe.check_assumed),
    ("the image's scripts on a tree shaped like the base", image_tree.check_image_tree),
    ("installer-iso.toml", kickstarts.check_installer_iso),
    ("units by systemd-analyze", units.check_units),
    ("presets", units.check_presets),
    ("tmpfiles.d and sysusers.d by systemd", units.check_tmpfiles),
    ("oomd.conf.d", units.check_oomd),
    ("sysctl.d by sysctl", settings.check_sysctl),
    ("kargs.d", settings.check_kargs),
    ("modprobe.d by modprobe", settings.check_modprobe),
    ("dracut.conf.d", settings.check_dracut),
    ("zram-generator.conf.d by zram-generator", settings.check_zram),
    ("firewall by firewalld", guards.check_firewall),
    ("USBGuard's rules by its parser", guards.check_usbguard),
    ("polkit rules by duktape", guards.check_polkit),
    ("audit rules by auditctl", guards.check_audit),
    ("chrony.conf by chronyd", guards.check_chrony),
    ("sshd_config.d by sshd", guards.check_sshd),
    ("desktop entries by desktop-file-validate", guards.check_desktop_entries),
    ("SELinux modules by secilc", selinux.check_cil),
    ("container policy by skopeo", containers.check_policy),
    ("signature lookaside", containers.check_lookaside),
    ("workflows by actionlint", workflows.check_actionlint),
    ("workflows by zizmor", workflows.check_zizmor),
    ("actions pinned, scripts there", workflows.check_pins),
    ("shell by ShellCheck", shell.check_shell),
    ("TOML, JSON and YAML", syntax.check_syntax),
    ("references against product.toml", names.check_references),
    ("recipe against product.toml", names.check_recipe_names),
    ("one Fedora version everywhere", fedora.check_versions),
    ("no mutable fallback from 1.0 on", names.check_mutable_is_gone),
    ("what a release refuses", names.check_unfinished),
]


@dataclass
class Result:
    """What one check came to: its findings, or in NOT_RUN why it could not look."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    not_run: str = ""

    def wrong(self, release: bool) -> list[Finding]:
        """The findings that count: for a RELEASE also those that are known to be unfinished."""
        counted = [one for one in self.findings if not isinstance(one, Remark)]
        return [one for one in counted if release or not isinstance(one, Notice)]

    def lines(self, release: bool = False) -> Iterator[str]:
        """One line for each finding, and one for the check."""
        for one in sorted(self.findings, key=lambda one: (one.path, one.line, one.text)):
            note = isinstance(one, Notice) and not release
            yield f"{one}{' (known; a release refuses it)' if note else ''}"
        if self.not_run:
            yield f"NOT RUN  {self.name}: {self.not_run}"
        elif self.wrong(release):
            yield f"FAILED   {self.name}: what stands above"
        else:
            yield f"passed   {self.name}"


def walk(root: Path, run: Callable | None, checks: Iterable[tuple[str, Check]] = CHECKS) -> Iterator[Result]:
    """Run CHECKS on the repository at ROOT, each whatever the others say."""
    for name, check in checks:
        try:
            yield Result(name, check(root, run))
        except CannotRun as error:
            yield Result(name, not_run=str(error))
        except NothingToCheck as place:
            yield Result(
                name,
                [
                    Finding(
                        str(place),
                        0,
                        "there is no file of this kind here, so nothing was checked; restore one, or remove "
                        "the check from src/veilor/build/check/registry.py",
                    )
                ],
            )
