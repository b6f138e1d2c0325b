"""veilor-status --claims: what was shown of the very image that runs, and what only on a stand-in with the
same files.

Both lie beside the image in the registry, as in-toto statements in one artefact that is signed as images are.
It is fetched under the container policy, which alone decides whether it is genuine; the envelopes' own
signatures are for other tools (`cosign verify-attestation`). Nothing here installs anything.
"""

import base64
import json
from pathlib import Path

from veilor.core import claims
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.device import channel
from veilor.device.run import DeviceError, at

TREE = "/usr/lib/veilor/tree-digest"
LIMIT = 4 << 20  # bytes of one envelope; a statement about every claim has some fifty thousand


def statements(folder: str) -> list[dict]:
    """The statements about claims in the artefact that lies in FOLDER. Raises OSError, ValueError."""
    found = []
    try:
        for layer in json.loads(Path(folder, "manifest.json").read_bytes()[:LIMIT])["layers"]:
            with open(f"{folder}/{layer['digest'].removeprefix('sha256:').replace('/', '')}", "rb") as file:
                said = json.loads(base64.b64decode(json.loads(file.read(LIMIT))["payload"]))
            found += [said] if said["predicateType"] == claims.PREDICATE else []
    except (LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("it has not the shape of an attestation") from None
    return found


def about(said: list[dict], digest: str) -> list[dict]:
    """The results in those statements SAID whose subject is DIGEST (sha256:…),
    one for each claim and layer.
    """
    return [
        one
        for statement in said
        if [subject["digest"].get("sha256") for subject in statement["subject"]] == [digest[7:]]
        for one in statement["predicate"]["results"]
    ]


def report(product: Product, facts: dict) -> Outcome:
    """What was shown, and of what, for the image that runs, beside
    veilor-status's FACTS. Raises DeviceError.
    """
    digest = facts["booted"]["digest"] or ""
    reference = f"{product.image_repo}:{digest.replace(':', '-')}.att"
    said = channel.fetch(reference, statements, "what was shown of this image")
    try:
        mine, tree = claims.parse(at(claims.PATH).read_text()), at(TREE).read_text().strip()
        here, elsewhere = about(said, digest), about(said, tree)
        shown = [
            {
                "id": claim.id,
                "says": claim.says,
                "state": claim.state,
                **{
                    where: sorted(
                        {
                            one["layer"]
                            for one in rows
                            if one["claim"] == claim.id and one["verdict"] == "PASS"
                        }
                    )
                    for where, rows in (("image", here), ("stand_in", elsewhere))
                },
            }
            for claim in mine
            if claim.state in ("enforced", "opt-in")
        ]
        stand_ins = sorted({name for one in elsewhere for name in one["stand_ins"]})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DeviceError(
            f"What was shown of this image cannot be understood ({error})", "nothing is said of it", ""
        ) from None
    counts = [sum(bool(one[where]) for one in shown) for where in ("image", "stand_in")]
    return Outcome(
        Code.DONE,
        f"Of {len(shown)} claims {counts[0]} were shown on this very image, {counts[1]} on a stand-in with "
        "its files",
        "what was shown on a stand-in is not thereby shown here",
        "veilor-doctor looks at this machine itself",
        {**facts, "shown": shown, "stand_ins": stand_ins},
    )


def text(facts: dict) -> str:
    """FACTS of a report for people: a line for each claim."""

    def layers(found: list[str]) -> str:
        return ", ".join(found) or "nothing"

    said = [
        f"{one['id']:30} on this very image: {layers(one['image'])}; on a stand-in: {layers(one['stand_in'])}"
        for one in facts["shown"]
    ]
    return "\n".join([*said, f"stand-ins: {', '.join(facts['stand_ins']) or 'none'}"])
