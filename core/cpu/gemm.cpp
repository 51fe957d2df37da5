// The blocked driver: which part of which operand is in which cache when.
#include "graft/core/cpu/gemm.h"

#include <algorithm>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/gemm_units.h"
#include "graft/core/device.h"
#include "graft/core/parallel.h"

namespace graft::cpu {
namespace {

// A stretch of the depth: one right panel of it (20 KB) stays in the first-level cache while left panels pass by.
constexpr std::int64_t depth_block = 320;
// Left rows that pass by before the next right panel, and right columns of one task: both blocks (80 and 320 KB) fit in a
// second-level cache of 512 KB.
constexpr std::int64_t row_block = 64;
constexpr std::int64_t column_block = 256;
// Four cache lines: what a task reads of every row at least.
constexpr std::int64_t line_columns = 64;
// Packed left panels are shared by all tasks; more rows than fit in this many bytes are done in several rounds. 512 rows of 4096 and an
// adapter's 16 steps behind them fit.
constexpr std::int64_t left_bytes = std::int64_t{9} << 20;
// What sums may take until they are put into columns that go anywhere.
constexpr std::int64_t scattered_bytes = std::int64_t{64} << 20;
// Tasks worth having when the columns alone do not give them.
constexpr std::int64_t wanted_tasks = 16;
// Multiply-adds below which a task costs more to hand over, and its result to fetch from another core's cache, than to do.
constexpr std::int64_t task_work = std::int64_t{1} << 21;

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

const GemmUnit& unit(Isa isa) {
  if (includes(isa, Isa::avx512) && gemm_avx512()) return *gemm_avx512();
  if (includes(isa, Isa::avx2) && gemm_avx2()) return *gemm_avx2();
  if (isa == Isa::neon && gemm_neon()) return *gemm_neon();
  return *gemm_scalar();
}

// Rows of a left operand that are better read where they lie than packed: not those that share sets of the first-level cache, and not
// where so many columns meet each row that packing it costs nothing.
template <class T>
LanesInPlace<T> worth_reading_in_place(const GemmKernels<T>& kernels, const Panels<T>& left, std::int64_t n) {
  constexpr std::int64_t one_way = 4096;  // bytes of a way of that cache
  constexpr std::int64_t many_columns = 2048;
  const LanesInPlace<T> lanes = left.in_place();
  const bool collide = lanes.stride * std::int64_t{sizeof(T)} % one_way == 0;
  return !kernels.rows_in_place || collide || n >= many_columns ? LanesInPlace<T>() : lanes;
}

// One round of a blocked product: rows [row, row + m) of the left operand.
template <class T>
class Round {
 public:
  Round(const GemmKernels<T>& kernels, std::int64_t row, std::int64_t m, std::int64_t n, std::int64_t depth,
        const Panels<T>& left, const LanesInPlace<T>& in_place, const Panels<T>& right, const Target<Sum<T>>& target)
      : kernels_(kernels),
        left_(left),
        right_(right),
        in_place_(in_place),
        target_(target),
        row_(row),
        m_(m),
        n_(n),
        depth_(depth) {
    // Panels of equal height: eight rows are two panels of four, not of six and two.
    left_panels_ = divide_up(m, kernels.rows);
    height_ = divide_up(m, left_panels_);
    left_panels_ = divide_up(m, height_);
    depth_blocks_ = divide_up(depth, depth_block);
    // Products of little depth take several blocks of columns at once, within the space of one. Those of few rows and not many
    // columns (an adapter's gradients, whose depth is all tokens) are cut along the columns nevertheless.
    const std::int64_t wanted = task_work / (m * depth),
                       least_columns = divide_up(line_columns, kernels.columns) * kernels.columns;
    const std::int64_t blocks = std::min(divide_up(wanted, column_block), depth_block / std::min(depth, depth_block));
    columns_ = column_block * std::max<std::int64_t>(1, blocks);
    if (m <= row_block && n < wanted_tasks * column_block && wanted < column_block)
      columns_ = std::min(column_block, std::max<std::int64_t>(1, divide_up(wanted, least_columns)) * least_columns);
    column_tasks_ = divide_up(n, columns_);
    const std::int64_t row_tasks = divide_up(wanted_tasks, column_tasks_);
    const std::int64_t least = std::max(divide_up(row_block, height_), task_work / (height_ * std::min(n, columns_) * depth));
    task_panels_ = std::min(left_panels_, std::max(least, divide_up(left_panels_, row_tasks)));
  }

