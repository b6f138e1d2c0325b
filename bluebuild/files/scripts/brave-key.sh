#!/usr/bin/env bash
# Fetch the key of Brave's repository; go on only when every key in it is one that we know.
set -euo pipefail
root=${VEILOR_ROOT:-}
files=${CONFIG_DIRECTORY:-/tmp/files}
new=$(mktemp)
trap 'rm -f "$new"' EXIT
curl --fail --silent --show-error --location --proto '=https' --max-time 60 --retry 3 --output "$new" \
  https://brave-browser-rpm-release.s3.brave.com/brave-core.asc
# A primary key's fingerprint is the first fpr after its pub line; subkeys follow from it.
mapfile -t found < <(gpg --batch --show-keys --with-colons "$new" | awk -F: '$1 == "pub" {want = 1} $1 == "fpr" && want {print $10; want = 0}')
if ((${#found[@]} == 0)); then
  echo "brave-key: what was fetched holds no key; see whether the address in brave-key.sh still stands" >&2
  exit 1
fi
for key in "${found[@]}"; do
  if ! grep -qxF "$key" "$files/brave/fingerprints"; then
    echo "brave-key: $key is not in files/brave/fingerprints; compare it with https://brave.com/signing-keys before adding it" >&2
    exit 1
  fi
done
install -D -m 0644 "$new" "$root/etc/pki/rpm-gpg/brave-core.asc"
echo "brave-key: ${#found[@]} known key(s)"
