"""What health.json holds: the version on trial, the last automatic return, and what has proved itself.

{"schema": 1,
 "armed": null | {"target": DEPLOYMENT, "from": DEPLOYMENT, "by": "first boot" | "update", "unlocked": boots
   that got past the passphrase, "passed": boots whose checks were good, "failures": [sentence], "when"},
 "return": null | {the same, "handled": bool, "again": not proved for the second time, "reason"},
 "missed": null | {DEPLOYMENT, "times", "when", "reason"}: let go, and not put in place at a shutdown,
 "bootstrap": null | {DEPLOYMENT, "unpinned"},
 "healthy": [{"digest", "by"}],
 "failing": [names of the checks that failed on the version that is not on trial]};
DEPLOYMENT: {"digest", "version", "checksum", "serial"}.

Each class here keeps the object that it was read from, so that fields which are not known are written again.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from veilor.core.host import Entry
from veilor.device import state
from veilor.device.state import Record, get_dict, get_list, get_text


def _whole_number(data: Record, key: str) -> int | None:
    found = data.get(key)
    return found if isinstance(found, int) else None


@dataclass(frozen=True)
class Deployment:
    """One deployment. `checksum` and `serial` are None for one that is noted before it is staged."""

    digest: str | None
    version: str | None
    checksum: str | None = None
    serial: int | None = None
    raw: Record = field(default_factory=dict, repr=False)

    @property
    def identity(self) -> tuple[str | None, int | None]:
        """Checksum and serial, which no two deployments share."""
        return self.checksum, self.serial

    @classmethod
    def from_entry(cls, entry: Entry) -> "Deployment":
        """What is noted of ENTRY, a deployment that bootc lists."""
        return cls(entry.digest, entry.title, entry.checksum, entry.serial)

    @classmethod
    def from_dict(cls, data: Record) -> "Deployment":
        digest = data.get("digest")
        return cls(
            digest=digest if isinstance(digest, str) else None,
            version=get_text(data, "version"),
            checksum=get_text(data, "checksum"),
            serial=_whole_number(data, "serial"),
            raw=data,
        )

    def to_dict(self) -> Record:
        return {
            **self.raw,
            "digest": self.digest,
            "version": self.version,
            "checksum": self.checksum,
            "serial": self.serial,
        }


@dataclass(frozen=True)
class Trial:
    """A new version whose first boots GRUB counts, and the one before it to go back to ("from")."""

    target: Deployment
    source: Deployment
    by: str | None
    when: str | None
    unlocked: int = 0
    passed: int = 0
    failures: tuple[str, ...] = ()
    raw: Record = field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, data: Record) -> "Trial":
        return cls(
            target=Deployment.from_dict(get_dict(data, "target")),
            source=Deployment.from_dict(get_dict(data, "from")),
            by=get_text(data, "by"),
            when=get_text(data, "when"),
            unlocked=_whole_number(data, "unlocked") or 0,
            passed=_whole_number(data, "passed") or 0,
            failures=tuple(map(str, get_list(data, "failures"))),
            raw=data,
        )

    def to_dict(self) -> Record:
        return {
            **self.raw,
            "target": self.target.to_dict(),
            "from": self.source.to_dict(),
            "by": self.by,
            "when": self.when,
            "unlocked": self.unlocked,
            "passed": self.passed,
            "failures": list(self.failures),
        }


@dataclass(frozen=True)
class Return:
    """The automatic return that ended `trial`. `reason`: what the person was told, once it was `handled`.

    `again`: nobody unlocked the disk or logged in, for the second time with the same version.
    """

    trial: Trial
    handled: bool
    again: bool
    reason: str | None = None

    @classmethod
    def from_dict(cls, data: Record) -> "Return":
        return cls(
            trial=Trial.from_dict(data),
            handled=data.get("handled") is not False,
            again=bool(data.get("again")),
            reason=get_text(data, "reason"),
        )

    def to_dict(self) -> Record:
        told = {} if self.reason is None else {"reason": self.reason}
        return {**self.trial.to_dict(), "handled": self.handled, "again": self.again, **told}


@dataclass(frozen=True)
class Missed:
    """A version that could not be put in place at `times` shutdowns. `reason`: what ostree said of it."""

    deployment: Deployment
    times: int
    when: str | None
    reason: str | None = None

    @classmethod
    def from_dict(cls, data: Record) -> "Missed":
        return cls(
            Deployment.from_dict(data),
            _whole_number(data, "times") or 0,
            get_text(data, "when"),
            get_text(data, "reason"),
        )

    def to_dict(self) -> Record:
        more = {"times": self.times, "when": self.when, "reason": self.reason}
        return {**self.deployment.to_dict(), **more}


@dataclass(frozen=True)
class Bootstrap:
    """What the installer wrote, pinned as a way back. `unpinned`: when we let go of it."""

    deployment: Deployment
    unpinned: str | None = None

    @classmethod
    def from_dict(cls, data: Record) -> "Bootstrap":
        return cls(Deployment.from_dict(data), get_text(data, "unpinned"))

    def to_dict(self) -> Record:
        gone = {} if self.unpinned is None else {"unpinned": self.unpinned}
        return {**self.deployment.to_dict(), **gone}


@dataclass(frozen=True)
class Proven:
    """A version that was called good, and what brought it."""

    digest: str | None
    by: str | None
    raw: Record = field(default_factory=dict, repr=False)

    @classmethod
    def from_dict(cls, data: Record) -> "Proven":
        return cls(get_text(data, "digest"), get_text(data, "by"), data)

    def to_dict(self) -> Record:
        return {**self.raw, "digest": self.digest, "by": self.by}


@dataclass
class HealthRecord:
    """All of health.json that this release knows. `back` is "return" in the file."""

    armed: Trial | None
    back: Return | None
    missed: Missed | None
    bootstrap: Bootstrap | None
    healthy: tuple[Proven, ...]
    failing: tuple[str, ...]

    @classmethod
    def from_dict(cls, data: Record) -> "HealthRecord":
        armed, back, bootstrap = data.get("armed"), data.get("return"), data.get("bootstrap")
        missed = data.get("missed")
        return cls(
            armed=Trial.from_dict(armed) if isinstance(armed, dict) else None,
            back=Return.from_dict(back) if isinstance(back, dict) else None,
            missed=Missed.from_dict(missed) if isinstance(missed, dict) else None,
            bootstrap=Bootstrap.from_dict(bootstrap) if isinstance(bootstrap, dict) else None,
            healthy=tuple(
                Proven.from_dict(one) for one in get_list(data, "healthy") if isinstance(one, dict)
            ),
            failing=tuple(map(str, get_list(data, "failing"))),
        )

    def to_dict(self) -> Record:
        return {
            "armed": self.armed and self.armed.to_dict(),
            "return": self.back and self.back.to_dict(),
            "missed": self.missed and self.missed.to_dict(),
            "bootstrap": self.bootstrap and self.bootstrap.to_dict(),
            "healthy": [one.to_dict() for one in self.healthy],
            "failing": list(self.failing),
        }


def read(path: str = state.HEALTH) -> HealthRecord:
    """health.json at PATH as it is now; without anything in it when there is none."""
    return HealthRecord.from_dict(state.read_record(path))


@contextlib.contextmanager
def edit(path: str = state.HEALTH) -> Iterator[HealthRecord]:
    """health.json at PATH to change: what was changed is written when the block ends well, the rest stays."""
    with state.edit_record(path) as data:
        record = HealthRecord.from_dict(data)
        before = record.to_dict()
        yield record
        for key, value in record.to_dict().items():
            if value != before[key]:
                data[key] = value
