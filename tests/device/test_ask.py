"""Somebody who is not root: what the units do for them, what is refused, and what the desktop shows."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path

import pytest

from veilor.core import claims
from veilor.core.outcome import Code, Outcome
from veilor.device import ask, firstboot, notices, rollback, state, status, tell, update
from veilor.device import main as programs
from veilor.device.run import Done

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "overlay/usr/lib/systemd/system"
RULES = (ROOT / "overlay/usr/share/polkit-1/rules.d/11-veilor-ask.rules").read_text()


@pytest.fixture
def person(machine, monkeypatch):
    """A person at a machine that runs 44.1; units run the program as root and leave its answer, and `started`
    names them.
    """
    machine.deployments(machine.entry("44.1"), rollback=machine.entry("44.0"))
    machine.release("44.2")
    as_person = run_as = ask.run
    machine.started = []

    def systemctl(argv, **more):
        if argv[:2] != ["systemctl", "start"]:
            return run_as(argv, **more)
        name = re.fullmatch(r"veilor-ask-(.+)\.service", argv[2])[1]
        machine.started.append(name)
        words = re.search(r"/app (.*)", (UNITS / argv[2]).read_text())[1].split()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        machine.put(f"run/veilor/answer-{name}.json", machine.program(*words).out)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        return as_person(["true"], timeout=10)

    monkeypatch.setattr(ask, "run", systemctl)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return machine


def test_status_and_update_without_root(person):
    shown = person.program("status")
    assert (
        shown.code == 0
        and "runs now:" in shown.out
        and "44.1" in shown.out
        and "verified by policy" in shown.out
    )
    assert (
        person.program("update", "--check", "--json").data["state"] == "stage"
        and person.status["staged"] is None
    )
    done = person.program("update")
    assert (
        done.code == 0
        and "44.2 is ready" in done.out
        and person.status["staged"]["image"]["version"] == "44.2"
    )
    assert person.program("status", "--json").data["staged"]["boots_next"] is True


def test_a_refusal_comes_through_with_its_code_and_words(person):
    person.announce("44.2", sequence=0, tag="43")
    done = person.program("update")
    assert done.code == 4 and "Refused" in done.err and person.status["staged"] is None


def test_a_rollback_by_an_administrator(person):
    assert person.program("rollback", "--yes").code == 0 and person.status["rollbackQueued"]


@pytest.mark.parametrize(
    "words",
    [
        ["rollback"],
        ["update", "--due"],
        ["update", "--download-only", "--now"],
        ["update", "--check", "--now"],
    ],
)
def test_what_no_unit_does_is_for_root(person, words):
    done = person.program(*words)
    assert (
        done.code == 6
        and "sudo" in done.err
        and person.status["staged"] is None
        and not person.status["rollbackQueued"]
    )


# -- every option of every program
# --------------------------------------------------------------------------------------------------------


def parser_of(program):
    """The parser of a launcher in /usr/bin."""
    name = programs.PROGRAMS[program.removeprefix("veilor-")]
    return importlib.import_module(f"veilor.device.{name}").make_parser()


def flags_of(program):
    """Each option of PROGRAM: its name as argparse has it, and the words that give it."""
    found = {}
    for action in parser_of(program)._actions:
        if action.dest != "help":
            found[action.dest] = [action.option_strings[-1], *(["x"] if action.nargs is None else [])]
    return found


LAUNCHERS = sorted(path.name for path in (ROOT / "overlay/usr/bin").iterdir())
EVERY_OPTION = [(program, ()) for program in LAUNCHERS] + [
    (program, (option,)) for program in LAUNCHERS for option in flags_of(program)
]


@pytest.mark.parametrize("program", LAUNCHERS)
def test_every_option_has_a_row_for_who_is_not_root(program):
    rows = ask.ROWS[program]
    assert {option for options in rows for option in options} == {*flags_of(program)} - {"json"}
    assert all((option,) in rows for option in {*flags_of(program)} - {"json"}) and () in rows
    assert not isinstance(rows[()], ask.Besides)


def test_every_program_that_people_start_has_rows():
    assert set(ask.ROWS) == set(LAUNCHERS)


@pytest.mark.parametrize(
    ("program", "options"), EVERY_OPTION, ids=[" ".join([one, *more]) for one, more in EVERY_OPTION]
)
def test_without_root_every_option_works_or_is_refused_with_its_reason(person, program, options):
    person.put(claims.PATH, claims.render([]))
    words = [word for option in options for word in flags_of(program)[option]]
    row = ask.decide(program, parser_of(program).parse_args(words))
    before = person.status
    done = person.program(program.removeprefix("veilor-"), *words)
    if isinstance(row, ask.ByUnit):
        assert person.started == [row.name] and done.code != 6
    elif isinstance(row, ask.Unaided):
        assert not person.started and person.status == before and done.code in (0, 2) and row.because
    else:
        said = done.out if "json" in options else done.err
        assert done.code == 6 and not person.started and person.status == before
        for words in (row.what, row.because, row.instead, "nothing was changed", "start it with sudo"):
            assert words.lower() in said.lower()


def test_an_option_without_a_row_is_refused(person, monkeypatch):
    rows = {key: row for key, row in ask.ROWS["veilor-update"].items() if key != ("now",)}
    monkeypatch.setitem(ask.ROWS, "veilor-update", rows)
    done = person.program("update", "--now")
    assert done.code == 6 and "no unit for --now" in done.err and not person.started


def test_what_was_held_back_at_the_first_boot_is_not_let_go_without_root(person):
    state.hold_back(person.digest("44.2"), "44.2", "health", "it failed")
    person.put(firstboot.STAMP, "{}")
    assert person.program("firstboot-rebase", "--retry").code == 6
    assert state.held_back() and person.text(firstboot.STAMP) and not person.calls("bootc")


def test_a_download_without_root_stays_locked(person):
    done = person.program("update", "--download-only")
    assert done.code == 0 and "downloaded and locked" in done.out
    assert person.started == ["download"] and person.status["staged"]["downloadOnly"]
    assert person.program("update").code == 0 and not person.status["staged"]["downloadOnly"]


@pytest.mark.parametrize(("words", "unit"), [(["--apply"], "update"), (["--apply", "--now"], "update-now")])
def test_the_restart_is_asked_for_in_the_persons_own_name(person, words, unit):
    done = person.program("update", "--json", *words)
    assert done.code == 0 and done.data["restarting"] is True and done.data["state"] == "ready"
    assert person.started == [unit] and person.world_reboots() == 1
    assert "--apply" not in (UNITS / f"veilor-ask-{unit}.service").read_text(), (
        "root restarts nothing for them"
    )


def test_a_restart_that_logind_refuses_is_said_and_the_update_is_ready(person):
    person.change("fail", **{"systemctl --no-block": "Interactive authentication required."})
    done = person.program("update", "--apply")
    assert done.code == 0 and "44.2 is ready" in done.out and person.world_reboots() == 0
    assert "could not be restarted (Interactive authentication required.)" in done.err


def test_nothing_new_restarts_nothing(person):
    person.release("44.1")
    assert person.program("update", "--apply").code == 0 and person.world_reboots() == 0


def test_where_polkit_says_no_nothing_happens(machine, monkeypatch):
    machine.deployments(machine.entry("44.1"))
    machine.change("fail", **{"systemctl start": "Access denied"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = machine.program("update")
    assert (
        done.code == 6
        and "Access denied" in done.err
        and done.err.count("\n") == 1
        and not machine.calls("bootc")
    )


@pytest.mark.parametrize(
    "answer",
    ["", "[]", "{}", '{"code": 77, "what": "x", "means": "", "next": "", "warnings": []}', "[" * 9000],
)
def test_an_answer_that_is_none(machine, monkeypatch, answer):
    machine.put("run/veilor/answer-update.json", answer)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.program("update").code == 1


def test_every_unit_that_people_may_start_has_its_rule_and_no_other_has_one():
    named = set(re.findall(r'"(veilor-[a-z-]+\.service)"', RULES))
    assert named == {path.name for path in UNITS.glob("veilor-ask-*.service")}
    assert named == {f"veilor-ask-{name}.service" for name in ask.UNITS.values()}
    free = RULES[: RULES.index("polkit.Result.YES")]
    assert "rollback" not in free[free.index("switch") :], "the way to an older version asks for a password"
    assert "subject.local" in RULES and "subject.active" in RULES


@pytest.mark.parametrize("name", ask.UNITS.values())
def test_the_units_leave_their_answer_where_it_is_read_and_are_started_by_nobody_else(name):
    text = (UNITS / f"veilor-ask-{name}.service").read_text()
    assert (
        f"StandardOutput=truncate:{ask.ANSWERS.format(name)}\n" in text
        and "--json\n" in text
        and "[Install]" not in text
    )


def test_every_combination_of_options_that_a_unit_is_for_does_exactly_that():
    parsers = {"veilor-status": status, "veilor-update": update, "veilor-rollback": rollback}
    for (program, *given), name in ask.UNITS.items():
        given = [option.replace("_", "-") for option in given]
        made = parsers[program].make_parser()
        assert ask.unit_for(program, made.parse_args([f"--{option}" for option in given])) == name
        words = re.search(r"/app (.*)", (UNITS / f"veilor-ask-{name}.service").read_text())[1].split()
        assert f"veilor-{words[0]}" == program and set(words[1:]) == {
            "--json",
            *(f"--{option}" for option in given),
        }


# -- the desktop
# --------------------------------------------------------------------------------------------------------


@pytest.fixture
def desktop(machine, monkeypatch, tmp_path):
    """A session whose notification server, :1.7, takes everything and counts; `shown` are the calls to it,
    and `owner` changes its name.
    """
    (tmp_path / "owner").write_text(":1.7")
    (machine.folder / "bin/busctl").write_text(f"""#!/bin/sh
