#!/bin/sh
# Tells the boot screen the layout that systemd-vconsole-setup has loaded: the kernel's argument wins over vconsole.conf.
# In the initramfs there is no Python. Best effort: without it the prompt is as good as before.
keymap=
if [ -r "${VEILOR_ROOT:-}/etc/vconsole.conf" ]; then
    while IFS='=' read -r key value || [ -n "$key" ]; do
        if [ "$key" = KEYMAP ]; then keymap=$value; fi
    done <"${VEILOR_ROOT:-}/etc/vconsole.conf"
fi
read -r arguments <"${VEILOR_ROOT:-}/proc/cmdline" || true
for argument in $arguments; do
    case $argument in
        vconsole.keymap=* | rd.vconsole.keymap=*) keymap=${argument#*=} ;;
    esac
done
keymap=$(printf %s "$keymap" | tr -d '"'"'")
if [ -z "$keymap" ]; then keymap=us; fi
# Plymouth forgets what it is told before its screen is there, which is when the graphics driver has come: it is told until
# the disk is open, when the initramfs ends, or for five minutes.
told=0
while plymouth update --status="keymap=$keymap" && [ "$told" -lt 300 ]; do
    told=$((told + 1))
    sleep 1
done
