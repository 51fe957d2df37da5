#include <cmath>
#include <vector>

#include "graft/core/cpu/block.h"
#include "graft/core/cpu/cpu.h"
#include "graft/core/cpu/loop.h"
#include "graft/core/cpu/row.h"
#include "graft/core/cpu/vector.h"

namespace graft::cpu {

void softmax(const View& x, const View& y, bool log) {
  if (x.count() == 0) return;
  with_floating(x.dtype, "softmax", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    for_each_row<A>(x, 2, [&, from = RowsOf<A>(x), to = RowsOf<A>(y)](std::int64_t row, auto& buffers) {
      const A* values = from.load(row, buffers[0]);
      A* result = to.target(row, buffers[1]);
      const std::int64_t n = from.size();
      const A largest = loops.max(values, n);
      if (log) {
        const A sum = exp_sum(loops, values, largest, n);
        loops.unary(UnaryOp::affine, values, result, n, 1, -largest);
        loops.unary(UnaryOp::affine, result, result, n, 1, -std::log(sum));
      } else {
        loops.exp_minus(values, largest, result, n);
        loops.unary(UnaryOp::affine, result, result, n, 1 / loops.sum(result, n), 0);
      }
      to.store(row, result);
    });
  });
}

void softmax_backward(const View& y, const View& dy, const View& dx, bool log) {
  if (y.count() == 0) return;
  with_floating(y.dtype, "softmax_backward", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    for_each_row<A>(y, 4, [&, out = RowsOf<A>(y), grad = RowsOf<A>(dy), to = RowsOf<A>(dx)](std::int64_t row, auto& buffers) {
      const std::int64_t n = out.size();
      const A *values = out.load(row, buffers[0]), *grads = grad.load(row, buffers[1]);
      A* result = to.target(row, buffers[2]);
      if (log) {  // dx = dy − softmax · Σ dy
        const A sum = loops.sum(grads, n);
        loops.exp_minus(values, 0, buffers[3], n);
        loops.add_scaled(grads, -sum, buffers[3], result, n);
      } else {  // dx = y (dy − Σ y dy)
        loops.mul_shifted(values, grads, loops.dot(values, grads, n), result, n);
      }
      to.store(row, result);
    });
  });
}

void rms_norm(const View& x, const View& weight, double eps, const View& y, const View& rstd) {
  if (x.count() == 0) return;
  with_floating(x.dtype, "rms_norm", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const std::int64_t n = last_size(x);
    std::vector<A> weight_buffer(n);
    const A* scales = load(weight, 0, last_stride(weight), n, weight_buffer.data());
    const Rows rstd_at(rstd, 0);
    for_each_row<A>(x, 2, [&, from = RowsOf<A>(x), to = RowsOf<A>(y)](std::int64_t row, auto& buffers) {
      const A* values = from.load(row, buffers[0]);
      A* result = to.target(row, buffers[1]);
      const A scale = 1 / std::sqrt(loops.dot(values, values, n) / static_cast<A>(n) + static_cast<A>(eps));
      loops.unary(UnaryOp::affine, values, result, n, scale, 0);
      loops.binary(BinaryOp::mul, result, scales, result, n);
      to.store(row, result);
      store(&scale, rstd, rstd_at(row), 1, 1);
    });
  });
}

