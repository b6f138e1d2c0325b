#!/usr/bin/env bash
# The base's message of the day calls every image "untagged" whose name lacks its own ending.
# Rests on: motd
set -euo pipefail
root=${VEILOR_ROOT:-}
program=$root/usr/libexec/secureblue-motd
if [[ ! -e $program ]]; then
  echo "motd: the base has no secureblue-motd"
  exit 0
fi
# shellcheck disable=SC2016 # expanded when a person logs in
printf '#!/bin/sh\n. /usr/lib/os-release\necho "$PRETTY_NAME   veilor-status says how this system is; ujust --list what can be set."\n' >"$program.new"
chmod 0755 "$program.new"
mv "$program.new" "$program"
echo "motd: names this system"
