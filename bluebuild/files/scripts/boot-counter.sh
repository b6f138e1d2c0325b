#!/usr/bin/env bash
# Without our fragment GRUB never counts a start, and no failed update would be left by itself. bootupd joins the
# fragments as they are: one without a newline at its end swallows its own last line, as another's has done.
# Rests on: grub-fragments
set -euo pipefail
root=${VEILOR_ROOT:-}
fragments=$root/usr/lib/bootupd/grub2-static/configs.d
if [[ ! -d $fragments ]]; then
  echo "boot-counter: ${fragments#"$root"} is missing: bootupd has moved its fragments; find where, and move ours there" >&2
  exit 1
fi
if ! grep -q veilor_counter "$fragments/08_veilor.cfg"; then
  echo "boot-counter: 08_veilor.cfg is missing or counts nothing; the image would not come back from a bad update" >&2
  exit 1
fi
for fragment in "$fragments"/*.cfg; do
  if [[ -n $(tail -c 1 "$fragment") ]]; then
    echo "boot-counter: ${fragment#"$root"} does not end with a newline, so its last line would be lost in grub.cfg" >&2
    exit 1
  fi
  if [[ ${fragment##*/} != 08_veilor.cfg ]] && grep -q boot_counter "$fragment"; then
    echo "boot-counter: ${fragment#"$root"} counts starts too (greenboot?); two counters would lead each other astray" >&2
    exit 1
  fi
done
echo "boot-counter: GRUB counts the starts of a new version, by our fragment alone"
