#!/usr/bin/env -S python3 -I
"""Merges our container policy with the base's.

The staged tree brought ours, and keep-base-facts.sh kept the base's. The base's entries stay (its own images,
toolbox), ours win, and the default is to reject. Written to /etc, and to /usr/etc where that exists. Exit
codes: 0 merged, 1 not, and nothing was written.
"""

# Rests on: container-policy

import json
import os
import sys
from pathlib import Path

REJECT = [{"type": "reject"}]


def merge(base: dict, ours: dict) -> dict:
    """BASE with every scope of OURS in it, and with a default that rejects.

    Scopes of BASE that lie within one of ours (a tag or digest of our repository) are left out: the longest
    scope decides, so they would win.
    """
    transports = {name: dict(scopes) for name, scopes in base.get("transports", {}).items()}
    docker = transports.setdefault("docker", {})
    for scope, rule in ours["transports"]["docker"].items():
        within = [name for name in docker if name.startswith((f"{scope}:", f"{scope}@"))]
        for name in within:
            del docker[name]
        docker[scope] = rule
    return {"default": REJECT, "transports": transports}


def main() -> int:
    """Merge the two files of the tree at $VEILOR_ROOT; the exit code."""
    root = Path(os.environ.get("VEILOR_ROOT") or "/")
    kept = root / "usr/lib/veilor/base/policy.json"
    try:
        base = json.loads(kept.read_text())
        ours = json.loads((root / "etc/containers/policy.json").read_text())
        merged = merge(base, ours)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        print(
            f"merge-policy: the two policies cannot be merged ({error}); nothing was written", file=sys.stderr
        )
        return 1
    if base.get("default") != REJECT:
        print(f"merge-policy: the base's default is {base.get('default')}; ours rejects")
    for folder in ("etc", "usr/etc"):
        target = root / folder / "containers/policy.json"
        if target.exists() or folder == "etc":
            new = target.with_name("policy.json.new")
            new.write_text(json.dumps(merged, indent=2) + "\n")
            new.chmod(0o644)
            new.rename(target)
            print(
                f"merge-policy: /{folder}/containers/policy.json: {len(merged['transports']['docker'])} "
                "registries' scopes"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
