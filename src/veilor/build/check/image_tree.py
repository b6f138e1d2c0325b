"""The recipe's scripts, run in the recipe's order on a tree that is shaped like the base."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
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
PACKAGES = ("trivalent", "trivalent-selinux", "trivalent-subresource-filter", "sudo")


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
    """What BlueBuild does with the recipe of the clone at ROOT, on the tree TREE, with stand-ins for the
    base's programs.
    """

    def __init__(self, root: Path, tree: Path) -> None:
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
                        f"{SCRIPTS}/{name}", 0, "the recipe names it; it is not there, or not executable"
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


def promises(root: Path, tree: Path) -> list[tuple[str, str, bool]]:
    """What the finished TREE must be like: where that comes from, a sentence, whether it is so."""
    product = load(root / "product.toml")
    text = {
        name: (tree / name).read_text() if (tree / name).is_file() else ""
        for name in (
            "etc/containers/policy.json",
            "usr/lib/os-release",
            "usr/share/applications/mimeapps.list",
            "usr/share/applications/brave-browser.desktop",
            "usr/share/ublue-os/just/60-custom.just",
            ".calls",
            "usr/libexec/secureblue-motd",
        )
    }
    sudo, verify = tree / "usr/bin/sudo", tree / "usr/libexec/secureblue/verify-provenance.sh"
    kernels = list((tree / "usr/lib/modules").glob("*/initramfs.img"))
    presets = sorted(path.name for path in (tree / "usr/lib/systemd/system-preset").glob("*.preset"))
    calls = text[".calls"].splitlines()
    return [
        (
            "merge-policy.py",
            "the policy keeps ours and the rule to reject",
            not policy.problems(text["etc/containers/policy.json"], product),
        ),
        (
            "merge-policy.py",
            "the base's own scopes stay in the policy",
            '"ghcr.io/secureblue"' in text["etc/containers/policy.json"],
        ),
        (
            "fold-usr-etc.sh",
            "/usr/etc is gone, and what only it had is in /etc",
            not (tree / "usr/etc").exists()
            and (tree / "etc/containers/registries.d/secureblue.yaml").exists(),
        ),
        *(
            (
                ("first-boot.sh" if "cleanup" in unit else "updaters.sh"),
                f"{unit} is masked and wanted by nothing",
                is_masked(tree / "etc/systemd" / unit),
            )
            for unit in MASKED
        ),
        (
            "updaters.sh",
            "the base's check of provenance sends to veilor-update",
            verify.exists() and "veilor-update" in verify.read_text(),
        ),
        (
            "xwayland.sh",
            "Xwayland's override and its followers are gone, kwinrc is not",
            not any(
                (tree / name).exists()
                for name in (
                    "etc/systemd/user/plasma-kwin_wayland.service.d/override.conf",
                    "etc/xdg/ksplashrc",
                    "usr/lib/systemd/user/plasma-ksmserver.service.d/40-secureblue.conf",
                    "usr/lib/systemd/user/plasma-xembedsniproxy.service.d/40-secureblue.conf",
                )
            )
            and (tree / "etc/xdg/kwinrc").exists(),
        ),
        (
            "sudo.sh",
            "sudo has mode 4111, and nothing says it is missing",
            sudo.exists()
            and stat.S_IMODE(sudo.stat().st_mode) == 0o4111
            and not (tree / "etc/profile.d/sudo-missing-message.sh").exists(),
        ),
        (
            "trivalent.sh",
            "Trivalent is gone, trivalent-selinux is not",
            [(tree / ".packages" / name).exists() for name in PACKAGES[:3]] == [False, True, False]
            and "trivalent" not in text["usr/share/applications/mimeapps.list"],
        ),
        (
            "trivalent.sh",
            "favourites and layouts start Brave",
            all(
                "brave-browser.desktop" in read(tree / name) and "trivalent" not in read(tree / name)
                for name in LAUNCHERS
            ),
        ),
        (
            "audit.sh",
            "the base's audit stands an image whose name it does not know",
            'state["image"] is None or' in read(tree / "usr/libexec/secureblue/audit_secureblue.py"),
        ),
        ("base-controls.sh", "what claims rest on was looked for", calls.count("semodule -lfull") == 2),
        (
            "brave-key.sh",
            "Brave's key is where dnf looks for it",
            (tree / "etc/pki/rpm-gpg/brave-core.asc").is_file(),
        ),
        (
            "brave.sh",
            "Brave lies in /usr and its menu entries start our launcher",
            (tree / "usr/lib/opt/brave.com/brave/brave").exists()
            and text["usr/share/applications/brave-browser.desktop"].count("Exec=/usr/bin/veilor-brave") == 2,
        ),
        (
            "brave.sh",
            "Brave's new profiles begin without advertisements in a new tab",
            '"show_branded_background_image": false'
            in read(tree / "usr/lib/opt/brave.com/brave/initial_preferences"),
        ),
        (
            "brave.sh",
            "no program of Brave's has the set-user-ID bit",
            not any(
                path.is_file() and path.stat().st_mode & 0o6000 for path in (tree / "usr/lib/opt").rglob("*")
            ),
        ),
        (
            "brave.sh",
            "Brave's repository is left disabled",
            "enabled=0" in read(tree / "etc/yum.repos.d/brave-browser.repo"),
        ),
        (
            "selinux.sh",
            "Brave's domain is installed at priority 300",
            any(call.startswith("semodule -X 300 -i") and "veilor_brave.cil" in call for call in calls),
        ),
        (
            "initramfs.sh",
            "the initramfs is new, without the allocator, and the settings are back",
            len(kernels) == 1
            and kernels[0].read_text() == ""
            and stat.S_IMODE(kernels[0].stat().st_mode) == 0o600
            and len(list((tree / "usr/lib").rglob("40-hardened_malloc.conf"))) == 2,
        ),
        (
            "motd.sh",
            "the message of the day names this system",
            "untagged" not in text["usr/libexec/secureblue-motd"],
        ),
        (
            "just.sh",
            "our recipes are imported beside the base's",
            text["usr/share/ublue-os/just/60-custom.just"].count("import ") == 2,
        ),
        (
            "../../modules/brand/brand.py",
            "os-release names the product and keeps what the base's tools read",
            all(
                line in text["usr/lib/os-release"].splitlines()
                for line in (
                    f'PRETTY_NAME="{product.pretty_name}"',
                    f'ID="{product.id}"',
                    'VARIANT_ID="kinoite-main-hardened"',
                    f'OSTREE_VERSION="{product.version}.1"',
                )
            )
            and "base.example" not in text["usr/lib/os-release"],
        ),
        ("lint.sh", "bootc's linter has the last word", calls[-1:] == ["bootc container lint"]),
        (
            "../../../overlay/usr/lib/systemd/system-preset/10-veilor.preset",
            "our presets come before the base's",
            bool(presets) and "veilor" in presets[0],
        ),
    ]


def is_masked(unit: Path) -> bool:
    """Whether UNIT is masked in its folder and no other unit wants it."""
    return (
        unit.is_symlink()
        and os.readlink(unit) == "/dev/null"
        and not list(unit.parent.glob(f"*.wants/{unit.name}"))
    )


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def build_image_tree(
    root: Path, tree: Path, spoil: Callable[[Path], None] = lambda tree: None
) -> tuple[list[Finding], str]:
    """Carry out the whole recipe of ROOT on the new folder TREE, which SPOIL may change first: findings, and
    what was said.
    """
    tree.mkdir()
    make_base(root / SHAPE, tree, load(root / "product.toml").version)
    spoil(tree)
    build = Build(root, tree)
    found: list[Finding] = []
    for module in steps(root / "bluebuild"):
        found += build.step(module)
    where = Path(SCRIPTS)
    broken = [(name, text) for name, text, kept in promises(root, tree) if not kept]
    found += [Finding(os.path.normpath(where / name), 0, f"not as promised: {text}") for name, text in broken]
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
