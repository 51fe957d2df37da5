#include "graft/quant/pack_checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "graft/autograd/ops.h"
#include "graft/quant/round_to_nearest.h"

#include "../support/errors.h"
#include "calibrated_layer.h"

namespace graft::quant {
namespace {

using test::expect_error;

Quantized rounded(std::int64_t out, std::int64_t in, const Grid& grid) {
  return round_to_nearest(test::make_layer(out, in, 1).weight, grid);
}

// Reads what was written, by the formats' own reader.
void expect_same_layer(const Quantized& quantized, const Stored& stored) {
  const Decoded decoded = decode(stored);
  const std::int64_t in = stored.in, out = stored.out, groups = quantized.scale.dim(1);
  EXPECT_EQ(decoded.bits, quantized.grid.bits);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(in * out));
  decoded.codes(0, in, 0, out, codes.data());
  for (std::int64_t k = 0; k < in; ++k) {
    ASSERT_EQ(decoded.groups[k], quantized.g_idx.data<std::int32_t>()[k]);
    for (std::int64_t n = 0; n < out; ++n)
      ASSERT_EQ(codes[k * out + n], quantized.codes.data<std::uint8_t>()[n * in + k]) << k << ", " << n;
  }
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t n = 0; n < out; ++n) {
      ASSERT_EQ(decoded.scales.data<float>()[g * out + n], quantized.scale.data<float>()[n * groups + g]);
      ASSERT_EQ(decoded.zeros.data<float>()[g * out + n], quantized.zero.data<std::uint8_t>()[n * groups + g]);
    }
  EXPECT_EQ(dequantize(decoded, 0, out).to_vector<float>(), dequantize(quantized).to_vector<float>());
}

TEST(ToStored, ReadersFindWhatWasWritten) {
  for (int bits = 2; bits <= 8; ++bits)
    for (bool sym : {true, false})
      for (std::int64_t size : {-1, 32, 64})
        for (DType dtype : {DType::f16, DType::bf16, DType::f32}) {
          const Quantized gptq = rounded(64, 128, {.bits = bits, .group_size = size, .sym = sym, .scale_dtype = dtype});
          for (const char* layout : {"gptq", "gptq_v2", "gptq_p"}) {
            const bool stream = bits <= 4 || bits == 8, planar = std::string_view(layout) == "gptq_p";
            const auto zeros = gptq.zero.to_vector<int>();
            if (!planar &&
                (!stream || (layout == std::string_view("gptq") && std::find(zeros.begin(), zeros.end(), 0) != zeros.end())))
              continue;
            SCOPED_TRACE(fmt::format("{} {} bits, groups of {}, sym {}", layout, bits, size, sym));
            expect_same_layer(gptq, to_stored(gptq, layout));
          }
          const Quantized awq =
              rounded(64, 128, {.bits = bits, .group_size = size, .sym = sym, .rule = GridRule::awq, .scale_dtype = dtype});
          expect_same_layer(awq, to_stored(awq, "gemm"));
        }
}

TEST(ToStored, EetqInAllItsLayouts) {
  for (DType dtype : {DType::f16, DType::f32})
    for (const char* layout : {"plain", "sm70", "sm80"}) {
      const Quantized q = rounded(64, 128, eetq_grid(dtype));
      const Stored stored = to_stored(q, layout);
      EXPECT_EQ(stored.tensors.at("weight").dtype(), DType::i8);
      EXPECT_EQ(stored.tensors.at("weight").shape(), (Shape{128, 64}));
      EXPECT_EQ(stored.tensors.at("weight_scales").dtype(), dtype);
      expect_same_layer(q, stored);
    }
}

