"""What makes a recorded result stale: what its claim rests on, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from veilor.build import docs
from veilor.build.check.finding import Finding, Remark
from veilor.build.check.registry import Result
from veilor.build.check.threats import check_results
from veilor.build.errors import BuildError
from veilor.build.threats import code, controls, proof, results, results_page, rules
from veilor.build.threats.controls import Control
from veilor.build.threats.model import load_model
from veilor.lab.world import World

sys.path.insert(0, str(Path(__file__).parent))
from box import MODEL, ROOT

SYSCTL = "overlay/usr/lib/sysctl.d/60-veilor.conf"
KARGS = "overlay/usr/lib/bootc/kargs.d/10-veilor.toml"
UPDATE, STATEMENT = "src/veilor/device/update.py", "src/veilor/core/statement.py"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What proofs are made of, to be changed and put back."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("threats", "overlay", "scenarios", "kickstart", "src/veilor", "bluebuild"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(ROOT / "product.toml", folder / "product.toml")
    return folder


def proofs(folder: Path) -> dict[str, str]:
    """The proof of every result of the model in FOLDER."""
    model, found = load_model(folder), {}
    for claim in model.claims:
        for run in results.runs(claim):
            name = f"{claim.id} {run.layer} {run.phase}"
            found[name] = proof.proof_of(folder, model, claim, run.layer, run.phase)
    return found


@pytest.fixture(scope="module")
def honest(sources):
    return proofs(sources)


@pytest.fixture
def moved(sources, honest):
    """A function that changes a file and says which results that makes stale."""
    kept = {}

    def change(path: str, old: str, new: str, count: int = 1) -> set[str]:
        file = sources / path
        text = kept.setdefault(file, file.read_text())
        assert old in text, f"{path} has no {old}"
        file.write_text(text.replace(old, new, count))
        now = proofs(sources)
        file.write_text(text)
        return {name for name in honest if honest[name] != now[name]}

    yield change
    for file, text in kept.items():
        file.write_text(text)


def claims_of(names: set[str]) -> set[str]:
    return {name.split()[0] for name in names}


def named_by(control: str) -> set[str]:
    return {claim.id for claim in MODEL.claims if control in claim.controls}


@pytest.mark.parametrize(
    ("path", "key", "old", "new"),
    [
        (SYSCTL, "kernel.yama.ptrace_scope", "kernel.yama.ptrace_scope = 2", "kernel.yama.ptrace_scope = 1"),
        (SYSCTL, "fs.protected_fifos", "fs.protected_fifos = 2\n", ""),
        (KARGS, "rd.shell", '"rd.shell=0"', '"rd.shell=1"'),
        (KARGS, "slab_nomerge", '"slab_nomerge",', ""),
        ("overlay/etc/chrony.conf", "minsources", "minsources 3", "minsources 1"),
        ("overlay/etc/chrony.conf", "port", "\nport 0", "\nport 123"),
        ("overlay/usr/lib/modprobe.d/veilor.conf", "sctp", "install sctp /usr/bin/false", "# sctp"),
        (
            "overlay/usr/lib/systemd/system-preset/10-veilor.preset",
            "auditd",
            "enable auditd",
            "disable auditd",
        ),
        (
            "overlay/usr/lib/systemd/zram-generator.conf.d/10-veilor.conf",
            "zram0.zram-size",
            "zram-size = min(ram, 16384)",
            "zram-size = ram",
        ),
        ("product.toml", "image.channel", "veilor/veilor-os-channel", "veilor/other-channel"),
    ],
)
def test_a_changed_setting_makes_the_results_of_its_own_claims_stale_and_no_others(
    moved, path, key, old, new
):
    names = named_by(f"{path}#{key}")
    assert names, "the negative control of this test: some claim names the key"
    stale = moved(path, old, new)
    assert claims_of(stale) == names
    every = {name for name in proofs_names() if name.split()[0] in names}
    assert stale == every, "at each layer"


def proofs_names() -> set[str]:
    return {f"{claim.id} {run.layer} {run.phase}" for claim in MODEL.claims for run in results.runs(claim)}


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (SYSCTL, "vm.swappiness = 180", "vm.swappiness = 60"),
        (SYSCTL, "# -- stated again --", "# -- another comment --"),
        (SYSCTL, "kernel.sysrq = 0", "kernel.sysrq=0"),
        (KARGS, "# A kernel that panics", "# A kernel which panics"),
        ("overlay/etc/chrony.conf", "rtcsync", "rtcsync\nlog tracking"),
        ("product.toml", 'pretty_name = "', 'pretty_name = "x'),
        ("kickstart/snippets/require_luks.py", '"""Lets', '"""It lets'),
    ],
)
def test_a_setting_that_no_claim_names_and_a_comment_make_nothing_stale(moved, path, old, new):
    assert moved(path, old, new) == set()


def rests_on(path: str, function: str) -> set[str]:
    """The claims that name a function of the module at PATH which reaches FUNCTION."""
    module, found = code.read_module((ROOT / path).read_text()), set()
    wanted = set(module.parts[function])
    for claim in MODEL.claims:
        for control in rules.own_controls(claim):
            if control.path == path and wanted <= set(module.reached([control.key])):
                found.add(claim.id)
    return found


def test_an_edited_function_makes_stale_what_rests_on_it_alone(moved):
    assert rests_on(UPDATE, "compare") == {"supply.no-older"}
    stale = moved(
        UPDATE,
        "    staged = host.staged\n    if staged is None:",
        "    staged = None\n    if staged is None:",
    )
    assert claims_of(stale) == {"supply.no-older"}
    assert rests_on(UPDATE, "too_early") == set()
    assert (
        moved(UPDATE, "def too_early() -> str | None:\n", "def too_early() -> str | None:\n    return None\n")
        == set()
    )
    assert rests_on(STATEMENT, "check_sequence") == {"supply.no-older", "time.update-path"}
    assert claims_of(moved(STATEMENT, "statement.place < floor", "statement.place <= floor")) == {
        "supply.no-older",
        "time.update-path",
    }
    assert claims_of(moved(STATEMENT, "statement.tag == tag", "statement.tag != tag")) == {"supply.no-older"}


def test_layout_comments_and_docstrings_make_nothing_stale(moved):
    text = (ROOT / UPDATE).read_text()
    body = re.search(r"def compare\(.*?\n\n\n", text, re.S)[0]
    assert (
        moved(
            UPDATE,
            body,
            body.replace("host, facts", "host,  facts").replace(
                "    staged = ", "    # why\n    staged = ", 1
            ),
        )
        == set()
    )
    assert moved(UPDATE, '"""HOST, if what', '"""The HOST, if what') == set()
    assert moved(UPDATE, body, body.replace("host.staged", "host.booted", 1)) != set()


def test_a_phase_rests_on_the_tries_that_it_makes_and_the_doctor_on_its_own_checks(moved):
    stale = moved("scenarios/guest/tries.py", 'open("/proc/kallsyms")', 'open("/proc/kallsym")')
    assert {name.split()[2] for name in stale} == {
        next(
            trial.run
            for claim in MODEL.claims
            if claim.id == "local.kernel-addresses"
            for trial in claim.attack
        )
    }
    assert moved("scenarios/guest/tries.py", '"""What an attacker', '"""What the attacker') == set()
    stale = moved("src/veilor/device/doctor/kernel.py", '"/proc/sys/"', '"/proc/sys//"')
    assert stale and all("boot" in name for name in stale)
    assert claims_of(stale) == {
        claim.id for claim in MODEL.claims if any(check.kind == "sysctl" for check in claim.boot)
    }


def test_the_lab_runs_a_try_by_the_name_that_proofs_look_for():
    assert callable(getattr(World, proof.RUN_TRY)) and (ROOT / "scenarios/guest" / proof.TRIES).is_file()


def test_a_kind_that_the_doctor_does_not_have_is_named(sources):
    with pytest.raises(BuildError, match="has no nonsense"):
        proof.doctor_code(sources, {"nonsense"})


@pytest.mark.parametrize(
    ("path", "key", "others"),
    [
        (SYSCTL, "kernel.yama.ptrace_scope", "local.links"),
        (UPDATE, "stage", ""),
        (STATEMENT, "parse", "time.update-path"),
    ],
)
def test_a_whole_file_of_settings_that_claims_share_is_refused(sources, path, key, others):
    """One claim alone may name a whole file; with another beside it, each names its own key."""
    file = next(
        file for file in sorted((sources / "threats").glob("*.toml")) if f'"{path}#{key}"' in file.read_text()
    )
    text = file.read_text()
    file.write_text(text.replace(f'"{path}#{key}"', f'"{path}"', 1))
    found = [one for one in rules.controls(sources, load_model(sources)) if "name the key" in one]
    file.write_text(text)
    assert bool(found) == bool(others) and all(others in one and f"{path}#key" in one for one in found), found


def test_a_key_that_a_file_does_not_have_is_no_control(sources):
    for path, key in (
        (SYSCTL, "kernel.nonsense"),
        (KARGS, "rd"),
        (UPDATE, "nonsense"),
        ("product.toml", "image.x"),
    ):
        assert controls.content(sources, Control(path, key)) is None
    assert controls.content(sources, Control(SYSCTL, "kernel.sysrq")) == "kernel.sysrq=0"
    assert controls.content(sources, Control(KARGS, "iommu")) == "iommu=force"
    unit = Control("overlay/usr/lib/systemd/system/veilor-update-stage.timer", "Timer.OnCalendar")
    assert controls.content(sources, unit) == "OnCalendar=*:0/20"
    whole = controls.content(sources, Control(unit.path, "[Timer]"))
    assert "OnCalendar=*:0/20" in whole and "Description" not in whole
    link = Control("overlay/etc/systemd/system/sshd.service")
    assert controls.content(sources, link) == "link to /dev/null"


def test_what_cannot_be_read_as_what_it_is_is_named(tmp_path):
    (tmp_path / "a.py").write_text("def (")
    with pytest.raises(BuildError, match="a.py, a control of the threat model, cannot be read"):
        controls.content(tmp_path, Control("a.py", "f"))


def test_the_page_of_results_is_made_of_what_is_recorded_and_says_what_writes_it_anew(tmp_path):
    """An edited control changes no page and fails no test; `veilor threats --matrix` says what is stale."""
    for folder in ("threats", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("product.toml", docs.STAND_INS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    results_page.write_results_page(tmp_path)
    assert (tmp_path / results_page.PAGE).read_text() == (ROOT / results_page.PAGE).read_text()
    kept = results.load_results(tmp_path)
    results.save_results(tmp_path, kept)
    assert (tmp_path / results.RESULTS).read_text() == (ROOT / results.RESULTS).read_text(), (
        "in one form alone"
    )
    results.save_results(tmp_path, kept[1:])
    found = {page.path: page.advice for page in docs.stale_pages(tmp_path)}
    assert (
        found[results_page.PAGE]
        == f"{results_page.PAGE} is out of date: run `veilor threats --record` and commit it"
    )
    results_page.write_results_page(tmp_path)
    assert results_page.PAGE not in {page.path for page in docs.stale_pages(tmp_path)}


def test_a_stale_result_is_a_remark_of_veilor_check_and_fails_nothing(sources, moved):
    shown = [one for one in results.load_results(sources) if one.verdict]
    model = load_model(sources)
    here = [
        replace(one, proof=proof.proof_of(sources, model, claim, one.layer, one.run))
        for one in shown
        for claim in model.claims
        if claim.id == one.claim
    ]
    results.save_results(sources, here)
    assert check_results(sources, None) == []
    results.save_results(
        sources, [replace(one, proof="other") if one.claim == "local.ptrace" else one for one in here]
    )
    (said,) = check_results(sources, None)
    assert isinstance(said, Remark) and "local.ptrace" in said.text and "veilor threats --matrix" in said.text
    for release in (False, True):
        assert Result("x", [said]).wrong(release) == []
    assert Result("x", [Finding("a", 0, "b"), said]).wrong(False) != [], "its negative control"


def test_a_result_keeps_its_form_and_leaves_out_what_it_does_not_know():
    (one, *_) = [row for row in results.load_results(ROOT) if row.fails]
    data = json.loads(json.dumps(one.to_dict()))
    assert results.Result.from_dict({**data, "unknown": 1}) == one
    for key, value in (("claim", 1), ("passed", [1]), ("fails", {}), ("not_run", [1]), ("proof", None)):
        with pytest.raises((LookupError, TypeError, ValueError)):
            results.Result.from_dict({**data, key: value})
