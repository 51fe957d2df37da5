#!/usr/bin/env bash
# What cuda/check_on_gpu.sh says and with which exit code, where there is no GPU and where one is only acted: programs of a few lines stand
# for nvidia-smi, compute-sanitizer and what was built.
#   check_on_gpu_test.sh <script>
# shellcheck disable=SC2016  # the programs' lines are expanded when they run
set -uo pipefail
script=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
wrong=0

# A folder with those of the system's programs that the script needs, and nothing of CUDA.
mkdir -p "$folder/bin"
for tool in bash cat cmake cp date dirname env git grep head ln mkdir mktemp printf rm sed sleep tail tee timeout; do
  path=$(command -v $tool) && [ -x "$path" ] && ln -s "$path" "$folder/bin/$tool"
done
act() {  # <program> <lines…>
  mkdir -p "$(dirname "$1")"
  { printf '#!/usr/bin/env bash\n' && printf '%s\n' "${@:2}"; } >"$1"
  chmod +x "$1"
}
check() {  # <exit code> <words of the output> <VARIABLE=value…> [-- <arguments…>]
  local wanted=$1 words=$2 settings=()
  shift 2
  while [ $# -gt 0 ] && [ "$1" != -- ]; do settings+=("$1") && shift; done
  [ $# = 0 ] || shift
  output=$(env CUDA_HOME=/nowhere PATH="$folder/bin" "${settings[@]}" "$script" "$@" 2>&1)
  local code=$?
  if [ $code != "$wanted" ] || [[ $output != *"$words"* ]]; then
    printf 'wanted %s and "%s", got %s and\n%s\n\n' "$wanted" "$words" $code "$output"
    wrong=1
  fi
}
tables() {  # <file> <words>
  grep -qF -- "$2" "$folder/report/$1" || { printf '%s lacks "%s":\n%s\n\n' "$1" "$2" "$(cat "$folder/report/$1")"; wrong=1; }
}

check 2 'usage: cuda/check_on_gpu.sh [folder]' X= -- --help
check 2 'usage: cuda/check_on_gpu.sh [folder]' X= -- one two
check 2 'GRAFT_CHECK_SECONDS is soon' GRAFT_CHECK_SECONDS=soon
check 3 'no GPU: there is no nvidia-smi, so no NVIDIA driver is installed' X=
act "$folder/bin/nvidia-smi" 'echo "No devices were found"; exit 6'
check 3 'no GPU: nvidia-smi says: No devices were found' X=

act "$folder/bin/nvidia-smi" 'echo "An Acted GPU, 9.0, 999.1, 1024 MiB"'
check 4 'and that has no tests/cuda/gpu_tests bench/cuda_bench' GRAFT_BUILD="$folder/build"

passing=('echo "[       OK ] Gpu.One (3 ms)"' 'echo "[       OK ] Gpu.Two (3 ms)"' 'echo "[  SKIPPED ] Gpu.Three (0 ms)"')
bench=('for word in "$@"; do case $word in --benchmark_out=*) out=${word#*=} ;; esac; done' 'echo "a row 1.0 us"')
measured=("${bench[@]}" 'printf "\"name\": \"a\",\n\"name\": \"b\",\n" >"$out"')
act "$folder/build/tests/cuda/gpu_tests" "${passing[@]}"
act "$folder/build/bench/cuda_bench" "${measured[@]}"
with=(GRAFT_BUILD="$folder/build" GRAFT_COMMIT=abc123)
check 4 'compute-sanitizer is not here' "${with[@]}" -- "$folder/report"

act "$folder/bin/compute-sanitizer" 'while [ "$1" != --print-limit ]; do shift; done; shift 2; echo "$@"; "$@"' 'echo "========= ERROR SUMMARY: 0 errors"'
check 0 'the tables are in' "${with[@]}" -- "$folder/report"
tables machine.txt 'An Acted GPU, compute capability 9.0, 1024 MiB'
tables machine.txt 'driver   999.1'
tables machine.txt 'commit   abc123'
tables tests.txt '2 passed, 0 failed, 1 skipped'
tables tests.txt 'SKIPPED ] Gpu.Three'
for tool in memcheck racecheck initcheck synccheck; do tables sanitizers.txt "$tool"; done
tables sanitizers.txt 'ERROR SUMMARY: 0 errors; 2 passed'
tables bench.txt 'a row 1.0 us'
tables bench.json '"name": "b"'
tables summary.txt '2 rows measured, 0 refused, 0 cut'
tables summary.txt 'peers        absent'
for suite in Gpu GpuQuantized GpuSkinny GpuTiled GpuJoins BenchOperands Draw; do tables memcheck.log "$suite.*"; done
tables memcheck.log ':Kernels*'

# PyTorch's product is measured where there is one, and fails nothing.
act "$folder/bin/python3" '[[ $1 == */bench/peers/int4_cuda.py ]] && echo "{\"name\": \"torch_int4\"}"'
check 0 'peers        measured 1 rows' "${with[@]}" -- "$folder/report"
tables peers.json 'torch_int4'
act "$folder/bin/python3" "echo \"ModuleNotFoundError: No module named 'torch'\"; exit 1"
check 0 "peers        absent   ModuleNotFoundError: No module named 'torch'" "${with[@]}" -- "$folder/report"
rm "$folder/bin/python3"

act "$folder/bin/compute-sanitizer" 'echo "========= ERROR SUMMARY: 7 errors"; exit 99'
check 1 'failed   with 99: ERROR SUMMARY: 7 errors' "${with[@]}" -- "$folder/report"
rm "$folder/bin/compute-sanitizer"

act "$folder/build/tests/cuda/gpu_tests" "${passing[@]}" 'echo "[  FAILED  ] Gpu.Four (1 ms)"; echo "[  FAILED  ] Gpu.Four"; exit 1'
check 1 'failed   with 1: 2 passed, 1 failed, 1 skipped' "${with[@]}" -- "$folder/report"
tables tests.txt 'FAILED  ] Gpu.Four (1 ms)'
# Tests that all find no GPU have shown nothing.
act "$folder/build/tests/cuda/gpu_tests" 'echo "[  SKIPPED ] Gpu.Three (0 ms)"'
check 1 'failed   with 0: 0 passed, 0 failed, 1 skipped' "${with[@]}" -- "$folder/report"

act "$folder/build/tests/cuda/gpu_tests" "${passing[@]}"
act "$folder/build/bench/cuda_bench" "${bench[@]}" \
  'printf "\"name\": \"a\",\n\"name\": \"b\",\n\"error_occurred\": true,\n\"error_message\": \"cut: no time was left\"" >"$out"'
check 4 'cut      after 0 s: 1 rows measured, 0 refused, 1 cut' "${with[@]}" -- "$folder/report"
act "$folder/build/bench/cuda_bench" 'echo "there is no GPU to measure"; exit 3'
check 1 'failed   with 3: 0 rows measured' "${with[@]}" -- "$folder/report"

act "$folder/build/bench/cuda_bench" "${measured[@]}"
act "$folder/build/tests/cuda/gpu_tests" "${passing[@]}" 'exec sleep 60'
check 4 'cut      after' "${with[@]}" GRAFT_CHECK_SECONDS=6 -- "$folder/report"

# It builds by itself, in its own tree, and uses what is there where it cannot.
act "$folder/build/tests/cuda/gpu_tests" "${passing[@]}"
mkdir -p "$folder/tree/cuda"
cp "$script" "$folder/tree/cuda/"
script=$folder/tree/cuda/check_on_gpu.sh
check 4 'missing: ninja nvcc c++; they are needed to build' GRAFT_COMMIT=abc123 -- "$folder/report"
for tool in ninja nvcc c++; do act "$folder/bin/$tool" ''; done
rm "$folder/bin/cmake"
act "$folder/bin/cmake" 'echo "cmake $*"; [ "$1" != --build ] || { echo "no such header"; exit 1; }'
check 1 'there is nothing to run' GRAFT_COMMIT=abc123 -- "$folder/report"
tables build.log '-DGRAFT_CUDA_ARCHITECTURES=90a'
tables build.log 'no such header'
act "$folder/bin/cmake" "[ \"\$1\" != --build ] || { mkdir -p '$folder/tree/build' && cp -r '$folder/build' '$folder/tree/build/gpu'; }"
check 4 'passed   sm_90a' GRAFT_COMMIT=abc123 -- "$folder/report"
tables tests.txt '2 passed, 0 failed, 1 skipped'
rm "$folder/bin/ninja"
check 4 'missing  ninja; what was built before is used as it is' GRAFT_COMMIT=abc123

exit $wrong
