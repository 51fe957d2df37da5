#!/usr/bin/env bash
# Says whether the GPU half of the library is right on the GPU that is here, and how fast it is: builds, runs its tests, runs a ragged
# part of them under compute-sanitizer, runs the bench and, where python3 has torch, its int4 product, and writes tables of it all to a
# folder. Ten minutes at most.
#
#   cuda/check_on_gpu.sh [folder]        without one, build/gpu/report
#
#   GRAFT_BUILD=<folder>         takes gpu_tests and cuda_bench from this build as they are; nothing is compiled
#   GRAFT_COMMIT=<commit>        what was built, where there is no git to ask
#   GRAFT_CHECK_SECONDS=<n>      for all of it, instead of 590
#
# Exit code: 0 all passed; 1 something failed; 2 wrong arguments; 3 no GPU; 4 nothing failed, but a tool was missing or time ran out for
# something, which the tables name.
set -uo pipefail

say() { printf 'check_on_gpu: %s\n' "$*"; }
stop() {  # <exit code> <why…>
  local code=$1
  shift
  say "$*" >&2
  exit "$code"
}

case ${1:-} in -*) stop 2 "usage: cuda/check_on_gpu.sh [folder]" ;; esac
[ $# -le 1 ] || stop 2 "usage: cuda/check_on_gpu.sh [folder]"
total=${GRAFT_CHECK_SECONDS:-590}
[[ $total =~ ^[1-9][0-9]*$ ]] || stop 2 "GRAFT_CHECK_SECONDS is $total, and a whole number of seconds is wanted"
called_from=$PWD
cd "$(dirname "$0")/.." || exit 2
root=$PWD
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$called_from" "$1" ;; esac; }

# ---- what is here ----

command -v nvidia-smi >/dev/null || stop 3 "no GPU: there is no nvidia-smi, so no NVIDIA driver is installed"
gpu=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1)
[[ $gpu == *,*,*,* ]] || stop 3 "no GPU: nvidia-smi says: ${gpu:-nothing}"
IFS=, read -r device capability driver memory <<<"${gpu//, /,}"

PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer
build=$(absolute "${GRAFT_BUILD:-$root/build/gpu}")
programs=(tests/cuda/gpu_tests bench/cuda_bench)
built=yes
for program in "${programs[@]}"; do [ -x "$build/$program" ] || built=no; done

missing=()
for tool in timeout sed grep; do command -v $tool >/dev/null || stop 4 "$tool is missing"; done
if [ -n "${GRAFT_BUILD:-}" ]; then
  [ $built = yes ] || stop 4 "GRAFT_BUILD is $build, and that has no ${programs[*]}"
else
  for tool in cmake ninja nvcc c++; do command -v $tool >/dev/null || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ] && [ $built = no ]; then
    stop 4 "missing: ${missing[*]}; they are needed to build, and $build has nothing built (GRAFT_BUILD names another)"
  fi
fi

