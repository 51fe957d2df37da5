// matmul over views: batches, and the shapes for which packing does not pay.
#include <algorithm>
#include <cstdint>
#include <optional>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/gemm.h"
#include "graft/core/cpu/temporary.h"
#include "graft/core/cpu/vector.h"
#include "graft/core/parallel.h"

namespace graft::cpu {
namespace {

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Multiply-adds below which a product is not worth splitting: batches of small products are split between them instead.
constexpr std::int64_t small_product = std::int64_t{1} << 20;

// Depth from which a product of more than max_skinny columns is turned over.
constexpr std::int64_t least_depth = 32;

// Elements of a narrow right operand that are worth a task: five microseconds.
constexpr std::int64_t stretch_elements = std::int64_t{1} << 15;

// Depth, or rows of a, up to which nothing is packed where rows or columns of b can be read as they lie.
constexpr std::int64_t max_shallow = 16, max_few = 16;

// Columns up to which a product is narrow, or of few rows still too narrow to be shared out by columns, from so much depth on.
constexpr std::int64_t max_narrow = 64, max_narrow_halves = 16, max_cut = 1024, least_long_depth = 1024;
// Of its tasks: rows of one, rows and depth that are widened at a time, elements of b that stay in the first-level cache, how many there are.
constexpr std::int64_t narrow_rows = 64, near_rows = 16, near_depth = 256, near_elements = 16384, narrow_tasks = 8;

// So many columns of so deep a right operand that they make a task.
std::int64_t columns_of_a_task(std::int64_t depth, std::int64_t least) {
  return std::max(least, divide_up(stretch_elements, std::max<std::int64_t>(1, depth)) / 16 * 16);
}

// One matrix of a batch.
struct Matrix {
  char* data;
  DType dtype;
  std::int64_t rows, columns, row_stride, column_stride;
  Matrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
};

// Matrix `index` (row-major over the leading dimensions) of a view.
Matrix matrix(const View& view, std::int64_t index) {
  std::int64_t offset = 0;
  for (int i = view.rank - 3; i >= 0; --i) {
    offset += index % view.sizes[i] * view.strides[i];
    index /= view.sizes[i];
  }
  const int r = view.rank - 2, c = view.rank - 1;
  return {static_cast<char*>(view.data) + offset * size_of(view.dtype),
          view.dtype,
          view.sizes[r],
          view.sizes[c],
          view.strides[r],
          view.strides[c]};
}

template <class T>
Target<T> target(const Matrix& y) {
  return {y.data, y.dtype, y.row_stride, y.column_stride, nullptr, nullptr};
}

// The rows of a, contiguous and of type T: as they lie, or copied.
template <class T>
class Rows {
 public:
  Rows(const GemmKernels<T>& kernels, const Matrix& a)
      : lies_(a.dtype == dtype_of<T> && (a.column_stride == 1 || a.columns == 1)),
        stride_(lies_ ? a.row_stride : a.columns),
        copy_(lies_ ? 0 : a.rows * a.columns),
        data_(lies_ ? reinterpret_cast<const T*>(a.data) : copy_.get()) {
    if (lies_) return;
    if (a.columns <= max_skinny) {  // lanes of one panel
      const auto lanes = static_cast<int>(a.columns);
      kernels.pack(a.data, a.dtype, a.rows, a.row_stride, a.column_stride, lanes, lanes, copy_.get());
      return;
    }
    for (std::int64_t i = 0; i < a.rows; ++i)
      convert(a.dtype, a.data + i * a.row_stride * size_of(a.dtype), a.column_stride, dtype_of<T>, copy_.get() + i * stride_, 1,
              a.columns);
  }
  std::int64_t stride() const { return stride_; }
  const T* operator[](std::int64_t i) const { return data_ + i * stride_; }

