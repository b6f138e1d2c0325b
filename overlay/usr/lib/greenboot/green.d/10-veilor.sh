#!/bin/bash
# greenboot runs this after a good boot, before it takes the boot counter away.
exec /usr/bin/python3 -I /usr/lib/veilor/app health healthy
