// What cuda_bench measures: the product of activations with a packed weight [k, n] or its input gradient, bare or with LoRA's terms, and
// the same with a dense weight. A cell is plain data; nothing here needs a GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/core/dtype.h"

namespace graft::bench {

/// A packed format, as its checkpoints store it.
struct Format {
  std::string_view name;
  int bits;
  std::int64_t group_size;  // 0: one group
  bool zeros;               // besides the scales
  bool act_order = false;   // groups are not in the order of the channels
  bool affine = false;      // w = scale · code + offset: layout gemv_fast of AWQ; its others are as gptq4g128
};
std::span<const Format> formats();
/// ValueError naming those that there are.
const Format& format(std::string_view name);

struct Cell {
  const Format* format;  // null: a dense weight of the activations' dtype
  DType dtype;
  bool backward;  // dx from dy; with LoRA, the gradients of A and B too
  std::int64_t m, k, n;
  std::int64_t rank = 0;  // of LoRA's terms

  std::int64_t from() const { return backward ? n : k; }  // width of what is multiplied
  std::int64_t to() const { return backward ? k : n; }
};

/// <format>/<dtype>/<fwd|bwd>/M:<m>/cold, then K:<k>/N:<n> unless both are 4096, then lora<r>.
std::string name(const Cell& cell);
/// The words of a kernel row's name as the last part of a benchmark's: lower case, with _ between them.
std::string slug(std::string_view words);

/// The rows that are published, and every combination of what they vary.
std::vector<Cell> core_cells();
std::vector<Cell> all_cells();

// ---- the roofline ----

/// What a cell must move and compute at least, however it is made: every operand is read once, every result written once, weights as their
/// checkpoint stores them (scales in half precision, zeros as wide as codes); two operations for a multiply-add.
struct Work {
  double bytes, operations;
};
Work work(const Cell& cell);
/// Of the weight alone, as a checkpoint stores it.
double weight_bytes(const Cell& cell);

/// What the machine can do, measured in the same run.
struct Limits {
  double bytes_per_second, operations_per_second;
};
/// Seconds that a cell takes at least; a launch is not counted.
inline double floor_seconds(const Work& work, const Limits& limits) {
  return std::max(work.bytes / limits.bytes_per_second, work.operations / limits.operations_per_second);
}

// ---- how long to measure ----

/// Weights in turn, so that none lies in a cache when it is read again.
inline constexpr double cold_bytes = 256 << 20;
std::int64_t copies_for(double bytes);
/// Rotations in one graph, so that what lies between two graphs is not seen; and how often the graph is timed.
struct Plan {
  std::int64_t rotations, rounds;
};
Plan plan_for(double floor_seconds, std::int64_t copies);

/// The value that a share of all values does not exceed; orders its argument anew.
double quantile(std::vector<double>& values, double share);

}  // namespace graft::bench
