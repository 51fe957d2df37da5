#!/usr/bin/env bash
# Has nvcc make machine code of PTX, and keeps what ptxas says about every kernel for tests/cuda/ptxas_gates.sh, with a sum of the
# two files that it speaks of. Shown are only warnings and remarks.
#   ptxas_report.sh <report> <machine code> <PTX> <nvcc and its flags…>
report=$1 code=$2 ptx=$3
shift 3
rm -f "$report"
said=$("$@" -Xptxas -v -o "$code" "$ptx" 2>&1) || { status=$?; printf '%s\n' "$said"; exit $status; }
grep -vE '^ptxas info +: [^(]|^ +[0-9]+ bytes stack frame' <<<"$said"
{ printf '%s\n' "$said" && cat "$code" "$ptx" | sha256sum; } >"$report"
