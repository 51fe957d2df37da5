// Packed layers made step by step from the published layouts, one bit at a time: what the reading of formats is tested against.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "graft/quant/format.h"

namespace graft::quant::reference {

/// A layer's integers, drawn at random; w[k, n] = scale · (code − zero).
struct Integers {
  std::int64_t in = 0, out = 0, groups = 0;
  int bits = 4;
  std::int64_t group_size = 0;
  bool sym = false;
  std::vector<std::uint8_t> codes;  // [in, out]
  std::vector<std::uint8_t> zeros;  // [groups, out]
  std::vector<float> scales;        // [groups, out], exact in the dtype that they were drawn for
  std::vector<std::int32_t> g_idx;  // [in]

  std::uint8_t code(std::int64_t k, std::int64_t n) const { return codes[static_cast<std::size_t>(k * out + n)]; }
  std::uint8_t zero(std::int64_t g, std::int64_t n) const { return zeros[static_cast<std::size_t>(g * out + n)]; }
  float scale(std::int64_t g, std::int64_t n) const { return scales[static_cast<std::size_t>(g * out + n)]; }
  float weight(std::int64_t k, std::int64_t n) const {
    const std::int64_t g = g_idx[static_cast<std::size_t>(k)];
    return scale(g, n) * static_cast<float>(code(k, n) - zero(g, n));
  }
};

/// Zero points 0 and 2^bits − 1 among them, unless symmetric. With `act_order` channels are scattered over the groups.
Integers draw(std::int64_t in, std::int64_t out, int bits, std::int64_t group_size, bool sym, bool act_order, unsigned seed,
              DType scale_dtype = DType::f16);

/// Scales as a tensor of this dtype.
Tensor scales(const Integers& layer, DType dtype);

enum class ZeroWriter { as_is, per_field, per_word, scrambled };

/// GPTQ in the stream of bits, or in planes, words of 8, 16 or 32 bits. The description names a producer that writes zero points
/// this way.
Stored gptq(const Integers& layer, ZeroWriter writer, int word_bits = 32, DType scale_dtype = DType::f16);
Stored gptq_planar(const Integers& layer, DType scale_dtype = DType::f16);
Stored awq_gemm(const Integers& layer);
Stored awq_gemv(const Integers& layer);
/// `layout` is "gemv_fast" or "llm-awq".
Stored awq_fast(const Integers& layer, const std::string& layout);

/// Marlin's tiles, under the names of "gptq" or "awq"; `layer` is symmetric, 4 bits.
Stored marlin(const Integers& layer, const std::string& method);

/// EETQ: `layer` has 8 bits, one group and zero 128.
Integers draw_eetq(std::int64_t in, std::int64_t out, unsigned seed);
Stored eetq(const Integers& layer, const std::string& layout);

/// A layer of every format and layout that exists, all of the same size.
std::vector<Stored> one_of_each(std::int64_t in, std::int64_t out);
inline constexpr std::size_t count_of_each = 18;

}  // namespace graft::quant::reference
