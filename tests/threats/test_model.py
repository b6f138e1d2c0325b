"""The threat model keeps its own rules, its checks can fail, its page says what its source says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from veilor.build.check.threats import check_threats
from veilor.build.errors import BuildError
from veilor.build.threats import code, command, image, page, results, results_page, rules
from veilor.build.threats.kinds.registry import Kind
from veilor.build.threats.model import Axis, Cell, ImageCheck, Model, Trial, load_model, render_claims
from veilor.core import claims
from veilor.lab.cache import hash_tree
from veilor.lab.sabotage import SABOTAGES

ROOT = Path(__file__).resolve().parents[2]
MODEL = load_model(ROOT)


def test_the_model_keeps_its_rules():
    assert rules.problems(ROOT, MODEL, SABOTAGES, date(2100, 1, 1)) == []


def test_nine_adversaries_are_in_scope_and_nine_out_each_with_a_better_tool():
    assert [sum(one.scope == scope for one in MODEL.adversaries) for scope in ("in", "out")] == [9, 9]
    assert all(one.tool and one.because for one in MODEL.adversaries if one.scope == "out")


@pytest.fixture(scope="module")
def subject():
    with image.staged(ROOT) as made:
        yield made


def test_the_staged_tree_keeps_every_image_check_and_each_check_fails_without_its_control(subject):
    tried, blind = image.mutate(MODEL, subject)
    assert blind == []
    assert {check.id for claim in MODEL.claims for check in claim.image if not check.built} <= {
        one.rsplit(": ", 1)[0] for one in tried
    }


def test_a_spoilt_copy_is_made_whole_again(subject, tmp_path):
    copy = image.Copy(subject, tmp_path)
    whole = hash_tree(tmp_path)
    path = tmp_path / "tree/usr/lib/sysctl.d/60-veilor.conf"
    link = next(one for one in (tmp_path / "tree/etc").rglob("*") if one.is_symlink())

    def another_target():
        link.unlink()
        link.symlink_to("/dev/zero")

    for spoil in (
        lambda: path.write_bytes(bytes(path.stat().st_size)),
        lambda: path.write_bytes(bytes(path.stat().st_size)),  # at once again, and as long as before
        lambda: path.chmod(0o600),
        another_target,
        link.unlink,
        path.unlink,
        lambda: path.with_name("other").touch(),
    ):
        spoil()
        assert hash_tree(tmp_path) != whole
        copy.restore()
        assert hash_tree(tmp_path) == whole


def changed(name: str, **fields) -> Model:
    """MODEL with other FIELDS in the claim NAME."""
    return replace(
        MODEL,
        adversaries=tuple(
            replace(
                adversary,
                claims=tuple(
                    replace(claim, **fields) if claim.id == name else claim for claim in adversary.claims
                ),
            )
            for adversary in MODEL.adversaries
        ),
    )


def test_a_blind_check_and_a_control_that_no_check_sees_are_found(subject, monkeypatch):
    only = [one for one in MODEL.adversaries if one.id == "local"]
    blind = replace(
        changed("local.ptrace", image=(), controls=("overlay/usr/lib/sysctl.d/60-veilor.conf",)), costs=()
    )
    blind = replace(blind, adversaries=tuple(one for one in blind.adversaries if one.id == only[0].id))
    assert image.mutate(blind, subject)[1] == [
        "local.ptrace: without overlay/usr/lib/sysctl.d/60-veilor.conf"
    ]
    lying = changed(
        "local.ptrace", image=(ImageCheck("x", "sysctl", {"key": "kernel.yama.ptrace_scope", "want": "1"}),)
    )
    with pytest.raises(BuildError, match="does not keep its claims"):
        image.mutate(lying, subject)
    monkeypatch.setitem(image.KINDS, "sysctl", Kind(lambda *_, **__: None, image.KINDS["sysctl"].mutations))
    assert len(image.mutate(blind, subject)[1]) > 10, (
        "a check that never reports a problem is found by each of its mutations"
    )


APP = "usr/lib/veilor/app/"


@pytest.mark.parametrize("name", [name for name, one in SABOTAGES.items() if one.tree])
def test_a_sabotage_of_the_rehearsal_is_seen_in_the_image_too_unless_it_is_in_our_code(
    subject, name, tmp_path
):
    """What a rehearsal notices on a machine, the image's checks notice before one is booted; code alone needs
    the machine.
    """
    shutil.copytree(subject.tree, tmp_path / "tree", symlinks=True)
    spoilt = replace(subject, tree=tmp_path / "tree")
    SABOTAGES[name].tree(spoilt.tree)
    in_code = any(
        path.is_file() and path.read_bytes() != (subject.tree / path.relative_to(spoilt.tree)).read_bytes()
        for path in (spoilt.tree / APP).rglob("*.py")
    )
    assert any(image.image_problems(MODEL, spoilt).values()) != in_code


def test_veilor_check_names_what_breaks_the_model(clone):
    assert check_threats(clone, None) == []
    (clone / "overlay/etc/systemd/system/rpm-ostreed-automatic.timer").unlink()
    found = [one.text for one in check_threats(clone, None)]
    assert any("does not exist" in one for one in found) and any(
        "does not lead to /dev/null" in one for one in found
    )


LOOK = claims.Check("x", "sysctl", {"key": "a.b", "want": "1"}, "mend")
BROKEN = [
    ({"image": ()}, "no check at the layer image"),
    ({"boot": ()}, "no check at the layer boot"),
    ({"attack": ()}, "no check at the layer attack"),
    ({"attack": (Trial("attacks:nonsense", "phase"),)}, "there is no phase attacks:nonsense"),
    ({"attack": (Trial("life:update-attacks", "sabotage nonsense"),)}, "no sabotage nonsense"),
    ({"controls": ("overlay/etc/nonsense",)}, "overlay/etc/nonsense does not exist"),
    ({"controls": ("overlay/usr/lib/sysctl.d/60-veilor.conf#nonsense",)}, "does not say nonsense"),
    ({"controls": ("base:nonsense",)}, "names no base:nonsense"),
    ({"controls": ()}, "names no control"),
    ({"controls": ("base:selinux-ptrace",)}, "add FILE#kernel.yama.ptrace_scope"),
    ({"id": "usb.dma"}, "two claims have this id"),
    ({"id": "other.ptrace"}, "another adversary"),
    ({"boot": (LOOK, LOOK)}, "two checks of one layer"),
    ({"image": (ImageCheck("x", "nonsense", {}),)}, "there is no kind nonsense"),
    ({"image": (ImageCheck("x", "sysctl", {"nonsense": 1}),)}, "x: "),
    ({"image": (ImageCheck("x", "lines", {"path": "a", "has": []}),)}, None),
    ({"date": date(2200, 1, 1)}, "has not come yet"),
]


@pytest.mark.parametrize(("fields", "said"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_a_broken_claim_is_named(fields, said):
    found = rules.problems(ROOT, changed("local.ptrace", **fields), SABOTAGES, date(2100, 1, 1))
    assert found and (said is None or any(said in one for one in found)), found


@pytest.fixture
def clone(tmp_path):
    """What the rules read of the repository, to be changed."""
    for name in ("threats", "overlay", "scenarios", "kickstart", "src/veilor", "bluebuild", "artwork"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(ROOT / "product.toml", tmp_path / "product.toml")
    return tmp_path


def test_what_lies_in_the_overlay_is_named_by_a_claim_or_excused(clone):
    assert rules.problems(clone, load_model(clone), SABOTAGES) == []
    (clone / "overlay/etc/new.conf").write_text("x")
    with (clone / "overlay/usr/lib/sysctl.d/60-veilor.conf").open("a") as file:
        file.write("kernel.new = 1\n")
    kargs = clone / "overlay/usr/lib/bootc/kargs.d/10-veilor.toml"
    kargs.write_text(kargs.read_text().replace("kargs = [", 'kargs = ["new=1",'))
    (clone / "overlay/usr/lib/tmpfiles.d/veilor.conf").unlink()
    found = rules.problems(clone, load_model(clone), SABOTAGES)
    assert [one.split(":")[0] + one[one.index(":") :][:18] for one in found] and len(found) == 4
    for said in (
        "overlay/etc/new.conf: no claim",
        "#kernel.new: no claim",
        "#new=1: no claim",
        "tmpfiles.d/veilor.conf excuses nothing",
    ):
        assert any(said in one for one in found), (said, found)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("etc/chrony.conf", "allow all"),
        ("etc/firewalld/firewalld.conf", "CleanupOnExit=no"),
        ("etc/ssh/sshd_config.d/10-veilor.conf", "PermitTTY no"),
        ("usr/share/veilor/usbguard/usbguard-daemon.conf", "IPCAllowedGroups=wheel"),
        ("usr/share/veilor/usbguard/50-veilor.conf", "allow"),
        ("etc/audit/rules.d/30-veilor.rules", "-a never,exit -F dir=/etc"),
        ("usr/lib/modprobe.d/veilor.conf", "install x /bin/true"),
        ("usr/lib/systemd/system-preset/10-veilor.preset", "disable x.service"),
        ("usr/lib/systemd/system/usbguard.service.d/10-veilor.conf", "ExecStart="),
    ],
)
def test_a_new_line_in_a_file_of_settings_needs_a_claim_or_a_reason(clone, name, line):
    with (clone / "overlay" / name).open("a") as file:
        file.write(line + "\n")
    assert rules.problems(clone, load_model(clone), SABOTAGES) == [
        f"overlay/{name}#{line}: no claim names it, and threats/excused.toml gives no reason"
    ]


def test_a_line_that_is_claimed_in_one_file_is_not_claimed_in_another(clone):
    with (clone / "overlay/etc/firewalld/firewalld.conf").open("a") as file:
        file.write("port 0\n")
    assert len(rules.problems(clone, load_model(clone), SABOTAGES)) == 1


def test_a_claim_whose_try_was_never_written_is_found(clone):
    claim = next(
        one for one in load_model(clone).claims for trial in one.attack if trial.negative_control == "phase"
    )
    for scenario in (clone / "scenarios").glob("*.py"):
        scenario.write_text(scenario.read_text().replace(claim.id, "local.something-else"))
    found = rules.problems(clone, load_model(clone), SABOTAGES)
    assert any(one.startswith(f"{claim.id}: ") and "write the try" in one for one in found)


def test_a_phase_of_the_attacks_that_no_claim_names_is_found(clone):
    with (clone / "scenarios/attacks.py").open("a") as file:
        file.write('\n\n@phase("new", "New")\ndef new(world, checks):\n    pass\n')
    assert rules.problems(clone, load_model(clone), SABOTAGES) == [
        "attacks:new: this phase checks something that no claim says"
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('state = "enforced"', 'state = "perhaps"', "is not one of"),
        ("order = 3", 'order = "three"', "order"),
        ('id = "usb"\n', "", "'id' is a required"),
        ('state = "residual"', 'state = "opt-in"', "'how' is a required"),
        ("[[claim]]", "[[claim", "cannot be used"),
    ],
)
def test_a_file_that_breaks_the_schema_is_named_with_the_place(clone, old, new, said):
    path = clone / "threats/usb.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BuildError, match="usb.toml") as error:
        load_model(clone)
    assert said in str(error.value) and "\n" not in str(error.value)[:200]


def report(clone: Path, **changes) -> Path:
    """A rehearsal's report in which some phases have checks of their claims."""

    def check(title, verdict="PASS", detail=""):
        return {"title": title, "verdict": verdict, "detail": detail}

    data = {
        "scenario": "attacks",
        "sabotage": None,
        "noticed": None,
        "started": "2099-01-01T20:00:00Z",
        "base": "x",
        "stand_ins": ["base-system"],
        "source": results.snapshot(clone),
    }
    data |= {
        "phases": [
            {
                "name": "processes",
                "verdict": "PASS",
                "carried": "",
                "checks": [check("local.ptrace: one"), check("local.ptrace negative control: one")],
            },
            {
                "name": "rights",
                "verdict": "OS_FAULT",
                "carried": "",
                "checks": [
                    check("local.links: one"),
                    check("local.links: two", "OS_FAULT"),
                    check("local.links negative control: one"),
                    check("local.userns: one", "NOT_RUN", "no SELinux"),
                ],
            },
            {
                "name": "kernel-modules",
                "verdict": "NOT_RUN",
                "carried": "",
                "checks": [
                    check("local.modules: one"),
                    check("local.modules: two", "NOT_RUN", "no module"),
                ],
            },
            {
                "name": "doctor",
                "verdict": "PASS",
                "carried": "",
                "checks": [check("local.ptrace: the doctor sees it")],
            },
        ],
        **changes,
    }
    path = clone / "report.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def cell(clone):
    by_id = {claim.id: claim for claim in MODEL.claims}
    return lambda name, layer: results.cell(
        clone, load_model(clone), results.load_results(clone), by_id[name], layer
    )


