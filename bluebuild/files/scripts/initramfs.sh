#!/usr/bin/env bash
# Make the initramfs anew, since branding and drivers go into it. The base's setting that preloads its allocator must not go
# into it: it is moved away while dracut runs, as the base does itself, and moved back whatever happens.
# Rests on: initramfs allocator-system allocator-session
set -euo pipefail
root=${VEILOR_ROOT:-}
mapfile -t kernels < <(find "$root/usr/lib/modules" -mindepth 1 -maxdepth 1 -type d -printf '%f\n')
if ((${#kernels[@]} != 1)); then
  echo "initramfs: ${#kernels[@]} kernels in /usr/lib/modules, and just one can be booted: ${kernels[*]}" >&2
  exit 1
fi
mapfile -t aside < <(find "$root/usr/lib/systemd" "$root/usr/lib/environment.d" -name 40-hardened_malloc.conf)
restore() { for path in "${aside[@]}"; do if [[ -e $path.aside ]]; then mv "$path.aside" "$path"; fi; done; }
trap restore EXIT
for path in "${aside[@]}"; do mv "$path" "$path.aside"; done
echo "initramfs: ${#aside[@]} allocator setting(s) put aside"
mkdir -p "$root/var/tmp"     # the base empties /var, and dracut works there
chmod 1777 "$root/var/tmp"
image=$root/usr/lib/modules/${kernels[0]}/initramfs.img
DRACUT_NO_XATTR=1 dracut --force --no-hostonly --reproducible --add ostree --kver "${kernels[0]}" "$image.new"
chmod 0600 "$image.new"
mv "$image.new" "$image"
echo "initramfs: made for ${kernels[0]}"
