"""The runner: order, checkpoints, second tries, --from, and an end on request, with a life that only takes
notes.
"""

import os
import signal
import textwrap
from pathlib import Path

import pytest

from veilor.lab.checkpoint import Checkpoints, NoCheckpoint
from veilor.lab.phases import failed_set_up, run_scenario
from veilor.lab.result import About, Host
from veilor.lab.scenario import checkpoint_keys, load_scenario
from veilor.lab.verdict import LabFault, UsageError, Verdict

PASS, NOT_RUN, LAB, OS = Verdict.PASS, Verdict.NOT_RUN, Verdict.LAB_FAULT, Verdict.OS_FAULT
HOST = Host("tcg", "10", 2)
HEAD = '''"""A short life."""
import os, signal
from veilor.lab.scenario import phase
from veilor.lab.verdict import LabFault, NotRun, OSFault
STORY = "A machine was born"
'''


class FakeWorld:
    """Remembers its state as a list of phases gone through; the store outlives it."""

    def __init__(self, store=None, plan=()):
        self.store = {} if store is None else store
        self.plan, self.did, self.state = dict(plan), [], []
        self.boots, self.screenshots, self.console_log, self.timings = 0, [], bytearray(), []
        self.stopped = 0

    def act(self, name):
        """Boot, say so, and do what the plan holds for this phase this time: an exception or nothing."""
        self.did.append(name)
        self.boots += 1
        self.console_log += f"boot for {name}\n".encode()
        self.state = [*self.state, name]
        todo = self.plan.get(name, [])
        if todo:
            event = todo.pop(0)
            if event:
                raise event

    def save_checkpoint(self, name, key):
        name = name.removeprefix("short.")
        self.store[name, key] = list(self.state)

    def restore_checkpoint(self, name, key):
        name = name.removeprefix("short.")
        self.did.append(f"restore {name}")
        if (name, key) not in self.store:
            raise NoCheckpoint(name)
        self.state = list(self.store[name, key])

    def reset(self):
        self.did.append("reset")
        self.state = []

    def stop(self):
        self.stopped += 1


def body(*names, **marks):
    """Source of phases that just act and check that the machine went through what it should have."""
    return HEAD + "".join(
        f'\n@phase("{name}", "Title of {name}"{marks.get(name, "")})\ndef {name}(world, checks):\n'
        f'    world.act("{name}")\n    checks.true("{name} looked", True, str(world.state))\n'
        for name in names
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "scenarios").mkdir()
    return tmp_path / "scenarios"


@pytest.fixture
def load(folder):
    def load(source):
        (folder / "short.py").write_text(textwrap.dedent(source))
        return load_scenario("short", folder)

    return load


@pytest.fixture
def go(tmp_path):
    def go(scenario, world, **more):
        about = About("base", HOST, [])
        more = {"inputs": {"base": "x"}, **more}
        return run_scenario(scenario, world, about=about, progress=Silent(), **more)

    return go


class Silent:
    def start(self, index, title): ...
    def done(self, index, result): ...
    def print_line(self, line): ...
    def close(self): ...


def verdicts(run):
    return [phase.verdict for phase in run.phases]


def test_phases_run_in_order_on_one_machine(load, go):
    world = FakeWorld()
    run = go(load(body("one", "two", "three")), world)
    assert world.did == ["one", "two", "three"]
    assert verdicts(run) == [PASS] * 3 and run.exit_code == 0
    assert [phase.boots for phase in run.phases] == [1, 1, 1]
    assert [phase.console for phase in run.phases] == ["boot for one\n", "boot for two\n", "boot for three\n"]
    assert [name for name, _ in world.store] == ["one", "two", "three"]
    assert world.stopped == 1 and run.story == "A machine was born" and run.title == "A short life"


def test_a_fault_of_the_product_is_not_tried_again_and_ends_the_order(load, go):
    world = FakeWorld()
    scenario = load(
        body("one", "two", "three").replace(
            'world.act("two")', 'world.act("two"); checks.equal("digest", 1, 2)'
        )
    )
    run = go(scenario, world)
    assert world.did == ["one", "two"]
    assert verdicts(run) == [PASS, OS, NOT_RUN] and run.exit_code == 1
    assert run.phases[1].reason == "digest: got 1, want 2" and "Title of two" in run.phases[2].reason
    assert [name for name, _ in world.store] == ["one"]


def test_a_check_that_went_on_saves_no_checkpoint(load, go):
    world = FakeWorld()
    scenario = load(
        body("one", "two").replace('world.act("one")', 'world.act("one"); checks.true("x", 0, go_on=True)')
    )
    run = go(scenario, world)
    assert verdicts(run) == [OS, NOT_RUN] and world.store == {} and world.did == ["one"]
    assert [check.ok for check in run.phases[0].checks] == [False, True]


