#!/usr/bin/env bash
# The last word before the image is closed. A person runs the same on the finished one: see docs/RELEASING.md.
set -euo pipefail
root=${VEILOR_ROOT:-}
if [[ -d $root/usr/etc ]]; then
  echo "lint: something wrote /usr/etc after it was folded; bootc would refuse the image" >&2
  exit 1
fi
bootc container lint