void rms_norm_backward(const View& x, const View& weight, const View& rstd, const View& dy, const View& dx, const View& dweight) {
  with_floating(x.dtype, "rms_norm_backward", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const std::int64_t n = last_size(x);
    const RowsOf<A> from(x), grad(dy), to(dx);
    const Rows rstd_at(rstd, 0);
    const std::int64_t count = x.count() > 0 ? from.count() : 0;
    std::vector<A> weight_buffer(n);
    const A* scales = load(weight, 0, last_stride(weight), n, weight_buffer.data());

    // The rows are cut into at most 32 pieces, each with its own sum for dweight; the sums are added in order.
    const std::int64_t piece = std::max((count + 31) / 32, steps_per_chunk(n)), pieces = (count + piece - 1) / piece;
    const bool wants_dx = dx.data != nullptr, wants_dweight = dweight.data != nullptr;
    std::vector<A> sums(wants_dweight ? std::max<std::int64_t>(pieces, 1) * n : 0);
    parallel_for(pieces, [&](std::int64_t p) {
      std::vector<A> memory(4 * n);
      A *x_buffer = memory.data(), *dy_buffer = x_buffer + n, *scaled = dy_buffer + n, *dx_buffer = scaled + n;
      for (std::int64_t row = p * piece; row < std::min((p + 1) * piece, count); ++row) {
        const A *values = from.load(row, x_buffer), *grads = grad.load(row, dy_buffer);
        A scale_buffer;
        const A scale = *load(rstd, rstd_at(row), 1, 1, &scale_buffer);
        if (wants_dweight) {
          loops.unary(UnaryOp::affine, values, scaled, n, scale, 0);
          loops.add_product(grads, scaled, &sums[p * n], n);
        }
        if (wants_dx) {  // with g = weight · dy: dx = rstd g − rstd³ x mean(g x)
          A* result = to.target(row, dx_buffer);
          loops.binary(BinaryOp::mul, scales, grads, scaled, n);
          const A mean = loops.dot(scaled, values, n) / static_cast<A>(n);
          loops.unary(UnaryOp::affine, scaled, scaled, n, scale, 0);
          loops.add_scaled(scaled, -scale * scale * scale * mean, values, result, n);
          to.store(row, result);
        }
      }
    });
    if (!wants_dweight) return;
    for (std::int64_t p = 1; p < pieces; ++p) loops.binary(BinaryOp::add, sums.data(), &sums[p * n], sums.data(), n);
    store(sums.data(), dweight, 0, last_stride(dweight), n);
  });
}

void rotary(const View& x, const View& cos, const View& sin, const View& y, bool inverse) {
  if (x.count() == 0) return;
  with_floating(x.dtype, "rotary", [&]<class A>() {
    const auto& loops = vector_loops<A>();
    const std::int64_t heads = x.sizes[1], length = x.sizes[2], width = x.sizes[3], half = width / 2;
    // In the order in which x lies in memory: all heads of a position, or all positions of a head.
    const bool heads_inside = x.strides[1] < x.strides[2];
    const std::int64_t outer = heads_inside ? length : heads, inner = heads_inside ? heads : length;
    parallel_ranges(x.sizes[0] * outer, steps_per_chunk(inner * width), [&](std::int64_t begin, std::int64_t end) {
      std::vector<A> memory(3 * width);
      A *x_buffer = memory.data(), *y_buffer = x_buffer + width, *cos_buffer = y_buffer + width, *sin_buffer = cos_buffer + half;
      if constexpr (std::is_same_v<A, float>)
        if (heads_inside && x.dtype == DType::bf16 && y.dtype == DType::bf16 && x.strides[3] == 1 && y.strides[3] == 1) {
          for (std::int64_t at = begin; at < end; ++at) {
            const std::int64_t b = at / length, t = at % length, table = cos.sizes[0] == 1 ? 0 : b;
            bf16_loops().rotate(x.as<bf16>() + b * x.strides[0] + t * x.strides[2], x.strides[1],
                                load(cos, table * cos.strides[0] + t * cos.strides[1], cos.strides[2], half, cos_buffer),
                                load(sin, table * sin.strides[0] + t * sin.strides[1], sin.strides[2], half, sin_buffer),
                                inverse ? -1 : 1, y.as<bf16>() + b * y.strides[0] + t * y.strides[2], y.strides[1], heads, half);
          }
          return;
        }
      for (std::int64_t at = begin * inner; at < end * inner; ++at) {
        const std::int64_t b = at / inner / outer, o = at / inner % outer, i = at % inner;
        const std::int64_t h = heads_inside ? i : o, t = heads_inside ? o : i, table = cos.sizes[0] == 1 ? 0 : b;
        const A* c = load(cos, table * cos.strides[0] + t * cos.strides[1], cos.strides[2], half, cos_buffer);
        const A* s = load(sin, table * sin.strides[0] + t * sin.strides[1], sin.strides[2], half, sin_buffer);
        const A* values = load(x, b * x.strides[0] + h * x.strides[1] + t * x.strides[2], x.strides[3], width, x_buffer);
        const std::int64_t to = b * y.strides[0] + h * y.strides[1] + t * y.strides[2];
        A* result = target(y, to, y.strides[3], width, y_buffer);
        loops.rotate(values, c, s, inverse ? A(-1) : A(1), result, half);
        store(result, y, to, y.strides[3], width);
      }
    });
  });
}

}  // namespace graft::cpu
