#!/usr/bin/env bash
# `ujust audit-secureblue` takes an image's name up to its first hyphen, knows no image called veilor, and still asks whether
# that unknown image is a desktop: its check of DNS ends in an error, and with -j so does the whole audit. Ours is a desktop.
# Rests on: audit
set -euo pipefail
root=${VEILOR_ROOT:-}
program=$root/usr/libexec/secureblue/audit_secureblue.py
asks='state["image"].is_desktop()'
if [[ ! -f $program ]]; then
  echo "audit: the base has no audit_secureblue.py"
elif grep -qF "(state[\"image\"] is None or $asks)" "$program"; then
  echo "audit: stands an unknown image's name already"
elif grep -qF "$asks" "$program"; then
  sed -i 's/state\["image"\]\.is_desktop()/(state["image"] is None or &)/g' "$program"
  echo "audit: an image without a known name counts as a desktop"
else
  echo "audit: the base's audit does not ask any more whether the image is a desktop"
fi
