#!/bin/sh
# Tells the boot screen the name of the keyboard layout, which veilor-keymap-write.sh has found.
read -r keymap <"${VEILOR_ROOT:-}/run/veilor-keymap" || exit 0
# Plymouth forgets what it is told before its screen is there, which is when the graphics driver has come: it is told until
# the disk is open, when the initramfs ends, or for five minutes.
told=0
while plymouth update --status="keymap=$keymap" && [ "$told" -lt 300 ]; do
    told=$((told + 1))
    sleep 1
done
