// The product that every problem has: a piece of the packed weight is made dense, as much as stays in the L2 cache, and multiplied by
// cuBLASLt. Forward goes by columns and backward by rows, so that no piece's product has to be added to another's.
#include <optional>

#include "graft/core/elementwise.h"
#include "graft/core/tf32.h"
#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"
#include "graft/cuda/prepass.h"
#include "graft/cuda/products.h"
#include "graft/cuda/quantized.h"

namespace graft::cuda {
namespace {

using quant::Packed;
using quant::Problem;

constexpr std::int64_t piece_bytes = std::int64_t{24}
                                     << 20;  // half of the smallest L2 cache among data-centre GPUs since the A100

/// How many lines of `length` elements make a piece: whole tiles.
std::int64_t lines_of(std::int64_t length, DType dtype) {
  constexpr std::int64_t step = Packed::tile_rows;
  static_assert(step % Packed::tile_columns == 0);
  return std::max(piece_bytes / (length * size_of(dtype)) / step * step, step);
}

View matrix(void* data, DType dtype, std::int64_t rows, std::int64_t columns) {
  return {data, dtype, 2, {rows, columns}, {columns, 1}};
}
View columns_of(const View& m, std::int64_t begin, std::int64_t end) {
  View part = m;
  part.data = static_cast<char*>(m.data) + begin * m.strides[1] * size_of(m.dtype);
  part.sizes[1] = end - begin;
  return part;
}

Dequantize piece_of(const Packed& w, const View& to, bool by_channel, std::int64_t row_begin, std::int64_t row_end,
                    std::int64_t column_begin, std::int64_t column_end) {
  return {static_cast<const std::uint8_t*>(w.codes->data()),
          static_cast<const float*>(w.scales->data()),
          static_cast<const float*>(w.zeros->data()),
          static_cast<const std::int32_t*>(w.places->data()),
          w.columns,
          w.bits,
          w.affine,
          by_channel,
          row_begin,
          row_end,
          column_begin,
          column_end,
          to.data,
          to.dtype,
          to.strides[0]};
}

void dequantize(const Packed& w, const Dequantize& d) {
  const std::int64_t words = (d.row_end - d.row_begin) / Packed::rows_per_word(w.bits) * (d.column_end - d.column_begin);
  with_floating(d.dtype, "dequantize", [&]<class A>() {
    launch({"quantized", fmt::format("dequantize{}", suffix<A>)}, blocks_for(words), block_threads, d);
  });
}

void add_bias(const View& x, const View& bias, const View& y) {
  const AddBias a{x.data,
                  bias.data,
                  y.data,
                  x.dtype,
                  bias.dtype,
                  y.dtype,
                  y.sizes[0],
                  y.sizes[1],
                  {x.strides[0], x.strides[1]},
                  {y.strides[0], y.strides[1]},
                  bias.strides[0]};
  with_floating(x.dtype, "add_bias", [&]<class A>() {
    launch({"quantized", fmt::format("add_bias{}", suffix<A>)}, blocks_for(a.rows * a.columns), block_threads, a);
  });
}

/// y = x W. Whole columns of W at a time.
void forward(const Packed& w, const View& x, const View& y) {
  const std::int64_t width = std::min(lines_of(w.in, x.dtype), w.out);
  const Scratch dense(static_cast<std::size_t>(w.in * width * size_of(x.dtype)));
  for (std::int64_t begin = 0; begin < w.out; begin += width) {
    const std::int64_t end = std::min(begin + width, w.out);
    const View weight = matrix(dense.data(), x.dtype, w.in, end - begin);
    dequantize(w, piece_of(w, weight, true, 0, w.rows, begin, end));
    matmul(x, weight, columns_of(y, begin, end));
  }
}

/// dx = dy Wᵀ. Whole rows of W at a time.
void backward(const Packed& w, const View& dy, const View& dx) {
  const std::int64_t height = std::min(lines_of(w.out, dy.dtype), w.rows), m = dy.sizes[0];
  const Scratch dense(static_cast<std::size_t>(w.out * height * size_of(dy.dtype)));
  std::optional<Scratch> part;  // in the packed order
  if (!w.order.empty()) part.emplace(static_cast<std::size_t>(m * height * size_of(dx.dtype)));
  for (std::int64_t begin = 0; begin < w.rows; begin += height) {
    const std::int64_t end = std::min(begin + height, w.rows);
    const View weight = matrix(dense.data(), dy.dtype, end - begin, w.out);
    dequantize(w, piece_of(w, weight, false, begin, end, 0, w.out));
    if (!part) {  // fillings, if there are any, follow the last channel
      const std::int64_t last = std::min(end, w.in);
      if (last > begin) matmul(dy, columns_of(transposed(weight), 0, last - begin), columns_of(dx, begin, last));
      continue;
    }
    const View sums = matrix(part->data(), dx.dtype, m, end - begin);
    matmul(dy, transposed(weight), sums);
    const Spread s{sums.data,
                   dx.data,
                   static_cast<const std::int32_t*>(w.places->data()),
                   sums.dtype,
                   dx.dtype,
                   m,
                   begin,
                   end - begin,
                   {sums.strides[0], sums.strides[1]},
                   {dx.strides[0], dx.strides[1]}};
    launch({"quantized", "spread_columns"}, blocks_for(m * s.columns), block_threads, s);
  }
}

}  // namespace

void join(const View& share, quant::Join how, double factor, const View& y) {
  const JoinShare j{share.data,
                    y.data,
                    share.dtype,
                    y.dtype,
                    how,
                    factor,
                    y.sizes[0],
                    y.sizes[1],
                    {share.strides[0], share.strides[1]},
                    {y.strides[0], y.strides[1]}};
  with_floating(share.dtype, "join_share", [&]<class A>() {
    launch({"quantized", fmt::format("join_share{}", suffix<A>)}, blocks_for(j.rows * j.columns), block_threads, j);
  });
}

void chunked_product(const Problem& problem) {
  const tf32::Guard off(false);  // no kernel of packed weights rounds
  prepass(problem);
  const auto multiply = problem.transposed ? backward : forward;
  const DType wide = problem.y.dtype == DType::f64 ? DType::f64 : DType::f32;
  const auto each_share = [&](auto&& take) {
    for (const quant::LowRank& term : problem.terms) {
      const Dense share(term.rows_of(problem.y), wide);
      matmul(term.u, term.v, share.view());
      take(share.view(), term);
    }
  };
  const bool summed = !problem.terms.empty() && !problem.joins_rounded();
  if (problem.bias || summed) {  // they are added before the result is rounded
    const Dense sum(problem.y, wide);
    multiply(problem.weight, problem.x, sum.view());
    if (summed)
      each_share([&](const View& share, const quant::LowRank& term) {
        const View to = term.rows_of(sum.view());
        binary(BinaryOp::add, to, share, to);
      });
    if (problem.bias) add_bias(sum.view(), *problem.bias, problem.y);
    else copy(sum.view(), problem.y);
  } else {
    multiply(problem.weight, problem.x, problem.y);
  }
  if (!summed)
    each_share(
        [&](const View& share, const quant::LowRank& term) { join(share, term.join, term.factor(), term.rows_of(problem.y)); });
}

}  // namespace graft::cuda

namespace graft::quant::cuda {

// Exact in double, rounded once to f32, a piece at a time, and transposed by the copy.
void dequantize(const Packed& w, std::int64_t begin, std::int64_t end, float* out) {
  using namespace graft::cuda;
  const Current here(w.device().index);
  const std::int64_t most = std::min(lines_of(w.in, DType::f64), end - begin);
  const Scratch exact(static_cast<std::size_t>(w.in * most * size_of(DType::f64)));
  const Scratch rounded(static_cast<std::size_t>(w.in * most * size_of(DType::f32)));
  for (std::int64_t first = begin; first < end; first += most) {
    const std::int64_t last = std::min(first + most, end);
    const View wide = matrix(exact.data(), DType::f64, w.in, last - first),
               narrow = matrix(rounded.data(), DType::f32, last - first, w.in);
    graft::cuda::dequantize(w, piece_of(w, wide, true, 0, w.rows, first, last));
    copy(transposed(wide), narrow);
    read(out + (first - begin) * w.in, rounded.data(), static_cast<std::size_t>((last - first) * w.in * size_of(DType::f32)));
  }
}

}  // namespace graft::quant::cuda
