// What the entries of the kernel table need of a device: memory, copies, launches and dense products. The library's half drives
// CUDA (backend.cpp, gemm.cpp). The tests have another, which interprets the same PTX in host memory.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

#include "graft/core/view.h"

namespace graft::cuda {

/// Makes the device on which `data` lies the current one for a scope; before it, one that nothing ran on yet is not made current again.
/// Everything below acts on the current device, in the order of the calls.
class Current {
 public:
  explicit Current(const void* data);
  explicit Current(int device);
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  int device_ = 0, previous_ = 0;
};

/// OutOfMemoryError if there is none.
void* allocate(std::size_t bytes);
void release(void* data) noexcept;
/// Copies of bytes from and to the host; what was launched before is done before.
void read(void* host, const void* device, std::size_t bytes);
void write(void* device, const void* host, std::size_t bytes);

/// `image` is the name of the source (cuda/<image>.cu), `name` that of a kernel in it.
struct Kernel {
  const char* image;
  std::string name;
};
struct Grid {
  std::int64_t x = 1, y = 1;
};
void launch_bytes(const Kernel& kernel, Grid grid, int threads, std::size_t shared, const void* argument, std::size_t bytes);

/// Dynamic shared memory that any kernel may have on any GPU.
inline constexpr std::size_t most_shared = 48 << 10;

/// What kernels are chosen by, of the current device.
struct Properties {
  int capability;  // 80 for sm_80, 90 for sm_90
  int multiprocessors;
  std::size_t most_shared;  // that a block may be given
};
Properties properties();

/// Kernels take one argument, plain data by value. `shared` are bytes of dynamic shared memory, at most properties().most_shared. Nothing runs when the grid is empty.
template <class Argument>
void launch(const Kernel& kernel, Grid grid, int threads, const Argument& argument, std::size_t shared = 0) {
  static_assert(std::is_trivially_copyable_v<Argument> && sizeof(Argument) <= 4096);
  if (grid.x > 0 && grid.y > 0) launch_bytes(kernel, grid, threads, shared, &argument, sizeof(Argument));
}

/// y = a b for matrices in memory as BLAS knows them, `batch` of them at equal distances. Sums are kept in f64 for
/// f64 and in f32 for the others; `tf32` rounds f32 operands to its 10 bits of mantissa, and is for no others.
struct Gemm {
  struct Matrix {
    void* data;
    DType dtype;            // a and b share one; y has it too, or f32
    std::int64_t ld;        // elements from row to row, or from column to column when transposed
    bool transposed;        // columns are contiguous, not rows
    std::int64_t distance;  // elements from one matrix of the batch to the next; 0 where all are the same
  };
  std::int64_t rows, columns, depth, batch;
  Matrix a, b, y;
  bool tf32 = false;
};
void multiply(const Gemm& gemm);

/// Memory of the current device for a scope.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : data_(allocate(bytes)) {}
  ~Scratch() { release(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

}  // namespace graft::cuda