@pytest.fixture
def clean(clone):
    (clone / results.RESULTS).unlink(missing_ok=True)
    return clone


def test_a_report_is_taken_in_by_claims_and_goes_stale_with_its_controls_and_checks(clean, cell):
    results.record(clean, load_model(clean), report(clean))
    assert cell("local.ptrace", "attack") == "PASS, negative control (stand-in, 2099-01-01)"
    assert cell("local.ptrace", "boot") == "PASS, no negative control (stand-in, 2099-01-01)"
    assert cell("local.links", "attack") == "OS_FAULT (2099-01-01)"
    assert cell("local.userns", "attack") == "NOT_RUN (2099-01-01)"
    assert cell("local.modules", "attack") == "NOT_RUN in part: 1 of 2 PASS (stand-in, 2099-01-01)"
    assert cell("local.kernel-addresses", "attack") == "NOT_RUN (2099-01-01)", (
        "a phase that has no check of a claim shows nothing of it"
    )
    assert cell("laptop.encrypted", "attack") == "NOT_RUN" and cell("laptop.asleep", "attack") == ""
    assert "no module" in results_page.results_page(clean)
    results.record(clean, MODEL, report(clean))
    assert len({json.dumps(one.to_dict()) for one in results.load_results(clean)}) == len(
        results.load_results(clean)
    )
    left_out = [
        {"name": name, "verdict": "NOT_RUN", "carried": "", "checks": []} for name in ("processes", "doctor")
    ]
    results.record(clean, MODEL, report(clean, phases=left_out))
    assert cell("local.ptrace", "attack") == "PASS, negative control (stand-in, 2099-01-01)", (
        "a phase left out takes nothing away"
    )
    for path, layer, old, new in (
        ("overlay/usr/lib/sysctl.d/60-veilor.conf", "attack", "ptrace_scope = 2", "ptrace_scope = 3"),
        ("scenarios/guest/tries.py", "attack", "start_new_session=True", "start_new_session=False"),
        ("src/veilor/device/doctor/kernel.py", "boot", '"/proc/sys/"', '"/proc/sys//"'),
    ):
        before = (clean / path).read_text()
        assert old in before
        (clean / path).write_text(before.replace(old, new))
        assert cell("local.ptrace", layer) == "NOT_RUN (stale: PASS on 2099-01-01)", path
        (clean / path).write_text(before)
    stale = results.stale(clean, changed("local.modules", controls=()), results.load_results(clean))
    assert {one.claim for one in stale} == {"local.modules"}


