// What every operation must show, derived from its row in the op table.
#include <cstring>

#include "graft/autograd/gradcheck.h"
#include "graft/core/parallel.h"

#include "../support/errors.h"
#include "../support/op_run.h"

namespace graft::test {
namespace {

struct OpTable : testing::TestWithParam<Row> {
  const Row& row = GetParam();
};

std::vector<Tensor> inputs_of(const Row& row, std::int64_t n) { return converted(make_inputs(row, n), DType::f64); }

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const Tensor x = on(a, Device::cpu()), y = on(b, Device::cpu());
  return std::memcmp(x.view().data, y.view().data, static_cast<std::size_t>(x.count() * size_of(x.dtype()))) == 0;
}

// ---- value and derivatives ----

TEST_P(OpTable, AgreesWithThePlainReference) {
  for (const std::int64_t n : {1, 3}) {
    const auto inputs = inputs_of(row, n);
    const Tensor y = row.op(inputs);
    const Array wanted = row.reference({inputs.begin(), inputs.end()});
    ASSERT_EQ(y.shape(), wanted.shape);
    // Random numbers are drawn in f32 whatever the dtype.
    const double tolerance = row.name == "uniform" || row.name == "normal" ? 1e-6 : 1e-13 * row.slack;
    EXPECT_LE(relative_distance(y.to_vector<double>(), wanted.data), tolerance) << to_string(y);
  }
}

TEST_P(OpTable, DerivativesAgreeWithDifferences) {
  const auto inputs = inputs_of(row, 1);
  if (!row.differentiable) {
    std::vector<Tensor> leaves = converted(inputs, DType::f64);
    for (Tensor& x : leaves)
      if (is_floating(x.dtype())) x.set_requires_grad();
    EXPECT_FALSE(row.op(leaves).requires_grad());
    return;
  }
  const GradcheckResult result = gradcheck(row.op, inputs, {.second_order = row.twice});
  EXPECT_TRUE(result) << result.message;
  RecordProperty("worst", fmt::format("{}", result.worst));
  RecordProperty("worst2", fmt::format("{}", result.worst2));
}

// ---- layouts ----

// A view with the values of x inside a larger storage of sentinels: dimensions in reversed order in memory, gaps on all sides.
Tensor guarded(const Tensor& x) {
  const int rank = x.rank();
  Strides strides = x.shape();
  std::int64_t size = 1, offset = 0;
  for (int i = 0; i < rank; ++i) {
    strides[i] = size;
    offset += size;
    size *= x.shape()[i] + 2;
  }
  const Tensor sentinels =
      full({(size + 2) * size_of(x.dtype())}, x.dtype() == DType::boolean ? 1 : 0xff, DType::u8);  // NaN, or −1
  Tensor view = Tensor::of(sentinels.storage(), x.dtype(), x.shape(), strides, offset + 1);
  view.copy_(x.detach());
  if (x.requires_grad()) view.set_requires_grad();
  return view;
}

std::vector<std::uint8_t> bytes_of(const Tensor& x) {
  return Tensor::of(x.storage(), DType::u8, {x.storage()->bytes()}, {1}).to_vector<std::uint8_t>();
}

TEST_P(OpTable, TakesAnyLayoutAndTouchesNothingElse) {
  const auto inputs = inputs_of(row, 2);
  const Outcome plain = run(row, inputs);
  std::vector<Tensor> views;
  std::vector<std::vector<std::uint8_t>> before;
  for (const Tensor& x : inputs) {
    views.push_back(guarded(x));
    before.push_back(bytes_of(views.back()));
  }
  const Outcome strided = run(row, views);
  // Another layout may sum in another order.
  EXPECT_LE(relative_distance(strided.y, plain.y), 1e-13 * row.slack);
  ASSERT_EQ(strided.gradients.size(), plain.gradients.size());
  for (std::size_t i = 0; i < plain.gradients.size(); ++i)
    EXPECT_LE(relative_distance(strided.gradients[i], plain.gradients[i]), 1e-13 * row.slack) << "gradient " << i;
  for (std::size_t i = 0; i < views.size(); ++i) EXPECT_EQ(bytes_of(views[i]), before[i]) << "input " << i << " was written to";
}

// ---- dtypes ----

double unit_roundoff(DType dtype) { return dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }

TEST_P(OpTable, RoundsLittleInSmallDtypes) {
  const auto exact = inputs_of(row, 2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const auto inputs = converted(exact, dtype);
    if (is_half(dtype) && !row.halves) {
      expect_error<TypeError>([&] { row.op(inputs); }, std::string(name(dtype)));
      continue;
    }
    const Outcome small = run(row, inputs), wide = run(row, converted(inputs, DType::f64));
    EXPECT_LE(relative_distance(small.y, wide.y), 4 * row.slack * unit_roundoff(dtype)) << name(dtype);
    ASSERT_EQ(small.gradients.size(), wide.gradients.size());
    for (std::size_t i = 0; i < wide.gradients.size(); ++i) {
      EXPECT_EQ(small.gradients[i].dtype(), dtype);
      EXPECT_LE(relative_distance(small.gradients[i], wide.gradients[i]), 12 * row.slack * unit_roundoff(dtype))
          << name(dtype) << ", gradient " << i;
    }
  }
}

TEST_P(OpTable, RefusesIntegersOrComputesWithThem) {
  auto inputs = inputs_of(row, 1);
  for (Tensor& x : inputs)
    if (is_floating(x.dtype())) x = to(x.detach(), DType::i64);
  if (!row.floating_only) {
    EXPECT_EQ(row.op(inputs).to_vector<double>(), row.reference({inputs.begin(), inputs.end()}).data);
    return;
  }
  try {
    row.op(inputs);
    FAIL() << "integers were taken";
  } catch (const TypeError& error) {
    EXPECT_NE(std::string(error.what()).find("i64"), std::string::npos) << error.what();
  }
}

// ---- what rules capture ----

TEST_P(OpTable, NoticesWhatChangedInPlace) {
  if (!row.differentiable) return;
  const auto original = inputs_of(row, 1);
  const Outcome clean = run(row, original);
  for (std::size_t changed = 0; changed <= original.size(); ++changed) {  // the last one is the result
    const auto inputs = inputs_of(row, 1);
    const Tensor y = row.op(inputs);
    const Tensor& victim = changed < inputs.size() ? inputs[changed] : y;
    victim.detach().fill_(victim.dtype() == DType::i64 || victim.dtype() == DType::boolean ? 0 : 0.37);
    std::vector<Tensor> gradients;
    try {
      gradients = gradients_of(y, inputs);
    } catch (const ValueError& error) {
      EXPECT_NE(std::string(error.what()).find("changed in place"), std::string::npos) << error.what();
      continue;
    }
    for (std::size_t i = 0; i < gradients.size(); ++i)
      EXPECT_TRUE(same_bits(gradients[i], clean.gradients[i])) << "gradient " << i << " silently changed with tensor " << changed;
  }
}

// ---- threads ----

TEST_P(OpTable, GivesTheSameBitsOnAnyNumberOfThreads) {
  const auto inputs = converted(inputs_of(row, row.large), DType::f32);
  set_thread_pool(make_thread_pool(1));
  const Outcome one = run(row, inputs);
  for (const int threads : {2, 3, 7}) {
    set_thread_pool(make_thread_pool(threads));
    const Outcome many = run(row, inputs);
    EXPECT_TRUE(same_bits(many.y, one.y)) << threads;
    for (std::size_t i = 0; i < one.gradients.size(); ++i) EXPECT_TRUE(same_bits(many.gradients[i], one.gradients[i])) << threads;
  }
  set_thread_pool(nullptr);
}

INSTANTIATE_TEST_SUITE_P(, OpTable, testing::ValuesIn(op_table()), [](const auto& info) { return info.param.label(); });

}  // namespace

void PrintTo(const Row& row, std::ostream* out) { *out << row.label(); }

}  // namespace graft::test
