#!/usr/bin/env bash
# Our ujust recipes: imported beside the base's, whose list is never overwritten.
# Rests on: just-list
set -euo pipefail
root=${VEILOR_ROOT:-}
list=$root/usr/share/ublue-os/just/60-custom.just
line='import "/usr/share/veilor/veilor.just"'
if [[ ! -f $list ]]; then
  echo "just: the base has no 60-custom.just; our recipes run by: just -f /usr/share/veilor/veilor.just"
elif grep -qxF "$line" "$list"; then
  echo "just: imported before"
else
  printf '\n%s\n' "$line" >>"$list"
  echo "just: imported"
fi
