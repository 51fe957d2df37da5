#include "graft/quant/cpu/low_rank.h"

#include <algorithm>

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
void LowRankPanels<T>::add(std::int64_t row, int rows, std::int64_t column, std::int64_t columns, T* y, std::int64_t ldy) const {
  if (depth_ == 0) return;
  if (as_it_lies(rows)) return add_as_it_lies(row, rows, column, columns, y, ldy);
  const int height = kernels_.rows, width = kernels_.columns;
  const std::int64_t panels = (rows + height - 1) / height;
  const cpu::Scratch<T> scratch(depth_ * (panels * height + width));
  T* right = scratch.get() + depth_ * panels * height;
  for (std::int64_t i = 0; i < panels; ++i) fill_left(0, depth_, row + i * height, height, scratch.get() + i * depth_ * height);
  for (std::int64_t j = 0; j < columns; j += width) {
    fill_right(0, depth_, column + j, width, right);
    kernels_.tiles(depth_, scratch.get(), height, right, y + j, ldy, rows,
                   static_cast<int>(std::min<std::int64_t>(width, columns - j)), true);
  }
}

// For few rows, where packing v would cost more than it saves.
template <class T>
void LowRankPanels<T>::add_as_it_lies(std::int64_t row, int rows, std::int64_t column, std::int64_t columns, T* y,
                                      std::int64_t ldy) const {
  for (const LowRank& term : problem_.terms) {
    const View &u = term.u, &v = term.v;
    const std::int64_t r = u.sizes[1], n = std::min(columns, v.sizes[1] - column);
    const auto at = [](const View& view, std::int64_t i, std::int64_t j) {
      return static_cast<const char*>(view.data) + (i * view.strides[0] + j * view.strides[1]) * size_of(view.dtype);
    };
    const bool lies = u.dtype == dtype_of<T> && u.strides[1] == 1;
    const cpu::Scratch<T> copy(lies ? 0 : rows * r);
    for (int i = 0; !lies && i < rows; ++i)
      kernels_.pack(at(u, row + i, 0), u.dtype, r, u.strides[1], 1, 1, 1, copy.get() + i * r);
    const T* x = lies ? reinterpret_cast<const T*>(at(u, row, 0)) : copy.get();
    const std::int64_t ldx = lies ? u.strides[0] : r;
    if (v.strides[0] == 1) kernels_.dot(x, ldx, rows, r, at(v, 0, column), v.dtype, v.strides[1], n, y, ldy, true);
    else kernels_.axpy(x, ldx, 1, rows, r, at(v, 0, column), v.dtype, v.strides[0], n, y, ldy, true);
  }
}

template class LowRankPanels<float>;
template class LowRankPanels<double>;

}  // namespace graft::quant
