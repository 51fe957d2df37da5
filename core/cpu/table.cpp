#include "graft/core/cpu/cpu.h"

namespace graft {

const Kernels& cpu_kernels() {
  static constexpr Kernels table = {
      .copy = cpu::copy,
      .fill = cpu::fill,
      .unary = cpu::unary,
      .binary = cpu::binary,
      .select = cpu::select,
      .silu_mul = cpu::silu_mul,
      .silu_mul_backward = cpu::silu_mul_backward,
      .reduce = cpu::reduce,
      .argmax = cpu::argmax,
      .softmax = cpu::softmax,
      .softmax_backward = cpu::softmax_backward,
      .rms_norm = cpu::rms_norm,
      .rms_norm_backward = cpu::rms_norm_backward,
      .rotary = cpu::rotary,
      .cross_entropy = cpu::cross_entropy,
      .cross_entropy_backward = cpu::cross_entropy_backward,
      .matmul = cpu::matmul,
      .low_rank_linear = cpu::low_rank_linear,
      .linear_backward = cpu::linear_backward,
      .attention = cpu::attention,
      .attention_backward = cpu::attention_backward,
      .index_select = cpu::index_select,
      .index_add = cpu::index_add,
      .gather = cpu::gather,
      .scatter_add = cpu::scatter_add,
      .draw = cpu::draw,
      .inverse = cpu::inverse,
      .solve_triangular = cpu::solve_triangular,
      .cholesky = cpu::cholesky,
      .qr = cpu::qr,
      .svd = cpu::svd,
  };
  return table;
}

}  // namespace graft
