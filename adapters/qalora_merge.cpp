#include "graft/adapters/qalora_merge.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "graft/adapters/inject.h"
#include "graft/adapters/model.h"
#include "graft/adapters/verify.h"
#include "graft/adapters/warning.h"
#include "graft/adapters/wrappers.h"
#include "graft/autograd/ops.h"
#include "graft/core/safetensors.h"
#include "graft/quant/pack_checkpoint.h"

namespace graft::adapters {
namespace {

constexpr const char* suffix = ".zero_shift";
constexpr const char* shifted = "; zero points shifted by a merged adapter";

quant::Stored stored(const quant::QuantLinear& layer) {
  check<AttributeError>(
      !layer.format().reading.ends_with(shifted),
      "the zero points of this layer were shifted before and are fractions now; a second adapter cannot be merged "
      "into them, only into those of the checkpoint");
  quant::Stored tensors{
      .module = {}, .description = layer.format(), .in = layer.in_features(), .out = layer.out_features(), .tensors = {}};
  for (const auto& [name, tensor] : layer.original()) tensors.tensors[name] = tensor;
  return tensors;
}

/// The shift as f64 values, row by row, and the length of its groups.
struct Shift {
  std::vector<double> values;
  std::int64_t groups, length;
  double at(std::int64_t n, std::int64_t p) const { return values[static_cast<std::size_t>(n * groups + p)]; }
};

Shift checked(const quant::QuantLinear& layer, const Tensor& shift) {
  check<TypeError>(shift.defined() && is_floating(shift.dtype()), "the shift of zero points must be a floating tensor");
  const std::int64_t in = layer.in_features(), out = layer.out_features();
  check(shift.rank() == 2 && shift.dim(0) == out && shift.dim(1) > 0 && in % shift.dim(1) == 0,
        "the shift of zero points has the shape {}; wanted [{}, a divisor of {}]", shift.shape(), out, in);
  Shift s{shift.to_vector<double>(), shift.dim(1), in / shift.dim(1)};
  check(std::all_of(s.values.begin(), s.values.end(), [](double v) { return std::isfinite(v); }),
        "the shift of zero points is not finite");
  return s;
}

using Adapters = std::vector<std::pair<std::string, std::shared_ptr<lora::QALoraLinearVariant>>>;

Adapters qalora_adapters(Module& model, const std::string& name) {
  Adapters found;
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    if (!layer.has_adapter(name)) return;
    auto adapter = std::dynamic_pointer_cast<lora::QALoraLinearVariant>(layer.adapter(name));
    check(adapter != nullptr, "{}: adapter '{}' is of method {}; only QA-LoRA can be merged into zero points", path, name,
          layer.adapter(name)->method());
    found.emplace_back(path, std::move(adapter));
  });
  check(!found.empty(), "no layer has a QA-LoRA adapter '{}'", name);
  return found;
}

bool copies_parameters(Module& model, const std::string& name) {
  bool copies = false;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    const auto record = layer.has_adapter(name) ? layer.record(name) : nullptr;
    copies = copies || (record && !record->saved.empty());
  });
  return copies;
}

bool active_everywhere(Module& model, const std::string& name) {
  bool active = true;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) {
    for (const auto& named : layer.adapters()) active = active && (named.name != name || named.in_use);
  });
  return active;
}

std::shared_ptr<quant::QuantLinear> quantized_layer(const std::string& path, const std::shared_ptr<LinearBase>& layer) {
  auto base = std::dynamic_pointer_cast<quant::QuantLinear>(layer);
  check(base != nullptr, "{}: zero points can be shifted in a quantized layer, and this is a {}", path,
        layer ? layer->type_name() : "gap");
  return base;
}

}  // namespace

