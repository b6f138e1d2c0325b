"""Refuses a root that the image does not fit on, before the image is copied there.

The installer asks for 500 MB, whatever the image needs. Of a whole disk that was chosen by number the size
was judged before; this is for partitions made by hand. Where it doesn't fit, the machine is switched off.
Exit codes: 0 it fits, 1 it doesn't.
"""

import os
import sys

sys.path.insert(0, "/run/veilor-install")
import ending

ROOT = "/mnt/sysimage"
ROOM = f"{ending.HERE}/room"  # the bytes that the image needs on /, written when the disk was asked for
GiB = 1 << 30


def main():
    """Compare what is free with what is needed; the exit code."""
    try:
        with open(ROOM) as file:
            needed = int(file.read())
        found = os.statvfs(ROOT)
    except (OSError, ValueError) as error:
        print(f"veilor: the room was not judged ({error})")
        return 0
    free = found.f_bavail * found.f_frsize
    if free >= needed:
        print(f"veilor: {free / GiB:.1f} GiB are free, {needed / GiB:.1f} needed")
        return 0
    return ending.end(
        f"/ has {free / GiB:.1f} GiB free and the image needs {needed / GiB:.1f} at least; start again and "
        "make it larger"
    )


if __name__ == "__main__":
    sys.exit(main())
