#!/usr/bin/env bash
# What ptxas says about every kernel of the library: no registers spilled, no budget overrun, and none of its remarks about wgmma and
# setmaxnreg that cost speed in silence. It was said when the machine code was made (cuda/ptxas_report.sh), and is asked for only where
# the build makes none.
#   ptxas_gates.sh <ptxas> <architectures of the build> <ptx files…>
set -euo pipefail
ptxas=$1 built=${2//;/ }
architectures='80 90a'  # the oldest and the newest that kernels are written for, whatever the build makes machine code for
shift 2
failed=0 kernels=0
complain() { printf '%s\n' "$*"; failed=1; }
kept() {  # <PTX> <architecture>: its part of the report, and all remarks, if it is of these files
  local report=${1%.ptx}.ptxas
  [ -f "$report" ] || { echo "$report is missing"; return 1; }
  [ "$(tail -n 1 "$report")" = "$(cat "${1%.ptx}.fatbin" "$1" | sha256sum)" ] || { echo "$report is of another machine code or PTX"; return 1; }
  awk -v its="'sm_$2'" '/Compiling entry function/ { own = index($0, its) } own || /\(C[0-9]+\)/' "$report"
}
for file in "$@"; do
  own=$architectures made=$built
  registers=128                                                      # a block of 256 threads twice on a multiprocessor
  case $file in *_sm90a.ptx) own=90a made=90a registers=168 ;; esac  # or of three warpgroups once
  for architecture in $own; do
    case " $made " in
      *" $architecture "*) report=$(kept "$file" "$architecture") ;;
      *) report=$("$ptxas" -arch="sm_$architecture" -v -o /dev/null "$file" 2>&1) ;;
    esac || { printf '%s\n' "$report"; exit 1; }
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