 private:
  bool lies_;
  std::int64_t stride_;
  Scratch<T> copy_;
  const T* data_;
};

// a of type T: as it lies, or copied along its rows or its columns, whichever are contiguous.
template <class T>
struct Left {
  std::optional<Rows<T>> copy;
  const T* data;
  std::int64_t row_stride, depth_stride;
  Left(const GemmKernels<T>& kernels, const Matrix& a)
      : data(reinterpret_cast<const T*>(a.data)), row_stride(a.row_stride), depth_stride(a.column_stride) {
    if (a.dtype == dtype_of<T>) return;
    const bool by_columns = a.row_stride == 1;
    copy.emplace(kernels, by_columns ? a.transposed() : a);
    data = (*copy)[0], row_stride = copy->stride(), depth_stride = 1;
    if (by_columns) std::swap(row_stride, depth_stride);
  }
};

// Few rows of sums in the first-level cache, beside the rows of b that meet them. A load waits for a store just before it whose address ends
// in the same twelve bits: rows of sums are a quarter of a page apart in these, and just behind b's.
template <class T>
class NearSums {
 public:
  /// For b from `at` on.
  T* beside(const char* at) {
    const auto distance = reinterpret_cast<std::uintptr_t>(at) - reinterpret_cast<std::uintptr_t>(space_) - line;
    return reinterpret_cast<T*>(space_ + distance % page / line * line);
  }
  static constexpr std::int64_t page = 4096, quarter = page / 4;

 private:
  static constexpr std::int64_t line = 64;
  alignas(line) char space_[max_few * quarter + 2 * page];
};

// Products as the tasks of one round.
template <class... Products>
void multiply(Products&&... products) {
  parallel_for((products.tasks() + ...), [&](std::int64_t task) {
    ((task >= 0 && task < products.tasks() ? products.run(task) : void(), task -= products.tasks()), ...);
  });
  (products.finish(), ...);
}

// y = a b, with the columns of b read as they lie: those of few rows, or max_few rows of a at a time, for which columns are read again.
template <class T>
class DotProduct {
 public:
  DotProduct(const GemmKernels<T>& kernels, const Matrix& a, const Matrix& b, const Matrix& y)
      : kernels_(kernels),
        x_(kernels, a),
        b_(b),
        y_(y),
        columns_(columns_of_a_task(b.rows * size_of(b.dtype) / std::int64_t{sizeof(float)}, again() ? near_columns : 8)) {}
  std::int64_t tasks() const { return divide_up(y_.rows, rows()) * stretches(); }
  void run(std::int64_t task) const {
    const std::int64_t row = task / stretches() * rows(), some = std::min(rows(), y_.rows - row), depth = b_.rows;
    const std::int64_t begin = task % stretches() * columns_, end = std::min(begin + columns_, b_.columns);
    const std::int64_t near = again() ? near_columns : most_columns;
    const std::int64_t step = again() ? near_steps : std::max<std::int64_t>(1, depth);
    T sums[max_skinny * most_columns];
    for (std::int64_t j = begin; j < end; j += near) {
      const std::int64_t width = std::min(near, end - j);
      for (std::int64_t d = 0; d == 0 || d < depth; d += step)  // zeros, if there is no depth
        for (std::int64_t i = 0; i < some; i += max_skinny)
          kernels_.dot(x_[row + i] + d, x_.stride(), static_cast<int>(std::min<std::int64_t>(max_skinny, some - i)),
                       std::min(step, depth - d), b_.data + (j * b_.column_stride + d) * size_of(b_.dtype), b_.dtype,
                       b_.column_stride, width, sums + i * near, near, d > 0);
      write(target<T>(y_), row, j, some, width, sums, near);
    }
  }
  void finish() const {}

