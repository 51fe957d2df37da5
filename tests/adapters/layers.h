// Layers and models to put adapters on, all on the tested device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "graft/adapters/adapter.h"
#include "graft/quant/quant_linear.h"

namespace graft::test {

/// "dense", "gptq", "awq", "eetq".
inline const std::vector<std::string> formats = {"dense", "gptq", "awq", "eetq"};

/// A layer of one format with random weights; the same for the same arguments. Quantized ones are 4 bits in groups of 32 (EETQ: 8 bits).
std::shared_ptr<LinearBase> make_base(const std::string& format, std::int64_t in, std::int64_t out, bool bias = false,
                                      DType dtype = DType::f32);

/// Normal numbers in any dtype.
Tensor random(const Shape& shape, std::uint64_t seed, DType dtype = DType::f32, double deviation = 1);

/// Fills every parameter of an adapter with normal numbers, so that it changes its layer.
void randomise(AdapterLayer& layer, const std::string& name, std::uint64_t seed, double deviation = 0.1);

/// Two blocks with q_proj and v_proj (in → in), a down_proj (in → out) and a norm, a head; all linear layers of one format.
struct Block final : Module {
  Slot<LinearBase> q_proj, v_proj, down_proj;
  std::string type_name() const override { return "Block"; }
  void visit(Visitor& visitor) override;
};
struct Norm final : Module {
  Tensor weight = Tensor::ones({64});
  std::string type_name() const override { return "Norm"; }
  void visit(Visitor& visitor) override { visitor.parameter("weight", weight); }
};
struct Model final : Module {
  explicit Model(const std::string& format = "dense", bool bias = false);
  std::vector<Slot<Block>> layers;
  Slot<Norm> norm;
  Slot<LinearBase> lm_head;
  std::string type_name() const override { return "Model"; }
  void visit(Visitor& visitor) override;
  Tensor forward(const Tensor& x) const;
};

/// Largest |a − b|.
double distance(const Tensor& a, const Tensor& b);

/// Everything under a temporary folder that is gone with this object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace graft::test
