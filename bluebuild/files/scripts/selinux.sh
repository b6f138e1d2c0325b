#!/usr/bin/env bash
# Brave's domain and bootc's, at the priority of the base's own modules (300). What both rest on is then read from the policy
# that was built: a rule that fell away with a name of the base's shows nowhere else before it fails on a machine.
# Rests on: selinux-policy sesearch
set -euo pipefail
root=${VEILOR_ROOT:-}
files=${CONFIG_DIRECTORY:-/tmp/files}
modules=("$files"/selinux/veilor_{brave,update}.cil)
if [[ -e $root/usr/lib/veilor/declare-trivalent-domain ]]; then
  modules+=("$files/selinux/veilor_trivalent_domain.cil")
  rm "$root/usr/lib/veilor/declare-trivalent-domain"
fi
semodule -X 300 -i "${modules[@]}"
policy=$(find "$root/etc/selinux/targeted/policy" -name 'policy.*' | sort --version-sort | tail -n 1)
rules=0
rule() {  # yes|no WHAT ARGUMENT...: sesearch has to find such a rule in the policy, or none
  local wanted=$1 what=$2 found=no said
  shift 2
  said=$(sesearch "$@" "$policy")
  if [[ -n $said ]]; then found=yes; fi
  if [[ $found != "$wanted" ]]; then
    echo "selinux: in the policy that was built $what; see docs/decisions/0044-selinux-domains.md" >&2
    exit 1
  fi
  rules=$((rules + 1))
}
rule yes "a service that starts bootc keeps it in its own domain" -T -s unconfined_service_t -t install_exec_t -c process
rule yes "install_t may not write labels that are new" -A -s install_t -c capability2 -p mac_admin
rule yes "Brave may make no user namespaces" -A -s brave_t -c user_namespace -p create
rule no "every program of a session may make user namespaces" -A -s unconfined_t -c user_namespace -p create
echo "selinux: $rules rules that this system rests on are in the policy as they have to be"
restorecon -RF "$root/usr/lib/opt/brave.com" || echo "selinux: no labels in a container; ostree writes them from file contexts"