def test_a_phase_stands_on_the_helpers_that_it_uses_and_on_no_others():
    text = (
        "A = 1\nB = 2\ndef near():\n    return far()\ndef far():\n    return A\n\n"
        '@phase("one", "t")\ndef one(world, checks):\n    near()\n\n@phase("two", "t")\ndef two(world, '
        "checks):\n    B\n"
    )

    def phases_in(text):
        module = code.read_module(text)
        return {phase: module.code([name]) for phase, name in module.phases.items()}

    before = phases_in(text)
    assert set(before) == {"one", "two"}
    for old, new, moved in (
        ("A = 1", "A = 3", {"one"}),
        ("B = 2", "B = 3", {"two"}),
        ("return far()", "return far() + 1", {"one"}),
        ("return far()", "return  far()  # a comment", set()),
    ):
        after = phases_in(text.replace(old, new))
        assert {name for name in before if before[name] != after[name]} == moved


def test_a_sabotaged_run_shows_only_that_a_check_can_fail(clean, cell):
    phase = {"name": "bad-update", "verdict": "PASS", "carried": "", "checks": []}
    results.record(clean, MODEL, report(clean, scenario="life", phases=[phase]))
    assert cell("supply.bad-release", "attack") == "PASS, no negative control (stand-in, 2099-01-01)"
    spoilt = {"scenario": "life", "sabotage": "health-check-missing", "noticed": True}
    results.record(clean, MODEL, report(clean, **spoilt))
    assert cell("supply.bad-release", "attack") == "PASS, negative control (stand-in, 2099-01-01)"
    results.record(clean, MODEL, report(clean, **spoilt | {"noticed": False}))
    assert cell("supply.bad-release", "attack") == "PASS, no negative control (stand-in, 2099-01-01)"
    assert cell("local.ptrace", "attack") == "NOT_RUN", "nothing but the claims that name the sabotage"


