#!/bin/sh
# Tells Plymouth, before it starts, which keyboard layout the passphrase is typed on, and veilor-keymap.sh its name. The kernel's
# argument wins over vconsole.conf, as for systemd-vconsole-setup. Up to Plymouth 25 keys are read by the console's layout; from
# 26 on by what vconsole.conf says of XKB, and are American without that. systemd's own table has the XKB layout of a console's.
# In the initramfs there is no Python. Best effort: without it the prompt is as good as before.
root=${VEILOR_ROOT:-}
file=$root/etc/vconsole.conf
value_of() {  # NAME: its value in vconsole.conf
    if [ -r "$file" ]; then
        while IFS='=' read -r key value || [ -n "$key" ]; do
            if [ "$key" = "$1" ]; then printf %s "$value" | tr -d '"'"'"; fi
        done <"$file"
    fi
}
keymap=$(value_of KEYMAP) layout=$(value_of XKBLAYOUT) font=$(value_of FONT) known=
read -r arguments <"$root/proc/cmdline" || true
for argument in $arguments; do
    case $argument in
        vconsole.keymap=* | rd.vconsole.keymap=*) keymap=$(printf %s "${argument#*=}" | tr -d '"'"'") layout= ;;
    esac
done
keymap=${keymap:-us}
while [ -z "$layout$known" ] && read -r console xkb model variant options; do
    if [ "$console" = "$keymap" ]; then known=$xkb; fi
done <"$root/usr/lib/veilor-kbd-model-map"
if [ -n "$known" ]; then
    {
        printf 'KEYMAP=%s\nXKBLAYOUT=%s\n' "$keymap" "$known"
        if [ "${model:--}" != - ]; then printf 'XKBMODEL=%s\n' "$model"; fi
        if [ "${variant:--}" != - ]; then printf 'XKBVARIANT=%s\n' "$variant"; fi
        if [ "${options:--}" != - ]; then printf 'XKBOPTIONS=%s\n' "$options"; fi
        if [ -n "$font" ]; then printf 'FONT=%s\n' "$font"; fi
    } >"$file.new" && mv "$file.new" "$file"
elif [ -z "$layout" ]; then     # the screen names what Plymouth uses, not what was asked for
    version=$(plymouth --version 2>/dev/null | tr -dc '0-9.\n')
    case ${version%%.*} in '' | ? | 1? | 2[0-5]) ;; *) keymap=us ;; esac
fi
printf '%s\n' "$keymap" >"$root/run/veilor-keymap"
