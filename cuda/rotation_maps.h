// How the rotation of a product's operand is cut, and which thread has what (rotation.cu): for the kernel, its host half, and the tests that hold
// these maps against the matrices.
//
// A thread has four neighbouring columns of some rows, a quad. Of x it reads what its neighbours of the same block of R read, at the same time, and
// of R four columns: each of R's numbers meets as many rows as there are registers for sums.
#pragma once

#include <cstdint>

#include "graft/core/host_device.h"

namespace graft::cuda::rotation {

inline constexpr int quad = 4;          // columns of a thread, and rows of R that it reads at a time
inline constexpr int most_block = 128;  // of R: beyond, its blocks are matrices for cuBLASLt
inline constexpr int few_rows = 4;      // of a block of threads
inline constexpr int most_in_few = 64;  // rows of x up to which a block has few. R comes from the L2 cache once for each block
inline constexpr int threads = 256, few_threads = 64;  // where a block has many rows, and few
inline constexpr std::int64_t most_rows = std::int64_t{1} << 30;

/// The same for elements of `size` bytes where there are many: a thread's sums and what of R it multiplies are registers.
GRAFT_HD constexpr int many_rows(int size) { return size == 2 ? 16 : 8; }

/// What the kernels take: blocks of R [b, b] and x [m, columns].
constexpr bool takes(std::int64_t m, std::int64_t columns, std::int64_t b) {
  return m > 0 && m < most_rows && columns > 0 && columns < most_rows && b > 0 && b <= most_block && b % quad == 0 &&
         columns % b == 0;
}

struct Cut {
  int rows, row_blocks;  // of a block of threads, and how many of these it takes for all rows
  int threads, parts;    // blocks that share the columns, as many quads as there are threads each; or one has them all, by turns
  bool arranged;         // whole rows are collected in shared memory, and leave it in the packed order
  std::int64_t shared_bytes;
};

/// For x [m, columns] made from elements of `size` bytes. `arranged`: the packed order is wanted, of elements of 2 bytes. It is made on
/// the way where enough blocks have whole rows to keep half of the GPU busy, and the rows fit; else by another reading.
constexpr Cut cut(std::int64_t m, std::int64_t columns, int size, bool arranged, int multiprocessors, std::int64_t most_shared) {
  const auto divide_up = [](std::int64_t a, std::int64_t b) { return (a + b - 1) / b; };
  Cut c{};
  const bool few = m <= most_in_few;
  c.rows = few ? few_rows : many_rows(size), c.threads = few ? few_threads : threads;
  c.row_blocks = static_cast<int>(divide_up(m, c.rows));
  const std::int64_t bytes = c.rows * columns * 2;
  c.arranged = arranged && bytes <= most_shared && 2 * c.row_blocks >= multiprocessors;
  c.parts = c.arranged ? 1 : static_cast<int>(divide_up(columns / quad, c.threads));
  c.shared_bytes = c.arranged ? bytes : 0;
  return c;
}

/// A thread's first quad in its part; it goes on by as many as there are threads where its block has whole rows.
GRAFT_HD constexpr int first_quad(int part, int threads, int thread) { return part * threads + thread; }

}  // namespace graft::cuda::rotation
