#include "golden.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>

#include "graft/core/formats/json.h"
#include "graft/tests/support/tested.h"

namespace golden {

using graft::Tensor;

namespace {

struct Worst {
  double error = 0, largest = 0, got = 0, want = 0;
  std::size_t at = 0;
};

Worst compare(const Tensor& got, const Tensor& want) {
  graft::check(got.defined() && want.defined(), "golden: an undefined tensor was compared");
  graft::check(got.shape() == want.shape(), "golden: got the shape {}, wanted {}", got.shape(), want.shape());
  const auto a = got.to_vector<double>(), b = want.to_vector<double>();
  Worst worst;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double error = std::abs(a[i] - b[i]);
    if (!std::isfinite(error))
      error = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ? 0 : std::numeric_limits<double>::infinity();
    if (std::isfinite(b[i])) worst.largest = std::max(worst.largest, std::abs(b[i]));
    if (error > worst.error) worst = {error, worst.largest, a[i], b[i], i};
  }
  return worst;
}

double relative(const Worst& worst) { return worst.error / (worst.largest > 0 ? worst.largest : 1); }

void expect_within(const Worst& worst, double error, double tolerance, const char* kind, const std::string& what) {
  EXPECT_LE(error, tolerance) << what << ": " << kind << " error at element " << worst.at << ": got " << worst.got << ", wanted "
                              << worst.want << " (largest entry " << worst.largest << ")";
}

}  // namespace

std::filesystem::path root() {
  const char* chosen = std::getenv("GRAFT_GOLDEN");
  return chosen && *chosen ? std::filesystem::path(chosen) : std::filesystem::path(GRAFT_SOURCE_DIR) / "tests/golden";
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  graft::check<graft::FileError>(file.is_open(), "{}: cannot be opened", path.string());
  try {
    return graft::parse_json<Json>(std::string(std::istreambuf_iterator<char>(file), {}));
  } catch (const Json::exception& error) {
    graft::fail<graft::FileError>("{}: {}", path.string(), error.what());
  }
}

Tensors::Tensors(const std::filesystem::path& path) : file_(graft::safetensors::File::open(path)) {
  const auto found = file_.metadata().find("case");
  graft::check<graft::FileError>(found != file_.metadata().end(), "{}: has no metadata key \"case\"", path.string());
  info_ = graft::parse_json<Json>(found->second);
}

Tensor Tensors::copy(const std::string& name) const {
  const Tensor tensor = file_.tensor(name), copy = Tensor::empty(tensor.shape(), tensor.dtype(), graft::test::tested_device());
  copy.copy_(tensor);
  return copy;
}

double worst_relative_error(const Tensor& got, const Tensor& want) { return relative(compare(got, want)); }

double unit(const Tensor& want, graft::DType dtype) {
  using graft::DType;
  double largest = 0;
  for (const double v : want.to_vector<double>()) largest = std::max(largest, std::abs(v));
  const int bits = dtype == DType::bf16 ? 7 : dtype == DType::f16 ? 10 : dtype == DType::f32 ? 23 : 52;
  return largest > 0 ? std::ldexp(1.0, std::ilogb(largest) - bits) / largest : 0;
}

double half_tolerance(const Tensor& theirs, const Tensor& truth) {
  return 1.2 * worst_relative_error(theirs, truth) + unit(truth, theirs.dtype());
}

void expect_close(const Tensor& got, const Tensor& want, double tolerance, const std::string& what) {
  SCOPED_TRACE(what);
  const Worst worst = compare(got, want);
  expect_within(worst, relative(worst), tolerance, "relative", what);
}

void expect_close_absolute(const Tensor& got, const Tensor& want, double tolerance, const std::string& what) {
  SCOPED_TRACE(what);
  const Worst worst = compare(got, want);
  expect_within(worst, worst.error, tolerance, "absolute", what);
}

void expect_same_bits(const Tensor& got, const Tensor& want, const std::string& what) {
  ASSERT_EQ(graft::name(got.dtype()), graft::name(want.dtype())) << what;
  ASSERT_EQ(graft::to_string(got.shape()), graft::to_string(want.shape())) << what;
  const Tensor a = got.detach().to(graft::Device::cpu()).clone(), b = want.clone();
  const auto size = static_cast<std::size_t>(size_of(a.dtype()));
  const auto* left = static_cast<const char*>(a.view().data);
  const auto* right = static_cast<const char*>(b.view().data);
  for (std::int64_t i = 0; i < a.count(); ++i)
    ASSERT_EQ(std::memcmp(left + i * size, right + i * size, size), 0)
        << what << ": other bits at element " << i << " of " << a.count();
}

void expect_same_files(const graft::safetensors::File& got, const graft::safetensors::File& want) {
  for (const auto& [name, entry] : want.entries())
    if (got.contains(name)) expect_same_bits(got.tensor(name), want.tensor(name), name);
    else ADD_FAILURE() << name << " is missing";
  for (const auto& [name, entry] : got.entries()) EXPECT_TRUE(want.contains(name)) << name << " was not there";
}

}  // namespace golden
