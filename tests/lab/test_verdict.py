"""Verdicts: which is worse, what the command ends with, and how checks become verdicts."""

import itertools
import json

import pytest

from veilor.lab.result import About, Host, PhaseResult, Run, Timing
from veilor.lab.verdict import (
    EXIT,
    Checks,
    LabFault,
    NotRun,
    OSFault,
    Verdict,
    phase_verdict,
    verdict_of,
    worst_verdict,
)

ORDER = [Verdict.PASS, Verdict.NOT_RUN, Verdict.LAB_FAULT, Verdict.OS_FAULT]


def a_run(*verdicts, **more):
    phases = [PhaseResult(f"p{number}", "title", verdict) for number, verdict in enumerate(verdicts)]
    return Run(
        "life", "A life", "", "2026-01-01T00:00:00Z", About("base", Host("tcg", "10", 2), []), phases, **more
    )


@pytest.mark.parametrize("one, other", list(itertools.product(range(4), repeat=2)))
def test_the_worst_verdict_wins_whatever_the_order(one, other):
    assert worst_verdict([ORDER[one], ORDER[other]]) is ORDER[max(one, other)]


def test_nothing_run_is_not_a_pass():
    assert worst_verdict([]) is Verdict.NOT_RUN
    assert a_run().exit_code == 4


@pytest.mark.parametrize("verdict", Verdict)
def test_only_pass_ends_with_0(verdict):
    assert (EXIT[verdict] == 0) == (verdict is Verdict.PASS)
    assert a_run(Verdict.PASS, verdict).exit_code == EXIT[verdict]


def test_exit_codes_are_the_documented_ones():
    assert [EXIT[verdict] for verdict in ORDER] == [0, 4, 3, 1]
    assert a_run(Verdict.PASS, interrupted=True).exit_code == 130


def test_a_fault_outside_of_the_phases_counts():
    assert a_run(Verdict.PASS, fault=Verdict.LAB_FAULT).verdict is Verdict.LAB_FAULT


def test_a_failing_check_is_the_products_fault_and_shows_both_values():
    checks = Checks()
    assert checks.equal("digest", "a", "a")
    with pytest.raises(OSFault, match="digest: got 'b', want 'a'"):
        checks.equal("digest", "b", "a")
    assert [check.ok for check in checks.done] == [True, False]
    assert checks.verdict() is Verdict.OS_FAULT


def test_true_takes_truth_not_identity():
    checks = Checks()
    assert checks.true("something", [0])
    with pytest.raises(OSFault, match="nothing: seen this"):
        checks.true("nothing", [], "seen this")


def test_a_check_may_go_on_and_still_fail_the_phase():
    checks = Checks()
    assert not checks.true("first", False, go_on=True)
    assert checks.true("second", True)
    assert phase_verdict(checks.done, None) == (Verdict.OS_FAULT, "first")


def test_a_check_of_the_lab_is_the_labs_fault():
    checks = Checks()
    with pytest.raises(LabFault):
        checks.lab("the registry answers", False)
    assert checks.verdict() is Verdict.LAB_FAULT


def test_what_could_not_be_looked_at_is_no_pass():
    checks = Checks()
    checks.true("this", True)
    checks.not_run("SELinux denied nothing", "the base has none")
    assert phase_verdict(checks.done, None) == (Verdict.NOT_RUN, "SELinux denied nothing: the base has none")


def test_a_phase_without_a_check_shows_nothing():
    assert phase_verdict([], None)[0] is Verdict.NOT_RUN


@pytest.mark.parametrize(
    "error, verdict",
    [
        (OSFault("x"), Verdict.OS_FAULT),
        (LabFault("x"), Verdict.LAB_FAULT),
        (NotRun("x"), Verdict.NOT_RUN),
        (KeyboardInterrupt(), Verdict.NOT_RUN),
        (ZeroDivisionError("x"), Verdict.LAB_FAULT),
        (OSError(28, "No space left on device"), Verdict.LAB_FAULT),
    ],
)
def test_each_end_has_its_verdict(error, verdict):
    assert verdict_of(error)[0] is verdict


def test_a_result_survives_json():
    checks = Checks()
    checks.true("seen", True, "this")
    result = PhaseResult("p", "t", Verdict.PASS, 1.5, 2, checks=checks.done)
    data = json.loads(
        json.dumps(
            a_run().as_dict() | {"phases": [vars(result) | {"checks": [vars(c) for c in checks.done]}]}
        )
    )
    assert PhaseResult.from_dict(data["phases"][0]) == result


def test_where_time_goes_adds_up():
    run = a_run(
        Verdict.PASS,
        seconds=100.0,
        timings=[Timing("boots", 30.0), Timing("boots", 20.0), Timing("shutdowns", 10.0)],
    )
    run.phases[0].seconds = 100.0
    run.about.set_up.append(Timing("tools tree", 7.0))
    rows = {(row.kind, row.what): (row.seconds, row.times) for row in run.where_time_goes()}
    assert rows == {
        ("set-up", "tools tree"): (7.0, 1),
        ("phase", "title"): (100.0, 1),
        ("work", "boots"): (50.0, 2),
        ("work", "shutdowns"): (10.0, 1),
        ("work", "everything else"): (40.0, 1),
    }
