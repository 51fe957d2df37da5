#include "graft/quant/cpu/low_rank.h"

#include <algorithm>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/vector.h"

namespace graft::quant {
namespace {

template <class T>
bool lies(const View& u) {
  return u.dtype == dtype_of<T> && u.strides[1] == 1;
}

template <class T>
std::int64_t elements_to_copy(const Problem& problem) {
  std::int64_t count = 0;
  for (const LowRank& term : problem.terms)
    if (!lies<T>(term.u)) count += term.u.sizes[0] * term.u.sizes[1];
  return count;
}

}  // namespace

template <class T>
LowRankPanels<T>::LowRankPanels(const cpu::GemmKernels<T>& kernels, const Problem& problem)
    : kernels_(kernels), problem_(problem), copies_(elements_to_copy<T>(problem)) {
  if (problem.joins_rounded()) bias_ = bias_of<T>(problem);
  T* copy = copies_.get();
  for (const LowRank& term : problem.terms) {
    const View& u = term.u;
    if (!joins_sums()) depth_ += u.sizes[1];
    if (lies<T>(u)) {
      left_.push_back({u.as<T>(), u.strides[0]});
      continue;
    }
    left_.push_back({copy, u.sizes[1]});
    for (std::int64_t i = 0; i < u.sizes[0]; ++i, copy += u.sizes[1])
      cpu::convert(u.dtype, cpu::element(u, i * u.strides[0]), u.strides[1], dtype_of<T>, copy, 1, u.sizes[1]);
  }
}

/// Calls fill(term, begin, count, panel) for each term's part of [begin, begin + count).
template <class T>
template <class Fill>
void LowRankPanels<T>::each(std::int64_t begin, std::int64_t count, int lanes, T* panel, Fill&& fill) const {
  for (const LowRank& term : problem_.terms) {
    const std::int64_t r = term.u.sizes[1], part = std::min(r - begin, count);
    if (part > 0) {
      fill(term, begin, part, panel);
      panel += part * lanes;
      count -= part;
    }
    begin = std::max<std::int64_t>(0, begin - r);
  }
}

template <class T>
void LowRankPanels<T>::fill_left(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const {
  each(begin, count, lanes, panel, [&](const LowRank& term, std::int64_t first, std::int64_t part, T* to) {
    const View& u = term.u;
    cpu::StridedPanels<T>(kernels_, u.data, u.dtype, u.sizes[0], u.strides[0], u.strides[1]).fill(first, part, lane, lanes, to);
  });
}

template <class T>
void LowRankPanels<T>::fill_right(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const {
  each(begin, count, lanes, panel, [&](const LowRank& term, std::int64_t first, std::int64_t part, T* to) {
    fill_v(term.v, first, part, lane, lanes, to);
  });
}

template <class T>
void LowRankPanels<T>::fill_v(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes,
                              T* panel) const {
  if (gathered()) return fill_gathered(v, begin, count, lane, lanes, panel);
  if (lane >= v.sizes[1]) return std::fill(panel, panel + count * lanes, T(0));
  cpu::StridedPanels<T>(kernels_, v.data, v.dtype, v.sizes[1], v.strides[1], v.strides[0]).fill(begin, count, lane, lanes, panel);
}

template <class T>
void LowRankPanels<T>::fill_gathered(const View& v, std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes,
                                     T* panel) const {
  const std::vector<std::int32_t>& order = problem_.weight.order;
  const auto valid = std::min<std::int64_t>(lanes, static_cast<std::int64_t>(order.size()) - lane);
  dispatch(v.dtype, FloatingTypes{}, "low-rank term", [&]<class From>() {
    for (std::int64_t d = 0; d < count; ++d, panel += lanes) {
      const From* row = v.as<From>() + (begin + d) * v.strides[0];
      for (std::int64_t l = 0; l < lanes; ++l) {
        const std::int32_t from = l < valid ? order[static_cast<std::size_t>(lane + l)] : -1;
        panel[l] = from < 0 ? T(0) : static_cast<T>(row[from * v.strides[1]]);
      }
    }
  });
}

template <class T>
void LowRankPanels<T>::add(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns, T* y,
                           std::int64_t ldy) const {
  const std::int64_t all = gathered() ? problem_.weight.rows : problem_.y.sizes[1], n = std::min(columns, all - column);
  if (n <= 0) return;
  if (!bias_.empty())
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < n; ++j) y[i * ldy + j] += bias_[static_cast<std::size_t>(column + j)];
  for (std::size_t i = 0; i < problem_.terms.size(); ++i) {
    const LowRank& term = problem_.terms[i];
    const auto [first, count] = Rows(term, row, rows);
    if (count <= 0) continue;
    const auto [data, stride] = left_[i];
    T* to = y + (term.first_row + first - row) * ldy;
    if (as_it_lies(term, count)) add_few(term, data + first * stride, stride, static_cast<int>(count), column, n, to, ldy);
    else add_many(term, data + first * stride, stride, count, column, n, to, ldy);
  }
}

// Packing v would cost more than it saves.
template <class T>
void LowRankPanels<T>::add_few(const LowRank& term, const T* x, std::int64_t ldx, int rows, std::int64_t column,
                               std::int64_t columns, T* y, std::int64_t ldy) const {
  const View& v = term.v;
  const std::int64_t r = term.u.sizes[1];
  constexpr std::int64_t few = 256;  // columns
  T near[cpu::max_skinny * few];
  const bool summed = term.join == Join::summed;
  for (std::int64_t j = 0; j < columns; j += few) {
    const std::int64_t n = std::min(few, columns - j), ldc = summed ? ldy : n;
    T* c = summed ? y + j : near;
    const void* at = cpu::element(v, (column + j) * v.strides[1]);
    if (v.strides[0] == 1) kernels_.dot(x, ldx, rows, r, at, v.dtype, v.strides[1], n, c, ldc, summed);
    else kernels_.axpy(x, ldx, 1, rows, r, at, v.dtype, v.strides[0], n, c, ldc, summed);
    if (!summed) join(term, near, n, rows, n, y + j, ldy);
  }
}

template <class T>
void LowRankPanels<T>::add_many(const LowRank& term, const T* x, std::int64_t ldx, std::int64_t rows, std::int64_t column,
                                std::int64_t columns, T* y, std::int64_t ldy) const {
  // So many rows, and columns, have their share at a time, which stays in the first-level cache.
  const std::int64_t r = term.u.sizes[1], width = kernels_.columns, few = 4 * kernels_.rows, most = 256 / width * width;
  const bool summed = term.join == Join::summed;
  const cpu::Scratch<T> scratch((r + few) * most);
  T *panels = scratch.get(), *near = panels + r * most;
  for (std::int64_t first = 0; first < columns; first += most) {
    const std::int64_t wide = std::min(most, columns - first);
    for (std::int64_t j = 0; j < wide; j += width) fill_v(term.v, 0, r, column + first + j, kernels_.columns, panels + j * r);
    for (std::int64_t i = 0; i < rows; i += few) {
      const std::int64_t some = std::min(few, rows - i), ldc = summed ? ldy : wide;
      T *to = y + i * ldy + first, *c = summed ? to : near;
      for (std::int64_t j = 0; j < wide; j += width)
        kernels_.row_tiles(x + i * ldx, ldx, r, 0, nullptr, kernels_.rows, panels + j * r, c + j, ldc, some,
                           static_cast<int>(std::min(width, wide - j)), summed);
      if (!summed) join(term, near, wide, some, wide, to, ldy);
    }
  }
}

namespace {

void round_to(DType dtype, float* values, std::int64_t n) {
  if (dtype == DType::bf16) cpu::half_loops().round_bf16(values, n);
  else if (dtype == DType::f16) cpu::half_loops().round(values, n);
}
void round_to(DType, double*, std::int64_t) {}

}  // namespace

template <class T>
void LowRankPanels<T>::join(const LowRank& term, T* share, std::int64_t lds, std::int64_t rows, std::int64_t n, T* y,
                            std::int64_t ldy) const {
  if (lds == n && ldy == n) n *= rows, rows = 1;
  const DType dtype = problem_.y.dtype;
  const auto factor = static_cast<T>(term.factor());
  const cpu::VectorLoops<T>& loops = cpu::vector_loops<T>();
  for (; rows > 0; --rows, share += lds, y += ldy) {
    round_to(dtype, y, n);
    if (term.join != Join::added) round_to(dtype, share, n);
    if (factor != 1) {
      loops.unary(UnaryOp::affine, share, share, n, factor, T(-0.0));  // keeps the signs of zeros
      round_to(dtype, share, n);
    }
    loops.binary(BinaryOp::add, y, share, y, n);
  }
}

template class LowRankPanels<float>;
template class LowRankPanels<double>;

}  // namespace graft::quant