 private:
  // So few columns that they stay in the second-level cache, and of rows what stays in the first.
  static constexpr std::int64_t most_columns = 64, near_columns = max_skinny * most_columns / max_few,
                                near_steps = 4096 / sizeof(T);
  bool again() const { return y_.rows > max_skinny && b_.columns > max_skinny; }
  std::int64_t rows() const { return again() ? max_few : max_skinny; }  // of a task
  std::int64_t stretches() const { return divide_up(b_.columns, columns_); }
  const GemmKernels<T>& kernels_;
  const Rows<T> x_;
  const Matrix b_, y_;
  const std::int64_t columns_;  // of a task
};

// y = a b for at most max_few rows, with the rows of b read as they lie: where that is once, and b wide, in pieces as long as a page.
template <class T>
class AxpyProduct {
 public:
  AxpyProduct(const GemmKernels<T>& kernels, const Matrix& a, const Matrix& b, const Matrix& y)
      : kernels_(kernels),
        x_(kernels, a),
        b_(b),
        y_(y),
        columns_(columns_of_a_task(a.columns * std::max<std::int64_t>(1, a.rows / max_skinny), near())) {}
  std::int64_t tasks() const { return divide_up(b_.columns, columns_); }
  void run(std::int64_t task) const {
    const std::int64_t depth = b_.rows, block = again() ? 16 : depth, ldy = near() == page ? page + quarter : quarter;
    const std::int64_t end = std::min((task + 1) * columns_, b_.columns);
    NearSums<T> space;
    for (std::int64_t j = task * columns_; j < end; j += near()) {
      const char* right = b_.data + j * size_of(b_.dtype);
      T* sums = space.beside(right);
      const std::int64_t width = std::min(near(), end - j);
      for (std::int64_t d = 0; d < depth; d += block)
        kernels_.axpy(x_.data + d * x_.depth_stride, x_.row_stride, x_.depth_stride, y_.rows, std::min(block, depth - d),
                      right + d * b_.row_stride * size_of(b_.dtype), b_.dtype, b_.row_stride, width, sums, ldy, d > 0);
      write(target<T>(y_), 0, j, y_.rows, width, sums, ldy);
    }
  }
  void finish() const {}

 private:
  static constexpr std::int64_t page = NearSums<T>::page / sizeof(T), quarter = NearSums<T>::quarter / sizeof(T);
  bool again() const { return y_.rows > max_skinny; }  // b is read for every max_skinny rows
  std::int64_t near() const { return again() || b_.columns < 4 * page ? quarter : page; }  // four tasks at least
  const GemmKernels<T>& kernels_;
  const Left<T> x_;
  const Matrix b_, y_;
  const std::int64_t columns_;  // of a task
};

// y = a b for few columns and a long depth. A task takes a stretch of the depth for some rows, and nothing that another has written: what b
// is not read as it lies is packed, and what a is of another type is widened, a little at a time and by the task that reads it, since lines
// come from another core's cache at a fraction of the speed.
template <class T>
class NarrowProduct {
 public:
  NarrowProduct(const GemmKernels<T>& kernels, const Matrix& a, const Matrix& b, const Matrix& y)
      : kernels_(kernels), a_(a), b_(b), y_(y) {}
  std::int64_t tasks() const { return blocks_ * stretches_; }
  void run(std::int64_t task) const {
    const std::int64_t rows = a_.rows, depth = a_.columns, vectors = 2 * kernels_.width;
    const std::int64_t block = task % blocks_, stretch = task / blocks_;
    const std::int64_t first = rows * block / blocks_, last = rows * (block + 1) / blocks_;
    const std::int64_t begin = depth * stretch / stretches_, end = depth * (stretch + 1) / stretches_;
    T* own = sums_.get() + stretch * rows * lanes_;
    T *widened = pieces_.get() + task * (of_a() + of_b()), *packed = widened + of_a();
    for (std::int64_t d = begin; d < end; d += step_) {
      const std::int64_t count = std::min(step_, end - d);
      Matrix right = b_, left = a_;
      right.data += d * b_.row_stride * size_of(b_.dtype);
      if (!b_lies()) {
        kernels_.pack(right.data, b_.dtype, count, b_.row_stride, b_.column_stride, static_cast<int>(b_.columns),
                      static_cast<int>(lanes_), packed);
        right = {reinterpret_cast<char*>(packed), dtype_of<T>, count, lanes_, lanes_, 1};
      }
      for (std::int64_t i = first; i < last; i += near_rows) {
        const std::int64_t some = std::min(near_rows, last - i);
        left.data = a_.data + (i * a_.row_stride + d * a_.column_stride) * size_of(a_.dtype);
        const T* x = reinterpret_cast<const T*>(left.data);
        if (!a_lies()) {
          for (std::int64_t r = 0; r < some; ++r)
            convert(a_.dtype, left.data + r * a_.row_stride * size_of(a_.dtype), a_.column_stride, dtype_of<T>,
                    widened + r * count, 1, count);
          x = widened, left.row_stride = count, left.column_stride = 1;
        }
        for (std::int64_t j = 0; j < right.columns; j += vectors)
          kernels_.axpy(x, left.row_stride, left.column_stride, some, count, right.data + j * size_of(right.dtype), right.dtype,
                        right.row_stride, std::min(vectors, right.columns - j), own + i * lanes_ + j, lanes_, d > begin);
      }
    }
    if (stretches_ == 1) write(target<T>(y_), first, 0, last - first, b_.columns, own + first * lanes_, lanes_);
  }
  void finish() const {
    if (stretches_ == 1) return;
    const std::int64_t count = a_.rows * lanes_;
    for (std::int64_t s = 1; s < stretches_; ++s)
      for (std::int64_t i = 0; i < count; ++i) sums_.get()[i] += sums_.get()[s * count + i];
    write(target<T>(y_), 0, 0, a_.rows, b_.columns, sums_.get(), lanes_);
  }

