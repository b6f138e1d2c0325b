#!/usr/bin/env bash
# Bring Xwayland back, which the base removes by one flag, the two units that follow that override, and the splash.
# /etc/xdg/kwinrc stays. `ujust set-xwayland` takes an image's name up to its first hyphen and refuses ours: not needed.
# Rests on: xwayland-off xwayland-off-ksmserver xwayland-off-xembed splash-off
set -euo pipefail
root=${VEILOR_ROOT:-}
for path in \
  etc/systemd/user/plasma-kwin_wayland.service.d/override.conf \
  usr/lib/systemd/user/plasma-ksmserver.service.d/40-secureblue.conf \
  usr/lib/systemd/user/plasma-xembedsniproxy.service.d/40-secureblue.conf \
  etc/xdg/ksplashrc; do
  if [[ -e $root/$path || -e $root/usr/$path ]]; then
    rm -f "$root/$path" "$root/usr/$path"
    rmdir --ignore-fail-on-non-empty "$(dirname "$root/$path")" 2>/dev/null || true
    echo "xwayland: removed /$path"
  else
    echo "xwayland: the base has no /$path"
  fi
done
