#!/usr/bin/env bash
# What ptxas says about every kernel of the library: no registers spilled, no budget overrun, and none of its remarks about wgmma and
# setmaxnreg that cost speed in silence.
#   ptxas_gates.sh <ptxas> <ptx files…>
set -euo pipefail
ptxas=$1 architectures='80 90a'  # the oldest and the newest that kernels are written for, whatever the build makes machine code for
shift
failed=0 kernels=0
complain() { printf '%s\n' "$*"; failed=1; }
for file in "$@"; do
  own=$architectures
  registers=128                                                # a block of 256 threads twice on a multiprocessor
  case $file in *_sm90a.ptx) own=90a registers=168 ;; esac  # or of three warpgroups once
  for architecture in $own; do
    report=$("$ptxas" -arch="sm_$architecture" -v -o /dev/null "$file" 2>&1) || { printf '%s\n' "$report"; exit 1; }
    count=$(grep -c 'Compiling entry function' <<<"$report" || true)
    [ "$count" -gt 0 ] || complain "$file for sm_$architecture: ptxas reports no kernel"
    kernels=$((kernels + count))
    spills=$(grep -B2 -E '[1-9][0-9]* bytes spill (stores|loads)' <<<"$report" || true)
    [ -z "$spills" ] || complain "$file for sm_$architecture spills registers:"$'\n'"$spills"
    remarks=$(grep -E 'C7508|C7510|C7517' <<<"$report" || true)
    [ -z "$remarks" ] || complain "$file for sm_$architecture: $remarks"
    most=$(sed -n 's/.*Used \([0-9]*\) registers.*/\1/p' <<<"$report" | sort -n | tail -n 1)
    [ "${most:-0}" -le $registers ] || complain "$file for sm_$architecture: a kernel uses $most registers, and $registers are allowed"
  done
done
echo "$kernels kernels looked at"
exit $failed
