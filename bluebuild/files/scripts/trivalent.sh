#!/usr/bin/env bash
# Brave takes the place of Trivalent. trivalent-selinux stays: policy modules of the base (flatpak, System Settings, file
# managers) are written against the attribute it declares, and their optional blocks vanish without it.
# Rests on: trivalent trivalent-filter trivalent-policy open-with favourites panel-layout
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
# Launchers and the opening of links: in the lists of the base, and in Plasma's favourites and layouts.
changed=0
while IFS= read -r file; do
  sed -i 's/trivalent\.desktop/brave-browser.desktop/g' "$file"
  echo "trivalent: ${file#"$root"} starts Brave"
  changed=$((changed + 1))
done < <(grep -rlF trivalent.desktop "$root"/{etc/xdg,usr/share/{kde-settings,plasma,applications/mimeapps.list}} 2>/dev/null || true)
echo "trivalent: $changed file(s) started it"
grep -rliF trivalent "$root"/{etc/xdg,usr/share/{kde-settings,plasma,applications/mimeapps.list}} 2>/dev/null \
  | sed "s#^$root#trivalent: still named in #" || true
rm -rf "$root/etc/trivalent"