TEST(ToStored, KnownBytesOfEetq) {
  // 64 × 2 with code k in column 0 and −1 − k in column 1.
  Quantized q{eetq_grid(), Tensor::empty({2, 64}, DType::u8), Tensor::ones({2, 1}), Tensor::full({2, 1}, 128, DType::u8),
              Tensor::zeros({64}, DType::i32)};
  for (int k = 0; k < 64; ++k) {
    q.codes.data<std::uint8_t>()[k] = static_cast<std::uint8_t>(128 + k);
    q.codes.data<std::uint8_t>()[64 + k] = static_cast<std::uint8_t>(127 - k);
  }
  const auto bytes = [&](const char* layout, int begin, int count) {
    const Tensor weight = to_stored(q, layout).tensors.at("weight");
    const auto* data = reinterpret_cast<const std::uint8_t*>(weight.data<std::int8_t>());
    return std::vector<int>(data + begin, data + begin + count);
  };
  EXPECT_EQ(bytes("sm80", 0, 20), (std::vector<int>{128, 136, 129, 137, 130, 138, 131, 139, 132, 140,
                                                    133, 141, 134, 142, 135, 143, 144, 152, 145, 153}));
  EXPECT_EQ(bytes("sm80", 64, 8), (std::vector<int>{127, 119, 126, 118, 125, 117, 124, 116}));
}

// From the weight to the bytes by the published formulas, each in one line and none of them as the library has them.
TEST(ToStored, EetqBytesFollowFromTheWeight) {
  constexpr std::int64_t in = 192, out = 20;
  Generator random{.seed = 5};
  Tensor weight = normal({out, in}, 0, 0.02, random, DType::f16);
  for (std::int64_t k = 0; k < in; ++k) weight.data<f16>()[3 * in + k] = f16(0.0f);  // an output of zeros
  for (std::int64_t k = 0; k < in; ++k) weight.data<f16>()[4 * in + k] = f16(static_cast<float>(k % 9 - 4) / 512);
  weight.data<f16>()[4 * in + 7] = f16(0.5f);  // its scale is 1/256: the rest are whole and half steps
  const Quantized quantized = round_to_nearest(weight, eetq_grid());
  const struct {
    const char* layout;
    std::int64_t (*offset)(std::int64_t k, std::int64_t n);
    int bias;
  } cases[] = {{"sm80",
                [](std::int64_t k, std::int64_t n) {
                  return (n >> 1) * 2 * in + (k >> 6) * 128 + (n & 1) * 64 + ((k >> 4) & 3) * 16 + 2 * (k & 7) + ((k >> 3) & 1);
                },
                128},
               {"sm70",
                [](std::int64_t k, std::int64_t n) {
                  const std::int64_t i = k * out + n;
                  return (i & ~std::int64_t{3}) | (i & 1) << 1 | (i >> 1 & 1);
                },
                128},
               {"plain", [](std::int64_t k, std::int64_t n) { return k * out + n; }, 0}};
  for (const auto& [layout, offset, bias] : cases) {
    SCOPED_TRACE(layout);
    std::vector<std::int8_t> bytes(in * out);
    std::vector<float> scales;
    for (std::int64_t n = 0; n < out; ++n) {
      const auto w = [&](std::int64_t k) { return static_cast<float>(weight.data<f16>()[n * in + k]); };
      float largest = 0;
      for (std::int64_t k = 0; k < in; ++k) largest = std::max(largest, std::abs(w(k)));
      const float scale = largest / 128;
      scales.push_back(static_cast<float>(f16(scale)));
      for (std::int64_t k = 0; k < in; ++k) {
        const float code = scale == 0 ? 127 : std::clamp(std::round(w(k) / scale), -128.0f, 127.0f);  // 0 / 0 ends as 127
        bytes[static_cast<std::size_t>(offset(k, n))] = static_cast<std::int8_t>(static_cast<int>(code) + bias);
      }
    }
    const Stored stored = to_stored(quantized, layout);
    EXPECT_EQ(stored.tensors.at("weight").to_vector<std::int8_t>(), bytes);
    EXPECT_EQ(stored.tensors.at("weight_scales").to_vector<float>(), scales);
  }
}

