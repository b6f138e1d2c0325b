"""Makes the pictures in docs/pictures: each is a scene of scenes.py, played by the real programs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from veilor.lab.cache import cache_root, print_progress
from veilor.lab.tools import ensure_host_programs, ensure_namespaces
from veilor.lab.verdict import LabFault, UsageError
from veilor.pictures.desktop import staged_desktop

SESSIONS = {"desktop", "desktop_light", "notifications"}  # scenes that a person plays, not root
SCENES = Path(__file__).with_name("scenes.py")


@dataclass(frozen=True)
class Picture:
    """A file docs/pictures/NAME.png: its scene, the screen's size in pixels, and environment variables."""

    name: str
    scene: str
    width: int
    height: int
    env: dict[str, str] = field(default_factory=dict)


PICTURES = (
    Picture("boot", "boot", 1280, 800),
    Picture("passphrase", "passphrase", 1280, 800),
    Picture("passphrase-wrong-800x600", "passphrase_wrong", 800, 600),
    Picture("passphrase-4k", "passphrase", 3840, 2160),
    Picture("login", "login", 1280, 800),
    Picture("login-800x600", "login_typed", 800, 600),
    Picture("login-scale-200", "login", 1920, 1200, {"QT_SCALE_FACTOR": "2"}),
    Picture("splash", "splash", 1280, 800),
    Picture("desktop-dark", "desktop", 1920, 1080),
    Picture("desktop-light", "desktop_light", 1920, 1080),
    Picture("desktop-scale-200", "desktop", 2560, 1600, {"QT_SCALE_FACTOR": "2"}),
    Picture("notifications", "notifications", 1600, 900),
)


def make_pictures(staged: Path, out: Path, only: list[str]) -> list[Path]:
    """Make the pictures named in ONLY, or all, of the staged tree STAGED in the folder OUT; their paths.

    Raises UsageError for a name that no picture has, NotRun where the host lacks bubblewrap or mmdebstrap,
    LabFault when a program did not come up. A picture that could not be made leaves its older version as it
    was.
    """
    unknown = sorted(set(only) - {picture.name for picture in PICTURES})
    if unknown:
        raise UsageError(
            f"no picture is called {', '.join(unknown)}; there are: "
            f"{', '.join(picture.name for picture in PICTURES)}"
        )
    ensure_host_programs()
    ensure_namespaces()
    out.mkdir(parents=True, exist_ok=True)
    made = []
    with (
        staged_desktop(cache_root(), staged) as tree,
        tempfile.TemporaryDirectory(prefix=".pictures-", dir=out) as scratch,
    ):
        for picture in PICTURES:
            if only and picture.name not in only:
                continue
            print_progress(f"{picture.name}: {picture.scene}, {picture.width} × {picture.height}")
            file = Path(scratch, f"{picture.name}.png")
            tree.as_person = picture.scene in SESSIONS
            tree.run(
                [
                    "python3",
                    "-I",
                    str(SCENES),
                    picture.scene,
                    str(file),
                    str(picture.width),
                    str(picture.height),
                ],
                binds=[Path(scratch), SCENES.parent],
                env=picture.env,
                timeout=600,
            )
            if not file.exists():
                raise LabFault(f"the scene {picture.scene} ended well and left no picture")
            os.replace(file, out / file.name)
            made.append(out / file.name)
    return made
