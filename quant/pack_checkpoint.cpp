#include "graft/quant/pack_checkpoint.h"

#include "graft/core/parallel.h"
#include "graft/quant/formats/eetq.h"
#include "graft/quant/formats/fields.h"
#include "graft/quant/grid.h"

namespace graft::quant {
namespace {

constexpr int word_bits = 32;

// `lines` sequences of `count` integers value(line, i) in i32 words: a line is a row of the result or, if `down`, a column.
template <class F>
Tensor pack_fields(Packing packing, int bits, std::int64_t lines, std::int64_t count, bool down, F&& value) {
  const std::int64_t words = words_for(packing, bits, word_bits, count);
  const Tensor packed = Tensor::zeros(down ? Shape{words, lines} : Shape{lines, words}, DType::i32);
  auto* data = reinterpret_cast<std::uint32_t*>(packed.data<std::int32_t>());
  const std::int64_t word_step = down ? lines : 1, line_step = down ? 1 : words;
  parallel_ranges(lines, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = 0; i < count; ++i) {
      const Field place = field(packing, bits, word_bits, i);
      for (std::int64_t line = begin; line < end; ++line)
        place.scatter(value(line, i),
                      [&](std::int64_t word, std::uint32_t part) { data[line * line_step + word * word_step] |= part; });
    }
  });
  return packed;
}

// [groups, out] in the dtype in which scales are stored.
Tensor stored_scales(const Quantized& quantized) {
  const std::int64_t out = quantized.scale.dim(0), groups = quantized.scale.dim(1);
  const Tensor scales = Tensor::empty({groups, out}, quantized.grid.scale_dtype);
  scales.copy_(quantized.scale.alias({groups, out}, {1, groups}, quantized.scale.offset()));
  return scales;
}

// Codes and zero points as both 32-bit families see them: input channel or group first.
struct Integers {
  const std::uint8_t* codes;
  const std::uint8_t* zeros;
  std::int64_t in, groups;
  std::uint32_t code(std::int64_t k, std::int64_t n) const { return codes[n * in + k]; }
  std::uint32_t zero(std::int64_t g, std::int64_t n) const { return zeros[n * groups + g]; }
};

void pack_gptq(const Quantized& quantized, Stored& stored) {
  const Integers q{quantized.codes.data<std::uint8_t>(), quantized.zero.data<std::uint8_t>(), stored.in, quantized.scale.dim(1)};
  const int bits = quantized.grid.bits;
  const bool less_one = stored.description.layout == "gptq";
  const Packing packing = stored.description.layout == "gptq_p" ? Packing::planar : Packing::stream;
  check(packing == Packing::planar || bits <= 4 || bits == 8,
        "to_stored: {} bits in layout {}; it has 2, 3, 4 and 8 (5, 6 and 7 are in gptq_p)", bits, stored.description.layout);
  if (less_one) {
    const bool has_zero = std::find(q.zeros, q.zeros + quantized.zero.count(), 0) != q.zeros + quantized.zero.count();
    check(!has_zero, "to_stored: a zero point is 0, which readers of layout gptq understand differently; use gptq_v2");
  }
  stored.description.zeros = less_one ? "z-1 per field" : "z";  // without a zero point of 0 the first is "z-1 per word" too
  stored.tensors["qweight"] =
      pack_fields(packing, bits, stored.out, stored.in, true, [&](std::int64_t n, std::int64_t k) { return q.code(k, n); });
  stored.tensors["qzeros"] = pack_fields(packing, bits, q.groups, stored.out, false,
                                         [&](std::int64_t g, std::int64_t n) { return q.zero(g, n) - (less_one ? 1u : 0u); });
  stored.tensors["scales"] = stored_scales(quantized);
  stored.tensors["g_idx"] = quantized.g_idx;
}

