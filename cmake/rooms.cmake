# Where nothing is optimized, fmt's headers raise the level for themselves, and GCC does not lower it again behind a precompiled header.
if(NOT CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo|MinSizeRel)$")
  set(CMAKE_DISABLE_PRECOMPILE_HEADERS ON)
endif()

# What nearly every source includes is parsed once, for all rooms and cuda/. Sources include what they use all the same.
function(graft_precompile library)
  if(library STREQUAL graft_core)
    target_precompile_headers(${library} PRIVATE <algorithm> <cmath> <functional> ${GRAFT_INCLUDE_DIR}/graft/core/tensor.h)
  else()
    target_precompile_headers(${library} REUSE_FROM graft_core)
  endif()
endfunction()

# Each room is an object library; graft::graft is all of them. The folder is the list of sources.
# A room may include the rooms named after it and nothing else (.ci/check_house holds this).
function(graft_room room)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${room}/*.cpp ${PROJECT_SOURCE_DIR}/${room}/cpu/*.cpp
       ${PROJECT_SOURCE_DIR}/${room}/formats/*.cpp)
  if(NOT sources)
    file(WRITE ${PROJECT_BINARY_DIR}/empty.cpp "")
    set(sources ${PROJECT_BINARY_DIR}/empty.cpp)
  endif()
  add_library(graft_${room} OBJECT ${sources})
  target_include_directories(graft_${room} PUBLIC ${GRAFT_INCLUDE_DIR})
  target_link_libraries(graft_${room} PUBLIC fmt::fmt PRIVATE graft_options Threads::Threads nlohmann_json::nlohmann_json Eigen3::Eigen)
  set_target_properties(graft_${room} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  graft_precompile(graft_${room})
  # Eigen's factorizations, and code without loops over numbers of its own, which reads configurations or puts operations together:
  # more than this costs compile time and buys nothing measurable.
  foreach(source ${sources})
    if(source MATCHES "linalg|svd|inverse_factor")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O2>")
    elseif(NOT source MATCHES "/cpu/|/formats/|/autograd/(optim|tape)\\.|/quant/(awq_search|format|gptq_solver|grid|input_moments|pack|round_to_nearest)\\.")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O1>")
    endif()
  endforeach()
  # One translation unit per instruction set: the suffix of its name chooses the flags. No precompiled header fits those.
  foreach(source ${sources})
    if(source MATCHES "_(avx2|avx512|avx512_dot)\\.cpp$")
      set_source_files_properties(${source} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
    endif()
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
      if(source MATCHES "_avx2\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
      elseif(source MATCHES "_avx512\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mf16c")
      elseif(source MATCHES "_avx512_dot\\.cpp$")
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx512bf16;-mavx512vnni;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx2;-mfma;-mf16c")
      elseif(source MATCHES "/dots_scalar\\.cpp$")  # bytes where there is no AVX2: half as fast, and a quarter of the time to compile
        set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-O2>")
      endif()
    endif()
  endforeach()
endfunction()

# Named in the checkpoints that we write.
set_source_files_properties(${PROJECT_SOURCE_DIR}/quant/quantize_config.cpp PROPERTIES COMPILE_DEFINITIONS GRAFT_VERSION="${PROJECT_VERSION}")

set(GRAFT_ROOMS core autograd quant adapters)
foreach(room ${GRAFT_ROOMS})
  graft_room(${room})
  list(APPEND GRAFT_OBJECTS $<TARGET_OBJECTS:graft_${room}>)
endforeach()
# Loops that select are vectorised only when their comparisons may be evaluated ahead; no value changes by it.
set_property(SOURCE ${PROJECT_SOURCE_DIR}/core/cpu/vector.cpp ${PROJECT_SOURCE_DIR}/core/cpu/vector_avx2.cpp
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