 private:
  std::int64_t whole() const { return divide_up(b_.columns, kernels_.width) * kernels_.width; }
  bool a_lies() const { return a_.dtype == dtype_of<T>; }
  bool b_lies() const { return b_.column_stride == 1 && (b_.columns == whole() || b_.columns > max_narrow); }
  std::int64_t wanted_tasks() const { return std::min(narrow_tasks, a_.rows * a_.columns * lanes_ / stretch_elements); }
  // Elements of what a task copies of a and of b.
  std::int64_t of_a() const { return a_lies() ? 0 : near_rows * step_; }
  std::int64_t of_b() const { return b_lies() ? 0 : step_ * lanes_; }
  const GemmKernels<T>& kernels_;
  const Matrix a_, b_, y_;
  const std::int64_t lanes_ = b_lies() ? b_.columns : whole();
  const std::int64_t step_ = std::clamp<std::int64_t>(near_elements / lanes_, 1, near_depth);  // of the depth
  const std::int64_t blocks_ = std::min(divide_up(a_.rows, narrow_rows), 4 * narrow_tasks);    // of rows
  const std::int64_t stretches_ = std::clamp<std::int64_t>(wanted_tasks() / blocks_, 1, divide_up(a_.columns, step_));
  const Scratch<T> sums_{stretches_ * a_.rows * lanes_}, pieces_{blocks_ * stretches_ * (of_a() + of_b())};
};

// y = a b for a short depth: y is written once, from rows of b that stay near, and a of the same type is read as it lies.
template <class T>
void shallow_product(const GemmKernels<T>& kernels, const Matrix& a, const Matrix& b, const Matrix& y) {
  const Left<T> x(kernels, a);
  // So many columns that their rows of b stay in the first-level cache: of a deeper product, together with those of y, from one few steps of
  // the depth to the next. Of another, long rows of y one by one: several at once, often powers of two apart, are written at a third of
  // the speed.
  const bool deep = a.columns > max_skinny;
  const std::int64_t columns = deep ? 256 : 16384 / std::int64_t{sizeof(T)} / a.columns, few = max_skinny;
  const std::int64_t rows = deep || b.columns <= 256 ? a.rows : 1;
  const std::int64_t grain = std::max(few, divide_up(stretch_elements, b.columns) / few * few);
  parallel_ranges(a.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = 0; j < b.columns; j += columns)
      for (std::int64_t i = begin; i < end; i += rows)
        kernels.axpy(x.data + i * x.row_stride, x.row_stride, x.depth_stride, std::min(rows, end - i), a.columns,
                     b.data + j * size_of(b.dtype), b.dtype, b.row_stride, std::min(columns, b.columns - j),
                     reinterpret_cast<T*>(y.data) + i * y.row_stride + j, y.row_stride, false);
  });
}

template <class T>
void blocked(const GemmKernels<T>& kernels, const Matrix& a, const Matrix& b, const Matrix& y) {
  blocked_product(kernels, a.rows, b.columns, a.columns,
                  StridedPanels<T>(kernels, a.data, a.dtype, a.rows, a.row_stride, a.column_stride, a.columns),
                  StridedPanels<T>(kernels, b.data, b.dtype, b.columns, b.column_stride, b.row_stride), target<Sum<T>>(y));
}

