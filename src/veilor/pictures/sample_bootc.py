#!/usr/bin/python3
"""Stands in for bootc where pictures are made: the status of a machine that took three updates.

The newest of them waits for the next boot. It is put into the desktop tree as /usr/bin/bootc, where
veilor-status asks it and does all the rest itself.
"""

import hashlib
import json
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PRODUCT = Path("/usr/lib/veilor/product.toml")  # of the staged tree, which the desktop tree has on it


def deployment(days: int, serial: int = 0) -> dict[str, Any]:
    """A deployment as `bootc status` shows it: its image was made DAYS ago and verified by the policy."""
    product = tomllib.loads(PRODUCT.read_text())
    image = product["image"]
    reference = f"{image['registry']}/{image['repository']}:{image['tag']}"
    made = datetime.now(UTC) - timedelta(days=days, hours=3)
    digest = hashlib.sha256(str(days).encode()).hexdigest()
    return {
        "image": {
            "image": {"image": reference, "transport": "registry", "signature": "containerPolicy"},
            "imageDigest": f"sha256:{digest}",
            "version": f"{product['product']['version']}.{made:%Y%m%d}",
            "timestamp": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "architecture": "amd64",
        },
        "downloadOnly": False,
        "pinned": False,
        "incompatible": False,
        "cachedUpdate": None,
        "ostree": {
            "checksum": hashlib.sha256(digest.encode()).hexdigest(),
            "deploySerial": serial,
            "stateroot": "veilor",
        },
    }


if __name__ == "__main__":
    if sys.argv[1:] != ["status", "--format=json", "--format-version=1"]:
        sys.exit("error: this stands in for bootc in a picture, and knows its status alone")
    print(
        json.dumps(
            {
                "apiVersion": "org.containers.bootc/v1",
                "kind": "BootcHost",
                "metadata": {"name": "host"},
                "spec": {},
                "status": {
                    "staged": deployment(0),
                    "booted": deployment(6),
                    "rollback": deployment(13),
                    "rollbackQueued": False,
                    "otherDeployments": [],
                },
            }
        )
    )
