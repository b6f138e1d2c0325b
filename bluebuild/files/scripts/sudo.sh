#!/usr/bin/env bash
# Bring sudo back. The base deletes the program, strips its mode, and in newer builds removes the package. run0 stays.
# Rests on: sudo sudo-message run0 polkit-helper
set -euo pipefail
root=${VEILOR_ROOT:-}
if rpm -q sudo >/dev/null; then
  # dnf5 can reinstall the same version only, and Fedora may have a newer one by now: the base is pinned by its digest.
  if dnf5 -y reinstall sudo; then
    echo "sudo: the package was there without its program; reinstalled"
  else
    dnf5 -y upgrade sudo
    echo "sudo: the base's version is in no repository any more; upgraded"
  fi
else
  dnf5 -y install sudo
  echo "sudo: the package was not there; installed"
fi
sudo=$root/usr/bin/sudo
if [[ ! -f $sudo ]]; then
  echo "sudo: dnf5 did not bring /usr/bin/sudo, so the image would have none" >&2
  exit 1
fi
chmod 4111 "$sudo"          # as Fedora's package has it; the base strips set-user-id bits everywhere
echo "sudo: mode $(stat -c %a "$sudo")"
rm -f "$root/etc/profile.d/sudo-missing-message.sh"
for kept in usr/bin/run0 usr/lib/systemd/system/polkit-agent-helper.socket; do
  [[ -e $root/$kept ]] && echo "sudo: /$kept is still there" && continue
  echo "sudo: /$kept is missing, and the base's own tools need it" >&2
  exit 1
done
