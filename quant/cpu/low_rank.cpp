#include "graft/quant/cpu/low_rank.h"

#include <algorithm>

#include "graft/core/cpu/vector.h"

namespace graft::quant {

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
    const View& v = term.v;
    if (gathered()) return fill_gathered(v, first, part, lane, lanes, to);
    if (lane >= v.sizes[1]) return std::fill(to, to + part * lanes, T(0));
    cpu::StridedPanels<T>(kernels_, v.data, v.dtype, v.sizes[1], v.strides[1], v.strides[0]).fill(first, part, lane, lanes, to);
  });
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
  if (problem_.joins_rounded()) return add_rounded(row, rows, column, columns, y, ldy);
  std::int64_t begin = 0;
  for (const LowRank& term : problem_.terms) {
    if (const Rows own(term, row, rows); own.count > 0)
      share(term, begin, own.first, own.count, column, columns, y + (term.first_row + own.first - row) * ldy, ldy, true);
    begin += term.u.sizes[1];
  }
}

namespace {

// n values through a narrower dtype and back.
template <class T>
void round_to(DType dtype, T* values, std::int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    constexpr std::int64_t step = 256;
    std::uint16_t buffer[step];
    const cpu::HalfLoops& loops = cpu::half_loops();
    for (std::int64_t i = 0; i < n; i += step) {
      const std::int64_t count = std::min(step, n - i);
      if (dtype == DType::bf16) {
        loops.narrow_bf16(values + i, reinterpret_cast<bf16*>(buffer), count);
        loops.widen_bf16(reinterpret_cast<bf16*>(buffer), values + i, count);
      } else if (dtype == DType::f16) {
        loops.narrow(values + i, reinterpret_cast<f16*>(buffer), count);
        loops.widen(reinterpret_cast<f16*>(buffer), values + i, count);
      }
    }
  }
}

}  // namespace

template <class T>
void LowRankPanels<T>::add_rounded(std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns, T* y,
                                   std::int64_t ldy) const {
  const std::int64_t all = gathered() ? problem_.weight.rows : problem_.y.sizes[1], n = std::min(columns, all - column);
  constexpr std::int64_t few = 1024;
  T near[few];
  const cpu::Scratch<T> many(rows * columns > few ? rows * columns : 0);
  T* const shares = rows * columns > few ? many.get() : near;
  const DType dtype = problem_.y.dtype;
  if (!bias_.empty())
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < n; ++j) y[i * ldy + j] += bias_[static_cast<std::size_t>(column + j)];
  std::int64_t begin = 0;
  for (const LowRank& term : problem_.terms) {
    const Rows own(term, row, rows);
    if (own.count > 0) share(term, begin, own.first, own.count, column, columns, shares, columns, false);
    for (std::int64_t i = 0; i < own.count; ++i) {
      T *to = y + (term.first_row + own.first - row + i) * ldy, *from = shares + i * columns;
      round_to(dtype, to, n);
      if (term.join != Join::added) round_to(dtype, from, n);
      if (const auto factor = static_cast<T>(term.factor()); factor != 1) {
        for (std::int64_t j = 0; j < n; ++j) from[j] *= factor;
        round_to(dtype, from, n);
      }
      for (std::int64_t j = 0; j < n; ++j) to[j] += from[j];
    }
    begin += term.u.sizes[1];
  }
}

template <class T>
void LowRankPanels<T>::share(const LowRank& term, std::int64_t begin, std::int64_t row, std::int64_t rows, std::int64_t column,
                             std::int64_t columns, T* y, std::int64_t ldy, bool accumulate) const {
  if (as_it_lies(term, rows)) return share_as_it_lies(term, row, static_cast<int>(rows), column, columns, y, ldy, accumulate);
  const std::int64_t depth = term.u.sizes[1], height = kernels_.rows, width = kernels_.columns;
  const std::int64_t panels = (rows + height - 1) / height;
  const cpu::Scratch<T> scratch(depth * (panels * height + width));
  T* right = scratch.get() + depth * panels * height;
  for (std::int64_t i = 0; i < panels; ++i)
    fill_left(begin, depth, row + i * height, kernels_.rows, scratch.get() + i * depth * height);
  for (std::int64_t j = 0; j < columns; j += width) {
    fill_right(begin, depth, column + j, kernels_.columns, right);
    kernels_.tiles(depth, scratch.get(), kernels_.rows, right, y + j, ldy, rows,
                   static_cast<int>(std::min<std::int64_t>(width, columns - j)), accumulate);
  }
}

// For few rows, where packing v would cost more than it saves.
template <class T>
void LowRankPanels<T>::share_as_it_lies(const LowRank& term, std::int64_t row, int rows, std::int64_t column,
                                        std::int64_t columns, T* y, std::int64_t ldy, bool accumulate) const {
  const View &u = term.u, &v = term.v;
  const std::int64_t r = u.sizes[1], n = std::min(columns, v.sizes[1] - column);
  const auto at = [](const View& view, std::int64_t i, std::int64_t j) {
    return static_cast<const char*>(view.data) + (i * view.strides[0] + j * view.strides[1]) * size_of(view.dtype);
  };
  const bool lies = u.dtype == dtype_of<T> && u.strides[1] == 1;
  const cpu::Scratch<T> copy(lies ? 0 : rows * r);
  for (int i = 0; !lies && i < rows; ++i) kernels_.pack(at(u, row + i, 0), u.dtype, r, u.strides[1], 1, 1, 1, copy.get() + i * r);
  const T* x = lies ? reinterpret_cast<const T*>(at(u, row, 0)) : copy.get();
  const std::int64_t ldx = lies ? u.strides[0] : r;
  if (v.strides[0] == 1) kernels_.dot(x, ldx, rows, r, at(v, 0, column), v.dtype, v.strides[1], n, y, ldy, accumulate);
  else kernels_.axpy(x, ldx, 1, rows, r, at(v, 0, column), v.dtype, v.strides[0], n, y, ldy, accumulate);
}

template class LowRankPanels<float>;
template class LowRankPanels<double>;

}  // namespace graft::quant
