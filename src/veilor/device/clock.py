"""Whether somebody sets this machine's clock at all: what is verified is judged by it."""

from datetime import UTC, datetime, timedelta

from veilor.core.outcome import Code, Outcome
from veilor.device import state, tell
from veilor.device.run import DeviceError, run

ASK = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
TOLD_AFTER = timedelta(days=1)
ADRIFT = Outcome(
    Code.LATER,
    "The clock has not been set by a server for more than a day",
    "certificates and updates are judged by it; most often the network blocks time servers that prove who "
    "they are (NTS, TCP port 4460)",
    "section 12 of docs/RECOVERY.md says what to do",
)
NOT_SET = "no server has set the clock for some hours"


def is_synchronised() -> bool | None:
    """Whether the kernel's clock is set by a server; None when nobody can tell.

    timedatectl says no once the kernel's estimated error has grown to 16 s (systemd, ntp_synced() in
    src/basic/time-util.c), some hours after the last answer of a server, whichever program sets the clock.
    """
    try:
        said = run(ASK, timeout=30).out.strip()
    except DeviceError:
        return None
    return {"yes": True, "no": False}.get(said)


def notify_if_adrift() -> None:
    """Note since when the clock is set by nobody, and leave a notice after TOLD_AFTER."""
    adrift, now = is_synchronised() is False, datetime.now(UTC)
    since = state.parse_time(state.read_record(state.STATE).get("clock_adrift_since"))
    if adrift and (since is None or since > now):
        since = now
    if not adrift:
        since = None
    with state.edit_record(state.STATE) as data:
        data["clock_adrift_since"] = since and state.format_time(since)
    late = since is not None and now - since >= TOLD_AFTER
    tell.notify("clock", ADRIFT if late else None)
