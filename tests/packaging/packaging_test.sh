#!/usr/bin/env bash
# An outside project builds and runs with Graft by add_subdirectory, by find_package after install, and by pkg-config, each with
# the static and the shared library, and the latter two with what this build installs, its GPU half included; each public header compiles
# alone; and the README's program is examples/embed.
set -euo pipefail
source=$1      # the repository
export CXX=$2  # the compiler of the build, here for CMake, make and the headers alone
build=$3       # what was built there is installed too
launcher=${4:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1  # so that a compiler cache, where there is one, knows the objects of the last run
whole_sources=$([ -z "$launcher" ] || echo ON)  # which it would not, were they made with a precompiled header
model=$source/examples/models/tiny-llama-gptq

step() { printf -- '-- %s\n' "$*"; }
run_embed() {  # <program>
  rm -rf "$work/adapter"
  "$1" "$model" "$work/adapter" && test -s "$work/adapter/adapter_model.safetensors" && test -s "$work/adapter/adapter_config.json"
}

step "the README's program is examples/embed/main.cpp"
sed -n '/^```cpp$/,/^```$/{/^```/d;p}' "$source/README.md" | diff - "$source/examples/embed/main.cpp"

installed() {  # <prefix> <what it holds> <pkg-config>
  step "find_package, $2"
  cmake -S "$source/examples/embed" -B "$1-package" -G Ninja -D CMAKE_PREFIX_PATH="$1" >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$1-package" >"$work/log" || { cat "$work/log"; exit 1; }
  run_embed "$1-package/embed"

  step "pkg-config, $2"
  cp -r "$source/examples/embed" "$1-make"
  pc=$(dirname "$(find "$1" -name graft.pc)")
  PKG_CONFIG_PATH=$pc make -s -C "$1-make" PKG_CONFIG="$3"
  LD_LIBRARY_PATH=$(dirname "$pc") run_embed "$1-make/embed"
}

for shared in ON OFF; do
  # One build folder for both: the objects are the same, so that only the library is linked anew. Kernels for GPUs, which take long to
  # compile, are taken from the build that this test belongs to.
  step "add_subdirectory, BUILD_SHARED_LIBS=$shared"
  cmake -S "$source/examples/embed" -B "$work/subdirectory" -G Ninja -D GRAFT_SOURCE="$source" -D GRAFT_INSTALL=ON -D GRAFT_CUDA=OFF \
    -D CMAKE_BUILD_TYPE=Debug -D CMAKE_CXX_FLAGS=-O0 -D CMAKE_CXX_COMPILER_LAUNCHER="$launcher" \
    -D CMAKE_DISABLE_PRECOMPILE_HEADERS="$whole_sources" -D BUILD_SHARED_LIBS=$shared \
    >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/subdirectory" >"$work/log" || { cat "$work/log"; exit 1; }
  run_embed "$work/subdirectory/embed"

  prefix=$work/prefix-$shared
  cmake --install "$work/subdirectory" --prefix "$prefix" >"$work/log"
  installed "$prefix" "BUILD_SHARED_LIBS=$shared" "$([ $shared = ON ] && echo pkg-config || echo pkg-config --static)"
done

cmake --install "$build" --prefix "$work/prefix-build" >"$work/log"
installed "$work/prefix-build" "this build" "pkg-config --static"

step "public headers alone"
headers=$(cd "$prefix/include" && find graft -name '*.h' | sort)
[ "$(wc -l <<<"$headers")" -gt 10 ]
export prefix
compiles_alone() {  # <header>
  printf '#include "%s"\n' "$1" | "$CXX" -std=c++20 -Wall -Wextra -Werror -fsyntax-only -I "$prefix/include" -x c++ - || { echo "$1 does not compile alone"; exit 1; }
}
export -f compiles_alone
xargs -n 1 -P "$(nproc)" bash -c 'compiles_alone "$0"' <<<"$headers"
step "$(wc -l <<<"$headers") headers compile alone"
