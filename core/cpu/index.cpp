#include <array>
#include <vector>

#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/temporary.h"

namespace graft::cpu {
namespace {

/// One position for all elements that share an index along `dim`: index [n] as a view of `like`'s shape.
View spread(const View& index, int dim, const View& like) {
  View wide = like;
  wide.data = index.data;
  wide.dtype = index.dtype;
  std::fill_n(wide.strides, max_rank, 0);
  wide.strides[dim] = index.rank > 0 ? index.strides[0] : 0;
  return wide;
}

/// Where the rows of `view` begin whose multi-index (in the extents of `like`, last dimension excluded) has number `row`; the
/// dimension `skip` does not count.
std::int64_t row_begin(const View& view, const View& like, std::int64_t row, int skip) {
  std::int64_t offset = 0;
  for (int i = like.rank - 2; i >= 0; --i) {
    if (i != skip) offset += row % like.sizes[i] * view.strides[i];
    row /= like.sizes[i];
  }
  return offset;
}

/// Calls f.operator()<U>() with an unsigned type as wide as an element: moving bits needs no more.
template <class F>
void with_width(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1: return f.template operator()<std::uint8_t>();
    case 2: return f.template operator()<std::uint16_t>();
    case 4: return f.template operator()<std::uint32_t>();
    default: return f.template operator()<std::uint64_t>();
  }
}

template <class T>
void gather_elements(const View& x, int dim, const View& index, const View& y) {
  const int last = y.rank - 1;
  const std::int64_t n = y.sizes[last], x_step = dim == last ? 0 : x.strides[last], y_step = y.strides[last];
  const std::int64_t i_step = index.strides[last], jump = x.strides[dim];
  const Rows y_rows(y), i_rows(index);
  parallel_ranges(y_rows.count(), steps_per_chunk(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x.as<T>() + row_begin(x, y, row, dim);
      T* to = y.as<T>() + y_rows(row);
      const std::int64_t* at = index.as<std::int64_t>() + i_rows(row);
      if (i_step == 0) {  // a whole row moves
        from += *at * jump;
        if (x_step == 1 && y_step == 1) {
          std::copy_n(from, n, to);
        } else {
          for (std::int64_t j = 0; j < n; ++j) to[j * y_step] = from[j * x_step];
        }
      } else {
        for (std::int64_t j = 0; j < n; ++j) to[j * y_step] = from[at[j * i_step] * jump + j * x_step];
      }
    }
  });
}

/// y += x at index. Elements that meet at one place differ along `dim` alone, so lines along it are walked in order and
/// everything else may run in parallel. Y is wide enough to add many.
template <class T, class Y>
void add_elements(const View& y, int dim, const View& index, const View& x) {
  const int last = x.rank - 1;
  const std::int64_t length = x.sizes[dim], jump = y.strides[dim];
  View lines = x, line_indices = index, line_targets = y;  // without `dim`
  for (View* view : {&lines, &line_indices, &line_targets}) view->sizes[dim] = 1;
  constexpr std::int64_t strip = 64;
  const std::int64_t width = lines.sizes[last], strips = (width + strip - 1) / strip;
  const Rows x_rows(lines), i_rows(line_indices);
  parallel_ranges(x_rows.count() * strips, steps_per_chunk(length * std::min(width, strip)),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t task = begin; task < end; ++task) {
                      const std::int64_t row = task / strips, first = task % strips * strip, n = std::min(strip, width - first);
                      const std::int64_t x_step = x.strides[last], y_step = y.strides[last], i_step = index.strides[last];
                      const T* from = x.as<T>() + x_rows(row) + first * x_step;
                      const std::int64_t* at = index.as<std::int64_t>() + i_rows(row) + first * i_step;
                      Y* to = y.as<Y>() + row_begin(line_targets, lines, row, dim) + first * y_step;
                      for (std::int64_t i = 0; i < length; ++i, from += x.strides[dim], at += index.strides[dim]) {
                        if (i_step == 0 && x_step == 1 && y_step == 1) {
                          Y* target = to + *at * jump;
                          for (std::int64_t j = 0; j < n; ++j) target[j] = static_cast<Y>(target[j] + from[j]);
                        } else {
                          for (std::int64_t j = 0; j < n; ++j) {
                            Y& target = to[at[j * i_step] * jump + (dim == last ? 0 : j * y_step)];
                            target = static_cast<Y>(target + from[j * x_step]);
                          }
                        }
                      }
                    }
                  });
}

}  // namespace

void gather(const View& x, int dim, const View& index, const View& y) {
  if (y.count() == 0) return;
  with_width(x.dtype, [&]<class T>() { gather_elements<T>(x, dim, index, y); });
}

void index_select(const View& x, int dim, const View& index, const View& y) { gather(x, dim, spread(index, dim, y), y); }

void scatter_add(const View& y, int dim, const View& index, const View& x) {
  if (x.count() == 0) return;
  if (is_half(y.dtype)) {  // sums of many halves are kept in float and rounded once
    const Temporary sums(y, DType::f32);
    copy(y, sums.view());
    dispatch(y.dtype, Types<f16, bf16>{}, "scatter_add", [&]<class T>() { add_elements<T, float>(sums.view(), dim, index, x); });
    return copy(sums.view(), y);
  }
  using Numbers = Types<double, float, std::int64_t, std::int32_t, std::int16_t, std::int8_t, std::uint8_t>;
  dispatch(y.dtype, Numbers{}, "scatter_add", [&]<class T>() { add_elements<T, T>(y, dim, index, x); });
}

void index_add(const View& y, int dim, const View& index, const View& x) { scatter_add(y, dim, spread(index, dim, x), x); }

}  // namespace graft::cpu
