"""Starts a program of the product: `python3 -I -S /usr/lib/veilor/app PROGRAM [ARGUMENTS]`."""

import sys

from veilor.device.main import main

sys.exit(main(sys.argv[1:]))
