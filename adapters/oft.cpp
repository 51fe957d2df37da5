#include "graft/adapters/oft.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "graft/adapters/lora.h"
#include "graft/adapters/warning.h"
#include "graft/autograd/ops.h"
#include "graft/core/autocast.h"

namespace graft::oft {
namespace {

/// The divisor of n nearest to p; ties go down.
std::int64_t nearest_divisor(std::int64_t n, std::int64_t p) {
  if (p >= n) return n;
  std::int64_t low = p, high = p;
  while (n % low) --low;
  while (n % high) ++high;
  return p - low <= high - p ? low : high;
}

std::int64_t adjusted(std::int64_t features, std::int64_t wanted, const char* name) {
  if (features % wanted == 0) return wanted;
  const std::int64_t divisor = nearest_divisor(features, wanted);
  adapters::warn("{} = {} does not divide the {} input features; {} is used", name, wanted, features, divisor);
  return divisor;
}

DType at_least_f32(DType dtype) { return is_half(dtype) ? DType::f32 : dtype; }

}  // namespace

Options options(const OFTConfig& c, std::uint64_t seed) {
  return {.r = c.r,
          .oft_block_size = c.oft_block_size,
          .module_dropout = c.module_dropout,
          .coft = c.coft,
          .eps = c.eps,
          .block_share = c.block_share,
          .use_cayley_neumann = c.use_cayley_neumann,
          .num_cayley_neumann_terms = c.num_cayley_neumann_terms,
          .fan_in_fan_out = c.fan_in_fan_out,
          .init_weights = c.init_weights,
          .seed = seed};
}

Blocks resolve_blocks(std::int64_t features, std::int64_t r, std::int64_t block_size) {
  check((r == 0) != (block_size == 0) && r >= 0 && block_size >= 0,
        "OFT needs either r or oft_block_size to be positive and the other to be 0; they are {} and {}", r, block_size);
  if (block_size) {
    const std::int64_t size = adjusted(features, block_size, "oft_block_size");
    return {features / size, size};
  }
  const std::int64_t count = adjusted(features, r, "r");
  return {count, features / count};
}

OFTRotation::OFTRotation(std::int64_t features, const Options& options, DType dtype, Device device, Generator& generator)
    : options_(options), features_(features) {
  check(std::holds_alternative<bool>(options.init_weights), "OFT's init_weights is true or false, not '{}'",
        std::holds_alternative<bool>(options.init_weights) ? "" : std::get<std::string>(options.init_weights));
  check(!options.fan_in_fan_out, "fan_in_fan_out is true, but every linear layer here stores its weight as [out, in]");
  check(!options.coft || (options.eps > 0 && std::isfinite(options.eps)), "eps, the radius of COFT, is {}, not a positive number",
        options.eps);
  const auto [count, size] = resolve_blocks(features, options.r, options.oft_block_size);
  size_ = size;
  const std::int64_t packed = size * (size - 1) / 2;
  const Shape shape{options.block_share ? 1 : count, packed};
  weight = std::get<bool>(options.init_weights) ? Tensor::zeros(shape, dtype, device)
                                                : normal(shape, 0, 0.1, generator, dtype, device);

  std::vector<std::int64_t> index(size * size, packed);  // the diagonal reads a column of zeros
  std::vector<float> sign(size * size, 1);
  std::int64_t next = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    for (std::int64_t j = i + 1; j < size; ++j, ++next) {
      index[i * size + j] = index[j * size + i] = next;
      sign[j * size + i] = -1;
    }
  }
  index_ = to(Tensor::from(index, {size * size}), device);
  sign_ = to(Tensor::from(sign, {size, size}), device);
}

void OFTRotation::visit_kept(Visitor& visitor) const {
  visitor.kept(index_);
  visitor.kept(sign_);
}

Tensor OFTRotation::matrix(const Tensor& generators) const {
  const DType dtype = generators.dtype();
  const Device device = generators.device();
  const std::int64_t rows = generators.dim(0);
  const Tensor with_zero[] = {generators, Tensor::zeros({rows, 1}, dtype, device)};
  const Tensor Q =
      reshape(index_select(concat(with_zero, 1), 1, to(index_, device)), {rows, size_, size_}) * to(to(sign_, dtype), device);
  const Tensor I = Tensor::eye(size_, dtype, device);
  if (!options_.use_cayley_neumann) {
    const DType wide = at_least_f32(dtype);
    return to(matmul(to(I - Q, wide), inverse(to(I + Q, wide))), dtype);
  }
  const std::int64_t terms = options_.num_cayley_neumann_terms;
  if (terms <= 1) return expand(I, {rows, size_, size_});
  Tensor R = I + Q * 2;
  if (terms == 2) return R;
  Tensor power = matmul(Q, Q);
  R = R + power * 2;
  for (std::int64_t k = 3; k < terms - 1; ++k) {
    power = matmul(power, Q);
    R = R + power * 2;
  }
  return R + matmul(power, Q);
}

Tensor OFTRotation::projected() const {
  const NoGrad no_grad;
  constexpr int last[] = {-1};
  const DType dtype = weight.dtype();
  const Tensor wide = to(weight, at_least_f32(dtype));
  const double radius = options_.eps / std::sqrt(static_cast<double>(weight.dim(0)));
  // ‖Q‖ counts every entry twice. The margin keeps a block that was projected before from being scaled again by its own rounding.
  const Tensor length = norm(wide, last, true) * std::sqrt(2.0);
  const Tensor limit = Tensor::full(length.shape(), radius * (1 + 1e-6), length.dtype(), length.device());
  const Tensor scaled = wide * (Tensor::full(length.shape(), radius, length.dtype(), length.device()) / length);
  return to(where(less_equal(length, limit), wide, scaled), dtype);
}

