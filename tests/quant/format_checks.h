// What the tests of all formats check: that a layer is read as it was drawn, and that one which contradicts itself is refused.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "graft/quant/format.h"
#include "graft/tests/support/errors.h"

#include "reference.h"

namespace graft::quant {

using reference::Integers;
using reference::ZeroWriter;

// Sizes of groups with input channels that they divide, do not divide, and exceed.
struct Grouping {
  std::int64_t in, group_size;
};
inline constexpr Grouping groupings[] = {{160, 16},  {160, 32},    {160, 64},  {160, 128}, {544, 256},
                                         {544, 512}, {1056, 1024}, {96, 1000}, {160, -1}};

inline std::vector<std::uint8_t> all_codes(const Decoded& decoded) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * decoded.out));
  decoded.codes(0, decoded.in, 0, decoded.out, codes.data());
  return codes;
}

inline std::vector<float> weights(const Integers& layer) {
  std::vector<float> weights;
  for (std::int64_t n = 0; n < layer.out; ++n)
    for (std::int64_t k = 0; k < layer.in; ++k) weights.push_back(layer.weight(k, n));
  return weights;
}

// Codes, zero points, scales, groups and weights, through the format and through the repacked layer.
inline void expect_reads(const Stored& stored, const Integers& layer, const std::string& zeros = "") {
  const Decoded decoded = decode(stored);
  SCOPED_TRACE(fmt::format("{} {}, {} bits, groups of {}, {}", stored.description.method, stored.description.layout, layer.bits,
                           layer.group_size, decoded.description.reading));
  EXPECT_EQ(all_codes(decoded), layer.codes);
  EXPECT_EQ(decoded.scales.to_vector<float>(), layer.scales);
  EXPECT_EQ(decoded.groups, layer.g_idx);
  if (decoded.zeros.defined()) {
    EXPECT_EQ(decoded.zeros.to_vector<float>(), std::vector<float>(layer.zeros.begin(), layer.zeros.end()));
    EXPECT_EQ(dequantize(decoded, 0, layer.out).to_vector<float>(), weights(layer));
    EXPECT_EQ(make_layer(stored)->dequantize(0, layer.out).to_vector<float>(), weights(layer));
  }
  if (!zeros.empty()) {
    EXPECT_EQ(decoded.description.zeros, zeros);
  }
  // A block from the middle is the same as the block of the whole.
  const std::int64_t k0 = layer.in / 3, k1 = layer.in - 1, n0 = layer.out / 5, n1 = layer.out - 2;
  std::vector<std::uint8_t> block(static_cast<std::size_t>((k1 - k0) * (n1 - n0)));
  decoded.codes(k0, k1, n0, n1, block.data());
  for (std::int64_t k = k0; k < k1; ++k)
    for (std::int64_t n = n0; n < n1; ++n)
      ASSERT_EQ(block[static_cast<std::size_t>((k - k0) * (n1 - n0) + n - n0)], layer.code(k, n));
}

struct Malformed {
  const char* what;
  std::function<void(Stored&)> change;
  const char* message;
};

inline void expect_refusals(const Stored& good, const std::vector<Malformed>& cases) {
  EXPECT_NO_THROW(decode(good));
  for (const Malformed& malformed : cases) {
    Stored stored = good;
    malformed.change(stored);
    SCOPED_TRACE(malformed.what);
    test::expect_error<Error>([&] { decode(stored); }, std::string("reference: ") + malformed.message);
  }
}

template <class T>
std::function<void(Stored&)> poke(const char* name, std::int64_t at, T value) {
  return [=](Stored& stored) {
    stored.tensors[name] = stored.tensors[name].clone();
    stored.tensors[name].data<T>()[at] = value;
  };
}

inline std::function<void(Stored&)> replace(const char* name, const Shape& shape, DType dtype) {
  return [=](Stored& stored) { stored.tensors[name] = Tensor::zeros(shape, dtype); };
}

}  // namespace graft::quant
