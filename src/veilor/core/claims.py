"""The threat model's claims as the machine carries them, and what a check of one can come to."""

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PATH = "/usr/lib/veilor/claims.json"
# the predicate type of an in-toto statement about claims: a name, no page stands there
PREDICATE = "https://github.com/veilor/veilor-os/claims/v1"
STATES = ("enforced", "opt-in", "residual", "out-of-scope")


class Status(enum.StrEnum):
    """What was seen of a check or claim, from best to worst; the worst that was seen stands for the whole."""

    NOT_APPLICABLE = "NOT_APPLICABLE"
    PASS = "PASS"
    UNKNOWN = "UNKNOWN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One thing to check: the kind of check, its arguments, and what fixes it (`mend`).

    `capability`, `when` and `otherwise`: see threats/schema.json.
    """

    id: str
    kind: str
    arguments: dict[str, Any]
    mend: str
    capability: str = ""
    when: str = ""
    otherwise: str = ""


@dataclass(frozen=True)
class Claim:
    """One sentence of the threat model with the checks that a running machine can make.

    `checks` is empty where a running machine shows nothing of it.
    """

    id: str
    adversary: str
    says: str
    state: str
    checks: tuple[Check, ...]


def worst(found: Iterable[Status]) -> Status | None:
    """The worst of FOUND; None when nothing was checked."""
    order = list(Status)
    return max(found, key=order.index, default=None)


def render(claims: Iterable[Claim]) -> str:
    """The file's text for CLAIMS (schema 1)."""
    rows = [
        {
            "id": claim.id,
            "adversary": claim.adversary,
            "says": claim.says,
            "state": claim.state,
            "checks": [vars(check) for check in claim.checks],
        }
        for claim in claims
    ]
    return json.dumps({"schema": 1, "claims": rows}, indent=1, sort_keys=True) + "\n"


def parse(text: str) -> tuple[Claim, ...]:
    """The claims in the file's TEXT. Raises ValueError when it is not of schema 1 or has another shape."""
    try:
        data = json.loads(text)
        if data["schema"] != 1:
            raise ValueError(f"its schema is {data['schema']!r}, not 1")
        return tuple(
            Claim(
                row["id"],
                row["adversary"],
                row["says"],
                row["state"],
                tuple(Check(**check) for check in row["checks"]),
            )
            for row in data["claims"]
        )
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"it has not the shape of claims: {error}") from None
