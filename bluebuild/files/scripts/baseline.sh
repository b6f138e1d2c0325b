#!/usr/bin/env bash
# The base's tools take a copy of /etc for what a system ought to have: they call what differs changed by somebody, and put
# files back from it (`ujust reset-container-policy`). So the copy has to be of our /etc, not of the base's.
# Rests on: etc-baseline
set -euo pipefail
root=${VEILOR_ROOT:-}
copy=$root/usr/share/secureblue/etc
if [[ ! -d $copy ]]; then
  echo "baseline: the base has no copy of /etc"
  exit 0
fi
rm -rf "$copy"
cp -a "$root/etc" "$copy"
echo "baseline: /usr/share/secureblue/etc is a copy of this image's /etc"