  void run() {
    const std::int64_t tasks = column_tasks_ * divide_up(left_panels_, task_panels_);
    // One task packs a stretch of its left side when it gets there: the panels stay near, in memory that no other thread has read.
    // Lines that another core holds, too, are written at a tenth of the speed.
    stretchwise_ = tasks == 1 && depth_blocks_ > 1;
    const std::int64_t packed_depth = depth_ - in_place_.depth;
    const Scratch<T> panels(left_panels_ * kernels_.rows *
                            entries(stretchwise_ ? std::min(depth_block, packed_depth) : packed_depth));
    packed_ = panels.get();
    // Columns that go anywhere are put there row by row, when all of a row is known: each line of the target is written once.
    const std::int64_t bytes = m_ * n_ * std::int64_t{sizeof(Sum<T>)};
    const Scratch<Sum<T>> all(target_.columns && bytes <= scattered_bytes ? m_ * n_ : 0);
    scattered_ = all.get();
    if (!stretchwise_ && packed_depth > 0) {
      // Pieces of about the same work as a task; what one task multiplies is packed on its thread, in whose caches it then lies.
      const std::int64_t panels_per_piece = tasks == 1 ? left_panels_ : std::max<std::int64_t>(1, 16 / depth_blocks_);
      parallel_ranges(left_panels_, panels_per_piece, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t block = in_place_.depth / depth_block; block < depth_blocks_; ++block) pack_left(block, begin, end);
      });
    }
    parallel_for(tasks, [&](std::int64_t task) {
      const std::int64_t panel = task / column_tasks_ * task_panels_, column = task % column_tasks_ * columns_;
      const std::int64_t end = std::min(column + columns_, n_);
      for (std::int64_t j = column; j < end; j += column_block)
        this->task(panel, std::min(panel + task_panels_, left_panels_), j, std::min(column_block, end - j));
    });
    if (scattered_)
      parallel_ranges(m_, std::max<std::int64_t>(1, block / n_), [&](std::int64_t begin, std::int64_t end) {
        write(target_, row_ + begin, 0, end - begin, n_, scattered_ + begin * n_, n_);
      });
  }

 private:
  std::int64_t depth_of(std::int64_t block) const { return std::min(depth_block, depth_ - block * depth_block); }
  // Elements of T over a depth.
  static std::int64_t entries(std::int64_t depth) { return divide_up(depth, PanelTraits<T>::depth); }
  // Of a block's depth, what the left operand holds in place, and what is packed.
  std::int64_t in_place(std::int64_t block) const {
    return std::clamp<std::int64_t>(in_place_.depth - block * depth_block, 0, depth_of(block));
  }
  std::int64_t packed(std::int64_t block) const { return depth_of(block) - in_place(block); }
  T* left_panel(std::int64_t block, std::int64_t panel) const {
    const std::int64_t before = stretchwise_ ? 0 : std::max<std::int64_t>(0, block * depth_block - in_place_.depth);
    return packed_ + kernels_.rows * (entries(before) * left_panels_ + panel * entries(packed(block)));
  }

  void pack_left(std::int64_t block, std::int64_t begin, std::int64_t end) const {
    if (packed(block) == 0) return;
    for (std::int64_t panel = begin; panel < end; ++panel)
      left_.fill(block * depth_block + in_place(block), packed(block), row_ + panel * height_, kernels_.rows,
                 left_panel(block, panel));
  }

  // Left panels [begin, end) times `columns` columns, over the whole depth.
  void task(std::int64_t begin, std::int64_t end, std::int64_t column, std::int64_t columns) const {
    const std::int64_t rows = std::min(end * height_, m_) - begin * height_, width = kernels_.columns;
    const bool direct =
        target_.dtype == dtype_of<Sum<T>> && target_.column_stride == 1 && !target_.bias && !target_.columns && !target_.epilogue;
    const std::int64_t panels = passes(begin, end) > 1 ? divide_up(columns, width) : 1;
    const Scratch<T> block(panels * width * entries(std::min(depth_block, depth_)));
    const Scratch<Sum<T>> sums(direct || scattered_ ? 0 : rows * columns);
    T* right = block.get();
    Sum<T>* c = sums.get();
    std::int64_t ldc = columns;
    if (direct) {
      c = static_cast<Sum<T>*>(target_.data) + (row_ + begin * height_) * target_.row_stride + column;
      ldc = target_.row_stride;
    } else if (scattered_) {
      c = scattered_ + begin * height_ * n_ + column;
      ldc = n_;
    }
    for (std::int64_t b = 0; b < depth_blocks_; ++b) {
      if (stretchwise_) pack_left(b, begin, end);
      multiply(b, begin, end, column, right, columns, c, ldc);
    }
    if (target_.epilogue) target_.epilogue->apply(row_ + begin * height_, column, rows, columns, c, ldc);
    if (!direct && !scattered_) put(row_ + begin * height_, column, rows, columns, c, ldc);
  }