def test_a_damaged_or_unfinished_report_or_one_of_changed_sources_is_not_taken(clean):
    odd = {
        "name": "processes",
        "verdict": "PASS",
        "carried": "",
        "checks": [{"title": "local.ptrace: one", "verdict": "FINE"}],
    }
    bare = {"name": "processes", "checks": []}
    for changes in (
        {"phases": [{}]},
        {"phases": [bare]},
        {"phases": [odd]},
        {"started": 7},
        {"source": {}},
        {"source": None},
        {"sabotage": "health-check-missing"},
    ):
        with pytest.raises(BuildError):
            results.record(clean, MODEL, report(clean, **changes))
    with pytest.raises(BuildError):
        results.record(clean, MODEL, clean / "missing.json")
    assert not (clean / results.RESULTS).exists()


def test_a_result_that_no_claim_names_any_more_goes_at_the_next_record(clean):
    results.record(clean, MODEL, report(clean))
    path = clean / results.RESULTS
    data = json.loads(path.read_text())
    before = len(data["results"])
    data["results"].append({**data["results"][0], "run": "attacks:gone"})
    path.write_text(json.dumps(data))
    results.record(clean, MODEL, report(clean))
    assert len(results.load_results(clean)) == before


@pytest.mark.parametrize(
    "text", ["[]", '{"results": 1}', '{"results": [1]}', '{"results": [{"claim": "local.ptrace"}]}']
)
def test_results_of_another_form_are_named(clean, text):
    (clean / results.RESULTS).write_text(text)
    with pytest.raises(BuildError, match="results.json cannot be used .*record anew"):
        results.load_results(clean)


