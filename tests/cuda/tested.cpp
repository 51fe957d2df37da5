// The kernel table of a GPU for operands in the host's memory, so that the tests of the CPU's entries are those of the GPU's too, layouts
// and guards included.
#include "graft/tests/support/tested.h"

#include "graft/tests/cuda/transfer.h"

namespace graft::test {
namespace {

template <auto entry>
struct Via;
template <class... Parameters, void (*Kernels::*entry)(Parameters...)>
struct Via<entry> {
  static void run(Parameters... parameters) {
    Transfer transfer;
    (transfer.add(parameters), ...);
    transfer.upload();
    (runtime(gpu).kernels().*entry)(transfer.there(parameters)...);
    transfer.download();
  }
};

}  // namespace

// Without a GPU all tests are skipped, but what they make before main() has to lie somewhere.
Device tested_device() { return cuda_device_count() > 0 ? gpu : Device::cpu(); }

const Kernels& tested_kernels() {
  static constexpr Kernels table = {
      .copy = Via<&Kernels::copy>::run,
      .fill = Via<&Kernels::fill>::run,
      .unary = Via<&Kernels::unary>::run,
      .binary = Via<&Kernels::binary>::run,
      .select = Via<&Kernels::select>::run,
      .reduce = Via<&Kernels::reduce>::run,
      .argmax = Via<&Kernels::argmax>::run,
      .softmax = Via<&Kernels::softmax>::run,
      .softmax_backward = Via<&Kernels::softmax_backward>::run,
      .rms_norm = Via<&Kernels::rms_norm>::run,
      .rms_norm_backward = Via<&Kernels::rms_norm_backward>::run,
      .rotary = Via<&Kernels::rotary>::run,
      .cross_entropy = Via<&Kernels::cross_entropy>::run,
      .cross_entropy_backward = Via<&Kernels::cross_entropy_backward>::run,
      .matmul = Via<&Kernels::matmul>::run,
      .low_rank_linear = Via<&Kernels::low_rank_linear>::run,
      .linear_backward = Via<&Kernels::linear_backward>::run,
      .attention = Via<&Kernels::attention>::run,
      .attention_backward = Via<&Kernels::attention_backward>::run,
      .index_select = Via<&Kernels::index_select>::run,
      .index_add = Via<&Kernels::index_add>::run,
      .gather = Via<&Kernels::gather>::run,
      .scatter_add = Via<&Kernels::scatter_add>::run,
      .draw = Via<&Kernels::draw>::run,
      .inverse = Via<&Kernels::inverse>::run,
      .solve_triangular = Via<&Kernels::solve_triangular>::run,
      .cholesky = Via<&Kernels::cholesky>::run,
      .qr = Via<&Kernels::qr>::run,
      .svd = Via<&Kernels::svd>::run,
  };
  return table;
}

}  // namespace graft::test
