#!/usr/bin/bash
# Into the initramfs: what tells the boot screen which keyboard layout the passphrase is typed on, and the font of its texts,
# since Plymouth takes one file there whatever the theme asks for.

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
    inst_simple "$moddir/veilor-keymap-write.service" "$systemdsystemunitdir/veilor-keymap-write.service"
    # shellcheck disable=SC2154
    inst_script "$moddir/veilor-keymap.sh" /usr/lib/veilor-keymap.sh
    inst_script "$moddir/veilor-keymap-write.sh" /usr/lib/veilor-keymap-write.sh
    inst_simple /usr/share/systemd/kbd-model-map /usr/lib/veilor-kbd-model-map
    inst_multiple tr mv
    # shellcheck disable=SC2154
    $SYSTEMCTL -q --root "$initdir" add-wants sysinit.target veilor-keymap.service veilor-keymap-write.service
    local font
    font=$(fc-match --format='%{file}' Inter 2>/dev/null) || return 0
    if [[ -e $font ]]; then
        inst_simple "$font" /usr/share/fonts/veilor.ttf
        ln -sf veilor.ttf "$initdir/usr/share/fonts/Plymouth.ttf"
    fi
}
