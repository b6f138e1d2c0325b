#!/usr/bin/env bash
# What enforced claims rest on and only the base can bring (threats/base.toml). Without one of them there is no image:
# the manual would promise what is not there. sshd's masks, kernel arguments and sysctl are ours, in overlay/.
# Rests on: preload allocator selinux-config prepare-root
set -euo pipefail
root=${VEILOR_ROOT:-}
missing=0
miss() { echo "base-controls: $1" >&2; missing=1; }
has() { grep -qsE "$1" "$root/$2"; }

has '(^|[/ ])libhardened_malloc\.so' etc/ld.so.preload || miss "/etc/ld.so.preload does not name libhardened_malloc.so"
[[ -e $root/usr/lib64/libhardened_malloc.so ]] || miss "/usr/lib64/libhardened_malloc.so is missing"
has '^SELINUX=enforcing' etc/selinux/config || miss "/etc/selinux/config does not say SELINUX=enforcing"
modules=$(semodule -lfull)
[[ $modules =~ (^|[[:space:]])harden_userns([[:space:]]|$) ]] || miss "the SELinux module harden_userns is missing"
# What setsebool -P left in the policy's store: an atomic Fedora keeps it in /etc, others in /var/lib.
store=selinux/targeted/active/booleans.local
has '^deny_ptrace=(1|on|true)$' "etc/$store" || has '^deny_ptrace=(1|on|true)$' "var/lib/$store" \
  || miss "deny_ptrace is not turned on in /etc/$store, nor in /var/lib"
composefs=$(sed -n '/^\[composefs\]/,/^\[/s/^enabled *= *//p' "$root/usr/lib/ostree/prepare-root.conf" 2>/dev/null || true)
[[ $composefs =~ ^(1|true|yes|signed|verity)$ ]] || miss "prepare-root.conf does not turn composefs on"
while IFS= read -r file; do
  miss "${file#"$root"} runs with its owner's or group's rights"
done < <(find "$root/usr" -xdev -type f -perm /6000 ! -path "$root/usr/bin/sudo" ! -name 'libhardened_malloc*.so' ! -name 'libno_rlimit_as.so')
if ((missing)); then exit 1; fi
echo "base-controls: what claims rest on is there"
