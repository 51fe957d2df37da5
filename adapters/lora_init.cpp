#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "graft/adapters/lora.h"
#include "graft/autograd/ops.h"
#include "graft/quant/quant_linear.h"

namespace graft::lora {
namespace {

void fill_uniform(const Tensor& tensor, double bound, Generator& generator) {
  if (tensor.defined()) tensor.copy_(uniform(tensor.shape(), -bound, bound, generator, tensor.dtype(), tensor.device()));
}

/// A random orthogonal matrix [n, n]: Gram-Schmidt, twice for accuracy, over the rows of a normal one, in f64.
std::vector<double> random_orthogonal(std::int64_t n, Generator& generator) {
  std::vector<double> q = normal({n, n}, 0, 1, generator, DType::f64).to_vector<double>();
  for (std::int64_t i = 0; i < n; ++i) {
    double* row = &q[i * n];
    for (int pass = 0; pass < 2; ++pass) {
      for (std::int64_t j = 0; j < i; ++j) {
        double dot = 0;
        for (std::int64_t k = 0; k < n; ++k) dot += row[k] * q[j * n + k];
        for (std::int64_t k = 0; k < n; ++k) row[k] -= dot * q[j * n + k];
      }
    }
    double square = 0;
    for (std::int64_t k = 0; k < n; ++k) square += row[k] * row[k];
    for (std::int64_t k = 0; k < n; ++k) row[k] /= std::sqrt(square);
  }
  return q;
}

/// A from the even rows of an orthogonal matrix and B from the odd ones, so that B A = 0 while neither is zero.
void fill_orthogonal(const Tensor& A, const Tensor& B, Generator& generator) {
  const std::int64_t r = A.dim(0), half = r / 2;
  check(r % 2 == 0, "init_lora_weights 'orthogonal' needs an even rank, not {}", r);
  const auto q = random_orthogonal(r, generator);
  std::vector<double> even, odd;
  for (std::int64_t i = 0; i < r; ++i)
    (i % 2 ? odd : even).insert((i % 2 ? odd : even).end(), q.begin() + i * r, q.begin() + (i + 1) * r);
  const Tensor left = normal({A.dim(1), half}, 0, 1, generator, DType::f64),
               right = normal({B.dim(0), half}, 0, 1, generator, DType::f64);
  A.copy_(matmul(left, Tensor::from(even, {half, r})).t() * 0.1);
  B.copy_(matmul(right, Tensor::from(odd, {half, r})) * 0.1);
}

/// The base's weight in f32 (or f64), for the schemes that take it apart.
Tensor wide_weight(const std::string& scheme, const LinearBase& base) {
  const Tensor weight = dense_weight(base);
  if (weight.defined()) return is_half(weight.dtype()) ? to(weight, DType::f32) : weight;
  const auto* quantized = dynamic_cast<const quant::QuantLinear*>(&base);
  if (quantized && quantized->format().method == "eetq")
    fail<TypeError>("init_lora_weights '{}' needs a floating weight, and an EETQ layer's is int8", scheme);
  fail<AttributeError>("init_lora_weights '{}' needs a dense weight, which {} does not have", scheme, base.type_name());
}

/// "pissa" or "pissa_niter_16": the number of iterations of the randomized decomposition; 0 for the exact one.
int pissa_iterations(const std::string& scheme) {
  if (scheme == "pissa") return 0;
  int iterations = 0;
  const std::string_view prefix = "pissa_niter_";
  const char* end = scheme.data() + scheme.size();
  const bool ok =
      scheme.starts_with(prefix) && std::from_chars(scheme.data() + prefix.size(), end, iterations).ptr == end && iterations > 0;
  check(ok, "init_lora_weights '{}' is neither 'pissa' nor 'pissa_niter_' and a number of iterations", scheme);
  return iterations;
}

struct Factors {
  Tensor u, s, vt;
};

/// The largest `r` singular triplets of `weight`. With iterations: the subspace method of Halko, Martinsson and Tropp (2011, algorithm
/// 4.4) on r directions, which is what PEFT's randomized scheme runs.
Factors singular_triplets(const Tensor& weight, std::int64_t r, int iterations, Generator& generator) {
  if (iterations == 0) {
    const auto [u, s, vt] = svd(weight);
    return {slice(u, 1, 0, r), slice(s, 0, 0, r), slice(vt, 0, 0, r)};
  }
  Tensor q = qr(matmul(weight, normal({weight.dim(1), r}, 0, 1, generator, weight.dtype(), weight.device()))).q;
  for (int i = 0; i < iterations; ++i) q = qr(matmul(weight, qr(matmul(weight.t(), q)).q)).q;
  const auto [u, s, vt] = svd(matmul(q.t(), weight));
  return {matmul(q, u), s, vt};
}

void take_from(LinearBase& base, const Tensor& weight, const Tensor& A, const Tensor& B, double scaling) {
  base.weight().copy_(weight - matmul(to(B, weight.dtype()), to(A, weight.dtype())) * scaling);
}

}  // namespace

bool takes_from_weight(const InitWeights& scheme) {
  const auto* given = std::get_if<std::string>(&scheme);
  const std::string name = given ? lower_case(*given) : "";
  return name == "olora" || name.starts_with("pissa");
}

void initialise(const InitWeights& scheme, double scaling, LinearBase& base, Tensor& A, Tensor& B, Tensor& bias,
                Generator& generator) {
  const NoGrad no_grad;
  const std::int64_t r = A.dim(0);
  const double bound_A = 1 / std::sqrt(static_cast<double>(A.dim(1))), bound_B = 1 / std::sqrt(static_cast<double>(r));
  if (const bool* on = std::get_if<bool>(&scheme)) {
    fill_uniform(A, bound_A, generator);
    if (*on) {
      B.fill_(0);
      if (bias.defined()) bias.fill_(0);
    } else {
      fill_uniform(B, bound_B, generator);
      fill_uniform(bias, bound_B, generator);
    }
    return;
  }

  const std::string name = lower_case(std::get<std::string>(scheme));
  constexpr std::array elsewhere = {"eva", "corda", "loftq", "lora_ga", "mica"};
  if (bias.defined()) bias.fill_(0);
  if (name == "gaussian") {
    A.copy_(normal(A.shape(), 0, 1 / static_cast<double>(r), generator, A.dtype(), A.device()));
    B.fill_(0);
  } else if (name == "orthogonal") {
    fill_orthogonal(A, B, generator);
  } else if (name == "olora") {
    const Tensor weight = wide_weight(name, base);
    check(r <= std::min(weight.dim(0), weight.dim(1)), "init_lora_weights '{}': rank {} is above the weight's smaller side, {}",
          name, r, std::min(weight.dim(0), weight.dim(1)));
    const auto [q, upper] = qr(weight);
    A.copy_(slice(upper, 0, 0, r));
    B.copy_(slice(q, 1, 0, r));
    take_from(base, weight, A, B, scaling);
  } else if (name.starts_with("pissa")) {
    const int iterations = pissa_iterations(name);
    const Tensor weight = wide_weight(name, base);
    check(r <= std::min(weight.dim(0), weight.dim(1)), "init_lora_weights '{}': rank {} is above the weight's smaller side, {}",
          name, r, std::min(weight.dim(0), weight.dim(1)));
    const auto [u, s, vt] = singular_triplets(weight, r, iterations, generator);
    const Tensor root = sqrt(s / scaling);
    A.copy_(unsqueeze(root, 1) * vt);
    B.copy_(u * root);
    take_from(base, weight, A, B, scaling);
  } else if (std::find(elsewhere.begin(), elsewhere.end(), name) != elsewhere.end()) {
    if (name == "corda" || name == "loftq") wide_weight(name, base);
    fail<NotImplementedError>(
        "init_lora_weights '{}' is made by a separate pass over data or weights, which this library does not offer", name);
  } else {
    fail("init_lora_weights '{}' is no known scheme", std::get<std::string>(scheme));
  }
}

}  // namespace graft::lora
