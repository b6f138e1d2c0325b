#!/usr/bin/env bash
# The last check before the image is finished. A person can run it on the finished image: see docs/RELEASING.md.
set -euo pipefail
root=${VEILOR_ROOT:-}
if [[ -d $root/usr/etc ]]; then
  echo "lint: something wrote /usr/etc after it was folded; bootc would refuse the image" >&2
  exit 1
fi
bootc container lint
