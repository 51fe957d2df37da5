#include "layers.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "graft/autograd/ops.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/round_to_nearest.h"
#include "graft/tests/support/tested.h"

namespace graft::test {

namespace {

Tensor drawn_here(const Shape& shape, std::uint64_t seed, DType dtype, double deviation = 1) {
  Generator generator{seed, 0};
  return normal(shape, 0, deviation, generator, dtype);
}

std::shared_ptr<LinearBase> packed(const std::string& format, const Tensor& weight, const Tensor& bias, DType dtype) {
  quant::Grid grid{.bits = 4, .group_size = 32, .sym = true};
  if (format == "awq") grid = {.bits = 4, .group_size = 32, .sym = false, .rule = quant::GridRule::awq};
  if (format == "eetq") grid = quant::eetq_grid();
  const char* layout = format == "gptq" ? "gptq" : format == "awq" ? "gemm" : "plain";
  return quant::make_layer(quant::to_stored(quant::round_to_nearest(weight, grid), layout, bias), dtype);
}

}  // namespace

Tensor random(const Shape& shape, std::uint64_t seed, DType dtype, double deviation) {
  return to(drawn_here(shape, seed, dtype, deviation), tested_device());
}

std::shared_ptr<LinearBase> make_base(const std::string& format, std::int64_t in, std::int64_t out, bool bias, DType dtype) {
  const Tensor weight = drawn_here({out, in}, 11, DType::f32, 1 / std::sqrt(static_cast<double>(in)));
  const Tensor b = bias ? drawn_here({out}, 12, DType::f32) : Tensor();
  std::shared_ptr<LinearBase> layer;
  if (format == "dense") layer = std::make_shared<Linear>(to(weight, dtype), bias ? to(b, dtype) : Tensor());
  else layer = packed(format, weight, b, dtype);
  to(*layer, tested_device());
  return layer;
}

void randomise(AdapterLayer& layer, const std::string& name, std::uint64_t seed, double deviation) {
  struct Filler final : Visitor {
    std::uint64_t seed;
    double deviation;
    void parameter(std::string_view, Tensor& tensor) override {
      tensor.copy_(tensor.detach() + to(random(tensor.shape(), seed++, tensor.dtype(), deviation), tensor.device()));
    }
  } filler;
  filler.seed = seed;
  filler.deviation = deviation;
  layer.adapter(name)->visit(filler, name);
}

void Block::visit(Visitor& visitor) {
  visitor.child("q_proj", q_proj);
  visitor.child("v_proj", v_proj);
  visitor.child("down_proj", down_proj);
}

Model::Model(const std::string& format, bool bias) : norm(std::make_shared<Norm>()), lm_head(make_base(format, 64, 32, bias)) {
  for (int i = 0; i < 2; ++i) {
    auto block = std::make_shared<Block>();
    block->q_proj = make_base(format, 64, 64, bias);
    block->v_proj = make_base(format, 64, 64, bias);
    block->down_proj = make_base(format, 64, 64, bias);
    layers.emplace_back(std::move(block));
  }
  to(*norm, tested_device());
}

void Model::visit(Visitor& visitor) {
  for (std::size_t i = 0; i < layers.size(); ++i) visitor.child("model.layers." + std::to_string(i), layers[i]);
  visitor.child("model.norm", norm);
  visitor.child("lm_head", lm_head);
}

Tensor Model::forward(const Tensor& x) const {
  Tensor h = x;
  for (const auto& block : layers) h = h + block->down_proj->forward(tanh(block->q_proj->forward(h)) * block->v_proj->forward(h));
  return lm_head->forward(h * norm->weight);
}

double distance(const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape(), "shapes {} and {}", a.shape(), b.shape());
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::isnan(x[i] - y[i]) ? INFINITY : std::abs(x[i] - y[i]));
  return worst;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "graft_adapters_XXXXXX").string();
  check<FileError>(mkdtemp(pattern.data()) != nullptr, "no temporary folder can be made");
  path_ = pattern;
}
TemporaryFolder::~TemporaryFolder() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

}  // namespace graft::test
