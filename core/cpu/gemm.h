// Dense products on the CPU: one blocked driver over panels, and the kernels that each instruction set gives it.
//
// An operand enters as panels: a few lanes (rows of the left operand, columns of the right one) by a stretch of the depth, the
// dimension that is summed over, stored [depth][lanes], or [depth / 2][lanes][2] where the set multiplies pairs of bf16. A dense
// operand copies its elements into panels; a quantized weight computes them (quant/cpu). Everything below the panels is shared.
//
// The order in which one element of the result is summed depends on the shapes alone, so results do not depend on threads.
#pragma once

#include "graft/core/isa.h"
#include "graft/core/view.h"

namespace graft::cpu {

/// The entry of core/kernels.h: y = a b, [..., m, k] × [..., k, n], any strides, floating dtypes; half types are widened on the
/// way into the panels, summed in f32 and rounded once. TypeError for integers and bools.
void matmul(const View& a, const View& b, const View& y);

/// Two neighbours along the depth.
struct Pair {
  bf16 first, second;
};

/// What panels of T (float, double or Pair) are summed in, and the elements of the depth that one T holds.
template <class T>
struct PanelTraits {
  using Sum = T;
  static constexpr std::int64_t depth = 1;
};
template <>
struct PanelTraits<Pair> {
  using Sum = float;
  static constexpr std::int64_t depth = 2;
};
template <class T>
using Sum = typename PanelTraits<T>::Sum;

/// What one instruction set offers for panels of T, as plain functions: units compiled for wide sets share no inline code with the
/// rest.
template <class T>
struct GemmKernels {
  int width = 0;               // elements of a vector
  int rows = 0;                // of a tile: lanes of a left panel
  int columns = 0;             // of a tile: lanes of a right panel
  bool rows_in_place = false;  // whether row_tiles is as fast over rows as over panels

  /// c[rows][columns] at stride ldc, = or += Σ_depth a b, with b[depth][this->columns], and for every `height` rows another panel
  /// a[depth][this->rows], one after the other. Lanes past height and columns are not read, nothing past rows and columns is written.
  /// Here depth counts elements of T.
  void (*tiles)(std::int64_t depth, const T* a, int height, const T* b, Sum<T>* c, std::int64_t ldc, std::int64_t rows,
                int columns, bool accumulate);
  /// The same, where the first x_depth steps come from rows of x, ldx apart, and only the depth after them from panels a.
  void (*row_tiles)(const T* x, std::int64_t ldx, std::int64_t x_depth, std::int64_t depth, const T* a, int height, const T* b,
                    Sum<T>* c, std::int64_t ldc, std::int64_t rows, int columns, bool accumulate);

  /// panel[depth][lanes] = the elements at source + d · depth_stride + l · lane_stride, widened (of pairs: rounded); zeros for lanes
  /// past `valid` to the end of its vector, nothing behind that, and zeros for the second of a pair that an odd depth leaves alone.
  /// Whole vectors are written, but nothing past the panel's end.
  void (*pack)(const void* source, DType dtype, std::int64_t depth, std::int64_t depth_stride, std::int64_t lane_stride,
               int valid, int lanes, T* panel);