def test_a_fault_of_the_lab_is_tried_once_more_from_the_checkpoint(load, go):
    world = FakeWorld(plan={"two": [LabFault("QEMU died")]})
    run = go(load(body("one", "two", "three")), world)
    assert world.did == ["one", "two", "restore one", "two", "three"]
    assert world.state == ["one", "two", "three"]
    assert run.verdict is PASS and run.phases[1].retried == "QEMU died" and run.phases[1].boots == 2
    assert len(run.phases[1].checks) == 1


def test_the_first_phase_is_tried_again_from_nothing(load, go):
    world = FakeWorld(plan={"one": [LabFault("QEMU died")]})
    assert go(load(body("one", "two")), world).verdict is PASS
    assert world.did == ["one", "reset", "one", "two"]


def test_the_lab_failing_twice_is_its_verdict(load, go):
    world = FakeWorld(plan={"two": [LabFault("first"), LabFault("second"), None]})
    run = go(load(body("one", "two", "three")), world)
    assert world.did.count("two") == 2
    assert verdicts(run) == [PASS, LAB, NOT_RUN] and run.exit_code == 3
    assert (run.phases[1].retried, run.phases[1].reason) == ("first", "second")


def test_a_mistake_in_our_code_is_the_labs_and_keeps_its_traceback(load, go):
    run = go(load(body("one")), FakeWorld(plan={"one": [KeyError("x"), KeyError("y")]}))
    assert run.verdict is LAB and "KeyError: 'y'" in run.phases[0].log and "KeyError" in run.phases[0].reason


def test_a_checkpoint_that_cannot_be_saved_is_the_labs_fault(load, go):
    world = FakeWorld()
    world.save_checkpoint = lambda name, key: (_ for _ in ()).throw(LabFault("disk full"))
    run = go(load(body("one", "two")), world)
    assert verdicts(run) == [LAB, NOT_RUN] and run.phases[0].reason == "disk full"


def test_a_phase_that_cannot_run_here_says_so(load, go):
    scenario = load(body("one", "two").replace('world.act("one")', 'raise NotRun("no Secure Boot here")'))
    run = go(scenario, FakeWorld())
    assert verdicts(run) == [NOT_RUN, NOT_RUN] and run.exit_code == 4
    assert run.phases[0].reason == "no Secure Boot here"


def test_a_check_that_cannot_be_made_lets_the_rest_go_on(load, go):
    scenario = load(body("one", "two").replace('world.act("one")', 'checks.not_run("SELinux", "none")'))
    run = go(scenario, FakeWorld())
    assert verdicts(run) == [NOT_RUN, PASS] and run.exit_code == 4


def test_a_phase_without_checks_is_no_pass(load, go):
    run = go(load(HEAD + '@phase("one", "t")\ndef one(world, checks):\n    pass\n'), FakeWorld())
    assert run.verdict is NOT_RUN


def test_independent_phases_run_after_a_fault_elsewhere(load, go):
    marks = {
        "three": ', starts_from="one", independent=True',
        "four": ', starts_from="two", independent=True',
    }
    world = FakeWorld()
    source = body("one", "two", "three", "four", **marks).replace(
        'world.act("two")', 'world.act("two"); checks.true("x", 0)'
    )
    run = go(load(source), world)
    assert verdicts(run) == [PASS, OS, PASS, NOT_RUN]
    assert world.did == ["one", "two", "restore one", "three"] and world.state == ["one", "three"]


def test_other_phases_do_not_run_after_a_fault_though_they_start_elsewhere(load, go):
    world = FakeWorld()
    source = body("one", "two", "three", three=', starts_from="one"').replace(
        'world.act("two")', 'checks.true("x", 0)'
    )
    assert verdicts(go(load(source), world)) == [PASS, OS, NOT_RUN] and world.did == ["one"]


def test_from_a_phase_carries_over_what_was_shown(load, go, tmp_path):
    scenario, store = load(body("one", "two", "three")), {}
    with_records = {"records": Checkpoints(tmp_path / "records", "short")}
    first = FakeWorld(store)
    picture = tmp_path / "p.png"
    picture.write_bytes(b"png")
    first.screenshots.append((picture, "before"))
    first.act = lambda name, act=first.act: (first.screenshots.append((picture, name)), act(name))
    assert go(scenario, first, **with_records).verdict is PASS
    picture.unlink()
    world = FakeWorld(store)
    run = go(scenario, world, start="three", **with_records)
    assert world.did == ["restore two", "three"] and world.state == ["one", "two", "three"]
    assert run.verdict is PASS
    assert [bool(phase.carried) for phase in run.phases] == [True, True, False]
    assert [phase.boots for phase in run.phases] == [0, 0, 1]
    assert run.phases[0].checks[0].title == "one looked"
    shot = run.phases[1].screenshots[0]
    assert shot.caption == "two" and Path(shot.path).read_bytes() == b"png"