// ---- the adapter ----

OFTAdapter::OFTAdapter(LinearBase& base, const Options& options, Casts casts)
    : OFTAdapter(base, options, casts, Generator{options.seed, 0}) {}

OFTAdapter::OFTAdapter(LinearBase& base, const Options& options, Casts casts, Generator generator)
    : casts_(casts),
      generator_(generator),
      rotation_(base.in_features(), options, lora::placement(base, options.autocast_adapter_dtype).dtype,
                lora::placement(base, options.autocast_adapter_dtype).device, generator_) {
  check(options.module_dropout >= 0 && options.module_dropout < 1, "module_dropout is {}, not a probability in [0, 1)",
        options.module_dropout);
}

std::string OFTAdapter::description() const {
  const Options& o = rotation_.options();
  const std::string form = o.use_cayley_neumann ? fmt::format("series of {}", o.num_cayley_neumann_terms) : "exact";
  return fmt::format("{} blocks of {}{}, {}{}", rotation_.blocks(), rotation_.block_size(), o.block_share ? " (shared)" : "",
                     form, o.coft ? fmt::format(", coft {:g}", o.eps) : "");
}

void OFTAdapter::visit(Visitor& visitor, const std::string& name) {
  visitor.parameter(fmt::format("oft_R.{}.weight", name), rotation_.weight);
  rotation_.visit_kept(visitor);
  visitor.generator(fmt::format("oft_R.{}.dropout", name), generator_);
}

void OFTAdapter::move_inside() const {
  const Tensor& weight = rotation_.weight;
  if (!rotation_.options().coft || weight.count() == 0) return;
  const NoGrad no_grad;
  const Tensor inside = rotation_.projected();
  const bool moved = norm(to(inside - weight, DType::f64)).item() > 0;
  if (moved) weight.copy_(inside);  // never without need: a pending backward() refuses a parameter that changed
}

Tensor OFTAdapter::generators(bool training) const {
  const Tensor& weight = rotation_.weight;
  if (!rotation_.options().coft || weight.count() == 0) return weight;
  // Training projects the parameter itself. Inference leaves it alone, so that threads can share it, and differentiates at the projected
  // point as if the parameter were there.
  if (!training) {
    const Tensor inside = projected_.get({.tensors = {weight}}, [&] { return rotation_.projected(); });
    return record("coft", inside.detach()).wrt(weight, [](const Tensor& dy) { return dy; });
  }
  move_inside();
  return weight;
}

std::int64_t OFTAdapter::dropped_blocks() const {
  // Less than one in all for a single block, as the probability is below 1.
  return static_cast<std::int64_t>(rotation_.options().module_dropout * static_cast<double>(rotation_.weight.dim(0)));
}

Tensor OFTAdapter::blocks(bool training) const {
  const Tensor& weight = rotation_.weight;
  if (!training && !(grad_enabled() && weight.requires_grad())) {
    const auto lowered = autocast::dtype(weight.device().type);  // products of Q are lowered like any other
    const double mode = lowered ? 1 + static_cast<int>(*lowered) : 0;
    return blocks_.get({.tensors = {weight}, .numbers = {mode}}, [&] { return rotation_.matrix(generators(false)); });
  }
  Tensor R = rotation_.matrix(generators(training));
  const std::int64_t count = R.dim(0), dropped = dropped_blocks();
  if (!training || dropped == 0) return R;
  // Exactly `dropped` blocks, chosen without replacement, become the identity.
  const auto keys = uniform({count}, 0, 1, generator_).to_vector<float>();
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return keys[a] < keys[b]; });
  std::vector<std::uint8_t> stays(count, 1);
  for (std::int64_t i = 0; i < dropped; ++i) stays[order[i]] = 0;
  const Tensor mask = to(to(Tensor::from(stays, {count, 1, 1}), DType::boolean), R.device());
  return where(mask, R, Tensor::eye(R.dim(1), R.dtype(), R.device()));
}

std::optional<Rotation> OFTAdapter::rotation(const Tensor& x, const AdapterCall& call) const {
  const bool dense = dense_weight(call.base).defined();
  const bool lowered = autocast::dtype(x.device().type).has_value();
  const bool stay_wide = dense || (casts_ == Casts::wide && !lowered);
  return Rotation{blocks(call.training), stay_wide ? rotation_.weight.dtype() : x.dtype()};
}

void OFTAdapter::scale(double) { adapters::warn("oft: this method has no scaling; it stays 1"); }
void OFTAdapter::reset_scale() { adapters::warn("oft: this method has no scaling; it stays 1"); }

Tensor OFTAdapter::merged(const Tensor& weight, bool) {
  const NoGrad no_grad;
  const DType wide = at_least_f32(rotation_.weight.dtype());
  const Tensor R = rotation_.matrix(to(generators(false), wide));
  return rotate(to(weight, wide), {R.t(), weight.dtype()});
}

Tensor OFTAdapter::unmerged(const Tensor& weight) {
  const NoGrad no_grad;
  const DType wide = at_least_f32(rotation_.weight.dtype());
  const Tensor R = rotation_.matrix(to(generators(false), wide));
  return rotate(to(weight, wide), {inverse(R).t(), weight.dtype()});
}

}  // namespace graft::oft