std::shared_ptr<quant::QuantLinear> with_shifted_zeros(const std::shared_ptr<quant::QuantLinear>& layer, const Tensor& shift) {
  const Shift s = checked(*layer, shift);
  if (std::all_of(s.values.begin(), s.values.end(), [](double v) { return v == 0; })) return layer;
  const quant::Stored original = stored(*layer);
  quant::Decoded decoded = quant::decode(original);

  // One new group for each pair of an old group and a pooling group that some channel is in, in the order of the channels.
  std::map<std::pair<std::int32_t, std::int32_t>, std::int32_t> numbers;
  std::vector<std::pair<std::int32_t, std::int32_t>> pairs;
  std::vector<std::int32_t> groups;
  for (std::int64_t k = 0; k < decoded.in; ++k) {
    const std::pair pair{decoded.groups[k], static_cast<std::int32_t>(k / s.length)};
    const auto [found, is_new] = numbers.emplace(pair, static_cast<std::int32_t>(pairs.size()));
    if (is_new) pairs.push_back(pair);
    groups.push_back(found->second);
  }
  const Shape shape{static_cast<std::int64_t>(pairs.size()), decoded.out};
  const Tensor scales = Tensor::empty(shape), offsets = Tensor::empty(shape);
  const float* old_scales = decoded.scales.data<float>();
  for (std::size_t g = 0; g < pairs.size(); ++g) {
    for (std::int64_t n = 0; n < decoded.out; ++n) {
      const std::int64_t from = pairs[g].first * decoded.out + n, to = static_cast<std::int64_t>(g) * decoded.out + n;
      const double offset = decoded.offsets.defined()
                                ? decoded.offsets.data<float>()[from]
                                : -static_cast<double>(old_scales[from]) * decoded.zeros.data<float>()[from];
      scales.data<float>()[to] = old_scales[from];
      offsets.data<float>()[to] = static_cast<float>(offset + s.at(n, pairs[g].second));
    }
  }
  decoded.scales = scales;
  decoded.offsets = offsets;
  decoded.zeros = {};
  const std::int64_t length = std::count(groups.begin(), groups.end(), 0);
  bool in_order = true;
  for (std::int64_t k = 0; k < decoded.in; ++k) in_order = in_order && groups[k] == k / length;
  decoded.groups = std::move(groups);
  decoded.group_size = in_order ? length : 0;
  decoded.description.reading += shifted;
  if (layer->bias().defined())
    decoded.bias = to(to(layer->bias().detach(), Device::cpu()), DType::f32);  // it may have been trained
  auto result = quant::make_layer(decoded, {}, layer->bias().defined() ? layer->bias().dtype() : DType::f32);
  to(*result, layer->device());
  return result;
}

void merge_qalora(Module& model, const std::string& name) {
  const Adapters adapters = qalora_adapters(model, name);
  check(!copies_parameters(model, name) || active_everywhere(model, name),
        "adapter '{}' has trained copies of the model's own parameters (modules_to_save, bias), which are not in place; activate "
        "it "
        "before it is merged",
        name);
  std::map<std::string, std::shared_ptr<quant::QuantLinear>> merged;
  for_each_layer(model, [&](const std::string& path, AdapterLayer& layer) {
    for (const auto& [where, adapter] : adapters)
      if (where == path)
        merged.emplace(path, with_shifted_zeros(quantized_layer(path, layer.base_layer()), adapter->group_delta()));
  });
  for_each_slot(model, [&](const std::string& path, SlotBase& slot) {
    const auto found = merged.find(path);
    if (found == merged.end()) return;
    auto layer = std::dynamic_pointer_cast<AdapterLayer>(slot.module());
    layer->replace_active(name, {});  // first, so that no adapter that waits takes its place
    layer->delete_adapter(name);
    if (layer->adapter_names().empty()) slot.replace(found->second);
    else layer->replace_base(found->second);
    merged.erase(found);
  });
}

void save_zero_shifts(Module& model, const std::filesystem::path& file, const std::string& name) {
  std::vector<NamedTensor> tensors;
  const Adapters adapters = qalora_adapters(model, name);
  check(!copies_parameters(model, name),
        "adapter '{}' has trained copies of the model's own parameters (modules_to_save, bias), for which a file of shifts has "
        "no place",
        name);
  for (const auto& [path, adapter] : adapters) tensors.push_back({path + suffix, adapter->group_delta()});
  safetensors::save(file, tensors, {{"format", "graft zero shifts"}, {fingerprint_key, fingerprint(model)}});
}

void load_zero_shifts(Module& model, const std::filesystem::path& file, bool same_base) {
  const auto shifts = safetensors::File::open(file);
  std::map<std::string, SlotBase*> slots;
  for_each_slot(model, [&](const std::string& path, SlotBase& slot) { slots.emplace(path, &slot); });
  struct Place {
    SlotBase* slot;
    std::shared_ptr<quant::QuantLinear> layer;
    Tensor shift;
  };
  std::vector<Place> places;
  for (const auto& [name, entry] : shifts.entries()) {
    check(name.ends_with(suffix), "{}: tensor {} is no shift of zero points", file.string(), name);
    const std::string path = name.substr(0, name.size() - std::string_view(suffix).size());
    const auto slot = slots.find(path);
    check(slot != slots.end(), "{}: the model has no layer {}", file.string(), path);
    const auto layer = std::dynamic_pointer_cast<LinearBase>(slot->second->module());
    places.push_back({slot->second, quantized_layer(path, layer), shifts.tensor(name)});
  }
  const auto base = shifts.metadata().find(fingerprint_key);
  if (const std::string here = fingerprint(model); base != shifts.metadata().end() && base->second != here) {
    const auto words = fmt::format("{}: the shifts were saved over another base (fingerprint {}) than this model ({})",
                                   file.string(), base->second, here);
    check(!same_base, "{}", words);
    warn("{}", words);
  }
  for (Place& place : places) place.layer = with_shifted_zeros(place.layer, place.shift);
  for (const Place& place : places) place.slot->replace(place.layer);
}

