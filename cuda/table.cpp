#include "graft/cuda/table.h"

#include <optional>

#include "graft/cuda/backend.h"
#include "graft/cuda/entries.h"

namespace graft::cuda {
namespace {

/// Where the first operand that has elements lies; an empty one may lie behind the end of its memory. Null if there is none.
template <class... Parameters>
const void* first_data(const Parameters&... parameters) {
  const void* data = nullptr;
  const auto look = [&]<class Parameter>(const Parameter& parameter) {
    if constexpr (std::is_same_v<Parameter, View>)
      if (!data && parameter.count() > 0) data = parameter.data;
  };
  (look(parameters), ...);
  return data;
}

/// `entry` on the device of its operands.
template <auto entry>
struct There;
template <class... Parameters, void (*entry)(Parameters...)>
struct There<entry> {
  static void run(Parameters... parameters) {
    std::optional<Current> here;
    if (const void* data = first_data(parameters...)) here.emplace(data);
    entry(parameters...);
  }
};

}  // namespace

const Kernels& cuda_kernels() {
  static constexpr Kernels table = {
      .copy = There<copy>::run,
      .fill = There<fill>::run,
      .unary = There<unary>::run,
      .binary = There<binary>::run,
      .select = There<select>::run,
      .silu_mul = nullptr,
      .silu_mul_backward = nullptr,
      .reduce = There<reduce>::run,
      .argmax = There<argmax>::run,
      .softmax = There<softmax>::run,
      .softmax_backward = There<softmax_backward>::run,
      .rms_norm = There<rms_norm>::run,
      .rms_norm_backward = There<rms_norm_backward>::run,
      .rotary = There<rotary>::run,
      .cross_entropy = There<cross_entropy>::run,
      .cross_entropy_backward = There<cross_entropy_backward>::run,
      .matmul = There<matmul>::run,
      .low_rank_linear = There<low_rank_linear>::run,
      .linear_backward = There<linear_backward>::run,
      .attention = There<attention>::run,
      .attention_backward = There<attention_backward>::run,
      .index_select = There<index_select>::run,
      .index_add = There<index_add>::run,
      .gather = There<gather>::run,
      .scatter_add = There<scatter_add>::run,
      .draw = There<draw>::run,
      .inverse = There<inverse>::run,
      .solve_triangular = There<solve_triangular>::run,
      .cholesky = There<cholesky>::run,
      .qr = There<qr>::run,
      .svd = There<svd>::run,
  };
  return table;
}

}  // namespace graft::cuda