report=$(absolute "${1:-$root/build/gpu/report}")
mkdir -p "$report" || stop 2 "$report cannot be made"
rm -f "$report"/{summary,machine,tests,sanitizers,bench}.txt "$report"/{bench,peers}.json "$report"/*.log

commit=${GRAFT_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
if [ -z "${GRAFT_COMMIT:-}" ] && [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then commit+=" with changes"; fi
{
  printf 'device   %s, compute capability %s, %s\n' "$device" "$capability" "$memory"
  printf 'driver   %s\n' "$driver"
  printf 'date     %s\n' "$(date -u +'%Y-%m-%d %H:%M UTC')"
  printf 'commit   %s\n' "$commit"
} >"$report/machine.txt"
cat "$report/machine.txt"

# ---- stages ----

failed=0 incomplete=0
note() {  # <stage> <passed, failed, cut or missing; other words change no exit code> <details…>
  local name=$1 result=$2
  shift 2
  case $result in failed) failed=1 ;; cut | missing) incomplete=1 ;; esac
  printf '%-12s %-8s %s\n' "$name" "$result" "$*" | tee -a "$report/summary.txt"
}

# Runs a command for at most a share of the time that is left, into a log. Leaves its exit code in `code` and its seconds in `took`; 124
# means that it was cut.
code=0 took=0 limit=0
run() {  # <log> <per cent of what is left> <command…>
  local log=$report/$1 began=$SECONDS
  limit=$(((total - SECONDS) * $2 / 100))
  shift 2
  code=124 took=0
  if [ $limit -lt 1 ]; then
    echo 'no time was left' >"$log"
    return
  fi
  timeout --signal=INT --kill-after=10 $limit "$@" >"$log" 2>&1
  code=$?
  [ $code != 137 ] || code=124
  took=$((SECONDS - began))
}

# Machine code for this GPU; from PTX where no architecture of ours is its own.
case $capability in 9.0) architecture=90a ;; *) architecture=80 ;; esac
build_all() {
  cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGRAFT_CUDA=ON -DGRAFT_BENCH=ON \
    -DGRAFT_CUDA_ARCHITECTURES=$architecture && cmake --build "$build" --target gpu_tests cuda_bench
}
if [ -n "${GRAFT_BUILD:-}" ]; then
  note build passed "earlier"
elif [ ${#missing[@]} -gt 0 ]; then
  note build missing "${missing[*]}; what was built before is used as it is"
else
  export -f build_all
  export root build architecture
  run build.log 60 bash -c build_all
  case $code in
    0) note build passed "sm_$architecture, in $took s" ;;
    124) note build cut "after $took s; a second run goes on from here" ;;
    *) note build failed "with $code; build.log says why" ;;
  esac
  if [ $code != 0 ]; then
    tail -n 20 "$report/build.log"
    stop $((code == 124 ? 4 : 1)) "there is nothing to run"
  fi
fi

count() { grep -c "$1" "$2"; }
results_of() {  # <log of a test program>: what happened in words; fails unless some tests passed, and none did not
  local passed failures skipped
  passed=$(count '^\[       OK \]' "$1") failures=$(count '^\[  FAILED  \] .* ms)$' "$1") skipped=$(count '^\[  SKIPPED \] .* ms)$' "$1")
  printf '%d passed, %d failed, %d skipped' "$passed" "$failures" "$skipped"
  [ "$passed" -gt 0 ] && [ "$failures" = 0 ]
}

export GRAFT_GOLDEN=${GRAFT_GOLDEN:-$root/tests/golden}  # programs that were built elsewhere look there
run tests.log 45 "$build/tests/cuda/gpu_tests" --gtest_color=no
if words=$(results_of "$report/tests.log"); then right=yes; else right=no; fi
if [ $right = yes ] && [ $code = 0 ]; then note tests passed "$words, in $took s"
elif [ $right = yes ] && [ $code = 124 ]; then note tests cut "after $took s: $words"
else note tests failed "with $code: $words"; fi
{
  printf '%s\n\n' "$words"
  grep -E '^\[  (FAILED  |SKIPPED )\] .* ms\)$' "$report/tests.log"
} >"$report/tests.txt"

# Every kernel over shapes that fit nothing. Models and adapters launch the same ones and would take a tool's share of the time; what asks
# for too much memory on purpose is no finding.
ragged='Gpu.*:GpuQuantized.*:GpuSkinny.*:GpuTiled.*:GpuJoins.*:BenchOperands.*:Kernels*:Draw.*'
ragged+='-*OutOfMemory*:*Refuse*:*Threads*:*AnyIsa*:*EveryIsa*:*OfOurOwn*'
for tool in memcheck racecheck initcheck synccheck; do
  if ! command -v compute-sanitizer >/dev/null; then
    note $tool missing 'compute-sanitizer is not here'
    continue
  fi
  run $tool.log 15 compute-sanitizer --tool $tool --error-exitcode 99 --report-api-errors no --print-limit 20 \
    "$build/tests/cuda/gpu_tests" --gtest_color=no --gtest_filter="$ragged"
  found=$(sed -n 's/^========= \(.*SUMMARY.*\)/\1/p' "$report/$tool.log" | tail -n 1)
  words=$(results_of "$report/$tool.log")
  if [ $code = 0 ] && [ -n "$found" ]; then note $tool passed "$found; $words, in $took s"
  elif [ $code = 124 ]; then note $tool cut "after $took s: $words${found:+; $found}"
  else note $tool failed "with $code: ${found:-no summary}; $words"; fi
done
grep -E '^(mem|race|init|sync)check' "$report/summary.txt" >"$report/sanitizers.txt"

# For comparison, where there is a PyTorch for CUDA; no part of what passes.
run peers.log 15 python3 "$root/bench/peers/int4_cuda.py"
grep '^{' "$report/peers.log" >"$report/peers.json"
if [ -s "$report/peers.json" ]; then note peers measured "$(count '^{' "$report/peers.json") rows of PyTorch's int4 product, in $took s"
else note peers absent "$(tail -n 1 "$report/peers.log")"; fi

remaining=$((total - SECONDS))
run bench.log 100 "$build/bench/cuda_bench" --seconds=$((remaining > 30 ? remaining - 20 : remaining)) --benchmark_counters_tabular=true \
  --benchmark_color=false --benchmark_out="$report/bench.json" --benchmark_out_format=json
# Google Benchmark's own table, without what it says on the way.
{
  cat "$report/machine.txt"
  echo
  grep -vE '^(\*\*\*|Running )' "$report/bench.log"
} >"$report/bench.txt"
rows=$(count '"name":' "$report/bench.json" 2>/dev/null) || rows=${rows:-0}
errors=$(count '"error_occurred": true' "$report/bench.json" 2>/dev/null) || errors=${errors:-0}
cut=$(count '"error_message": "cut:' "$report/bench.json" 2>/dev/null) || cut=${cut:-0}
words="$((rows - errors)) rows measured, $((errors - cut)) refused, $cut cut"
if [ $code = 0 ] && [ "$errors" = 0 ] && [ "$rows" -gt 0 ]; then note bench passed "$words, in $took s"
elif [ $code = 124 ] || { [ $code = 0 ] && [ "$errors" = "$cut" ] && [ "$rows" -gt 0 ]; }; then note bench cut "after $took s: $words"
else note bench failed "with $code: $words; bench.log says why"; fi

say "the tables are in $report"
if [ $failed = 1 ]; then exit 1; fi
if [ $incomplete = 1 ]; then exit 4; fi