case "$*" in *GetNameOwner*)
  test -s {tmp_path}/owner || {{ echo 'The name does not have an owner' >&2; exit 1; }}
  printf '{{"type":"s","data":["%s"]}}' "$(cat {tmp_path}/owner)"; exit;; esac
test -s {tmp_path}/owner || printf ':1.7' >{tmp_path}/owner
printf '%s\\0' "$@" >>{tmp_path}/shown
printf '\\n' >>{tmp_path}/shown
printf '{{"type":"u","data":[%s]}}' "$(wc -l <{tmp_path}/shown)"
""")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    machine.shown = lambda: (
        [one.split("\0")[:-1] for one in (tmp_path / "shown").read_text().splitlines()]
        if (tmp_path / "shown").exists()
        else []
    )
    machine.owner = (tmp_path / "owner").write_text
    return machine


READY = Outcome(Code.DONE, "44.2 is ready", "", "restart when you like")


def test_each_notice_is_shown_once(desktop):
    tell.notify("update", READY)
    tell.notify("channel", Outcome(Code.LATER, "no <b>news</b> & more"))
    assert desktop.program("notices").code == 0
    second, first = desktop.shown()
    assert first[-8:-3] == [
        "veilor-os",
        "0",
        "system-software-update",
        "System update",
        "44.2 is ready. Restart when you like.",
    ]
    assert first[-3:] == ["0", "0", "0"], "no actions, no hints, and it stays"
    assert second[-4] == "no &lt;b&gt;news&lt;/b&gt; &amp; more." and second[-6] == "dialog-warning"
    assert first[first.index("Notify") + 1] == "susssasa{sv}i" and first[0] == "--user"
    desktop.program("notices")
    assert len(desktop.shown()) == 2


@pytest.mark.parametrize(
    "owner", [":1.7", ""], ids=["a desktop that is there", "one that comes when it is called"]
)
def test_a_notice_that_changed_takes_the_old_ones_place_and_one_that_is_no_longer_true_is_closed(
    desktop, owner
):
    desktop.owner(owner)
    tell.notify("firstboot", Outcome(Code.LATER, "Waiting"))
    tell.notify("update", READY)
    desktop.program("notices")
    number = str(1 + [one[-5] for one in desktop.shown()].index("Setting up"))
    tell.notify("firstboot", Outcome(Code.DONE, "It is ready"))
    desktop.program("notices")
    assert desktop.shown()[2][-7:-3] == [number, "system-software-update", "Setting up", "It is ready."]
    tell.notify("firstboot", None)
    desktop.program("notices")
    assert desktop.shown()[3][-3:] == ["CloseNotification", "u", "3"]
    tell.notify("firstboot", Outcome(Code.DONE, "It is ready"))
    desktop.program("notices")
    assert desktop.shown()[4][-7] == "0" and len(desktop.shown()) == 5, "what is true again is shown again"


def test_the_numbers_of_another_notification_server_are_somebody_elses(desktop):
    tell.notify("firstboot", Outcome(Code.LATER, "Waiting"))
    tell.notify("update", READY)
    desktop.program("notices")
    desktop.owner(":1.9")
    tell.notify("firstboot", None)
    tell.notify("update", Outcome(Code.DONE, "44.3 is ready"))
    desktop.program("notices")
    assert [one[-7] for one in desktop.shown()[2:]] == ["0"], "nothing is closed, and nothing replaced"


def test_what_still_holds_is_shown_to_a_server_that_has_never_heard_of_it(desktop):
    tell.notify("firstboot", Outcome(Code.LATER, "Waiting"))
    desktop.program("notices")
    desktop.owner(":1.9")
    tell.notify("update", READY)
    desktop.program("notices")
    assert sorted(one[-5] for one in desktop.shown()[1:]) == ["Setting up", "System update"]
    assert {one[-7] for one in desktop.shown()} == {"0"}
    desktop.program("notices")
    assert len(desktop.shown()) == 3


@pytest.mark.parametrize(
    ("value", "known"),
    [(5, 5), ("5", 0), (True, 0), (-1, 0), (None, 0), (1 << 32, 0), (4294967295, 4294967295)],
)
def test_a_number_that_no_server_gives_is_none(value, known):
    assert notices.number(value) == known


@pytest.mark.parametrize("said", ["", "[", "null", "[]", '{"data": []}', '{"data": null}', '"x"', "[" * 9000])
def test_an_answer_of_the_bus_that_cannot_be_read_is_none(said):
    assert notices.answer(Done(0, said, "")) is None


def test_a_server_that_nobody_can_name_has_no_numbers_of_ours(desktop):
    tell.notify("update", READY)
    notices.shown_file().write_text(
        json.dumps({"server": "", "notices": {"update": {"line": "old", "number": 5}}})
    )
    desktop.owner("")
    desktop.program("notices")
    assert desktop.shown()[0][-7] == "0"


def test_what_is_written_while_notices_are_shown_is_shown_too(desktop, monkeypatch):
    tell.notify("update", READY)
    kept = notices.remember

    def late(*args):
        kept(*args)
        monkeypatch.setattr(notices, "remember", kept)
        tell.notify("update", Outcome(Code.DONE, "44.3 is ready"))

    monkeypatch.setattr(notices, "remember", late)
    desktop.program("notices")
    assert [one[-4] for one in desktop.shown()] == ["44.2 is ready. Restart when you like.", "44.3 is ready."]


def test_without_a_desktop_it_is_tried_again(desktop):
    (desktop.folder / "bin/busctl").write_text("#!/bin/sh\necho 'No such service' >&2\nexit 1\n")
    tell.notify("update", Outcome(Code.DONE, "44.2 is ready"))
    assert desktop.program("notices").code == 3
    assert not notices.shown_file().exists()


@pytest.mark.parametrize("text", ["", "[]", '{"notices": 1}', '{"notices": {"update": 1, "x": {"line": 2}}}'])
def test_notices_that_cannot_be_read(desktop, text):
    desktop.put("run/veilor/notice.json", text)
    desktop.put("../veilor-notices.json", "[")
    assert desktop.program("notices").code == 0 and not desktop.shown()


def test_a_notice_reaches_the_desktop_from_where_the_programs_leave_it():
    user = ROOT / "overlay/usr/lib/systemd/user"
    assert f"PathChanged={tell.NOTICE}\n" in (user / "veilor-notices.path").read_text()
    for name in ("veilor-notices.path", "veilor-notices.service"):
        assert (
            os.readlink(user / "graphical-session.target.wants" / name) == f"../{name}"
            and (user / name).exists()
        )
    assert state.RUN in tell.NOTICE