def test_what_no_earlier_run_showed_is_not_passed(load, go):
    scenario, store = load(body("one", "two", "three")), {}
    go(scenario, FakeWorld(store))
    run = go(scenario, FakeWorld(store), start="three")
    assert verdicts(run) == [NOT_RUN, NOT_RUN, PASS] and run.exit_code == 4


def test_from_without_a_checkpoint_is_one_clear_line(load, go):
    world = FakeWorld()
    with pytest.raises(UsageError, match="can't start from two: no earlier run .* got through one"):
        go(load(body("one", "two")), world, start="two")
    assert world.stopped == 1


def test_from_an_unknown_phase_lists_them(load, go):
    with pytest.raises(UsageError, match="no phase tow; it has: one, two"):
        go(load(body("one", "two")), FakeWorld(), start="tow")


def test_other_inputs_have_no_checkpoint(load, go):
    scenario, store = load(body("one", "two")), {}
    go(scenario, FakeWorld(store))
    with pytest.raises(UsageError):
        go(scenario, FakeWorld(store), start="two", inputs={"base": "y"})


def test_keys_move_with_the_guest_programs_that_a_scenario_names(load, folder):
    (folder / "guest").mkdir()
    (folder / "guest/mine.py").write_text("1\n")
    source = body("one") + '\nTRIES = "guest/mine.py"\n'
    before = checkpoint_keys(load(source), {})
    (folder / "guest/other.py").write_text("2\n")
    assert checkpoint_keys(load(source), {}) == before
    (folder / "guest/mine.py").write_text("2\n")
    assert checkpoint_keys(load(source), {})["one"] != before["one"]


def test_keys_move_with_what_comes_before_and_with_helpers_only(load):
    source = body("one", "two", "three")
    before = checkpoint_keys(load(source), {})
    later = checkpoint_keys(load(source.replace("three looked", "three saw")), {})
    assert [before[name] == later[name] for name in before] == [True, True, False]
    earlier = checkpoint_keys(load(source.replace("one looked", "one saw")), {})
    helper = checkpoint_keys(load(source + "\ndef helper():\n    return 2\n"), {})
    assert not set(before.values()) & (set(earlier.values()) | set(helper.values()))


@pytest.fixture
def later(load, folder):
    """A scenario that goes on from phase two of `short`, which has three."""
    load(body("one", "two", "three"))
    (folder / "later.py").write_text(body("four", "five").replace("STORY =", 'AFTER = "short:two"\nSTORY ='))
    return load_scenario("later", folder)


def test_a_scenario_that_goes_on_from_another_lives_through_that_first(later, go):
    assert [one.name for one in later.phases] == ["one", "two", "four", "five"] and later.inherited == 2
    world = FakeWorld()
    assert go(later, world).verdict is PASS
    assert world.did[-4:] == ["one", "two", "four", "five"]
    assert [name for name, _ in world.store] == ["one", "two", "later.four", "later.five"]


def test_and_takes_over_what_was_lived_before(later, folder, go, tmp_path):
    store, records = {}, Checkpoints(tmp_path / "records", "plain")
    go(load_scenario("short", folder), FakeWorld(store), records=records)
    world = FakeWorld(store)
    run = go(later, world, records=records)
    assert world.did == ["restore two", "four", "five"] and world.state == ["one", "two", "four", "five"]
    assert verdicts(run) == [PASS] * 4 and run.phases[0].carried and not run.phases[2].carried
    half = FakeWorld({key: value for key, value in store.items() if key[0] == "one"})
    assert go(later, half, records=records).verdict is PASS
    assert half.did == ["restore two", "restore one", "two", "four", "five"]


def test_what_is_only_read_is_not_added_to(load, go, tmp_path):
    scenario, records = load(body("one", "two")), Checkpoints(tmp_path / "records", "plain")
    assert go(scenario, FakeWorld(), records=records, keep_records=False).verdict is PASS
    assert not list(tmp_path.glob("records/plain/*.shown@*")), (
        "a sabotaged run must not speak for an honest one"
    )
    go(scenario, FakeWorld(), records=records)
    assert len(list(tmp_path.glob("records/plain/*.shown@*"))) == 2


