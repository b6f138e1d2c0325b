"""The command line: exit codes as --help lists them, one line for what was to be expected, a traceback for a
bug.
"""

from __future__ import annotations

import pytest

from veilor import cli, command_line
from veilor.build.errors import BuildError, HostError
from veilor.lab import cache
from veilor.lab.verdict import LabFault, NotRun, OSFault, UsageError


def run_with(monkeypatch, error: BaseException | None) -> int:
    def handler(args):
        if error:
            raise error
        return 0

    monkeypatch.setattr(cli, "do_check", handler)
    return cli.main(["check"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (BuildError("x"), 1),
        (OSFault("x"), 1),
        (UsageError("x"), 2),
        (LabFault("x"), 3),
        (NotRun("x"), 4),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__ if value else "done",
)
def test_an_expected_end_is_one_line_and_its_code(error, code, monkeypatch, capsys):
    assert run_with(monkeypatch, error) == code
    assert len(capsys.readouterr().err.splitlines()) == (1 if code else 0)
    assert f"\n  {code} " in command_line.EXIT_CODES


def test_a_bug_is_not_dressed_up_as_a_failure(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, ZeroDivisionError())


@pytest.mark.parametrize("line", [[], ["nonsense"], ["stage"], ["sign", "x"], ["rehearse", "--fro", "x"]])
def test_a_wrong_line_is_code_2(line, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(line)
    assert end.value.code == 2


def test_every_verb_helps_and_lists_its_codes(capsys):
    for verb in ("stage", "iso", "sign", "channel", "check", "threats", "rehearse"):
        with pytest.raises(SystemExit) as end:
            cli.main([verb, "--help"])
        assert end.value.code == 0 and "exit codes:" in capsys.readouterr().out


def test_all_rehearses_every_scenario_and_the_worst_verdict_counts(monkeypatch, tmp_path):
    from veilor.lab import rehearse

    for name in ("life", "attacks", "_shared"):
        (tmp_path / "scenarios").mkdir(exist_ok=True)
        (tmp_path / f"scenarios/{name}.py").write_text("")
    seen = {}

    def fake(args, tools):
        seen[args.scenario] = args.report
        return {"life": 0, "attacks": 4}[args.scenario]

    monkeypatch.setattr(rehearse, "main", fake)
    monkeypatch.setattr(cli, "product_tools", lambda: None)
    monkeypatch.setattr(cli, "SOURCE_ROOT", tmp_path)
    assert cli.main(["rehearse", "all"]) == 4
    assert seen == {name: tmp_path / "build/report" / name for name in ("attacks", "life")}


def test_the_lab_gets_every_function_it_is_promised():
    tools = cli.product_tools()
    assert all(callable(getattr(tools, name)) for name in cli.BUILD_FUNCTIONS)
    assert (tools.source_root / "product.toml").is_file()


def test_sources_that_cannot_be_built_are_the_products_fault_in_a_rehearsal(tmp_path):
    (tmp_path / "letter").write_text("dear")
    tools = cli.product_tools()
    with pytest.raises(OSFault, match="the product cannot be built: .*not a staged tree"):
        tools.stage(tools.source_root, tmp_path)


def test_a_host_without_room_is_no_fault_of_the_product():
    def build():
        raise HostError("no room for the ISO")

    with pytest.raises(LabFault, match="no room for the ISO"):
        cli.judged(build)()


def test_two_rehearsals_do_not_write_one_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VEILOR_CACHE", str(tmp_path / "cache"))
    report = tmp_path / "report"
    with cache.locked(report / ".lock"):
        (report / "report.json").write_text("the other's")
        assert cli.main(["rehearse", "--report", str(report)]) == 2
    assert "another rehearsal is writing its report" in capsys.readouterr().err
    assert (report / "report.json").read_text() == "the other's"


def test_what_the_host_refuses_is_one_line(monkeypatch, capsys):
    assert run_with(monkeypatch, PermissionError(13, "Permission denied", "/proc/x")) == 1
    said = capsys.readouterr().err
    assert "this host refused it ([Errno 13] Permission denied: '/proc/x')" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--base", "nonsense"], "want oci:DIR or docker://REFERENCE"),
        (["--base", "oci:/nope"], "no OCI layout lies there"),
        (["--medium", "/nope"], "it is not there"),
        (["--medium", "/usr"], "it is a folder"),
        (["--prove"], "name one with --sabotage"),
        (["--until", "nap"], "has no phase nap"),
        (["--from", "update", "--until", "install"], "is behind --until install"),
        (["all", "--from", "update"], "belong to one scenario"),
        (["desktop", "--sabotage", "agent-killed"], "not among desktop's phases"),
        (["--sabotage", "agent-killed", "--until", "first-boot"], "not among life's phases"),
        (["--report", "/etc/hostname"], "it is a file"),
    ],
)
def test_a_rehearsal_that_cannot_be_is_refused_before_anything_is_made(
    arguments, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VEILOR_CACHE", str(tmp_path / "cache"))
    report = tmp_path / "report"
    assert cli.main(["rehearse", "--report", str(report), *arguments]) == 2
    said = capsys.readouterr().err
    assert text in said and len(said.splitlines()) == 1 and not (tmp_path / "cache/work").exists()