TEST(ToStored, KnownWordsOfGptqAndAwq) {
  // One column with code k mod 16, in layout gptq; eight columns with code n, in AWQ's.
  Quantized q{{.group_size = -1},
              Tensor::empty({8, 32}, DType::u8),
              Tensor::ones({8, 1}),
              Tensor::full({8, 1}, 8, DType::u8),
              Tensor::zeros({32}, DType::i32)};
  for (int n = 0; n < 8; ++n)
    for (int k = 0; k < 32; ++k) q.codes.data<std::uint8_t>()[n * 32 + k] = static_cast<std::uint8_t>(k % 16);
  const auto word = [](const Stored& stored, const char* name, std::int64_t i) {
    return static_cast<std::uint32_t>(stored.tensors.at(name).data<std::int32_t>()[i]);
  };
  const Stored v1 = to_stored(q, "gptq"), v2 = to_stored(q, "gptq_v2");
  EXPECT_EQ(word(v1, "qweight", 0), 0x76543210u);
  EXPECT_EQ(word(v1, "qweight", 8), 0xFEDCBA98u);
  EXPECT_EQ(word(v1, "qzeros", 0), 0x77777777u);
  EXPECT_EQ(word(v2, "qzeros", 0), 0x88888888u);
  for (int n = 0; n < 8; ++n) std::fill_n(q.codes.data<std::uint8_t>() + n * 32, 32, static_cast<std::uint8_t>(n));
  EXPECT_EQ(word(to_stored(q, "gemm"), "qweight", 0), 0x75316420u);
}

TEST(ToStored, KeepsTheBiasAndSaysWhatItIs) {
  Quantized q = rounded(32, 64, {.group_size = 16});
  const Tensor bias = Tensor::ones({32}, DType::bf16);
  const Stored stored = to_stored(q, "gptq", bias);
  EXPECT_TRUE(stored.tensors.at("bias").same(bias));
  EXPECT_EQ(stored.description.method, "gptq");
  EXPECT_EQ(stored.description.layout, "gptq");
  EXPECT_EQ(stored.description.group_size, 16);
  EXPECT_FALSE(stored.description.desc_act);
  std::swap(q.g_idx.data<std::int32_t>()[0], q.g_idx.data<std::int32_t>()[63]);
  EXPECT_TRUE(to_stored(q, "gptq_v2").description.desc_act);
  EXPECT_EQ(usual_layout({}), "gptq");
  EXPECT_EQ(usual_layout({.sym = false}), "gptq_v2");
  EXPECT_EQ(usual_layout({.bits = 3}), "gptq_v2");
  EXPECT_EQ(usual_layout({.bits = 6}), "gptq_p");
  EXPECT_EQ(usual_layout({.rule = GridRule::awq}), "gemm");
  EXPECT_EQ(usual_layout(eetq_grid()), "sm80");
}

TEST(ToStored, RefusesWhatALayoutCannotHold) {
  const auto storing = [](const Quantized& q, const char* layout, Tensor bias = {}) {
    return [=] { to_stored(q, layout, bias); };
  };
  const Quantized q = rounded(32, 64, {.group_size = 16});
  expect_error<ValueError>(storing(q, "marlin"),
                           "layout 'marlin'; gptq, gptq_v2, gptq_p, gemm, plain, sm70 and sm80 can be written");
  expect_error<ValueError>(storing(q, "sm80"), "layout sm80 holds weights on EETQ's grid alone");
  expect_error<ValueError>(storing(q, "gptq", Tensor::ones({31})), "a bias of shape [31] for 32 output channels");
  expect_error<ValueError>(storing(rounded(32, 64, {.bits = 5}), "gptq_v2"), "5 bits in layout gptq_v2");
  expect_error<ValueError>(storing(rounded(30, 64, {.bits = 5}), "gptq_p"), "multiple of 32");
  expect_error<ValueError>(storing(rounded(32, 64, {.group_size = 48, .rule = GridRule::awq}), "gemm"),
                           "the last would be short");
  expect_error<ValueError>(storing(rounded(12, 64, {.rule = GridRule::awq}), "gemm"), "multiple of 8");
  expect_error<ValueError>(storing(rounded(3, 64, eetq_grid()), "sm80"), "it needs multiples of 64 and 2");
  Quantized positive = rounded(32, 64, {.sym = false});
  positive.zero.data<std::uint8_t>()[5] = 0;
  expect_error<ValueError>(storing(positive, "gptq"), "a zero point is 0");
  EXPECT_NO_THROW(to_stored(positive, "gptq_v2"));
  Quantized shuffled = rounded(32, 64, {.group_size = 16, .rule = GridRule::awq});
  std::swap(shuffled.g_idx.data<std::int32_t>()[0], shuffled.g_idx.data<std::int32_t>()[63]);
  expect_error<ValueError>(storing(shuffled, "gemm"), "groups that do not run in order");
}

}  // namespace
}  // namespace graft::quant
