"""How a person learns of things: a program's end and progress, login message, console, boot screen."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from veilor.core.outcome import Code, Outcome, exit_codes, plain
from veilor.device import notice, state
from veilor.device.notice import NOTICE
from veilor.device.run import DeviceError, at, run

MOTD = "/run/motd.d/50-veilor"


def parser(
    program: str, about: str, *codes: Code, as_json: bool = True, more: str = ""
) -> argparse.ArgumentParser:
    """A parser with --json (or not), whose help ends with MORE and the exit codes.

    CODES are those beside the ones of every program.
    """
    every = sorted({Code.DONE, Code.FAILED, Code.USAGE, Code.LATER, Code.ROOT, Code.INTERRUPTED, *codes})
    found = argparse.ArgumentParser(
        prog=program,
        description=about,
        epilog=f"{more}\n{exit_codes(*every)}" if more else exit_codes(*every),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if as_json:
        found.add_argument("--json", action="store_true", help="answer with one JSON object (schema 1)")
    return found


def conclude(
    found: argparse.ArgumentParser, argv: list[str], work: Callable[[argparse.Namespace], Outcome]
) -> int:
    """Run WORK with what ARGV asks for, show its outcome, and return the exit code.

    With --json the outcome is one JSON object.
    """
    args, program = found.parse_args(argv), found.prog
    # A shutdown, and a terminal that was closed: what was begun is undone, and no program is left alone.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        outcome = work(args)
    except DeviceError as error:
        outcome = error.outcome
    except KeyboardInterrupt:
        outcome = Outcome(
            Code.INTERRUPTED,
            "Interrupted",
            "what boots next is as veilor-status says",
            "run it again and it goes on",
        )
    except Exception as error:  # a fault of ours: one line all the same, with where it was
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        outcome = Outcome(
            Code.FAILED,
            f"A fault in {program} itself ({type(error).__name__} at {where}: {str(error)[:200]})",
            "it stopped there, and what boots next is as veilor-status says",
            "please report this line",
        )
    with contextlib.suppress(BrokenPipeError):
        show(outcome, program, getattr(args, "json", False))
    return int(outcome.code)


def show(outcome: Outcome, program: str, as_json: bool) -> None:
    """Print OUTCOME: JSON to standard output; else one line, there if it is good, or to standard error."""
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=1, sort_keys=True), flush=True)
        return
    for warning in outcome.warnings:
        print(f"{program}: warning: {warning}", file=sys.stderr, flush=True)
    good = outcome.code is Code.DONE
    print(
        outcome.line() if good else f"{program}: {outcome.line()}",
        file=sys.stdout if good else sys.stderr,
        flush=True,
    )


def confirm(question: str) -> bool:
    """Whether the person at the terminal says yes to QUESTION; an end of input is a no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def notify(topic: str, outcome: Outcome | None) -> None:
    """Make OUTCOME what the person is told about TOPIC until the machine restarts; None: no more to tell.

    It goes into the file of notices (notice.py) and into MOTD, which is shown at login. Best effort: a notice
    that cannot be written never stops the work.
    """
    with contextlib.suppress(OSError, DeviceError):
        with state.edit_record(NOTICE) as data:
            notices = dict(state.get_dict(data, "notices"))
            notices.pop(topic, None)
            if outcome:
                notices[topic] = notice.to_dict(outcome)
            data["notices"] = notices
            shown = notice.from_record(data).values()
        motd = at(MOTD)
        motd.parent.mkdir(parents=True, exist_ok=True)
        scratch = motd.with_name(f".{motd.name}.{os.getpid()}.tmp")
        scratch.write_text("".join(f"veilor-os: {plain(one.line)}\n" for one in shown))
        scratch.replace(motd)


def announce(topic: str, outcome: Outcome) -> None:
    """Tell the person at once: notice, a line on the console, the boot screen if there is one.

    The same thing is said just once.
    """
    known = notice.read().get(topic)
    if known is None or known.line != outcome.line():
        notify(topic, outcome)
        on_screen(outcome.line())


def on_screen(text: str) -> None:
    """TEXT as a line on the console and on the boot screen. Best effort."""
    text = plain(text)
    with contextlib.suppress(OSError):
        console = os.open(at("/dev/console"), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.write(console, f"\r\nveilor-os: {text}\r\n".encode())
        finally:
            os.close(console)
    with contextlib.suppress(DeviceError):
        run(["plymouth", "message", f"--text={text}"], timeout=5)


class PullProgress:
    """Shows bootc's progress lines on standard error.

    HOW "auto": one bar on a terminal, a plain line each tenth elsewhere; "json": for a front end, an object a
    line of {"schema": 1, "progress": {"task", "done", "total", "unit", "share"}}; "none".
    """

    NAMES = {"pulling": "downloading", "importing": "unpacking", "staging": "installing"}
    UNITS = {"ProgressBytes": "bytes", "ProgressSteps": "steps"}

    def __init__(self, how: str = "auto") -> None:
        self.how = "bar" if how == "auto" and sys.stderr.isatty() else how
        self.last_step: tuple[str, int] | None = None
        self.drawn = 0.0

    def __call__(self, raw: bytes) -> None:
        """Take one line.

        What cannot be read is passed over: progress is for the eye, no decision hangs on it.
        """
        try:
            event = json.loads(raw)
            task, unit = self.NAMES[event["task"]], self.UNITS[event["type"]]
            done, total = float(event[unit]), float(event[unit + "Total"])
            share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
            step = (task, int(share * 10))
            numbers = {
                "task": task,
                "done": int(done),
                "total": int(total),
                "unit": unit,
                "share": round(share, 4),
            }
        except (ValueError, RecursionError, LookupError, TypeError, OverflowError):
            return
        if not self.is_news(step, share):
            return
        self.last_step, self.drawn = step, time.monotonic()
        if self.how == "json":
            print(json.dumps({"schema": 1, "progress": numbers}, sort_keys=True), file=sys.stderr, flush=True)
            return
        size = f" {done / 1e6:.1f} of {total / 1e6:.1f} MB" if unit == "bytes" else ""
        text = f"{task} {share:4.0%}{size}"
        line = f"\r\x1b[K[{'#' * round(share * 30):30}] {text}" if self.how == "bar" else f"{text}\n"
        print(line, end="", file=sys.stderr, flush=True)

    def is_news(self, step: tuple[str, int], share: float) -> bool:
        """Whether STEP, with SHARE done, is to be shown."""
        if self.how == "none":
            return False
        if self.how == "auto":
            return step != self.last_step
        return share >= 1 or time.monotonic() - self.drawn >= 0.1

    def end(self) -> None:
        """Leave the bar's line."""
        if self.how == "bar" and self.last_step:
            print(file=sys.stderr, flush=True)
