#include "graft/quant/formats/marlin.h"

#include "graft/quant/formats/awq.h"
#include "graft/quant/formats/fields.h"
#include "graft/quant/formats/places.h"
#include "graft/quant/formats/stored.h"

namespace graft::quant {
namespace {

// Where the scale of output n lies in its row. With several groups, each run of 64 is an 8 × 8 matrix stored transposed; with
// one, the kernel wants another order in runs of 32.
std::int64_t scale_column(std::int64_t n, bool one_group) {
  if (one_group) return n / 32 * 32 + n % 8 / 2 * 8 + n % 32 / 8 * 2 + n % 2;
  return n / 64 * 64 + n % 8 * 8 + n / 8 % 8;
}

Decoded decode_marlin(const Stored& stored, std::string_view weight_name, std::string_view scales_name) {
  const Description& d = stored.description;
  require(d.bits == 4 && d.sym, stored, "layout marlin with {} bits and sym {}; it has symmetric 4 bits", d.bits, d.sym);
  require(stored.in % 16 == 0 && stored.out % 64 == 0, stored,
          "layout marlin with {} in and {} out features; it needs multiples of 16 and 64", stored.in, stored.out);
  const std::int64_t length = group_length(stored), groups = (stored.in + length - 1) / length, out = stored.out;
  const Tensor weight = checked(stored, weight_name, {DType::i32}, {stored.in / 16, 2 * out});
  const Tensor scales = checked_f32(stored, scales_name, {groups, out});

  Decoded decoded;
  decoded.description = d;
  decoded.description.reading = "4-bit codes in Marlin's tiles, scales permuted for its kernel; every zero point is 8";
  decoded.in = stored.in;
  decoded.out = out;
  decoded.bits = 4;
  decoded.native = find(stored, scales_name).dtype();
  decoded.bias = checked_bias(stored);
  decoded.groups = groups_in_order(stored.in, length);
  decoded.group_size = length;
  decoded.zeros = Tensor::full({groups, out}, 8);
  decoded.scales = Tensor::empty({groups, out});
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t n = 0; n < out; ++n)
      decoded.scales.data<float>()[g * out + n] = scales.data<float>()[g * out + scale_column(n, groups == 1)];
  decoded.codes = place_reader(
      weight, stored.in, out, 4,
      [&](std::int64_t k) {
        return Place{k / 16 * 2 * out + k % 8 / 2 * 4, static_cast<int>(4 * (k % 2 * 4 + k / 8 % 2))};
      },
      [](std::int64_t n) {
        return Place{n / 64 * 128 + n % 8 * 16 + n / 16 % 4, static_cast<int>(4 * (n / 8 % 2 * 2))};
      });
  return decoded;
}

std::pair<std::int64_t, std::int64_t> marlin_features(const Stored& stored, std::string_view weight_name) {
  const Tensor weight = find(stored, weight_name);
  require(weight.defined() && weight.rank() == 2, stored, "has no {} of two dimensions", weight_name);
  return {weight.dim(0) * 16, weight.dim(1) / 2};
}

// AutoAWQ's and transformers' "version" names a kernel, and Marlin's can be asked to run on a gemm file.
bool is_gemm(const Stored& stored) {
  const Tensor qweight = find(stored, "qweight"), qzeros = find(stored, "qzeros"), scales = find(stored, "scales");
  return qweight.defined() && qzeros.defined() && scales.defined() && qweight.rank() == 2 && qzeros.rank() == 2 &&
         scales.rank() == 2 && qweight.dim(1) == qzeros.dim(1) &&
         qweight.dim(1) == words_for(Packing::stream, stored.description.bits, 32, scales.dim(1));
}

Decoded decode_awq(const Stored& stored) {
  if (!is_gemm(stored)) {
    require(!find(stored, "qzeros").defined(), stored, "has a tensor 'qzeros', which awq in layout marlin does not use");
    return decode_marlin(stored, "qweight", "scales");
  }
  Stored gemm = stored;
  gemm.description.layout = "gemm";
  Decoded decoded = awq_gemm_format.decode(gemm);
  decoded.description.reading = fmt::format(
      "tensors of layout gemm, for which marlin only names the kernel: there are qzeros, and qweight is packed like them; {}",
      decoded.description.reading);
  return decoded;
}

std::pair<std::int64_t, std::int64_t> awq_features(const Stored& stored) {
  return is_gemm(stored) ? awq_gemm_format.features(stored) : marlin_features(stored, "qweight");
}

constexpr std::string_view layouts[] = {"marlin"};
constexpr std::string_view gptq_required[] = {"B", "s"}, gptq_optional[] = {"workspace", "bias"};
constexpr std::string_view awq_required[] = {"qweight", "scales"}, awq_optional[] = {"qzeros", "bias"};

}  // namespace

constinit const Format gptq_marlin_format{"gptq",
                                          layouts,
                                          gptq_required,
                                          gptq_optional,
                                          [](const Stored& stored) { return decode_marlin(stored, "B", "s"); },
                                          [](const Stored& stored) { return marlin_features(stored, "B"); }};
constinit const Format awq_marlin_format{"awq", layouts, awq_required, awq_optional, decode_awq, awq_features};

}  // namespace graft::quant