void pack_awq(const Quantized& quantized, Stored& stored) {
  const Integers q{quantized.codes.data<std::uint8_t>(), quantized.zero.data<std::uint8_t>(), stored.in, quantized.scale.dim(1)};
  const int bits = quantized.grid.bits;
  const std::int64_t length = quantized.grid.group_length(stored.in);
  check(!stored.description.desc_act, "to_stored: layout gemm with groups that do not run in order");
  check(stored.in % length == 0, "to_stored: layout gemm with {} input channels in groups of {}; the last would be short",
        stored.in, length);
  const Packing packing = bits == 4 ? Packing::interleaved : Packing::stream;
  stored.tensors["qweight"] =
      pack_fields(packing, bits, stored.in, stored.out, false, [&](std::int64_t k, std::int64_t n) { return q.code(k, n); });
  stored.tensors["qzeros"] =
      pack_fields(packing, bits, q.groups, stored.out, false, [&](std::int64_t g, std::int64_t n) { return q.zero(g, n); });
  stored.tensors["scales"] = stored_scales(quantized);
}

void pack_eetq(const Quantized& quantized, Stored& stored) {
  check(quantized.grid.rule == GridRule::eetq, "to_stored: layout {} holds weights on EETQ's grid alone",
        stored.description.layout);
  const EetqLayout& layout = eetq_layout(stored.description.layout);
  check(stored.in % layout.in_multiple == 0 && stored.out % layout.out_multiple == 0,
        "to_stored: {} in and {} out features in layout {}; it needs multiples of {} and {}", stored.in, stored.out, layout.name,
        layout.in_multiple, layout.out_multiple);
  const Tensor weight = Tensor::empty({stored.in, stored.out}, DType::i8);
  auto* bytes = reinterpret_cast<std::uint8_t*>(weight.data<std::int8_t>());
  const auto* codes = quantized.codes.data<std::uint8_t>();
  for (std::int64_t n = 0; n < stored.out; ++n)
    for (std::int64_t k = 0; k < stored.in; ++k)
      bytes[layout.place(k, n, stored.in, stored.out)] = codes[n * stored.in + k] ^ layout.flip;
  stored.tensors["weight"] = weight;
  stored.tensors["weight_scales"] = stored_scales(quantized).alias({stored.out}, {1}, 0);
}

struct Packer {
  std::string_view layout, method;
  void (*write)(const Quantized&, Stored&);
};

constexpr Packer packers[] = {{"gptq", "gptq", pack_gptq}, {"gptq_v2", "gptq", pack_gptq}, {"gptq_p", "gptq", pack_gptq},
                              {"gemm", "awq", pack_awq},   {"plain", "eetq", pack_eetq},   {"sm70", "eetq", pack_eetq},
                              {"sm80", "eetq", pack_eetq}};

}  // namespace

Stored to_stored(const Quantized& quantized, std::string_view layout, const Tensor& bias) {
  validate(quantized);
  const std::int64_t out = quantized.out_features(), in = quantized.in_features();
  const Grid& grid = quantized.grid;
  const bool in_order = quantized.g_idx.to_vector<std::int32_t>() == plain_g_idx(in, grid).to_vector<std::int32_t>();
  for (const Packer& packer : packers) {
    if (packer.layout != layout) continue;
    Stored stored;
    stored.description.method = packer.method;
    stored.description.layout = layout;
    stored.description.bits = grid.bits;
    stored.description.group_size = grid.group_size;
    stored.description.sym = grid.sym;
    stored.description.desc_act = !in_order;
    stored.in = in;
    stored.out = out;
    packer.write(quantized, stored);
    if (bias.defined()) {
      check(bias.shape() == Shape{out}, "to_stored: a bias of shape {} for {} output channels", bias.shape(), out);
      stored.tensors["bias"] = bias;
    }
    return stored;
  }
  fail("to_stored: layout '{}'; gptq, gptq_v2, gptq_p, gemm, plain, sm70 and sm80 can be written", layout);
}

std::string_view usual_layout(const Grid& grid) {
  if (grid.rule == GridRule::awq) return "gemm";
  if (grid.rule == GridRule::eetq) return "sm80";
  if (grid.bits >= 5 && grid.bits <= 7) return "gptq_p";
  return grid.sym && grid.bits != 3 ? "gptq" : "gptq_v2";
}

}  // namespace graft::quant
