#!/usr/bin/env bash
# On first boot the base overwrites the image's firewall zone, chrony.conf and authselect with its own, deletes flatpak
# remotes, and has moved unsigned machines to an image under its own name. Masked, since presets could enable it again.
# Rests on: first-boot-cleanup
set -euo pipefail
root=${VEILOR_ROOT:-}
unit=securebluecleanup.service
if [[ -e $root/usr/lib/systemd/system/$unit ]]; then
  echo "first-boot: masked $unit"
else
  echo "first-boot: the base has no $unit; masked all the same"
fi
mkdir -p "$root/etc/systemd/system"
rm -f "$root/etc/systemd/system/"*.wants/$unit
ln -sfn /dev/null "$root/etc/systemd/system/$unit"
