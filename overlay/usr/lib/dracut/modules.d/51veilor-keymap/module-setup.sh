#!/usr/bin/bash
# Into the initramfs: what tells the boot screen which keyboard layout the passphrase is typed on.

check() {
    require_binaries plymouth || return 1
    return 0
}

depends() {
    echo plymouth systemd
}

install() {
    # Set by dracut, which reads this file.
    # shellcheck disable=SC2154
    inst_simple "$moddir/veilor-keymap.service" "$systemdsystemunitdir/veilor-keymap.service"
    # shellcheck disable=SC2154
    inst_script "$moddir/veilor-keymap.sh" /usr/lib/veilor-keymap.sh
    # shellcheck disable=SC2154
    $SYSTEMCTL -q --root "$initdir" add-wants sysinit.target veilor-keymap.service
}