template <class T>
void product(const GemmKernels<T>& kernels, Matrix a, Matrix b, Matrix y) {
  const bool is_long = a.columns >= least_long_depth, halves = a.dtype == DType::bf16 && b.dtype == DType::bf16;
  if (is_long && b.columns <= (halves ? max_narrow_halves : max_narrow) && a.column_stride == 1) {
    if (a.rows > max_skinny || (b.column_stride == 1 && b.row_stride != 1)) return multiply(NarrowProduct<T>(kernels, a, b, y));
    // Few rows of another type are widened by the kernel that reads them, as columns.
    if (b.row_stride == 1 && a.dtype != dtype_of<T> && b.dtype == dtype_of<T>)
      return multiply(DotProduct<T>(kernels, b.transposed(), a.transposed(), y.transposed()));
  }
  // yᵀ = bᵀ aᵀ where b is narrow, as adapters are: it is packed once and short, and a streams by in panels that are used at once.
  // Then y is written against its rows, which a short depth (an adapter's gradient from few tokens) would not make up for. Rows
  // of a that are read where they lie need neither panels nor that.
  const bool rows_lie = a.dtype == dtype_of<T> && a.column_stride == 1;
  if (b.columns < a.rows && b.columns <= kernels.columns &&
      (b.columns <= max_skinny || (a.columns >= least_depth && !rows_lie))) {
    std::swap(a, b);
    a = a.transposed(), b = b.transposed(), y = y.transposed();
  }
  const bool skinny = a.rows <= max_skinny, few = skinny || (a.rows <= max_few && (a.dtype == dtype_of<T> || b.dtype == dtype_of<T>));
  const bool by_columns = b.row_stride == 1, by_rows = b.column_stride == 1;
  const std::int64_t shallow =
      (skinny && (by_columns || by_rows)) || (a.dtype != dtype_of<T> && a.row_stride != 1) ? max_skinny : max_shallow;
  if (a.columns <= shallow && b.column_stride == 1 && y.dtype == dtype_of<T> && y.column_stride == 1)
    return shallow_product(kernels, a, b, y);
  if ((skinny || (few && is_long)) && by_columns) return multiply(DotProduct<T>(kernels, a, b, y));
  if (few && by_rows && is_long && b.columns <= max_cut) return multiply(NarrowProduct<T>(kernels, a, b, y));
  if (few && by_rows) return multiply(AxpyProduct<T>(kernels, a, b, y));
  if constexpr (std::is_same_v<T, float>)
    if (const auto* pairs = a.dtype == DType::bf16 && b.dtype == DType::bf16 ? pair_kernels(isa()) : nullptr)
      return blocked(*pairs, a, b, y);
  blocked(kernels, a, b, y);
}

template <class T>
void batched(const View& a, const View& b, const View& y) {
  const GemmKernels<T>& kernels = gemm_kernels<T>(isa());
  const std::int64_t m = y.sizes[y.rank - 2], n = y.sizes[y.rank - 1], depth = a.sizes[a.rank - 1];
  if (m == 0 || n == 0) return;
  std::int64_t batch = 1;
  for (int i = 0; i < y.rank - 2; ++i) batch *= y.sizes[i];
  if (depth == 0) {
    const T zero = 0;
    for (std::int64_t i = 0; i < batch; ++i)
      for (std::int64_t row = 0; row < m; ++row)
        for (std::int64_t column = 0; column < n; ++column) write(target<T>(matrix(y, i)), row, column, 1, 1, &zero, 1);
    return;
  }
  // Pieces of the batch: several small products each, or one large product that splits itself.
  const std::int64_t grain = std::max<std::int64_t>(1, small_product / 4 / (m * n * depth));
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) product<T>(kernels, matrix(a, i), matrix(b, i), matrix(y, i));
  };
  if (m * n * depth < small_product || batch >= 64) parallel_ranges(batch, grain, run);
  else run(0, batch);
}

}  // namespace

void matmul(const View& a, const View& b, const View& y) {
  check_types("matmul", {&a, &b, &y});
  if (y.dtype == DType::f64) batched<double>(a, b, y);
  else batched<float>(a, b, y);
}

