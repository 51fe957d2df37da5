#include "graft/quant/format.h"

#include <algorithm>
#include <numeric>

#include "graft/core/parallel.h"
#include "graft/quant/formats/all.h"
#include "graft/quant/formats/stored.h"
#include "graft/quant/pack.h"

namespace graft::quant {

std::span<const Format* const> formats() { return all_formats; }

const Format& format_of(const Description& description) {
  std::vector<std::string> names;
  for (const Format* format : all_formats) {
    const auto& layouts = format->layouts;
    const bool has = std::find(layouts.begin(), layouts.end(), description.layout) != layouts.end() ||
                     (!description.layout.empty() && description.layout == format->undecided);
    if (format->method == description.method && has) return *format;
    for (std::string_view layout : layouts) names.push_back(fmt::format("{} {}", format->method, layout));
  }
  fail("no format '{} {}'; known are {}", description.method, description.layout, fmt::join(names, ", "));
}

Decoded decode(const Stored& stored) {
  const Format& format = format_of(stored.description);
  require(stored.in > 0 && stored.out > 0, stored, "{} in and {} out features; both must be positive", stored.in, stored.out);
  for (std::string_view name : format.required) require(find(stored, name).defined(), stored, "has no {}", name);
  for (const auto& [name, tensor] : stored.tensors) {
    const auto listed = [&, &name = name](auto names) { return std::find(names.begin(), names.end(), name) != names.end(); };
    require(listed(format.required) || listed(format.optional), stored, "has a tensor '{}', which {} in layout {} does not use",
            name, format.method, stored.description.layout);
    require(tensor.defined() && tensor.device().is_cpu(), stored, "{} is not a tensor on the CPU", name);
  }
  return format.decode(stored);
}

Tensor dequantize(const Decoded& decoded, std::int64_t begin, std::int64_t end) {
  check(begin >= 0 && begin <= end && end <= decoded.out, "dequantize: rows {} to {} of {}", begin, end, decoded.out);
  Tensor weight = Tensor::empty({end - begin, decoded.in});
  parallel_ranges(end - begin, 16, [&](std::int64_t first, std::int64_t last) {
    const std::int64_t n0 = begin + first, n1 = begin + last;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * (n1 - n0)));
    decoded.codes(0, decoded.in, n0, n1, codes.data());
    const std::uint8_t* code = codes.data();
    for (std::int64_t k = 0; k < decoded.in; ++k)
      for (std::int64_t n = n0; n < n1; ++n) {
        const std::int64_t at = decoded.groups[static_cast<std::size_t>(k)] * decoded.out + n;
        const double scale = decoded.scales.data<float>()[at], q = *code++;
        // In double both forms are exact for half-precision scales; the one rounding is the conversion.
        const double w = decoded.offsets.defined() ? scale * q + decoded.offsets.data<float>()[at]
                                                   : scale * (q - static_cast<double>(decoded.zeros.data<float>()[at]));
        weight.data<float>()[(n - begin) * decoded.in + k] = static_cast<float>(w);
      }
  });
  return weight;
}

double mean_distance(const Decoded& decoded) {
  if (!decoded.zeros.defined()) return 0;  // zero points that were folded into offsets are no integers any more
  constexpr std::int64_t strip = 64;
  std::vector<double> sums(static_cast<std::size_t>((decoded.out + strip - 1) / strip));
  parallel_for(static_cast<std::int64_t>(sums.size()), [&](std::int64_t s) {
    const std::int64_t n0 = s * strip, n1 = std::min(n0 + strip, decoded.out);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * (n1 - n0)));
    decoded.codes(0, decoded.in, n0, n1, codes.data());
    const std::uint8_t* code = codes.data();
    for (std::int64_t k = 0; k < decoded.in; ++k) {
      const float* zero = decoded.zeros.data<float>() + decoded.groups[static_cast<std::size_t>(k)] * decoded.out;
      for (std::int64_t n = n0; n < n1; ++n) sums[static_cast<std::size_t>(s)] += *code++ - zero[n];
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(decoded.in * decoded.out);
}

std::shared_ptr<QuantLinear> make_layer(const Decoded& decoded, const std::map<std::string, Tensor>& original, DType dtype) {
  check<TypeError>(is_floating(dtype), "a layer's bias cannot be kept in {}", dtype);
  Tensor bias;
  if (decoded.bias.defined()) {
    bias = Tensor::empty({decoded.out}, dtype);
    bias.copy_(decoded.bias);
  }
  std::vector<NamedTensor> tensors;
  for (const auto& [name, tensor] : original) tensors.push_back({name, tensor});
  return std::make_shared<QuantLinear>(decoded.description, pack(decoded), bias, std::move(tensors));
}

std::shared_ptr<QuantLinear> make_layer(const Stored& stored, DType dtype) {
  return make_layer(decode(stored), stored.tensors, dtype);
}

}  // namespace graft::quant
