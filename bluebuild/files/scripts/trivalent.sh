#!/usr/bin/env bash
# Brave takes the place of Trivalent. trivalent-selinux stays: policy modules of the base (flatpak, System Settings, file
# managers) are written against the attribute it declares, and their optional blocks vanish without it.
set -euo pipefail
root=${VEILOR_ROOT:-}
for package in trivalent trivalent-subresource-filter; do
  if rpm -q "$package" >/dev/null; then
    dnf5 -y remove --no-autoremove "$package"
    echo "trivalent: removed $package"
  else
    echo "trivalent: the base has no $package"
  fi
done
if rpm -q trivalent-selinux >/dev/null; then
  echo "trivalent: trivalent-selinux is there and stays"
else
  # Gone with the browser, or never there: selinux.sh declares the attribute in its place.
  install -D -m 0644 /dev/null "$root/usr/lib/veilor/declare-trivalent-domain"
  echo "trivalent: trivalent-selinux is not there; its attribute is declared by us"
fi
list=$root/usr/share/applications/mimeapps.list
if [[ -f $list ]] && grep -q 'trivalent\.desktop' "$list"; then
  sed -i 's/trivalent\.desktop/brave-browser.desktop/g' "$list"
  echo "trivalent: links are opened by Brave"
else
  echo "trivalent: mimeapps.list does not name it"
fi
rm -rf "$root/etc/trivalent"