namespace {

// y = fl(y + u bᵀ), with b read as it lies for few rows.
template <class T>
void join_share(const GemmKernels<T>& kernels, const View& u, const Matrix& b, const Matrix& y) {
  constexpr std::int64_t near = 256, of_a_task = 1024;
  const bool by_rows = b.column_stride == 1, skinny = y.rows <= max_skinny && (by_rows || b.row_stride == 1);
  const std::int64_t few = skinny ? max_skinny : 4 * kernels.rows, rows_of_a_task = 4 * few, width = kernels.columns;
  const std::int64_t r = u.sizes[1], stretches = divide_up(y.columns, of_a_task);
  const auto b_at = [&](std::int64_t row) { return b.data + row * b.row_stride * size_of(b.dtype); };
  parallel_for(divide_up(y.rows, rows_of_a_task) * stretches, [&](std::int64_t task) {
    const std::int64_t begin = task / stretches * rows_of_a_task, end = std::min(begin + rows_of_a_task, y.rows);
    const std::int64_t first = task % stretches * of_a_task, last = std::min(first + of_a_task, y.columns);
    const Scratch<T> scratch((few + 1) * near + (skinny ? 0 : r * divide_up(near, width) * width));
    T *share = scratch.get(), *sum = share + few * near, *panels = sum + near;
    for (std::int64_t j = first; j < last; j += near) {
      const std::int64_t columns = std::min(near, last - j);
      for (std::int64_t k = 0; !skinny && k < columns; k += width)
        kernels.pack(b_at(j + k), b.dtype, r, b.column_stride, b.row_stride, static_cast<int>(std::min(width, columns - k)),
                     kernels.columns, panels + k * r);
      for (std::int64_t i = begin; i < end; i += few) {
        const std::int64_t rows = std::min(few, end - i);
        const T* x = u.as<T>() + i * r;
        if (skinny && by_rows)
          kernels.dot(x, r, static_cast<int>(rows), r, b_at(j), b.dtype, b.row_stride, columns, share, near, false);
        else if (skinny) kernels.axpy(x, r, 1, rows, r, b_at(j), b.dtype, b.column_stride, columns, share, near, false);
        for (std::int64_t k = 0; !skinny && k < columns; k += width)
          kernels.row_tiles(x, r, r, 0, nullptr, kernels.rows, panels + k * r, share + k, near, rows,
                            static_cast<int>(std::min(width, columns - k)), false);
        for (std::int64_t k = 0; k < rows; ++k) {
          void* at = y.data + ((i + k) * y.row_stride + j * y.column_stride) * size_of(y.dtype);
          convert(y.dtype, at, y.column_stride, dtype_of<T>, sum, 1, columns);
          vector_loops<T>().binary(BinaryOp::add, sum, share + k * near, sum, columns);
          convert(dtype_of<T>, sum, 1, y.dtype, at, y.column_stride, columns);
        }
      }
    }
  });
}

template <class T>
void low_rank_linear(const View& x, const View& weight, const View& A, const View& B, double scale, const View& y,
                     const View& narrow) {
  const GemmKernels<T>& kernels = gemm_kernels<T>(isa());
  const std::int64_t m = y.sizes[0], r = A.sizes[0];
  if (y.count() == 0) return;
  const Temporary own({nullptr, dtype_of<T>, 2, {m, r}, {}}, dtype_of<T>);
  const View &u = narrow.data ? narrow : own.view(), b = transposed(weight), c = transposed(A);
  // A narrow c has too few tasks of its own: they come after those of b.
  if (m <= max_skinny && b.strides[0] == 1 && c.strides[0] == 1)
    multiply(DotProduct<T>(kernels, matrix(x, 0), matrix(b, 0), matrix(y, 0)),
             DotProduct<T>(kernels, matrix(x, 0), matrix(c, 0), matrix(u, 0)));
  else graft::cpu::matmul(x, b, y), graft::cpu::matmul(x, c, u);
  for (std::int64_t i = 0; i < m * r; ++i) u.as<T>()[i] *= static_cast<T>(scale);
  join_share(kernels, u, matrix(B, 0), matrix(y, 0));
}

}  // namespace

void low_rank_linear(const View& x, const View& weight, const View& A, const View& B, double scale, const View& y,
                     const View& u) {
  check_types("low_rank_linear", {&y, &x, &weight, &A, &B});
  if (y.dtype == DType::f64) low_rank_linear<double>(x, weight, A, B, scale, y, u);
  else low_rank_linear<float>(x, weight, A, B, scale, y, u);
}

void linear_backward(const View& dy, const View& x, const View& weight, const View& dx, const View& dweight) {
  if (dx.data) matmul(dy, weight, dx);
  if (dweight.data) matmul(transposed(dy), x, dweight);
}

}  // namespace graft::cpu