  // write(); where the target is a whole transposed matrix, in which these rows are contiguous, by way of registers.
  void put(std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns, const Sum<T>* c,
           std::int64_t ldc) const {
    if constexpr (std::is_same_v<T, Sum<T>>) {
      const bool whole = target_.row_stride == 1 && target_.column_stride == rows && row == 0;
      if (whole && target_.dtype == dtype_of<T> && !target_.bias && !target_.columns)
        return kernels_.pack(c, dtype_of<T>, columns, 1, ldc, static_cast<int>(rows), static_cast<int>(rows),
                             static_cast<T*>(target_.data) + column * rows);
    }
    write(target_, row, column, rows, columns, c, ldc);
  }

  // Left panels that pass by together, and how often that happens.
  std::int64_t together() const { return divide_up(row_block, height_); }
  std::int64_t passes(std::int64_t begin, std::int64_t end) const { return divide_up(end - begin, together()); }

  // One stretch of the depth: a block of left panels stays near while right panels pass, each of those while left panels pass. A right
  // panel is computed when the first of them need it; where no others follow, the next one takes its place, and none leaves the
  // first-level cache.
  void multiply(std::int64_t block, std::int64_t begin, std::int64_t end, std::int64_t column, T* right, std::int64_t columns,
                Sum<T>* c, std::int64_t ldc) const {
    const std::int64_t depth = entries(depth_of(block)), width = kernels_.columns, step = together();
    const std::int64_t rows_depth = in_place(block), panel_depth = entries(packed(block));
    const std::int64_t panel_stride = passes(begin, end) > 1 ? depth : 0;
    const int height = static_cast<int>(height_);
    for (std::int64_t i0 = begin; i0 < end; i0 += step) {
      const T* x = rows_depth == 0 ? nullptr : in_place_.data + (row_ + i0 * height_) * in_place_.stride + block * depth_block;
      const std::int64_t rows = std::min(std::min(i0 + step, end) * height_, m_) - i0 * height_;
      for (std::int64_t j = 0; j < columns; j += width) {
        T* panel = right + j * panel_stride;
        if (i0 == begin) right_.fill(block * depth_block, depth_of(block), column + j, static_cast<int>(width), panel);
        kernels_.row_tiles(x, in_place_.stride, rows_depth, panel_depth, left_panel(block, i0), height, panel,
                           c + (i0 - begin) * height_ * ldc + j, ldc, rows, static_cast<int>(std::min(width, columns - j)),
                           block > 0);
      }
    }
  }

  const GemmKernels<T>& kernels_;
  const Panels<T>&left_, &right_;
  const LanesInPlace<T> in_place_;
  const Target<Sum<T>>& target_;
  std::int64_t row_, m_, n_, depth_;
  std::int64_t left_panels_, height_, depth_blocks_, columns_, column_tasks_, task_panels_;
  bool stretchwise_ = false;
  T* packed_ = nullptr;
  Sum<T>* scattered_ = nullptr;  // [m][n], if the target has columns and there are not too many
};

}  // namespace

template <>
const GemmKernels<float>& gemm_kernels(Isa isa) {
  return unit(isa).f32;
}
template <>
const GemmKernels<double>& gemm_kernels(Isa isa) {
  return unit(isa).f64;
}

const GemmKernels<Pair>* pair_kernels(Isa isa) { return includes(isa, Isa::avx512_dot) ? gemm_avx512_dot() : nullptr; }

