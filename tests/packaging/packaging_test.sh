#!/usr/bin/env bash
# An outside project builds and runs with Graft by add_subdirectory, by find_package after install, and by pkg-config, each with
# the static and the shared library; each public header compiles alone; and the README's program is examples/embed.
set -euo pipefail
source=$1  # the repository
export CXX=$2  # the compiler of the build, here for CMake, make and the headers alone
launcher=${3:-}
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

for shared in ON OFF; do
  # One build folder for both: the objects are the same, so that only the library is linked anew.
  step "add_subdirectory, BUILD_SHARED_LIBS=$shared"
  cmake -S "$source/examples/embed" -B "$work/subdirectory" -G Ninja -D GRAFT_SOURCE="$source" -D GRAFT_INSTALL=ON \
    -D CMAKE_BUILD_TYPE=Debug -D CMAKE_CXX_FLAGS=-O0 -D CMAKE_CXX_COMPILER_LAUNCHER="$launcher" \
    -D CMAKE_DISABLE_PRECOMPILE_HEADERS="$whole_sources" -D BUILD_SHARED_LIBS=$shared \
    >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/subdirectory" >"$work/log" || { cat "$work/log"; exit 1; }
  run_embed "$work/subdirectory/embed"

  prefix=$work/prefix-$shared
  cmake --install "$work/subdirectory" --prefix "$prefix" >"$work/log"
  step "find_package, BUILD_SHARED_LIBS=$shared"
  cmake -S "$source/examples/embed" -B "$work/package-$shared" -G Ninja -D CMAKE_PREFIX_PATH="$prefix" >"$work/log" || { cat "$work/log"; exit 1; }
  cmake --build "$work/package-$shared" >"$work/log" || { cat "$work/log"; exit 1; }
  run_embed "$work/package-$shared/embed"

  step "pkg-config, BUILD_SHARED_LIBS=$shared"
  folder=$work/make-$shared
  cp -r "$source/examples/embed" "$folder"
  pc=$(dirname "$(find "$prefix" -name graft.pc)")
  libraries=$(dirname "$pc")
  [ $shared = ON ] && config=pkg-config || config="pkg-config --static"
  PKG_CONFIG_PATH=$pc make -s -C "$folder" PKG_CONFIG="$config"
  LD_LIBRARY_PATH=$libraries run_embed "$folder/embed"
done

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
