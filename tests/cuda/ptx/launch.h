// Runs the PTX that nvcc makes of a kernel on the CPU, so that CUDA code is checked where no GPU is. Stricter than hardware: what would be
// undefined there is a Fault here.
//
//   Module module = Module::read("quant_gemv.ptx");
//   Memory memory;
//   float* y = memory.undefined(std::span(host_y), "y");            // must be written before it is read
//   const float* x = memory.global(std::span(host_x), "x");         // const elements: writing is a fault
//   run(module, "scale", {.grid = {4}, .block = {256}, .dynamic_shared = 1024}, memory, y, x, 3.0f, n);
//   EXPECT_EQ(host_y[0], 3 * host_x[0]);                            // the kernel wrote to the host's array itself
//
// What is a fault: access outside a registered buffer, by one byte too; misaligned access; reading registers, shared, local or `undefined`
// global memory that nobody wrote; two threads at one byte of shared memory, one writing, with nothing that orders them; a copy's
// destination before the copy was waited for; wgmma's registers and tiles before its group was waited for; shared memory that
// the async proxy reads without fence.proxy.async after generic writes; a barrier that part of a warp or an exited thread misses; a
// block in which nobody can go on; more shared memory than a block can have.
//
// What it does not model: time, races on global memory, clusters of more than one block, tensor maps, textures. Sums inside one mma are exact and rounded once,
// ex2, lg2, sin, cos, rsqrt, tanh and their approximate relatives are the host's: compare such results with a tolerance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "graft/core/error.h"

namespace graft::ptx {

struct Program;
struct GlobalMemory;

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  bool operator==(const Dim&) const = default;
  std::size_t size() const { return std::size_t(x) * y * z; }
};

/// What a kernel did wrong, where. what() holds all of it.
class Fault : public Error {
 public:
  Fault(std::string kernel, std::size_t line, std::string instruction, Dim block, Dim thread, std::string reason);
  std::string kernel, instruction, reason;
  std::size_t line;   // of the PTX text, from 1
  Dim block, thread;  // blockIdx and threadIdx of the lowest thread that did it
};

/// PTX that this interpreter does not know, or that is not PTX. The message names line and text.
class SyntaxError : public Error {
 public:
  using Error::Error;
};

/// A PTX text. Kernels are decoded when they are first run; one module may be shared by threads.
class Module {
 public:
  /// Throws SyntaxError.
  static Module parse(std::string text);
  /// Throws FileError, SyntaxError.
  static Module read(const std::filesystem::path& path);
  /// The names of the kernels, mangled as they stand in the text, in its order.
  std::vector<std::string> kernels() const;
  /// Decodes every kernel; throws SyntaxError for the first instruction that is not known.
  void decode_all() const;

  std::shared_ptr<Program> program;
};

/// The device's global memory: the buffers of a test, each with exact bounds, and the variables of modules. One thread at a time.
class Memory {
 public:
  Memory();

  /// Makes `host` a buffer of the device and returns its address there: for passing to kernels and for arithmetic, not for dereferencing.
  /// Kernels read and write the host's array itself, which must outlive its use. Aligned to 256 bytes on the device. Elements that
  /// are const may not be written.
  template <class T>
  T* global(std::span<T> host, std::string name) {
    return reinterpret_cast<T*>(add(const_cast<void*>(static_cast<const void*>(host.data())), host.size_bytes(), std::move(name),
                                    !std::is_const_v<T>, true));
  }
  /// The same for a buffer whose contents mean nothing yet: reading a byte of it that no kernel wrote is a fault.
  template <class T>
  T* undefined(std::span<T> host, std::string name) {
    static_assert(!std::is_const_v<T>);
    return reinterpret_cast<T*>(add(host.data(), host.size_bytes(), std::move(name), true, false));
  }
  /// How many bytes of a buffer that was registered as undefined no kernel has written.
  std::size_t unwritten(const void* device) const;
  /// A variable of a module (`__device__`, `__constant__`) by its name in the text. Its bytes hold what the last kernel left.
  std::span<std::byte> symbol(const Module& module, std::string_view name);

  std::shared_ptr<GlobalMemory> contents;

 private:
  std::uint64_t add(void* host, std::size_t bytes, std::string name, bool writable, bool defined);
};

struct Launch {
  Dim grid = {}, block = {};
  std::size_t dynamic_shared = 0;  // bytes
  /// How many blocks run side by side, taking turns; the next starts when one ends. Kernels whose blocks wait for each other need
  /// as many as wait.
  unsigned resident_blocks = 1;
  /// A kernel that is still running after so many instructions of warps is a fault: endless loops end there.
  std::uint64_t max_instructions = 1'000'000'000;
};

/// What a launch took.
struct Report {
  std::uint64_t instructions = 0;     // of warps
  std::uint64_t lane_operations = 0;  // instructions times active lanes
};

/// One argument as its bytes lie in the host.
struct Argument {
  const void* data;
  std::size_t bytes;
};

Report run(const Module& module, std::string_view kernel, const Launch& launch, Memory& memory,
           std::span<const Argument> arguments);

/// Runs a kernel to its end. `kernel` is its name in the text, or the part of a mangled name that is the function's own, if that is
/// unambiguous. Arguments are laid out as the text's parameters say; each must have the parameter's very size, so that pass 1u or
/// 1L where the kernel has that type, and structs as they are. Throws Fault, SyntaxError, and ValueError for a launch that does not fit.
template <class... Args>
Report run(const Module& module, std::string_view kernel, const Launch& launch, Memory& memory, const Args&... args) {
  static_assert((std::is_trivially_copyable_v<Args> && ...));
  const Argument arguments[] = {Argument{&args, sizeof(args)}..., Argument{nullptr, 0}};
  return run(module, kernel, launch, memory, std::span<const Argument>(arguments, sizeof...(Args)));
}

}  // namespace graft::ptx