  // For at most max_skinny rows of x [rows][depth], when packing b would cost more than it saves. Null for pairs: what is bound by
  // memory has no use for them.
  /// y[rows][columns] = or += x b, where column j of b lies at b + j · ldb.
  void (*dot)(const T* x, std::int64_t ldx, int rows, std::int64_t depth, const void* b, DType dtype, std::int64_t ldb,
              std::int64_t columns, T* y, std::int64_t ldy, bool accumulate);
  /// The same, where row d of b lies at b + d · ldb, and element (i, d) of x at x + i · row_stride + d · depth_stride; any number of
  /// rows, which share b while it is near.
  void (*axpy)(const T* x, std::int64_t row_stride, std::int64_t depth_stride, std::int64_t rows, std::int64_t depth,
               const void* b, DType dtype, std::int64_t ldb, std::int64_t columns, T* y, std::int64_t ldy, bool accumulate);
};

inline constexpr int max_skinny = 4;

/// The kernels for a set; for a set that this build lacks, those of the next narrower one.
template <class T>
const GemmKernels<T>& gemm_kernels(Isa isa);
/// Null for sets that do not multiply pairs, or that this build lacks.
const GemmKernels<Pair>* pair_kernels(Isa isa);

/// The first `depth` elements of every lane as they lie: one after the other, lanes `stride` apart.
template <class T>
struct LanesInPlace {
  const T* data = nullptr;
  std::int64_t stride = 0, depth = 0;
};

/// One operand of a blocked product, cut into panels on demand. `fill` runs on several threads at once.
template <class T>
class Panels {
 public:
  virtual ~Panels() = default;
  /// What a left operand need not be packed for: its kernels take one element of a few rows at a time, wherever those are.
  virtual LanesInPlace<T> in_place() const { return {}; }
  /// panel[depth_count][lanes] = elements from (lane_begin, depth_begin) on; zeros for lanes past the operand's end. Of pairs, depth_begin
  /// is even, and an odd count is filled up with zeros.
  virtual void fill(std::int64_t depth_begin, std::int64_t depth_count, std::int64_t lane_begin, int lanes, T* panel) const = 0;
};

/// What becomes of sums before they are written.
template <class T>
class Epilogue {
 public:
  virtual ~Epilogue() = default;
  /// c[rows][columns] at stride ldc, from element (row, column) of the result on. Runs on several threads at once.
  virtual void apply(std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns, T* c,
                     std::int64_t ldc) const = 0;
};

/// Where a product goes: element (i, j) of the result to data + i · row_stride + columns[j] · column_stride.
template <class T>
struct Target {
  void* data = nullptr;
  DType dtype = dtype_of<T>;
  std::int64_t row_stride = 0, column_stride = 0;
  const T* bias = nullptr;                // added to every row, by j; may be null
  const std::int32_t* columns = nullptr;  // null: j itself; a negative entry drops the column
  const Epilogue<T>* epilogue = nullptr;  // of blocked_product; may be null
};

/// target [m, n] = left [m, depth] · right [depth, n]. OutOfMemoryError if there is no room for panels.
template <class T>
void blocked_product(const GemmKernels<T>& kernels, std::int64_t m, std::int64_t n, std::int64_t depth, const Panels<T>& left,
                     const Panels<T>& right, const Target<Sum<T>>& target);

/// Writes rows × columns of c into the target, from its element (row, column) on, converted and with the bias.
template <class T>
void write(const Target<T>& target, std::int64_t row, std::int64_t column, std::int64_t rows, std::int64_t columns, const T* c,
           std::int64_t ldc);

/// Uninitialised scratch for `count` elements, aligned for any vector. OutOfMemoryError.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  std::size_t bytes_;
  T* data_;
};

/// An operand in memory. A left one need not be packed if it tells its depth.
template <class T>
class StridedPanels final : public Panels<T> {
 public:
  StridedPanels(const GemmKernels<T>& kernels, const void* data, DType dtype, std::int64_t lanes, std::int64_t lane_stride,
                std::int64_t depth_stride, std::int64_t depth = 0)
      : kernels_(kernels),
        data_(data),
        dtype_(dtype),
        lanes_(lanes),
        lane_stride_(lane_stride),
        depth_stride_(depth_stride),
        depth_(depth) {}
  LanesInPlace<T> in_place() const override;
  void fill(std::int64_t depth_begin, std::int64_t depth_count, std::int64_t lane_begin, int lanes, T* panel) const override;

 private:
  const GemmKernels<T>& kernels_;
  const void* data_;
  DType dtype_;
  std::int64_t lanes_, lane_stride_, depth_stride_, depth_;
};

}  // namespace graft::cpu
