# find_package first (Debian 12 has everything), a pinned download second, so that a machine with neither apt nor root builds too.
include(FetchContent)
set(FETCHCONTENT_QUIET ON)

function(graft_dependency name url hash)
  find_package(${name} QUIET ${ARGN})
  if(NOT ${name}_FOUND)
    string(TOUPPER ${name} upper)
    if(NOT FETCHCONTENT_SOURCE_DIR_${upper})  # given by who configures
      message(STATUS "graft: ${name} not found on this machine, fetching ${url}")
    endif()
    FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${hash} DOWNLOAD_EXTRACT_TIMESTAMP ON ${GRAFT_FETCH_${name}})
    FetchContent_MakeAvailable(${name})
  endif()
endfunction()

find_package(Threads REQUIRED)
# How fetched projects behave inside this one.
set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # their options take these values
set(FMT_INSTALL ${GRAFT_INSTALL})      # installed beside the library that needs it
set(INSTALL_GTEST OFF)
set(GRAFT_FETCH_Eigen3 SOURCE_SUBDIR none)  # headers alone: its own build would add thousands of tests

graft_dependency(fmt https://github.com/fmtlib/fmt/archive/refs/tags/9.1.0.tar.gz
                 5dea48d1fcddc3ec571ce2058e13910a0d4a6bab4cc09a809d8b1dd1c88ae6f2)
graft_dependency(nlohmann_json https://github.com/nlohmann/json/archive/refs/tags/v3.11.2.tar.gz
                 d69f9deb6a75e2580465c6c4c5111b89c4dc2fa94e3a85fcd2ffcd9a143d9273)
graft_dependency(Eigen3 https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
                 8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
if(NOT TARGET Eigen3::Eigen)
  FetchContent_GetProperties(Eigen3 SOURCE_DIR eigen)
  add_library(Eigen3::Eigen INTERFACE IMPORTED)
  target_include_directories(Eigen3::Eigen SYSTEM INTERFACE ${eigen})
endif()