PackedExport export_packed(const quant::QuantLinear& layer, const Tensor& shift) {
  const Shift s = checked(layer, shift);
  const quant::Stored original = stored(layer);
  const quant::Decoded decoded = quant::decode(original);
  const auto& method = decoded.description.method;
  check(decoded.zeros.defined() && (method == "gptq" || method == "awq"),
        "a layer of format {} has no integer zero points to shift", method);
  check(decoded.group_size > 0, "the channels of this layer's groups are not in order (act-order), while pooling groups are");
  check(s.length % decoded.group_size == 0 || decoded.group_size >= decoded.in,
        "the pooling groups of {} channels cut the quantization groups of {} apart; a zero point cannot hold two shifts",
        s.length, decoded.group_size);
  check(s.length >= decoded.group_size, "the pooling groups of {} channels are smaller than the quantization groups of {}",
        s.length, decoded.group_size);

  const std::int64_t groups = decoded.scales.dim(0);
  quant::Quantized q;
  q.grid.bits = decoded.bits;
  q.grid.group_size = decoded.group_size >= decoded.in ? -1 : decoded.group_size;
  q.grid.sym = false;
  q.grid.rule = method == "gptq" ? quant::GridRule::gptq : quant::GridRule::awq;
  q.grid.scale_dtype = decoded.native;
  q.codes = Tensor::empty({decoded.out, decoded.in}, DType::u8);
  q.scale = Tensor::empty({decoded.out, groups});
  q.zero = Tensor::empty({decoded.out, groups}, DType::u8);
  q.g_idx = Tensor::empty({decoded.in}, DType::i32);
  PackedExport result;
  for (std::int64_t g = 0; g < groups; ++g) {
    for (std::int64_t n = 0; n < decoded.out; ++n) {
      const double scale = decoded.scales.data<float>()[g * decoded.out + n],
                   zero = decoded.zeros.data<float>()[g * decoded.out + n];
      const double nearest = std::nearbyint(scale != 0 ? zero - s.at(n, g * decoded.group_size / s.length) / scale : zero);
      const double fits = std::clamp(nearest, 0.0, static_cast<double>(q.grid.max_code()));
      if (nearest != fits) ++result.clipped;
      q.scale.data<float>()[n * groups + g] = static_cast<float>(scale);
      q.zero.data<std::uint8_t>()[n * groups + g] = static_cast<std::uint8_t>(fits);
    }
  }
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(decoded.in * decoded.out));
  decoded.codes(0, decoded.in, 0, decoded.out, codes.data());
  double largest = 0;
  for (std::int64_t k = 0; k < decoded.in; ++k) {
    const std::int64_t g = decoded.groups[k];
    q.g_idx.data<std::int32_t>()[k] = decoded.groups[k];
    for (std::int64_t n = 0; n < decoded.out; ++n) {
      const std::uint8_t code = codes[k * decoded.out + n];
      q.codes.data<std::uint8_t>()[n * decoded.in + k] = code;
      const double scale = decoded.scales.data<float>()[g * decoded.out + n],
                   zero = decoded.zeros.data<float>()[g * decoded.out + n];
      const double wanted = scale * (code - zero) + s.at(n, k / s.length),
                   got = scale * (code - q.zero.data<std::uint8_t>()[n * groups + g]);
      result.worst_error = std::max(result.worst_error, std::abs(got - wanted));
      largest = std::max(largest, std::abs(wanted));
    }
  }
  if (largest > 0) result.worst_error /= largest;
  // The older GPTQ layout stores zero points less one, which leaves no room for 0.
  const std::string layout = method == "awq" ? "gemm" : decoded.description.layout == "gptq_p" ? "gptq_p" : "gptq_v2";
  result.layer = quant::to_stored(q, layout, decoded.bias);
  return result;
}

}  // namespace graft::adapters
