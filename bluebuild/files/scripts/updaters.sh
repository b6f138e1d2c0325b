#!/usr/bin/env bash
# The base's updaters know nothing of our channel statement, so none of them may stage an image besides veilor-update. Their
# check of provenance refuses every image except secureblue's; a line that says who updates takes its place.
# The system's timers are masked in overlay/; here are the person's, and what `ujust update-system` would run.
# Rests on: provenance-check upgrade-on-boot rpm-ostreed-automatic update-verification update-notification deprecation-notice
set -euo pipefail
root=${VEILOR_ROOT:-}
check=$root/usr/libexec/secureblue/verify-provenance.sh
if [[ -e $check ]]; then
  printf '#!/bin/sh\necho "This system is updated by veilor-update, which checks signature and channel; nothing was changed." >&2\nexit 1\n' >"$check.new"
  chmod 0755 "$check.new"
  mv "$check.new" "$check"
  echo "updaters: verify-provenance.sh sends to veilor-update"
else
  echo "updaters: the base has no verify-provenance.sh any more"
fi
mask() {  # FOLDER UNIT: mask it where the base has it
  if [[ -e $root/usr/lib/systemd/$1/$2 || -e $root/etc/systemd/$1/$2 ]]; then
    rm -f "$root/etc/systemd/$1/"*.wants/"$2"
    ln -sfn /dev/null "$root/etc/systemd/$1/$2"
    echo "updaters: masked $1 $2"
  else
    echo "updaters: the base has no $1 $2"
  fi
}
mkdir -p "$root/etc/systemd/system" "$root/etc/systemd/user"
for unit in upgrade-on-boot.service rpm-ostreed-automatic.timer; do mask system "$unit"; done
# The last one announces the base's own images, recommends `ujust rebase-secureblue`, away from ours, and opens Trivalent.
units=(secureblue-update-verification.timer security-update-notification.path image-deprecation-notice.service)
for unit in "${units[@]}"; do mask user "$unit"; done