def test_a_scenario_that_cannot_be_read_is_named(clean):
    (clean / "scenarios/broken.py").write_text("def (")
    with pytest.raises(BuildError, match="broken.py is no scenario that can be read"):
        results.snapshot(clean)


def unfounded(model: Model):
    """Sources of the comparison that name nothing: of our own cells a claim, a path or a command; of others'
    no list of search hits.
    """
    ids, ours = {claim.id for claim in model.claims}, {one.id for one in model.adversaries}
    for axis in model.compared.axes:
        for system, cell in axis.cells.items():
            for part in cell.source.split(", ") if system == "veilor-os" else [cell.source]:
                known = (
                    part in ids
                    or part.startswith(("make ", "veilor ", "github.com/"))
                    or (ROOT / part).exists()
                    and part not in ours
                )
                claim = part.split(".")[0] in ours
                if "/topics/" in part or (system == "veilor-os" or claim) and not known:
                    yield f"{axis.title}: {system}: {part}"


@pytest.mark.parametrize(
    ("system", "source"),
    [
        ("veilor-os", "laptop.gone"),
        ("veilor-os", "session"),
        ("veilor-os", "docs/GONE.md"),
        ("Kicksecure", "browser.gone"),
        ("Kicksecure", "github.com/topics/x"),
    ],
)
def test_a_source_that_names_nothing_is_found(system, source):
    axis = Axis("x", "", {system: Cell("so", source, date(2026, 1, 1))})
    found = unfounded(replace(MODEL, compared=replace(MODEL.compared, axes=(axis,))))
    assert list(found) == [f"x: {system}: {source}"]


def test_the_page_is_what_its_source_says_and_no_cell_of_the_comparison_is_without_source():
    assert (ROOT / page.PAGE).read_text() == page.page(ROOT)
    assert (ROOT / results_page.PAGE).read_text() == results_page.results_page(ROOT)
    for axis in MODEL.compared.axes:
        assert axis.best and axis.cells["veilor-os"]
        for system, cell in axis.cells.items():
            assert system in MODEL.compared.systems + MODEL.compared.tools
            assert cell.text and cell.source and isinstance(cell.when, date)
    assert list(unfounded(MODEL)) == []
    losing = [
        axis for axis in MODEL.compared.axes if "veilor-os" not in axis.best and "not known" not in axis.best
    ]
    assert len(losing) >= 5, "a comparison in which we win everywhere is an advertisement"


def test_what_is_stale_is_neither_shown_nor_wrong():
    shown, stale, wrong = (
        "PASS, negative control (stand-in, 2099-01-01)",
        "NOT_RUN (stale: OS_FAULT on 2099-01-01)",
        "LAB_FAULT (2099-01-01)",
    )
    assert command.count([shown, stale, wrong, f"{stale}, {wrong}", f"{stale}, {shown}"]) == (1, 2, 2)
    assert command.count([stale, "NOT_RUN (stale: LAB_FAULT on 2099-01-01)"]) == (0, 0, 0)


def test_what_comes_before_the_tables_is_read_in_twelve_minutes():
    words = len(page.page(ROOT).split("## Every claim")[0].split())
    assert words < 3000, (
        f"{words} words at 250 a minute: say the claims' `cost` in threats/*.toml, or the head of "
        "build/threats/page.py, in fewer"
    )


def test_the_shipped_claims_are_those_of_the_model():
    shipped = claims.parse(render_claims(MODEL))
    assert [(one.id, one.state, len(one.checks)) for one in shipped] == [
        (one.id, one.state, len(one.boot)) for one in MODEL.claims
    ]
