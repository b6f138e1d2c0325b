#!/usr/bin/env bash
# Without bootupd's fragment GRUB never counts a boot, and no machine would ever go back from a failed update.
set -euo pipefail
root=${VEILOR_ROOT:-}
fragment=$root/usr/lib/bootupd/grub2-static/configs.d/08_greenboot.cfg
if [[ ! -s $fragment ]] || ! grep -q boot_counter "$fragment"; then
  echo "greenboot: ${fragment#"$root"} is missing or counts nothing; the image would not come back from a bad update" >&2
  exit 1
fi
echo "greenboot: GRUB's fragment counts boots"
unit=$root/usr/lib/systemd/system/greenboot-healthcheck.service
if [[ ! -e $unit ]]; then
  echo "greenboot: greenboot-healthcheck.service is missing; see whether the package was renamed" >&2
  exit 1
fi
echo "greenboot: greenboot-healthcheck.service is there"
