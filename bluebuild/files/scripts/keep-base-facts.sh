#!/usr/bin/env bash
# The staged tree replaces os-release and policy.json; the base's are kept, to be merged with ours afterwards.
# Rests on: os-release container-policy
set -euo pipefail
root=${VEILOR_ROOT:-}
for path in usr/lib/os-release etc/containers/policy.json; do
  kept="$root/usr/lib/veilor/base/${path##*/}"
  if [[ -e $kept ]]; then
    echo "keep-base-facts: ${path##*/} was kept before"
  elif [[ -f $root/$path ]]; then
    install -D -m 0644 "$root/$path" "$kept"
    echo "keep-base-facts: kept /$path"
  elif [[ -f $root/usr/$path ]]; then
    install -D -m 0644 "$root/usr/$path" "$kept"
    echo "keep-base-facts: kept /usr/$path"
  else
    echo "keep-base-facts: the base has no /$path, and the image would be built on a guess" >&2
    exit 1
  fi
done
