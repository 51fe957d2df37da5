# graft_options: how Graft's own code is compiled. Private to this build; nothing of it reaches a consumer.
add_library(graft_options INTERFACE)
target_compile_features(graft_options INTERFACE cxx_std_20)
# Sums must not be reassociated or contracted behind our back: the same source gives the same bits on every machine.
target_compile_options(graft_options INTERFACE -Wall -Wextra -ffp-contract=off -fno-math-errno -fvisibility-inlines-hidden)
if(GRAFT_SANITIZE)
  target_compile_options(graft_options INTERFACE -fsanitize=${GRAFT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(graft_options INTERFACE -fsanitize=${GRAFT_SANITIZE})
endif()

# Most of what a small source costs is what it includes and instantiates, so that sources of one target are compiled several at a time.
# CMAKE_UNITY_BUILD=OFF compiles each alone, as are all those that have options of their own.
function(graft_batches)
  if(CMAKE_UNITY_BUILD OR NOT DEFINED CMAKE_UNITY_BUILD)
    set_target_properties(${ARGN} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# One spelling of includes everywhere, "graft/core/tensor.h": a link in the build folder points at the source root.
set(GRAFT_INCLUDE_DIR ${PROJECT_BINARY_DIR}/include)
file(MAKE_DIRECTORY ${GRAFT_INCLUDE_DIR})
file(CREATE_LINK ${PROJECT_SOURCE_DIR} ${GRAFT_INCLUDE_DIR}/graft SYMBOLIC)
