"""The report: its JSON keeps its schema, its page is one offline file, its XML
is XML, whatever a guest says.
"""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from veilor.lab import report
from veilor.lab.progress import PhaseProgress
from veilor.lab.report import (
    clean_console,
    format_duration,
    headline,
    load_stand_ins,
    remove_report,
    write_report,
)
from veilor.lab.result import About, Host, NotApplied, PhaseResult, Run, Screenshot, Timing
from veilor.lab.verdict import Check, Verdict

PASS, NOT_RUN, LAB, OS = Verdict.PASS, Verdict.NOT_RUN, Verdict.LAB_FAULT, Verdict.OS_FAULT
NASTY = "<script>alert(1)</script> & \x00\x1b[31mred\x1b[0m ]]> \"'"
SCHEMA = json.loads((Path(report.__file__).parent / "report.schema.json").read_text())


class Page(HTMLParser):
    """Collects a page's tags, the addresses in it, and its text; notices what is left open."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, source):
        super().__init__()
        self.tags, self.addresses, self.text, self.open, self.ids, self.wrong = [], [], "", [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "action")]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "shot.png"
    path.write_bytes(b"\x89PNG not really")
    return path


def a_run(picture, text="fine", verdict=PASS):
    ok = {PASS: True, OS: False, LAB: True, NOT_RUN: None}[verdict]
    first = PhaseResult(
        "install",
        f"Install {text}",
        PASS,
        100.04,
        1,
        checks=[Check(f"prompt {text}", True, text, PASS)],
        screenshots=[Screenshot(str(picture), f"A prompt {text}")],
        console=clean_console(text.encode()),
    )
    second = PhaseResult(
        "update",
        "Update",
        verdict,
        50.0,
        2,
        reason="" if verdict is PASS else text,
        log=text,
        checks=[Check("bytes", ok, text, PASS if ok else verdict)],
    )
    about = About(
        "Debian 13",
        Host("tcg", "10.0.2", 2),
        ["base-system", "tcg"],
        None,
        [Timing("tools", 3.0)],
        not_applied=[NotApplied("etc/xdg/<one>", "no desktop")],
    )
    return Run(
        "life",
        "A life",
        "A machine was installed and updated",
        "2026-01-01T00:00:00Z",
        about,
        [first, second],
        151.0,
        timings=[Timing("boots", 40.0)],
    )


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("text", ["fine", NASTY])
def test_json_keeps_the_schema(tmp_path, picture, verdict, text):
    write_report(a_run(picture, text, verdict), tmp_path / "report")
    data = json.loads((tmp_path / "report/report.json").read_text())
    Draft202012Validator.check_schema(SCHEMA)
    assert [error.message for error in Draft202012Validator(SCHEMA).iter_errors(data)] == []
    assert data["verdict"] == verdict and data["phases"][1]["verdict"] == verdict
    assert (data["phases"][0]["seconds"], data["phases"][0]["boots"]) == (100.0, 1)
    assert data["stand_ins"] == ["base-system", "tcg"]


@pytest.mark.parametrize(
    "harm",
    [
        {"verdict": "GREEN"},
        {"schema": 2},
        {"phases": []},
        {"verdict": "OS_FAULT"},
        {"started": "today"},
        {"more": 1},
    ],
)
def test_the_schema_refuses_what_is_wrong(picture, harm):
    assert not Draft202012Validator(SCHEMA).is_valid({**a_run(picture).as_dict(), **harm})


@pytest.mark.parametrize("verdict", Verdict)
def test_the_page_stands_alone_and_is_whole(tmp_path, picture, verdict):
    run = a_run(picture, NASTY, verdict)
    run.phases[0].retried, run.log = NASTY, NASTY
    source = write_report(run, tmp_path / "report").read_text()
    page = Page(source)
    assert "script" not in page.tags and "link" not in page.tags and page.wrong == [] and page.open == []
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert any(address.startswith("data:") for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\(|https?://", re.search(r"<style>.*?</style>", source, re.S)[0])
    assert "<script>alert(1)</script> &" in page.text and "\x1b" not in source and "\x00" not in source
    assert "details" in page.tags


def test_the_page_says_what_stood_in_and_only_that(tmp_path, picture):
    text = Page(write_report(a_run(picture), tmp_path / "report").read_text()).text
    declared = load_stand_ins()
    for one in ("base-system", "tcg"):
        assert declared[one].title in text and declared[one].stands_for in text
    assert declared["no-selinux"].title not in text


def test_what_had_no_effect_is_named_with_its_reason(tmp_path, picture):
    run = a_run(picture)
    page = Page(write_report(run, tmp_path / "report").read_text())
    section = page.text.rpartition("What had no effect here")[2].split("Where the time went")[0]
    assert "etc/xdg/<one>" in section and "no desktop" in section and "not-applied" in page.ids
    run.about.not_applied.clear()
    assert "no effect" not in Page(write_report(run, tmp_path / "report").read_text()).text


def test_a_stand_in_that_is_not_declared_is_refused(tmp_path, picture):
    run = a_run(picture)
    run.about.stand_ins.append("magic")
    with pytest.raises(ValueError, match="magic"):
        write_report(run, tmp_path / "report")


def test_what_was_not_run_is_listed_with_its_reason(tmp_path, picture):
    text = Page(
        write_report(a_run(picture, "no SELinux here", NOT_RUN), tmp_path / "report").read_text()
    ).text
    section = text.rpartition("Not run")[2].split("What stood in for what")[0]
    assert "Update: bytes" in section and "no SELinux here" in section
    text = Page(write_report(a_run(picture), tmp_path / "report").read_text()).text
    assert "Every check of this scenario was made." in text


def test_a_missing_picture_is_said_not_hidden(tmp_path, picture):
    run = a_run(picture)
    picture.unlink()
    page = Page(write_report(run, tmp_path / "report").read_text())
    assert "img" not in page.tags and "(the picture is missing)" in page.text


def test_old_pictures_and_old_reports_go(tmp_path, picture):
    folder = tmp_path / "report"
    run = a_run(picture)
    write_report(run, folder)
    assert [p.name for p in (folder / "screenshots").iterdir()] == ["install-00.png"]
    run.phases[0].screenshots.clear()
    write_report(run, folder)
    assert list((folder / "screenshots").iterdir()) == []
    assert sorted(p.name for p in folder.iterdir()) == [
        "index.html",
        "junit.xml",
        "report.json",
        "screenshots",
    ]
    remove_report(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "verdict, kind", [(PASS, None), (OS, "failure"), (LAB, "error"), (NOT_RUN, "skipped")]
)
def test_junit_tells_the_verdicts_apart(tmp_path, picture, verdict, kind):
    write_report(a_run(picture, NASTY, verdict), tmp_path / "report")
    root = ElementTree.parse(tmp_path / "report/junit.xml").getroot()
    assert [suite.get("name") for suite in root] == ["life.install", "life.update"]
    whole = root[1].findall("testcase")[-1]
    assert [child.tag for child in whole] == ([kind] if kind else [])
    plural = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    for word, attribute in plural.items():
        assert (
            int(root.get(attribute))
            == len(root.findall(f".//{word}"))
            == sum(int(suite.get(attribute)) for suite in root)
        )
    assert int(root.get("tests")) == len(root.findall(".//testcase")) == 4
    assert kind is None or int(root.get(plural[kind])) > 0


def test_junit_shows_a_fault_outside_of_the_phases(picture):
    run = a_run(picture)
    run.fault, run.reason = LAB, "QEMU does not go away"
    root = ElementTree.fromstring(report.junit_xml(run))
    assert root[0].find("testcase/error").get("message") == "QEMU does not go away"


@pytest.mark.parametrize(
    "verdict, start",
    [
        (PASS, "A machine was installed and updated: all of it held."),
        (OS, "“Update” failed: why."),
        (LAB, "The rehearsal itself broke down in “Update”: why."),
        (NOT_RUN, "Not everything was shown: “Update”: why."),
    ],
)
def test_the_headline_is_a_sentence(picture, verdict, start):
    assert headline(a_run(picture, "why", verdict))[0] == start


def test_what_held_is_said_together_with_what_it_held_on(picture):
    run = a_run(picture)
    assert headline(run)[1] == "2 checks in 2 phases, with 2 stand-ins in the place of real parts."
    run.about.stand_ins.clear()
    assert headline(run)[1] == "2 checks in 2 phases."


def test_the_headline_of_a_run_that_did_not_come_to_be(picture):
    run = a_run(picture)
    for phase in run.phases:
        phase.verdict, phase.checks = NOT_RUN, []
    run.fault, run.reason = NOT_RUN, "the host lacks bubblewrap"
    assert headline(run)[0] == "Nothing was rehearsed: the host lacks bubblewrap."
    run.fault, run.reason = LAB, "no network"
    assert headline(run)[0].endswith("its own set-up or clean-up: no network.")
    run.fault, run.interrupted = PASS, True
    assert "stopped before its end" in headline(run)[0]


def test_every_stand_in_says_all_it_has_to():
    found = load_stand_ins()
    assert {
        "base-system",
        "kernel",
        "bootc-front",
        "boot-loader",
        "installer-engine",
        "live-medium",
        "no-selinux",
        "cheaper-kdf",
        "test-keys",
        "lab-registry",
        "tcg",
        "credentials",
        "no-desktop",
    } <= set(found)
    for one in found.values():
        assert all((one.title, one.stands_for, one.why, one.replaced_by)), one.id
        assert one.command == "" or one.command.startswith(("veilor", "scripts/", "gh ", "run0 ")), one.id


def test_a_stand_in_declared_twice_is_refused(tmp_path):
    entry = '[[stand_in]]\nid="a"\ntitle="t"\nstands_for="s"\nwhy="w"\nreplaced_by="r"\ncommand=""\n'
    (tmp_path / "s.toml").write_text(entry * 2)
    with pytest.raises(ValueError, match="twice"):
        load_stand_ins(tmp_path / "s.toml")


def test_a_console_is_readable_and_bounded():
    assert clean_console(b"\x1b[0;32m OK \x1b[0m a\r\n\x1b]0;title\x07b\xff\x00\rc") == " OK  a\nb\ufffd\nc"
    long = clean_console(b"first\n" + b"x" * 1_000_000 + b"\nlast")
    assert (
        long.startswith("first")
        and long.endswith("last")
        and "characters left out" in long
        and len(long) < 300_000
    )


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    "seconds, first, last",
    [(0, None, None), (45, "0", "40 s"), (150, "0", "150 s"), (1644, "0", "25 min"), (9000, "0", "120 min")],
)
def test_a_time_line_has_few_marks_at_round_times(seconds, first, last):
    marks = report.time_line_marks(seconds)
    assert len(marks) <= 7 and all(0 <= at <= 100 for at, _ in marks)
    assert not marks and first is None or (marks[0][1], marks[-1][1]) == (first, last)


@pytest.mark.parametrize(
    "detail, text",
    [
        ("''", "nothing"),
        ("[]", "nothing"),
        ("'argon2id'", "argon2id"),
        ("'a', 'b'", "'a', 'b'"),
        ("3", "3"),
        ("", ""),
        (" x\x1b[0m\n", "x"),
    ],
)
def test_a_detail_is_said_plainly(detail, text):
    assert report.plain_detail(detail) == text


@pytest.mark.parametrize("verdict", [OS, NOT_RUN])
def test_a_detail_is_folded_away_only_where_it_held(tmp_path, picture, verdict):
    long = "word " * 60
    source = write_report(a_run(picture, long, verdict), tmp_path / "report").read_text()
    bad = source.partition('id="update"')[2].partition("</section>")[0]
    good = source.partition('id="install"')[2].partition("</section>")[0]
    assert 'class="more"' in good and 'class="more"' not in bad and long.strip() in bad


def test_a_failed_phase_is_led_to_and_shows_the_end_of_its_console(tmp_path, picture):
    lines = "".join(f"line {number}\n" for number in range(40))
    for verdict in (OS, PASS):
        run = a_run(picture, "why", verdict)
        run.phases[1].console = lines
        source = write_report(run, tmp_path / "report").read_text()
        led = 'href="#update">See the phase' in source
        ends = source.partition('id="update"')[2].partition("<details>")[0]
        assert led == (verdict is OS) and ("line 39" in ends) == (verdict is OS) and "line 24\n" not in ends


def test_nothing_of_what_a_guest_says_could_run(tmp_path, picture):
    """Beside the escaping: the page itself forbids every script and everything from elsewhere."""
    source = write_report(a_run(picture, NASTY), tmp_path / "report").read_text()
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in source.partition("<title>")[0]


def test_progress_in_a_log_is_plain_lines(picture):
    out = io.StringIO()
    run = a_run(picture, "why", OS)
    progress = PhaseProgress(2, out)
    for index, phase in enumerate(run.phases):
        progress.start(index, phase.title)
        progress.done(index, phase)
    progress.close()
    assert out.getvalue().splitlines() == [
        "[1/2] Install why …",
        "[1/2] Install why … PASS 100 s, 1 boot",
        "[2/2] Update …",
        "[2/2] Update … OS_FAULT 50 s, 2 boots",
        "      why",
    ]


def test_progress_on_a_terminal_counts_and_cleans_up():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    progress = PhaseProgress(2, out)
    progress.start(1, "Update")
    progress._end.wait(1.3)
    progress.done(1, PhaseResult("update", "Update", PASS, 1.0, 1))
    progress.close()
    assert re.search(r"\r\x1b\[K\[2/2\] ━╺ Update … 1 s", out.getvalue())
    assert "\r\x1b[K[2/2] Update … PASS 1 s, 1 boot\n" in out.getvalue() and out.getvalue().endswith(
        "\r\x1b[K"
    )
