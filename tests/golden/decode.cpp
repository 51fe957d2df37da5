// Packed layers by the Python packages: codes, zero points and weights must come out bit for bit.
#include <gtest/gtest.h>

#include <cmath>

#include "graft/core/formats/json.h"
#include "graft/quant/config.h"
#include "graft/quant/format.h"

#include "golden.h"

namespace golden {
namespace {

using graft::DType;
using graft::Tensor;
using graft::quant::Decoded;
using graft::quant::Stored;

// What the file holds of a checkpoint, read by the config that its producer writes.
Stored stored_layer(const Tensors& tensors, const std::string& name) {
  const Json& info = tensors.info();
  Stored stored;
  stored.module = name;
  stored.in = info.at("in_features");
  stored.out = info.at("out_features");
  const auto config = graft::quant::QuantConfig::parse(graft::dump_json(info.at("quantization_config")), name);
  const auto description = config.describe("model.layers.0.self_attn.q_proj");
  graft::check(description.has_value(), "{}: excluded by its own config", name);
  stored.description = *description;
  // No config names the layout of EETQ's bytes; the file's name does.
  if (stored.description.method == "eetq") stored.description.layout = info.at("checkpoint_format").get<std::string>();
  for (const auto& [tensor, entry] : tensors.file().entries())
    if (tensor != "x" && !tensor.starts_with("expected.")) stored.tensors[tensor] = tensors[tensor];
  return stored;
}

// The integers as the file tells them: EETQ's are signed there.
Tensor codes_of(const Decoded& decoded, bool is_signed) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * decoded.out));
  decoded.codes(0, decoded.in, 0, decoded.out, codes.data());
  if (!is_signed) return Tensor::from(codes, {decoded.in, decoded.out});
  std::vector<std::int8_t> shifted;
  for (std::uint8_t code : codes) shifted.push_back(static_cast<std::int8_t>(code - 128));
  return Tensor::from(shifted, {decoded.in, decoded.out});
}

Tensor zeros_of(const Decoded& decoded, bool is_signed) {
  std::vector<std::int16_t> zeros;
  const auto scales = decoded.scales.to_vector<float>();
  const auto stored = (decoded.offsets.defined() ? decoded.offsets : decoded.zeros).to_vector<float>();
  for (std::size_t i = 0; i < stored.size(); ++i) {
    const float zero = decoded.offsets.defined() ? std::nearbyint(-stored[i] / scales[i]) : stored[i];
    zeros.push_back(static_cast<std::int16_t>(is_signed ? zero - 128 : zero));
  }
  return Tensor::from(zeros, decoded.scales.shape());
}

Tensor transposed(const Tensor& weight) {
  return weight.alias({weight.dim(1), weight.dim(0)}, {weight.strides()[1], weight.strides()[0]}, weight.offset()).clone();
}

Tensor rounded(const Tensor& x, DType dtype) {
  const Tensor y = Tensor::empty(x.shape(), dtype);
  y.copy_(x);
  return y;
}

}  // namespace

void check_decode_case(const Case& golden_case) {
  const Tensors tensors(golden_case.path);
  const Stored stored = stored_layer(tensors, golden_case.name);
  const Decoded decoded = graft::quant::decode(stored);
  SCOPED_TRACE(decoded.description.reading);
  if (stored.description.method == "gptq") {
    EXPECT_EQ(decoded.description.layout, tensors.info().at("checkpoint_format").get<std::string>());
  }

  const bool is_signed = stored.description.method == "eetq";
  expect_same_bits(codes_of(decoded, is_signed), tensors["expected.q"], "codes");
  if (tensors.has("expected.z")) expect_same_bits(zeros_of(decoded, is_signed), tensors["expected.z"], "zero points");
  expect_same_bits(transposed(dequantize(decoded, 0, decoded.out)), tensors["expected.weight"], "weight as decoded");

  const auto layer = make_layer(stored);
  const Tensor weight = transposed(layer->dequantize(0, decoded.out));
  expect_same_bits(weight, tensors["expected.weight"], "weight of the layer");
  if (tensors.has("expected.weight_native"))
    expect_same_bits(rounded(weight, tensors["expected.weight_native"].dtype()), tensors["expected.weight_native"],
                     "weight in the scales' dtype");

  Tensor y = layer->forward(rounded(tensors["x"], DType::f64));
  if (layer->bias().defined())
    for (std::int64_t row = 0; row < y.dim(0); ++row)
      for (std::int64_t n = 0; n < y.dim(1); ++n)
        y.data<double>()[row * y.dim(1) + n] -= layer->bias().to_vector<double>()[static_cast<std::size_t>(n)];
  // In f64 the layer multiplies by the exact weight, the file by the weight rounded to f32: the same unless the scales have 24
  // bits.
  expect_close(y, tensors["expected.y"], decoded.native == DType::f32 ? 0x1p-24 : 1e-13, "product");

  ASSERT_EQ(layer->original().size(), stored.tensors.size());
  for (const auto& [name, tensor] : layer->original()) {
    expect_same_bits(tensor, tensors[name], name);
    EXPECT_EQ(tensor.storage(), stored.tensors.at(name).storage()) << name << " was copied";
  }
}

}  // namespace golden
