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
exec plymouth update --status="keymap=$keymap"
