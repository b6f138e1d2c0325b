"""What the machine's owner may set, in /etc/veilor/veilor.toml.

No file is shipped there: an update never meets a changed one.

[update]
rollout = "early" | "normal" | "late"    which part of a release's rollout window this machine is in
"""

import sys
import tomllib

from veilor.core.rollout import SETTINGS
from veilor.device.run import at

CONFIG = "/etc/veilor/veilor.toml"
DEFAULT = "normal"


def rollout() -> str:
    """The setting `rollout`: "early", "normal" or "late".

    A file that cannot be used is named on standard error, and the setting is "normal".
    """
    try:
        with at(CONFIG).open("rb") as file:
            setting = tomllib.load(file).get("update", {}).get("rollout", DEFAULT)
        if not isinstance(setting, str) or setting not in SETTINGS:
            raise ValueError(f"[update] rollout must be one of {', '.join(SETTINGS)}")
        return setting
    except FileNotFoundError:
        return DEFAULT
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        print(f"veilor: {CONFIG} is passed over ({error})", file=sys.stderr)
        return DEFAULT
