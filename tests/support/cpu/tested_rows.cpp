#include "../../quant/tested_rows.h"

namespace graft::quant::test {

std::span<const Row> tested_rows() { return rows(); }
double weight_rounding(const Row& row, DType) { return row.name.starts_with("bf16-rounded") ? 0x1p-8 : 0; }

void tested_backward(const Packed& weight, const View& dy, const View& dx, std::span<const Outer> outer) {
  backward(weight, dy, dx, {}, outer);
}
void tested_outer_products(std::span<const Outer> all) { outer_products(all, Device::cpu()); }

}  // namespace graft::quant::test
