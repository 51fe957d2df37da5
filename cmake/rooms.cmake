# Where nothing is optimized, fmt's headers raise the level for themselves, and GCC does not lower it again behind a precompiled header.
if(NOT CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo|MinSizeRel)$")
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()

# What nearly every source includes is parsed once, for all rooms and cuda/, at the level of the kernels. Sources include what they use
# all the same.
file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/empty.cpp CONTENT "")
add_library(graft_precompiled OBJECT ${PROJECT_BINARY_DIR}/empty.cpp)
target_include_directories(graft_precompiled PRIVATE ${GRAFT_INCLUDE_DIR})
target_link_libraries(graft_precompiled PRIVATE fmt::fmt graft_options Threads::Threads)
set_target_properties(graft_precompiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
target_precompile_headers(graft_precompiled PRIVATE <algorithm> <cmath> <functional> ${GRAFT_INCLUDE_DIR}/graft/core/tensor.h)
string(REGEX MATCH "-O[^ ]*" kernel_level "${CMAKE_CXX_FLAGS_RELEASE}")
if(GRAFT_SANITIZE)  # what sanitizers add takes longer to optimize than all the rest
  set(plain_level -Og -Wno-maybe-uninitialized)  # whose warnings are false ones about the standard library then
  set(loops_level -O1)
else()
  set(plain_level $<$<CONFIG:Release>:-O1>)
  set(loops_level $<$<CONFIG:Release>:${kernel_level}>)
endif()

# Each room is an object library; graft::graft is all of them. The folder is the list of sources.
# A room may include the rooms named after it and nothing else (.ci/check_house holds this).
function(graft_room room)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${room}/*.cpp ${PROJECT_SOURCE_DIR}/${room}/cpu/*.cpp
       ${PROJECT_SOURCE_DIR}/${room}/formats/*.cpp)
  add_library(graft_${room} OBJECT ${sources})
  target_include_directories(graft_${room} PUBLIC ${GRAFT_INCLUDE_DIR})
  target_link_libraries(graft_${room} PUBLIC fmt::fmt PRIVATE graft_options Threads::Threads nlohmann_json::nlohmann_json Eigen3::Eigen)
  set_target_properties(graft_${room} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_precompile_headers(graft_${room} REUSE_FROM graft_precompiled)
  # Code without loops over numbers of its own, which reads configurations or puts operations together, and Eigen's factorizations:
  # more than this costs compile time and buys nothing measurable. Nothing is raised above the level of the precompiled header.
  target_compile_options(graft_${room} PRIVATE ${plain_level})
  graft_batches(graft_${room})
  foreach(source ${sources})
    if(source MATCHES "linalg|svd|inverse_factor" AND kernel_level STREQUAL "-O3")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O2>")
    elseif(source MATCHES "/cpu/|/quant/formats/|/autograd/(optim|tape)\\.|/quant/(awq_search|format|gptq_solver|grid|input_moments|pack|round_to_nearest)\\.")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${loops_level}")
    endif()
  endforeach()
  # One translation unit per instruction set: the suffix of its name chooses the flags. No precompiled header fits those.
  foreach(source ${sources})
    if(source MATCHES "_(avx2|avx512|avx512_dot)\\.cpp$")
      set_source_files_properties(${source} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    endif()
    set(instructions "")
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      if(source MATCHES "_avx2\\.cpp$")
        set(instructions -mavx2 -mfma -mf16c)
      elseif(source MATCHES "_avx512\\.cpp$")
        set(instructions -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
      elseif(source MATCHES "_avx512_dot\\.cpp$")
        set(instructions -mavx512bf16 -mavx512vnni -mavx512vbmi -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c)
      elseif(source MATCHES "/(gemm|dots)_scalar\\.cpp$")  # where there is no AVX2: half as fast, and less than half of the time to compile
        set(instructions $<$<CONFIG:Release>:-O2>)
      endif()
    endif()
    # Templates that the other units instantiate as well, which sanitizers take minutes to compile and few machines run.
    if(GRAFT_SANITIZE AND source MATCHES "_avx512(_dot)?\\.cpp$")
      list(APPEND instructions -fno-sanitize=all)
    endif()
    if(instructions)
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS ${instructions})
    endif()
  endforeach()
endfunction()

# Named in the checkpoints that we write.
set_source_files_properties(${PROJECT_SOURCE_DIR}/quant/quantize_config.cpp PROPERTIES COMPILE_DEFINITIONS GRAFT_VERSION="${PROJECT_VERSION}")

# The emulated rows put their own in its place, which takes an object of its own.
set_source_files_properties(${PROJECT_SOURCE_DIR}/core/isa.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

set(GRAFT_ROOMS core autograd quant adapters)
foreach(room ${GRAFT_ROOMS})
  graft_room(${room})
  list(APPEND GRAFT_OBJECTS $<TARGET_OBJECTS:graft_${room}>)
endforeach()
# Loops that select are vectorised only when their comparisons may be evaluated ahead; no value changes by it.
set_property(SOURCE ${PROJECT_SOURCE_DIR}/core/cpu/vector.cpp ${PROJECT_SOURCE_DIR}/core/cpu/vector_avx2.cpp
                    ${PROJECT_SOURCE_DIR}/core/cpu/vector_avx512.cpp
             APPEND PROPERTY COMPILE_OPTIONS -fno-trapping-math)
# CUDA is chosen at link time: exactly one of runtime.cpp and absent.cpp.
include(cmake/cuda.cmake)
list(APPEND GRAFT_OBJECTS $<TARGET_OBJECTS:graft_cuda>)
if(GRAFT_CUDA_FOUND)
  list(APPEND GRAFT_OBJECTS $<TARGET_OBJECTS:graft_cuda_entries>)
endif()

add_library(graft ${GRAFT_OBJECTS})
add_library(graft::graft ALIAS graft)
target_include_directories(graft PUBLIC $<BUILD_INTERFACE:${GRAFT_INCLUDE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_features(graft PUBLIC cxx_std_20)
target_link_libraries(graft PUBLIC fmt::fmt PRIVATE Threads::Threads $<BUILD_INTERFACE:graft_options>)
if(GRAFT_CUDA_FOUND)
  target_link_libraries(graft PRIVATE CUDA::cudart_static)
endif()
set_target_properties(graft PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
