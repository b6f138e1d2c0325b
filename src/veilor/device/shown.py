"""veilor-status --claims: what was shown of the very image that runs, and what only on a stand-in.

A stand-in has the image's files, but not all of its parts. Both lie beside the image in the registry, as
in-toto statements in one artefact that is signed as images are. It is fetched under the container policy,
which alone decides whether it is genuine; the envelopes' own signatures are for other tools (`cosign
verify-attestation`). Nothing here installs anything.
"""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veilor.core import claims
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.device import channel
from veilor.device.run import DeviceError, at

TREE = "/usr/lib/veilor/tree-digest"
LIMIT = 4 << 20  # bytes of one envelope; a statement about every claim has some fifty thousand
PROMISED = ("enforced", "opt-in")  # the states of claims of which something can be shown


@dataclass(frozen=True)
class Result:
    """What one phase showed of a claim: CLAIM's id, the layer, the verdict, and the stand-ins it ran with."""

    claim: str
    layer: str
    verdict: str
    stand_ins: tuple[str, ...]


@dataclass(frozen=True)
class ClaimShown:
    """A claim, as --json has it, with the layers that PASSed on this very image and on a stand-in."""

    id: str
    says: str
    state: str
    image: list[str]
    stand_in: list[str]


def read_statements(folder: str) -> list[dict[str, Any]]:
    """The in-toto statements about claims in the artefact that lies in FOLDER. Raises OSError, ValueError."""
    found = []
    try:
        for layer in json.loads(Path(folder, "manifest.json").read_bytes()[:LIMIT])["layers"]:
            name = layer["digest"].removeprefix("sha256:").replace("/", "")
            with open(f"{folder}/{name}", "rb") as file:
                envelope = json.loads(file.read(LIMIT))
            statement = json.loads(base64.b64decode(envelope["payload"]))
            if statement["predicateType"] == claims.PREDICATE:
                found.append(statement)
    except (LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("it has not the shape of an attestation") from None
    return found


def results_about(statements: list[dict[str, Any]], digest: str) -> list[Result]:
    """The results in those STATEMENTS whose only subject is DIGEST ("sha256:…").

    Raises LookupError, TypeError and AttributeError when they have another shape.
    """
    found = []
    for statement in statements:
        subjects = [subject["digest"].get("sha256") for subject in statement["subject"]]
        if subjects != [digest.removeprefix("sha256:")]:
            continue
        for row in statement["predicate"]["results"]:
            # A check of the image itself ran with no stand-in.
            stand_ins = tuple(row.get("stand_ins", ()))
            found.append(Result(row["claim"], row["layer"], row["verdict"], stand_ins))
    return found


def layers_passed(results: list[Result], claim: str) -> list[str]:
    """The layers at which RESULTS have a PASS for CLAIM, in order."""
    return sorted({one.layer for one in results if one.claim == claim and one.verdict == "PASS"})


def report(product: Product, facts: dict[str, Any]) -> Outcome:
    """What was shown of the image that runs, beside veilor-status's FACTS. Raises DeviceError."""
    digest = facts["booted"]["digest"] or ""
    reference = f"{product.image_repo}:{digest.replace(':', '-')}.att"
    statements = channel.fetch(reference, read_statements, "what was shown of this image", largest=LIMIT)
    try:
        made = claims.parse(at(claims.PATH).read_text())
        here = results_about(statements, digest)
        elsewhere = results_about(statements, at(TREE).read_text().strip())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(
            f"What was shown of this image cannot be understood ({error})", "nothing is said of it", ""
        ) from None
    shown = []
    for claim in made:
        if claim.state in PROMISED:
            image, stand_in = layers_passed(here, claim.id), layers_passed(elsewhere, claim.id)
            shown.append(ClaimShown(claim.id, claim.says, claim.state, image, stand_in))
    on_image = sum(bool(one.image) for one in shown)
    on_stand_in = sum(bool(one.stand_in) for one in shown)
    return Outcome(
        Code.DONE,
        f"Of {len(shown)} claims {on_image} were shown on this very image, {on_stand_in} on a stand-in with "
        "its files",
        "what was shown on a stand-in is not thereby shown here",
        "veilor-doctor looks at this machine itself",
        {
            **facts,
            "shown": [asdict(one) for one in shown],
            "stand_ins": sorted({name for one in elsewhere for name in one.stand_ins}),
        },
    )


def text(facts: dict[str, Any]) -> str:
    """The FACTS of a report for people: a line for each claim."""
    said = []
    for one in facts["shown"]:
        here, elsewhere = (", ".join(one[where]) or "nothing" for where in ("image", "stand_in"))
        said.append(f"{one['id']:30} on this very image: {here}; on a stand-in: {elsewhere}")
    return "\n".join([*said, f"stand-ins: {', '.join(facts['stand_ins']) or 'none'}"])
