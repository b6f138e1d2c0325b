"""Bad input of each kind: the check says what is wrong, in which file and on which line."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from veilor.build.check import containers, names, programs, recipe, registry, workflows
from veilor.build.check.finding import CannotRun, Notice
from veilor.core.product import load

ROOT = Path(__file__).resolve().parents[3]
PARTS = (
    "bluebuild",
    "overlay",
    "artwork",
    "threats",
    "kickstart",
    "scripts",
    ".github",
    ".ci",
    "stand-ins/image",
    "src/veilor/core",
    "src/veilor/device",
)
FILES = ("product.toml", "pyproject.toml", "src/veilor/__init__.py", "src/veilor/build/kickstart.py")


@pytest.fixture
def clone(tmp_path):
    return make_clone(tmp_path / "clone")


def make_clone(root: Path) -> Path:
    """What the checks read of this repository, to be spoilt. No git: then every file counts."""
    for part in PARTS:
        shutil.copytree(
            ROOT / part, root / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "stage")
        )
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def unspoilt(tools, tmp_path_factory):
    """What a check says of a clone that nobody spoilt: the same each time, so each check is asked once."""
    root = make_clone(tmp_path_factory.mktemp("unspoilt") / "clone")

    @functools.cache
    def result(check: str) -> registry.Result:
        (found,) = registry.walk(root, tools.run, [pair for pair in registry.CHECKS if pair[0] == check])
        assert not [one for one in found.findings if str(root) in one.text], (
            "it would differ from clone to clone"
        )
        return found

    return result


def replace(root: Path, name: str, old: str, new: str) -> int:
    """Put NEW in the place of OLD, which must be there, and return the line on which it stood."""
    path = root / name
    text = path.read_text() if path.exists() else ""
    assert old in text, f"{name} has no {old!r} to spoil"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


FEDORA = load(ROOT / "product.toml").version
WORKFLOW, CHECKOUT = ".github/workflows/livecd.yml", "3d3c42e5aac5ba805825da76410c181273ba90b1"
UNCONFINED = (
    "unconfined_domain_type",
    "files_unconfined_type",
    "filesystem_unconfined_type",
    "devices_unconfined_type",
    "kern_unconfined",
    "corenet_unconfined_type",
    "dbusd_unconfined",
    "xserver_unconfined_type",
    "x_domain",
)
RULES = (
    "allow brave_t self (capability (",
    "allow brave_t self (capability2",
    "allow brave_t self (fifo_file",
    "allow brave_t self (dbus",
    "allow brave_t system_bus_type",
    "allow system_bus_type brave_t",
    "allow brave_t system_dbusd_t",
)
# check, file, what is there, what comes in its place, a word of the finding; the line is where it was
CASES = [
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipe.yml",
        "description:",
        "descripton:",
        "descripton",
        False,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipe.yml",
        "10-base.yml",
        "11-base.yml",
        "11-base.yml is not there",
        True,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipes/20-packages.yml",
        "type: dnf",
        "type: dnff",
        "no module dnff",
        True,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipes/20-packages.yml",
        "weak-deps: false",
        "weak-deps: 1",
        "boolean",
        True,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipes/30-tree.yml",
        "type: files",
        "type: files\n    mode: 7",
        "mode",
        False,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipes/60-brand.yml",
        "source: local",
        "source: ghcr.io/x",
        "local",
        True,
    ),
    (
        "recipe by BlueBuild's schemas",
        "bluebuild/recipes/90-finish.yml",
        "modules:",
        "modules: [",
        "no recipe with modules",
        False,
    ),
    (
        "recipe by bluebuild",
        "bluebuild/recipe.yml",
        "base-image:",
        "base_:",
        "bluebuild cannot read it",
        False,
    ),
    (
        "what the scripts assume of the base",
        "bluebuild/files/scripts/motd.sh",
        "# Rests on: motd",
        "# Rests on: the-motd",
        "has no row the-motd",
        True,
    ),
    (
        "what the scripts assume of the base",
        "bluebuild/files/base/assumed.toml",
        'id = "motd"',
        'id = "greeting"',
        "no script says that it rests on greeting",
        False,
    ),
    (
        "what the recipe names",
        "bluebuild/recipes/20-packages.yml",
        "brave-browser.repo",
        "brave.repo",
        "is not there",
        False,
    ),
    (
        "what the recipe names",
        "bluebuild/recipes/40-adapt.yml",
        "      - motd.sh\n",
        "",
        "never runs it",
        False,
    ),
    (
        "the image's scripts on a tree shaped like the base",
        "bluebuild/files/scripts/xwayland.sh",
        "set -euo",
        "exit 3; set -euo",
        "ended with 3",
        False,
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_brave.cil",
        "(type brave_exec_t)",
        "(type brave_exec_t",
        "secilc",
        False,
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_brave.cil",
        "(type brave_t)",
        "",
        "Failed to resolve",
        False,
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_brave.cil",
        "(typeattributeset userns_privileged_domain (brave_t))",
        "",
        "neverallow",
        False,
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_brave.cil",
        "(typeattributeset cil_gen_require userns_privileged_domain)",
        "(allow unconfined_t self (user_namespace (create)))",
        "neverallow",
        False,
    ),
    *(
        (
            "SELinux modules by secilc",
            "bluebuild/files/selinux/veilor_update.cil",
            line,
            "",
            text,
            False,
        )
        for line, text in (
            (
                "(typetransition unconfined_service_t install_exec_t process install_t)",
                "stays in its own domain",
            ),
            ("(allow unconfined_service_t install_t (process (transition)))", "has no right to"),
        )
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_update.cil",
        "install_exec_t process install_t",
        "install_exec_t process other_t",
        "stays in its own domain",
        False,
    ),
    (
        "SELinux modules by secilc",
        "bluebuild/files/selinux/veilor_update.cil",
        "(allow unconfined_service_t install_t (process (transition)))",
        "(allow unconfined_service_t install_t (process (transition)))"
        "(allow unconfined_service_t self (capability2 (mac_admin)))",
        "keeps closed",
        False,
    ),
    *(
        (
            "SELinux modules by secilc",
            "bluebuild/files/selinux/veilor_brave.cil",
            f"(typeattributeset {name} (brave_t))",
            "",
            "has no right to",
            False,
        )
        for name in UNCONFINED
    ),
    *(
        (
            "SELinux modules by secilc",
            "bluebuild/files/selinux/veilor_brave.cil",
            f"({rule}",
            f"({rule}".replace("brave_t", "unconfined_t"),
            "has no right to",
            False,
        )
        for rule in RULES
    ),
    ("workflows by actionlint", WORKFLOW, "runs-on: ubuntu-24.04", "runs-on: ubunto", "ubunto", True),
    (
        "workflows by actionlint",
        WORKFLOW,
        "- run: scripts/setup-runner",
        "- run: echo ${{ github.nonsense }}",
        "nonsense",
        True,
    ),
    (
        "workflows by zizmor",
        WORKFLOW,
        "    permissions:\n      contents: read\n",
        "    permissions: write-all\n",
        "permissions",
        False,
    ),
    (
        "workflows by zizmor",
        WORKFLOW,
        "- run: scripts/setup-runner",
        "- run: echo ${{ github.event.issue.title }}",
        "template",
        True,
    ),
    ("actions pinned, scripts there", WORKFLOW, CHECKOUT, "v7", "not pinned by its full commit", True),
    (
        "actions pinned, scripts there",
        WORKFLOW,
        CHECKOUT,
        CHECKOUT[:12],
        "not pinned by its full commit",
        True,
    ),
    (
        "actions pinned, scripts there",
        WORKFLOW,
        "persist-credentials: false",
        "fetch-depth: 1",
        "credentials",
        False,
    ),
    (
        "actions pinned, scripts there",
        WORKFLOW,
        "scripts/build-livecd",
        "scripts/build-livedc",
        "is not there",
        True,
    ),
    ("shell by ShellCheck", "scripts/announce", "key=${1:?", "rm $1\nkey=${1:?", "SC2086", True),
    (
        "TOML, JSON and YAML",
        "overlay/usr/lib/bootc/kargs.d/10-veilor.toml",
        "kargs = [",
        "kargs = [[",
        "is no TOML",
        False,
    ),
    (
        "TOML, JSON and YAML",
        "bluebuild/files/system/etc/brave/policies/managed/veilor.json",
        "true,",
        "yes,",
        "is no JSON",
        True,
    ),
    ("TOML, JSON and YAML", WORKFLOW, "permissions: {}", "permissions: {", "is no YML", False),
    (
        "references against product.toml",
        "scripts/announce",
        "set -euo",
        ": ghcr.io/veilor/veiler-os; set -euo",
        "veiler-os is not product.toml's; write ghcr.io/veilor/veilor-os",
        True,
    ),
    (
        "references against product.toml",
        "scripts/announce",
        "set -euo",
        ": ghcr.io/veilor/veilor-os:43; set -euo",
        "another tag",
        True,
    ),
    (
        "references against product.toml",
        "bluebuild/recipe.yml",
        "kinoite-main",
        "securecore-kinoite",
        "is not product.toml's",
        True,
    ),
    (
        "references against product.toml",
        "product.toml",
        "veilor/veilor-os/issues",
        "veilor/other/issues",
        "veilor/other",
        True,
    ),
    (
        "recipe against product.toml",
        "bluebuild/recipe.yml",
        f'version: "{FEDORA}"',
        'version: "39"',
        f'write image-version: "{FEDORA}"',
        True,
    ),
    (
        "recipe against product.toml",
        "bluebuild/recipe.yml",
        "name: veilor-os",
        "name: veilor",
        "name is 'veilor'",
        True,
    ),
    (
        "one Fedora version everywhere",
        "bluebuild/base.toml",
        f'tag = "{FEDORA}"',
        'tag = "39"',
        f'write "{FEDORA}", then run `veilor base pin`',
        True,
    ),
    (
        "one Fedora version everywhere",
        "kickstart/veilor-os.ks",
        f"repo=fedora-{FEDORA}&",
        "repo=fedora-39&",
        f"write fedora-{FEDORA}",
        True,
    ),
    (
        "what a release refuses",
        "bluebuild/base.toml",
        '"not pinned yet"\n',
        '"sha256:0"\n',
        "no digest",
        True,
    ),
    (
        "no mutable fallback from 1.0 on",
        "pyproject.toml",
        'version = "0.1.0"',
        'version = "1.0.0"',
        "no mutable fallback",
        False,
    ),
    (
        "one Fedora version everywhere",
        "kickstart/veilor-os.ks",
        f"released-f{FEDORA}",
        "released-f39",
        f"f39 is not product.toml's Fedora {FEDORA}; write f{FEDORA}",
        True,
    ),
    (
        "one Fedora version everywhere",
        "product.toml",
        f'compose = "{FEDORA}-',
        'compose = "39-',
        "the end of the name of the netinst",
        True,
    ),
    (
        "one Fedora version everywhere",
        "scripts/build-iso",
        '"$iso"',
        "build/iso/veilor-os-39.iso",
        f"write veilor-os-{FEDORA}",
        True,
    ),
    (
        "one Fedora version everywhere",
        "scripts/fetch-medium",
        "https://fedoraproject.org/fedora.gpg",
        "https://fedoraproject.org/releases/39/x",
        f"write releases/{FEDORA}",
        True,
    ),
    (
        "one Fedora version everywhere",
        "bluebuild/recipe.yml",
        "description: A hardened",
        "description: kinoite-main-hardened:39",
        f"write kinoite-main-hardened:{FEDORA}",
        True,
    ),
]


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "text", "at_line"),
    CASES,
    ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)],
)
def test_it_says_what_and_where(check, name, old, new, text, at_line, clone, tools, unspoilt):
    pair = [pair for pair in registry.CHECKS if pair[0] == check]
    before = unspoilt(check)
    if before.not_run:
        pytest.skip(f"NOT RUN: {before.not_run}")
    assert not before.wrong(release=False), "the unspoilt clone must pass"
    line = replace(clone, name, old, new)
    (result,) = registry.walk(clone, tools.run, pair)
    hits = [one for one in result.findings if one not in before.findings and text in one.text]
    assert hits, result.findings
    if at_line:
        assert (name, line) in {(one.path, one.line) for one in hits}
    elif check not in ("what the recipe names", "no mutable fallback from 1.0 on", "workflows by zizmor"):
        assert name in {one.path for one in hits}


@pytest.mark.parametrize("name", ["storage_unconfined_type", "set_curr_context"])
def test_what_only_lifts_a_prohibition_is_missed_too(name, clone, tools):
    pair = [pair for pair in registry.CHECKS if pair[0] == "SELinux modules by secilc"]
    replace(clone, "bluebuild/files/selinux/veilor_brave.cil", f"(typeattributeset {name} (brave_t))", "")
    (result,) = registry.walk(clone, tools.run, pair)
    if result.not_run:
        pytest.skip(f"NOT RUN: {result.not_run}")
    assert any("neverallow check failed" in one.text for one in result.findings)


def test_the_guard_lets_1_0_pass_once_the_fallback_is_gone(clone):
    replace(clone, "pyproject.toml", 'version = "0.1.0"', 'version = "1.0.0"')
    for name in names.MUTABLE:
        (clone / name).unlink(missing_ok=True)
    assert names.check_mutable_is_gone(clone, None) == []


def test_the_guard_finds_either_of_the_two(clone):
    replace(clone, "pyproject.toml", 'version = "0.1.0"', 'version = "1.2.0"')
    for name in names.MUTABLE:
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).touch()
    assert [one.path for one in names.check_mutable_is_gone(clone, None)] == list(names.MUTABLE)


def test_what_is_unfinished_is_named_and_only_a_release_fails(clone):
    (result,) = registry.walk(clone, None, [("what a release refuses", names.check_unfinished)])
    assert {one.path for one in result.findings} >= {
        "bluebuild/base.toml",
        "bluebuild/builders.toml",
        "bluebuild/keys/base.pub",
        "bluebuild/keys/veilor-image-a.pub",
    }
    assert all(isinstance(one, Notice) for one in result.findings)
    assert not result.wrong(release=False) and len(result.wrong(release=True)) == 10


def test_a_finished_clone_has_nothing_that_a_release_refuses(clone, tools):
    from veilor.build.sign import generate_keys

    builders = (clone / "bluebuild/builders.toml").read_text().count("[[image]]")
    for name in ("base.toml", *["builders.toml"] * builders):
        replace(clone, f"bluebuild/{name}", '"not pinned yet"\n', f'"sha256:{"0" * 64}"\n')
    product = load(clone / "product.toml")
    for name in [*product.image_keys, *product.channel_keys, "base.pub"]:
        _, public = generate_keys(clone.parent / name, tools.run)
        shutil.copyfile(public, clone / "bluebuild/keys" / name)
    assert names.check_unfinished(clone, None) == []


def test_a_policy_that_skopeo_or_we_refuse_is_found(clone, tools, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "veilor.core.policy.render", lambda product: '{"default": [{"type": "no such type"}]}'
    )
    texts = [one.text for one in containers.check_policy(clone, tools.run)]
    assert any("skopeo does not take" in text for text in texts) and any(
        "our repositories" in text for text in texts
    )


@pytest.mark.parametrize("text", ["docker:\n  ghcr.io/veilor/veilor-os: {}\n", "docker: [", "other: 1\n"])
def test_a_lookaside_that_hides_signatures_is_found(text):
    assert containers.judge_lookaside(text, ["ghcr.io/veilor/veilor-os"])


@pytest.mark.parametrize(
    ("check", "name"),
    [
        (workflows.check_actionlint, "actionlint"),
        (workflows.check_zizmor, "zizmor"),
        (recipe.check_bluebuild, "bluebuild"),
    ],
)
def test_without_its_program_a_check_is_not_run(check, name, clone, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(CannotRun, match=name):
        check(clone, None)


def test_without_the_schemas_the_recipe_is_not_run(clone, monkeypatch, tmp_path):
    monkeypatch.setattr(recipe, "SCHEMAS", tmp_path / "none")
    with pytest.raises(CannotRun, match="make checkers"):
        recipe.check_schema(clone, None)


def test_a_crate_with_another_content_is_not_unpacked(tmp_path):
    with pytest.raises(ValueError, match="is not the file it was"):
        programs.unpack_schemas(b"something else", tmp_path / "schemas")
    assert not (tmp_path / "schemas").exists()
