#!/usr/bin/env bash
# Move Brave into /usr, where an update can reach it, and have our launcher start it. /opt leads to /var, which the build
# empties; BlueBuild leads it to /usr/lib/opt before the first script, so Brave may lie there already.
set -euo pipefail
root=${VEILOR_ROOT:-}
files=${CONFIG_DIRECTORY:-/tmp/files}
home=$root/usr/lib/opt/brave.com
for place in "$root/var/opt/brave.com" "$root/opt/brave.com"; do
  if [[ -d $place && ! -L $place && ! $place -ef $home ]]; then
    mkdir -p "$root/usr/lib/opt"
    mv "$place" "$home"
    echo "brave: moved ${place#"$root"} to /usr/lib/opt"
  fi
done
if [[ ! -x $home/brave/brave ]]; then
  echo "brave: /usr/lib/opt/brave.com/brave/brave is not there; its package puts it elsewhere now" >&2
  exit 1
fi
# What a new profile begins with: Chromium reads it beside the program. No policy turns the advertisements of a new tab off.
install -m 0644 "$files/brave/initial_preferences.json" "$home/brave/initial_preferences"
# chrome-sandbox is for kernels without user namespaces, which Brave has here; so no program but sudo has the set-user-ID bit.
find "$home" -type f -perm /6000 -exec chmod ug-s {} +
install -D -m 0644 /dev/stdin "$root/usr/lib/tmpfiles.d/veilor-brave.conf" <<<'L+ /var/opt/brave.com - - - - /usr/lib/opt/brave.com'
entries=("$root"/usr/share/applications/{brave-browser,com.brave.Browser}.desktop)
changed=0
for entry in "${entries[@]}"; do
  [[ -f $entry ]] || continue
  sed -i -E 's#^Exec=(env \S+ )*\S*brave-browser(-stable)?#Exec=/usr/bin/veilor-brave#' "$entry"
  changed=$((changed + $(grep -c '^Exec=/usr/bin/veilor-brave' "$entry" || true)))
done
if ((changed == 0)); then
  echo "brave: no desktop entry starts it by our launcher" >&2
  exit 1
fi
echo "brave: $changed line(s) of its desktop entries start our launcher"
# BlueBuild's module turns the repository on by `dnf5 config-manager setopt`, whose own file wins over the repository's.
for repo in "$root"/etc/{yum.repos.d,dnf/repos.override.d}/*.repo; do
  if [[ -f $repo ]]; then sed -i '/^\[brave-browser\]/,/^\[/s/^enabled *=.*/enabled=0/' "$repo"; fi
done
