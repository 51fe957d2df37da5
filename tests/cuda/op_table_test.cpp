// Every operation of the op table on a GPU: the same values and gradients as on the CPU, in every dtype that the row takes.
#include "../support/op_run.h"

namespace graft::test {
namespace {

struct OpTableOnGpu : testing::TestWithParam<Row> {
  const Row& row = GetParam();
};

TEST_P(OpTableOnGpu, AgreesWithTheCpu) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    if (is_half(dtype) && !row.halves) continue;
    SCOPED_TRACE(name(dtype));
    // Sums run in another order than on the CPU.
    const double roundoff = dtype == DType::f64   ? 0x1p-53
                            : dtype == DType::f32 ? 0x1p-24
                            : dtype == DType::f16 ? 0x1p-11
                                                  : 0x1p-8;
    const double tolerance = (is_half(dtype) ? 4 : 64) * roundoff * row.slack;
    const auto made = make_inputs(row, 2);
    const Outcome there = run(row, converted(made, dtype, Device::cuda())),
                  here = run(row, converted(made, dtype, Device::cpu()));
    EXPECT_EQ(there.y.dtype(), here.y.dtype());
    EXPECT_LE(relative_distance(there.y, here.y), tolerance);
    ASSERT_EQ(there.gradients.size(), here.gradients.size());
    for (std::size_t i = 0; i < here.gradients.size(); ++i) {
      ASSERT_EQ(there.gradients[i].defined(), here.gradients[i].defined());
      if (!here.gradients[i].defined()) continue;
      EXPECT_EQ(there.gradients[i].dtype(), here.gradients[i].dtype());
      EXPECT_LE(relative_distance(there.gradients[i], here.gradients[i]), tolerance) << "gradient " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, OpTableOnGpu, testing::ValuesIn(op_table()), [](const auto& info) { return info.param.label(); });

}  // namespace
}  // namespace graft::test
