#!/bin/sh
# tap.sh PROGRAM... : notes in /run/veilor-lab/calls how veilor's programs call each PROGRAM. "N before" or "N after" in
# /run/veilor-lab/kill ends the caller by SIGKILL at the N-th of those calls.
set -e
cd /run/veilor-lab
mkdir -p real
for name; do
  path=$(readlink -f "$(command -v "$name")")
  cp "$path" "real/$name"
  cat > "tap-$name" <<EOF
#!/bin/sh
grep -qa /usr/lib/veilor/app /proc/\$PPID/cmdline || exec /run/veilor-lab/real/$name "\$@"
echo "$name \$*" >> /run/veilor-lab/calls
at=\$(wc -l < /run/veilor-lab/calls)
kill=\$(cat /run/veilor-lab/kill 2> /dev/null)
if [ "\$kill" = "\$at before" ]; then kill -9 \$PPID; exit 1; fi
[ "\$kill" = "\$at after" ] || exec /run/veilor-lab/real/$name "\$@"
/run/veilor-lab/real/$name "\$@"
kill -9 \$PPID
EOF
  chmod 755 "tap-$name"
  mount --bind "/run/veilor-lab/tap-$name" "$path"
done
