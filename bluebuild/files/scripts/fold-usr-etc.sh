#!/usr/bin/env bash
# The base may carry /usr/etc beside /etc, which `bootc container lint` refuses. On a machine ostree makes /usr/etc from
# the image's /etc, so one folder is enough. Where both have a file, the one in /etc is what the base's build wrote last.
# Rests on: usr-etc
set -euo pipefail
root=${VEILOR_ROOT:-}
if [[ ! -d $root/usr/etc ]]; then
  echo "fold-usr-etc: the base has no /usr/etc"
  exit 0
fi
while IFS= read -r -d '' path; do
  name=${path#"$root/usr/etc/"}
  if [[ ! -e $root/etc/$name && ! -L $root/etc/$name ]]; then
    mkdir -p "$(dirname "$root/etc/$name")"
    cp -a "$path" "$root/etc/$name"
    echo "fold-usr-etc: /etc/$name comes from /usr/etc"
  elif ! cmp -s "$path" "$root/etc/$name"; then
    echo "fold-usr-etc: /etc/$name differs from /usr/etc and stays"
  fi
done < <(find "$root/usr/etc" -mindepth 1 ! -type d -print0)
rm -rf "$root/usr/etc"
echo "fold-usr-etc: /usr/etc is folded into /etc"
