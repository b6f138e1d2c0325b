#!/usr/bin/env bash
# User namespaces for Brave alone: a domain of its own, at the priority of the base's own modules (300). On a base
# without that wall the domain does no harm, and its optional blocks fall away.
set -euo pipefail
root=${VEILOR_ROOT:-}
files=${CONFIG_DIRECTORY:-/tmp/files}
modules=("$files/selinux/veilor_brave.cil")
if [[ -e $root/usr/lib/veilor/declare-trivalent-domain ]]; then
  modules+=("$files/selinux/veilor_trivalent_domain.cil")
  rm "$root/usr/lib/veilor/declare-trivalent-domain"
fi
if semodule -lfull | grep 'harden_userns' >/dev/null; then  # not -q, which would end semodule by SIGPIPE
  echo "selinux: harden_userns is there; Brave gets a domain that it lets through"
else
  echo "selinux: the base has no harden_userns any more; Brave's domain is installed, and base-controls.sh will stop the build"
fi
semodule -X 300 -i "${modules[@]}"
restorecon -RF "$root/usr/lib/opt/brave.com" || echo "selinux: no labels in a container; ostree writes them from file contexts"
