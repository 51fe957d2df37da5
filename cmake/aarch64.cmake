# Cross compiling for AArch64 on Debian, and running the result under qemu: the preset `neon`.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)  # asked for by GoogleTest
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64)

# Debian's fmt and GoogleTest are compiled for the host alone; headers and sources serve any processor.
set(FETCHCONTENT_SOURCE_DIR_GTEST /usr/src/googletest)
set(FETCHCONTENT_SOURCE_DIR_FMT ${CMAKE_CURRENT_LIST_DIR}/fmt)
