"""The recipe's scripts, run in the recipe's order on a tree that is shaped like the base."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from veilor.build.check.finding import Finding
from veilor.build.errors import BuildError
from veilor.build.stage import stage
from veilor.core import policy
from veilor.core.product import load

SHAPE = "stand-ins/image"
SCRIPTS = "bluebuild/files/scripts"
MASKED = (
    "system/securebluecleanup.service",
    "system/upgrade-on-boot.service",
    "system/rpm-ostreed-automatic.timer",
    "user/secureblue-update-verification.timer",
    "user/security-update-notification.path",
    "user/image-deprecation-notice.service",
)
LAUNCHERS = (
    "usr/share/kde-settings/kde-profile/default/xdg/kicker-extra-favoritesrc",
    "usr/share/plasma/look-and-feel/org.fedoraproject.fedora.desktop/contents/layouts/org.kde.plasma.desktop-layout.js",
)
TRIVALENT = {
    "trivalent": False,
    "trivalent-selinux": True,
    "trivalent-subresource-filter": False,
}  # which stay
PACKAGES = (*TRIVALENT, "sudo")
MODULES = ("veilor_brave.cil", "veilor_update.cil")
BRAVE_REPOSITORY = (
    "etc/yum.repos.d/brave-browser.repo",
    "etc/dnf/repos.override.d/99-config_manager.repo",  # by BlueBuild's module, and it wins
)
WITHOUT_XWAYLAND = (
    "etc/systemd/user/plasma-kwin_wayland.service.d/override.conf",
    "etc/xdg/ksplashrc",
    "usr/lib/systemd/user/plasma-ksmserver.service.d/40-secureblue.conf",
    "usr/lib/systemd/user/plasma-xembedsniproxy.service.d/40-secureblue.conf",
)


def make_base(shape: Path, tree: Path, fedora: str) -> None:
    """Write to the new folder TREE what SHAPE/tree.tsv lists, for the number FEDORA."""
    for line in (shape / "tree.tsv").read_text().replace("@fedora@", fedora).splitlines():
        if line.startswith("#"):
            continue
        name, kind, mode, *content = line.split("\t")
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(mode)
            continue
        if kind == "dir":
            path.mkdir(exist_ok=True)
        else:
            path.write_text("".join(content).replace("\\n", "\n"))
        path.chmod(int(mode, 8))
    (tree / ".packages").mkdir()
    for package in PACKAGES:
        (tree / ".packages" / package).touch()


def steps(bluebuild: Path) -> Iterator[dict]:
    """Every module of the recipe, in order, fragments in their places."""
    for entry in yaml.safe_load((bluebuild / "recipe.yml").read_text())["modules"]:
        yield from (
            yaml.safe_load((bluebuild / "recipes" / entry["from-file"]).read_text())["modules"]
            if "from-file" in entry
            else [entry]
        )


class Build:
    """What BlueBuild does with the recipe of the clone at ROOT, on the tree TREE.

    Stand-ins take the place of the base's programs; `said` is what the scripts printed.
    """

    def __init__(self, root: Path, tree: Path) -> None:
        """Set the environment that the recipe's scripts find while an image is built."""
        self.root, self.tree, self.said = root, tree, ""
        self.env = {
            **os.environ,
            "VEILOR_ROOT": str(tree),
            "CONFIG_DIRECTORY": str(root / "bluebuild/files"),
            "PATH": f"{root / SHAPE / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LC_ALL": "C.UTF-8",
        }

    def run(self, argv: list[str], where: str) -> Finding | None:
        """Run ARGV; a finding in the file WHERE when it fails."""
        done = subprocess.run(
            argv,
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        self.said += done.stdout
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        text = f"ended with {done.returncode} on a tree shaped like the base: {' '.join(last)}"
        return Finding(where, 0, text) if done.returncode else None

    def step(self, module: dict) -> Iterator[Finding]:
        """Carry out one MODULE of the recipe."""
        kind, bluebuild = module["type"].split("@")[0], self.root / "bluebuild"
        if kind == "script":
            for name in module.get("scripts", []):
                path = bluebuild / "files/scripts" / name
                if not os.access(path, os.X_OK):
                    yield Finding(
                        f"{SCRIPTS}/{name}",
                        0,
                        "the recipe names it; it is not there, or not executable: add it, or chmod +x it",
                    )
                elif found := self.run([str(path)], f"{SCRIPTS}/{name}"):
                    yield found
        elif kind == "files":
            for pair in module["files"]:
                source = bluebuild / "files" / pair["source"]
                if pair["source"] == "stage":
                    source = self.tree / ".stage"
                    stage(self.root, source)
                shutil.copytree(
                    source,
                    self.tree / pair["destination"].lstrip("/"),
                    symlinks=True,
                    dirs_exist_ok=True,
                    copy_function=replace,
                )
                shutil.rmtree(self.tree / ".stage", ignore_errors=True)
        elif kind == "dnf":
            if found := self.run(
                ["dnf5", "-y", "install", *module["install"]["packages"]], "bluebuild/recipe.yml"
            ):
                yield found
        elif module.get("source") == "local":
            name = f"bluebuild/modules/{kind}/{kind}.sh"
            if found := self.run(["bash", str(self.root / name), json.dumps(module)], name):
                yield found
        else:
            yield Finding(
                "bluebuild/recipe.yml",
                0,
                f"the module {kind} is not known to the check; teach it what the module does",
            )


def replace(source: str, dest: str) -> None:
    """Copy SOURCE over DEST, which may be a link."""
    Path(dest).unlink(missing_ok=True)
    shutil.copy2(source, dest, follow_symlinks=False)


@dataclass(frozen=True)
class TreeRule:
    """A sentence that has to be true of the finished tree; SCRIPT sees to it, KEPT is whether it is."""

    script: str
    says: str
    kept: bool


def tree_rules(root: Path, tree: Path) -> Iterator[TreeRule]:
    """Every rule for the finished TREE, which the recipe of the clone at ROOT has made."""
    yield from base_rules(root, tree)
    yield from control_rules(tree)
    yield from browser_rules(tree)
    yield from brand_rules(root, tree)


def base_rules(root: Path, tree: Path) -> Iterator[TreeRule]:
    """What the base brought and the recipe has adapted."""
    policy_text = read(tree / "etc/containers/policy.json")
    yield TreeRule(
        "merge-policy.py",
        "the policy keeps ours and the rule to reject",
        not policy.problems(policy_text, load(root / "product.toml")),
    )
    yield TreeRule(
        "merge-policy.py", "the base's own scopes stay in the policy", '"ghcr.io/secureblue"' in policy_text
    )
    yield TreeRule(
        "fold-usr-etc.sh", "/usr/etc is gone, and what only it had is in /etc", usr_etc_is_folded(tree)
    )
    for unit in MASKED:
        script = "first-boot.sh" if "cleanup" in unit else "updaters.sh"
        yield TreeRule(
            script, f"{unit} is masked and wanted by nothing", is_masked(tree / "etc/systemd" / unit)
        )
    yield TreeRule(
        "updaters.sh",
        "the base's check of provenance sends to veilor-update",
        "veilor-update" in read(tree / "usr/libexec/secureblue/verify-provenance.sh"),
    )
    yield TreeRule(
        "xwayland.sh", "Xwayland's override and its followers are gone, kwinrc is not", xwayland_is_back(tree)
    )
    yield TreeRule(
        "audit.sh",
        "the base's audit stands an image whose name it does not know",
        'state["image"] is None or' in read(tree / "usr/libexec/secureblue/audit_secureblue.py"),
    )
    yield TreeRule(
        "motd.sh",
        "the message of the day names this system",
        "untagged" not in read(tree / "usr/libexec/secureblue-motd"),
    )
    recipes = "".join(read(path) for path in (tree / "usr/share/bluebuild/justfiles").rglob("*.just"))
    yield TreeRule(
        "recipes.py",
        "no recipe of the base's opens a port, adds a package or leads to another system",
        "veilor-printing" in recipes and not re.search("set_cups|rpm-ostree", recipes),
    )
    yield TreeRule(
        "just.sh",
        "our recipes are imported beside the base's",
        read(tree / "usr/share/ublue-os/just/60-custom.just").count("import ") == 2,
    )


def control_rules(tree: Path) -> Iterator[TreeRule]:
    """What keeps the machine safe: sudo, SELinux, the initramfs, and that the scripts looked for it."""
    calls = read(tree / ".calls").splitlines()
    yield TreeRule("sudo.sh", "sudo has mode 4111, and nothing says it is missing", sudo_is_back(tree))
    yield TreeRule(
        "base-controls.sh", "what claims rest on was looked for", calls.count("semodule -lfull") == 1
    )
    yield TreeRule(
        "selinux.sh",
        "Brave's domain and bootc's are installed at priority 300, and the policy asked for what they give",
        any(all(word in call for word in ("semodule -X 300 -i", *MODULES)) for call in calls)
        and sum(call.startswith("sesearch ") for call in calls) == 4,
    )
    yield TreeRule(
        "initramfs.sh",
        "the initramfs is new, without the allocator, and the settings are back",
        initramfs_is_new(tree),
    )
    yield TreeRule(
        "baseline.sh",
        "the copy of /etc that the base's tools go by is of our /etc",
        (tree / "usr/share/secureblue/etc/chrony.conf").exists()
        and not (tree / "usr/share/secureblue/etc/motd").exists(),
    )
    yield TreeRule("lint.sh", "bootc's linter has the last word", calls[-1:] == ["bootc container lint"])
    presets = sorted(path.name for path in (tree / "usr/lib/systemd/system-preset").glob("*.preset"))
    yield TreeRule(
        "../../../overlay/usr/lib/systemd/system-preset/10-veilor.preset",
        "our presets come before the base's",
        bool(presets) and "veilor" in presets[0],
    )


def browser_rules(tree: Path) -> Iterator[TreeRule]:
    """Brave is the browser, and Trivalent, the base's, is gone."""
    yield TreeRule("trivalent.sh", "Trivalent is gone, trivalent-selinux is not", trivalent_is_gone(tree))
    yield TreeRule(
        "trivalent.sh",
        "favourites and layouts start Brave",
        all(starts_brave(read(tree / name)) for name in LAUNCHERS),
    )
    yield TreeRule(
        "brave-key.sh",
        "Brave's key is where dnf looks for it",
        (tree / "etc/pki/rpm-gpg/brave-core.asc").is_file(),
    )
    entry = read(tree / "usr/share/applications/brave-browser.desktop")
    yield TreeRule(
        "brave.sh",
        "Brave lies in /usr and its menu entries start our launcher",
        (tree / "usr/lib/opt/brave.com/brave/brave").exists()
        and entry.count("Exec=/usr/bin/veilor-brave") == 2,
    )
    yield TreeRule(
        "brave.sh",
        "Brave's new profiles begin without advertisements in a new tab",
        '"show_branded_background_image": false'
        in read(tree / "usr/lib/opt/brave.com/brave/initial_preferences"),
    )
    yield TreeRule(
        "brave.sh",
        "no program of Brave's has the set-user-ID bit",
        not any(is_privileged(path) for path in (tree / "usr/lib/opt").rglob("*")),
    )
    yield TreeRule(
        "brave.sh",
        "Brave's repository is left disabled",
        all("enabled=0" in read(tree / name) for name in BRAVE_REPOSITORY),
    )


def brand_rules(root: Path, tree: Path) -> Iterator[TreeRule]:
    """os-release is that of the product in the clone at ROOT, with what the base's tools read."""
    product, text = load(root / "product.toml"), read(tree / "usr/lib/os-release")
    wanted = {
        f'PRETTY_NAME="{product.pretty_name}"',
        f'ID="{product.id}"',
        "VARIANT_ID=kinoite-main-hardened",  # as the base has it: a unit of its own reads it without quotes
        f"OSTREE_VERSION='{product.version}.1'",
    }
    yield TreeRule(
        "../../modules/brand/brand.py",
        "os-release names the product and keeps what the base's tools read",
        wanted <= set(text.splitlines()) and "base.example" not in text,
    )


def usr_etc_is_folded(tree: Path) -> bool:
    """Whether /usr/etc of TREE is gone, and the file that only it had is in /etc."""
    if (tree / "usr/etc").exists():
        return False
    return (tree / "etc/containers/registries.d/secureblue.yaml").exists()


def xwayland_is_back(tree: Path) -> bool:
    """Whether nothing in TREE keeps Xwayland from starting, and KWin's settings are still there."""
    if any((tree / name).exists() for name in WITHOUT_XWAYLAND):
        return False
    return (tree / "etc/xdg/kwinrc").exists()


def sudo_is_back(tree: Path) -> bool:
    """Whether TREE has sudo with the mode that lets it work, and no message says that it is missing."""
    sudo = tree / "usr/bin/sudo"
    if not sudo.exists():
        return False
    if stat.S_IMODE(sudo.stat().st_mode) != 0o4111:
        return False
    return not (tree / "etc/profile.d/sudo-missing-message.sh").exists()


def initramfs_is_new(tree: Path) -> bool:
    """Whether TREE's one kernel has an initramfs made anew, without the allocator, readable by root alone."""
    made = list((tree / "usr/lib/modules").glob("*/initramfs.img"))
    if len(made) != 1:
        return False
    if made[0].read_text() != "":  # the stand-in for dracut writes the allocator's settings here
        return False
    if stat.S_IMODE(made[0].stat().st_mode) != 0o600:
        return False
    return len(list((tree / "usr/lib").rglob("40-hardened_malloc.conf"))) == 2


def trivalent_is_gone(tree: Path) -> bool:
    """Whether of Trivalent's packages only its SELinux policy is left, and no file type opens in it."""
    for package, stays in TRIVALENT.items():
        if (tree / ".packages" / package).exists() != stays:
            return False
    return "trivalent" not in read(tree / "usr/share/applications/mimeapps.list")


def starts_brave(text: str) -> bool:
    """Whether the launcher TEXT names Brave, and Trivalent nowhere."""
    return "brave-browser.desktop" in text and "trivalent" not in text


def is_privileged(path: Path) -> bool:
    """Whether PATH is a file with the set-user-ID or the set-group-ID bit."""
    return path.is_file() and bool(path.stat().st_mode & 0o6000)


def is_masked(unit: Path) -> bool:
    """Whether UNIT is masked in its folder and no other unit wants it."""
    if not unit.is_symlink() or os.readlink(unit) != "/dev/null":
        return False
    return not list(unit.parent.glob(f"*.wants/{unit.name}"))


def read(path: Path) -> str:
    """The text of the file at PATH, empty where there is none."""
    return path.read_text() if path.is_file() else ""


def build_image_tree(
    root: Path, tree: Path, spoil: Callable[[Path], None] = lambda tree: None
) -> tuple[list[Finding], str]:
    """Carry out the whole recipe of ROOT on the new folder TREE: findings, and what the scripts printed.

    SPOIL may change the base-shaped tree first, as tests do.
    """
    tree.mkdir()
    make_base(root / SHAPE, tree, load(root / "product.toml").version)
    spoil(tree)
    build = Build(root, tree)
    found: list[Finding] = []
    for module in steps(root / "bluebuild"):
        found += build.step(module)
    for rule in tree_rules(root, tree):
        if not rule.kept:
            path = os.path.normpath(Path(SCRIPTS, rule.script))
            found.append(Finding(path, 0, f"after the recipe the image's tree breaks this rule: {rule.says}"))
    return found, build.said


def check_image_tree(root: Path, run) -> list[Finding]:
    """Every script of the recipe does on a base of the known shape what it is there for."""
    with tempfile.TemporaryDirectory(prefix="veilor-image-") as scratch:
        try:
            return build_image_tree(root, Path(scratch, "tree"))[0]
        except (BuildError, OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            return [
                Finding(
                    "bluebuild/recipe.yml",
                    0,
                    f"the recipe cannot be carried out: {error}".replace(f"{root}/", ""),
                )
            ]
