#!/bin/bash
# greenboot runs this after a bad boot, before it restarts by itself while there are tries left.
exec /usr/bin/python3 -I /usr/lib/veilor/app health failed