def test_up_to_a_phase_and_no_further(load, go):
    scenario, world = load(body("one", "two", "three")), FakeWorld()
    run = go(scenario.up_to("two"), world)
    assert world.did == ["one", "two"] and verdicts(run) == [PASS, PASS]
    assert run.story == "A short life, as far as: Title of two", (
        "the report must not tell of what was not lived"
    )
    assert scenario.up_to("three") is scenario
    with pytest.raises(UsageError, match="has no phase four; it has: one, two, three"):
        scenario.up_to("four")


@pytest.fixture
def hang_up():
    """SIGHUP as a terminal leaves it: whoever started these tests with nohup lends them an ignored one."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_asked_to_end_it_stops_the_machine_and_reports(load, go, hang_up, kind):
    before = signal.getsignal(signal.SIGTERM)
    reports, world = [], FakeWorld()
    scenario = load(
        body("one", "two", "three").replace(
            'world.act("two")',
            f'checks.true("seen", True); os.kill(os.getpid(), signal.{kind}); world.act("late")',
        )
    )
    run = go(scenario, world, report=lambda run: reports.append((run.interrupted, world.stopped)))
    assert run.interrupted and run.exit_code == 130
    assert verdicts(run) == [PASS, NOT_RUN, NOT_RUN] and "late" not in world.did
    assert [check.title for check in run.phases[1].checks] == ["seen"]
    assert world.stopped == 1 and reports[-1] == (True, 1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_does_not_disturb_the_stopping(load, go):
    world = FakeWorld()
    world.stop = lambda: (os.kill(os.getpid(), signal.SIGINT), setattr(world, "stopped", 1))
    scenario = load(body("one").replace('world.act("one")', "os.kill(os.getpid(), signal.SIGINT)"))
    assert go(scenario, world).exit_code == 130 and world.stopped == 1


def test_started_with_nohup_it_outlives_the_terminal(load, go, hang_up):
    hang_up()
    scenario = load(
        body("one").replace(
            'world.act("one")', 'os.kill(os.getpid(), signal.SIGHUP); checks.true("seen", True)'
        )
    )
    assert go(scenario, FakeWorld()).exit_code == 0


def test_a_second_signal_does_not_disturb_the_phases_own_cleaning_up(load, go):
    world = FakeWorld()
    scenario = load(
        body("one").replace(
            '    world.act("one")\n',
            """    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        world.act("cleaned up")
""",
        )
    )
    assert go(scenario, world).exit_code == 130 and world.did == ["cleaned up"]


def test_a_machine_that_cannot_be_stopped_is_no_pass(load, go):
    world = FakeWorld()
    world.stop = lambda: (_ for _ in ()).throw(LabFault("QEMU does not go away"))
    run = go(load(body("one")), world)
    assert run.verdict is LAB and run.reason == "QEMU does not go away" and run.exit_code == 3


def test_the_report_is_honest_at_every_moment(load, go):
    seen = []
    go(load(body("one", "two")), FakeWorld(), report=lambda run: seen.append(run.verdict))
    assert seen[0] is NOT_RUN and seen[1] is NOT_RUN and seen[-1] is PASS


def test_a_set_up_that_fails_is_a_run_too(load):
    scenario, about = load(body("one", "two")), About("base", HOST, [])
    run = failed_set_up(scenario, LabFault("no network"), about)
    assert (
        run.exit_code == 3
        and verdicts(run) == [NOT_RUN, NOT_RUN]
        and run.reason == "no network"
        and not run.log
    )
    run = failed_set_up(scenario, KeyboardInterrupt(), about)
    assert run.exit_code == 130
    assert "KeyError" in failed_set_up(scenario, KeyError("x"), about).log


def test_an_unknown_scenario_lists_what_there_is(load, tmp_path):
    load(body("one"))
    with pytest.raises(UsageError, match="no scenario is called lief; there are: short"):
        load_scenario("lief", tmp_path / "scenarios")


@pytest.mark.parametrize(
    "source, message",
    [
        (
            HEAD
            + '@phase("one", "t")\ndef a(world, checks): ...\n'
            + '@phase("one", "t")\ndef b(world, checks): ...\n',
            "two phases are called one",
        ),
        (body("one", "two", two=', starts_from="three"'), "no earlier phase"),
        (body("one", one=", independent=True"), "which phase it starts from"),
        (HEAD, "no function"),
        ("def (", "can't be loaded .SyntaxError"),
        ("import veilor.nothing", "can't be loaded .ModuleNotFoundError"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(load, source, message):
    with pytest.raises(UsageError, match=message):
        load(source)
