#!/bin/bash
# greenboot runs this; a failure makes the boot a bad one.
exec /usr/bin/python3 -I /usr/lib/veilor/app health check