template <class T>
void blocked_product(const GemmKernels<T>& kernels, std::int64_t m, std::int64_t n, std::int64_t depth, const Panels<T>& left,
                     const Panels<T>& right, const Target<Sum<T>>& target) {
  // Rounds of equal size, since each computes the right panels anew.
  const LanesInPlace<T> in_place = worth_reading_in_place(kernels, left, n);
  const std::int64_t packed = (depth - in_place.depth) / PanelTraits<T>::depth;
  const std::int64_t most = std::max(row_block, left_bytes / std::max<std::int64_t>(1, packed * std::int64_t{sizeof(T)}));
  const std::int64_t round = std::max<std::int64_t>(1, divide_up(m, divide_up(m, most)));
  for (std::int64_t row = 0; row < m; row += round)
    Round<T>(kernels, row, std::min(round, m - row), n, depth, left, in_place, right, target).run();
}

template <class T>
void write(const Target<T>& target, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns, const T* c,
           std::int64_t ldc) {
  dispatch(target.dtype, FloatingTypes{}, "matmul", [&]<class To>() {
    for (std::int64_t i = 0; i < rows; ++i, c += ldc) {
      To* y = static_cast<To*>(target.data) + (row + i) * target.row_stride;
      if (!target.columns && !target.bias && target.column_stride == 1) {
        convert(dtype_of<T>, c, 1, target.dtype, y + column, 1, columns);
        continue;
      }
      for (std::int64_t j = 0; j < columns; j += block) {
        const std::int64_t n = std::min(block, columns - j);
        T shifted[block];
        To narrow[block];
        for (std::int64_t k = 0; target.bias && k < n; ++k) shifted[k] = c[j + k] + target.bias[column + j + k];
        convert(dtype_of<T>, target.bias ? shifted : c + j, 1, target.dtype, narrow, 1, n);
        for (std::int64_t k = 0; k < n; ++k) {
          const std::int64_t to = target.columns ? target.columns[column + j + k] : column + j + k;
          if (to >= 0) y[to * target.column_stride] = narrow[k];
        }
      }
    }
  });
}

// Large scratch is a line longer than asked for, so that it does not share kept blocks with tensors, whose sizes are rounder. Every core
// reads panels, and some processors write what another core holds, too, one line at a time (30 ns each where it was measured, against
// 3 ns for memory that nobody holds): a tensor should not pay for that.
template <class T>
Scratch<T>::Scratch(std::int64_t count)
    : bytes_(count > 0 ? static_cast<std::size_t>(count) * sizeof(T) + 64 : 0),
      data_(bytes_ > 0 ? static_cast<T*>(runtime(Device{}).allocate(bytes_)) : nullptr) {}

template <class T>
Scratch<T>::~Scratch() {
  if (data_) runtime(Device{}).release(data_, bytes_);
}

template <class T>
LanesInPlace<T> StridedPanels<T>::in_place() const {
  if constexpr (std::is_same_v<T, Sum<T>>)  // pairs would have to be neighbours in memory
    if (dtype_ == dtype_of<T> && depth_stride_ == 1) return {static_cast<const T*>(data_), lane_stride_, depth_};
  return {};
}

template <class T>
void StridedPanels<T>::fill(std::int64_t depth_begin, std::int64_t depth_count, std::int64_t lane_begin, int lanes,
                            T* panel) const {
  const std::int64_t offset = lane_begin * lane_stride_ + depth_begin * depth_stride_;
  const auto valid = static_cast<int>(std::min<std::int64_t>(lanes, lanes_ - lane_begin));
  kernels_.pack(static_cast<const char*>(data_) + offset * size_of(dtype_), dtype_, depth_count, depth_stride_, lane_stride_,
                valid, lanes, panel);
}

template class Scratch<std::uint32_t>;
template class Scratch<Pair>;
template class StridedPanels<Pair>;
template void blocked_product<Pair>(const GemmKernels<Pair>&, std::int64_t, std::int64_t, std::int64_t, const Panels<Pair>&,
                                    const Panels<Pair>&, const Target<float>&);
template class Scratch<float>;
template class Scratch<double>;
template class StridedPanels<float>;
template class StridedPanels<double>;
template void blocked_product<float>(const GemmKernels<float>&, std::int64_t, std::int64_t, std::int64_t, const Panels<float>&,
                                     const Panels<float>&, const Target<float>&);
template void blocked_product<double>(const GemmKernels<double>&, std::int64_t, std::int64_t, std::int64_t, const Panels<double>&,
                                      const Panels<double>&, const Target<double>&);
template void write<float>(const Target<float>&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const float*,
                           std::int64_t);
template void write<double>(const Target<double>&, std::int64_t, std::int64_t, std::int64_t, std::int64_t, const double*,
                            std::int64_t);

}  // namespace graft::cpu
