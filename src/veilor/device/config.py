"""What the machine's owner may set, in /etc/veilor/veilor.toml. No file is shipped there: an update never
meets a changed one.

[update]
rollout = "early" | "normal" | "late"    which part of a release's rollout window this machine is in
"""

import sys
import tomllib

from veilor.core.rollout import SETTINGS
from veilor.device.run import at

CONFIG = "/etc/veilor/veilor.toml"


def rollout() -> str:
    """The setting `rollout`. Whatever cannot be read is said, and is as if nothing were set."""
    try:
        with at(CONFIG).open("rb") as file:
            setting = tomllib.load(file).get("update", {}).get("rollout", "normal")
        if isinstance(setting, str) and setting in SETTINGS:
            return setting
        raise ValueError(f"[update] rollout must be one of {', '.join(SETTINGS)}")
    except FileNotFoundError:
        return "normal"
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        print(f"veilor: {CONFIG} is passed over ({error})", file=sys.stderr)
        return "normal"
