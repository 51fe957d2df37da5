#include "graft/quant/checkpoint.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>

#include "graft/quant/config.h"
#include "graft/quant/formats/eetq.h"
#include "graft/quant/formats/gptq.h"
#include "graft/quant/formats/stored.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  check<FileError>(file.good(), "{}: cannot be opened", path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

Tensor converted(const Tensor& tensor, DType dtype) {
  Tensor copy = Tensor::empty(tensor.shape(), dtype);
  copy.copy_(tensor);
  return copy;
}

// The mapped pages of a tensor that has been copied or repacked are not needed for now; they are read again when they are.
void release_pages(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.storage()->read_only()) return;  // not mapped
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto data = reinterpret_cast<std::uintptr_t>(tensor.storage()->data());
  const std::uintptr_t begin = (data + page - 1) / page * page,
                       end = (data + static_cast<std::uintptr_t>(tensor.storage()->bytes())) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

// A copy, which unlike the mapping may be trained and merged into.
Tensor copied_out(const Tensor& tensor, DType dtype) {
  Tensor copy = converted(tensor, dtype);
  release_pages(tensor);
  return copy;
}

// A layer cut out of a wider one: outputs [begin, begin + out).
Decoded columns(const Decoded& wide, std::int64_t begin, std::int64_t out) {
  const auto cut = [&](const Tensor& table) {
    return table.defined() ? table.alias({table.dim(0), out}, table.strides(), table.offset() + begin).clone() : Tensor();
  };
  Decoded decoded = wide;
  decoded.out = out;
  decoded.scales = cut(wide.scales);
  decoded.zeros = cut(wide.zeros);
  decoded.offsets = cut(wide.offsets);
  decoded.codes = [codes = wide.codes, begin](std::int64_t k0, std::int64_t k1, std::int64_t n0, std::int64_t n1,
                                              std::uint8_t* to) { codes(k0, k1, begin + n0, begin + n1, to); };
  return decoded;
}

// Modules that AutoEETQ quantizes as one matrix and stores as slices of its columns.
constexpr std::string_view attention_family[] = {"q_proj", "k_proj", "v_proj"}, mlp_family[] = {"gate_proj", "up_proj"};
constexpr std::span<const std::string_view> fused_families[] = {attention_family, mlp_family};

}  // namespace

struct Checkpoint::State {
  fs::path folder;
  std::string config_text;
  safetensors::Checkpoint weights;
  std::vector<std::string> names;  // sorted
  std::optional<QuantConfig> config;
  Choices choices;

  bool contains(const std::string& name) const { return weights.contains(name); }
  std::vector<std::string> parts(const std::string& module) const;
  bool quantized(const std::string& module) const;
  Stored stored(const std::string& module) const;
  Decoded decode(Stored stored) const;
  Decoded decode_eetq(Stored stored) const;
  void check_nothing_unused() const;
};

// The last parts of the names of a module's own tensors.
std::vector<std::string> Checkpoint::State::parts(const std::string& module) const {
  const std::string prefix = module + ".";
  std::vector<std::string> found;
  for (auto name = std::lower_bound(names.begin(), names.end(), prefix); name != names.end() && name->starts_with(prefix); ++name)
    if (name->find('.', prefix.size()) == std::string::npos) found.push_back(name->substr(prefix.size()));
  return found;
}

bool Checkpoint::State::quantized(const std::string& module) const {
  return contains(module + ".qweight") || contains(module + ".B") || contains(module + ".weight_scales");
}

Stored Checkpoint::State::stored(const std::string& module) const {
  check(config.has_value(), "{}: holds packed weights, but {} has no quantization config that says what they are", module,
        folder.string());
  const auto description = config->describe(module);
  check(description.has_value(), "{}: holds packed weights, but {} says that it is not quantized", module, config->source());
  Stored stored;
  stored.module = module;
  stored.description = *description;
  // AutoGPTQ leaves its name in the weight files, not in the config.
  const auto metadata = weights.metadata();
  if (const auto found = metadata.find("auto_gptq_version"); found != metadata.end() && description->producer.empty()) {
    stored.description.producer = "auto_gptq";
    stored.description.producer_version = found->second;
  }
  if (!choices.layout.empty()) stored.description.layout = choices.layout;
  if (!choices.producer_version.empty()) stored.description.producer_version = choices.producer_version;
  if (stored.description.method == "gptq" && !choices.zeros.empty() && gptq_can_store(stored.description, choices.zeros))
    stored.description.zeros = choices.zeros;
  for (const std::string& part : parts(module)) stored.tensors[part] = weights.tensor(module + "." + part);
  return stored;
}

Decoded Checkpoint::State::decode(Stored stored) const {
  return stored.description.method == "eetq" ? decode_eetq(std::move(stored)) : quant::decode(stored);
}

// The bytes do not say how they are permuted, nor whether the module was permuted together with its siblings. The data do.
Decoded Checkpoint::State::decode_eetq(Stored stored) const {
  const auto read = [&](const Stored& layer, std::string reading) {
    Decoded decoded = quant::decode(layer);
    decoded.description.reading = std::move(reading);
    return decoded;
  };
  const std::string chosen = choices.layout;
  const auto settle = [&](const Stored& layer) -> std::string {
    const auto plausible = plausible_eetq_layouts(layer);
    if (!chosen.empty()) return std::find(plausible.begin(), plausible.end(), chosen) == plausible.end() ? "" : chosen;
    require(plausible.size() <= 1, stored, "its bytes make sense in the layouts {}; set Choices::layout to the right one",
            fmt::join(plausible, " and "));
    return plausible.empty() ? "" : std::string(plausible[0]);
  };

  if (const std::string layout = settle(stored); !layout.empty()) {
    stored.description.layout = layout;
    return read(stored, fmt::format("bytes in layout {}, in which every output has an extreme code", layout));
  }
  const auto dot = stored.module.rfind('.');
  const std::string parent = dot == std::string::npos ? "" : stored.module.substr(0, dot + 1),
                    own = stored.module.substr(parent.size());
  for (const auto family : fused_families) {
    if (std::find(family.begin(), family.end(), own) == family.end()) continue;
    if (!std::all_of(family.begin(), family.end(),
                     [&](std::string_view name) { return quantized(fmt::format("{}{}", parent, name)); }))
      continue;
    Stored fused;
    fused.module = stored.module;
    fused.description = stored.description;
    fused.in = stored.in;
    std::vector<Tensor> bytes, scales;
    std::int64_t begin = 0;
    for (const std::string_view name : family) {
      const Stored sibling = this->stored(fmt::format("{}{}", parent, name));
      const Tensor weight = find(sibling, find(sibling, "weight").defined() ? "weight" : "qweight");
      const Tensor scale = find(sibling, "weight_scales");
      if (!weight.defined() || weight.rank() != 2 || weight.dim(0) != stored.in || !scale.defined() ||
          scale.shape() != Shape{weight.dim(1)})
        break;
      if (name == own) begin = fused.out;
      fused.out += weight.dim(1);
      bytes.push_back(weight);
      scales.push_back(scale);
    }
    if (bytes.size() != family.size()) continue;
    const Tensor weight = Tensor::empty({fused.in, fused.out}, bytes[0].dtype()), scale = Tensor::empty({fused.out});
    for (std::size_t i = 0, at = 0; i < bytes.size(); at += static_cast<std::size_t>(bytes[i++].dim(1))) {
      weight.alias(bytes[i].shape(), {fused.out, 1}, static_cast<std::int64_t>(at)).copy_(bytes[i]);
      scale.alias(scales[i].shape(), {1}, static_cast<std::int64_t>(at)).copy_(scales[i]);
      release_pages(bytes[i]);
    }
    fused.tensors = {{"weight", weight}, {"weight_scales", scale}};
    const std::string layout = settle(fused);
    if (layout.empty()) continue;
    fused.description.layout = layout;
    Decoded decoded =
        columns(read(fused, fmt::format("bytes in layout {}, permuted as one matrix of {} and cut after that: only together does "
                                        "every output have an extreme code",
                                        layout, fmt::join(family, ", "))),
                begin, stored.out);
    decoded.native = find(stored, "weight_scales").dtype();
    decoded.bias = checked_bias(stored);
    return decoded;
  }
  if (!chosen.empty()) {
    stored.description.layout = chosen;
    return quant::decode(stored);
  }
  refuse(stored,
         "its bytes make sense in none of the layouts plain, sm70 and sm80, alone or joined with its siblings; set "
         "Choices::layout to "
         "read them in one all the same");
}

// Packed parts without a packed weight would silently have no effect.
void Checkpoint::State::check_nothing_unused() const {
  for (const std::string& name : names)
    for (const char* part : {".scales", ".qzeros", ".g_idx", ".scaled_zeros", ".s", ".workspace"}) {
      if (!name.ends_with(part)) continue;
      // Names as short or common as Marlin's mean nothing in a dense model.
      if (!config && (part == std::string_view(".s") || part == std::string_view(".workspace"))) continue;
      const std::string module = name.substr(0, name.size() - std::string_view(part).size());
      if (quantized(module)) continue;
      const bool activation = config && config->base().method == "awq" && part == std::string_view(".scales");
      check<NotImplementedError>(!activation, "{}: '{}' divides the activations of {}, which is not supported", folder.string(),
                                 name, module);
      check(false, "{}: '{}' belongs to no packed weight", folder.string(), name);
    }
}

Checkpoint Checkpoint::open(const fs::path& folder, const Choices& choices) {
  check<FileError>(fs::is_directory(folder), "{}: is not a folder", folder.string());
  auto state = std::make_shared<State>();
  state->folder = folder;
  state->config_text = read_text(folder / "config.json");
  state->config = QuantConfig::read(folder);
  state->weights = safetensors::Checkpoint::open(folder);
  state->names = state->weights.names();
  state->choices = choices;
  if (!choices.zeros.empty()) gptq_can_store({}, choices.zeros);  // the name exists
  state->check_nothing_unused();
  Checkpoint checkpoint;
  checkpoint.state_ = std::move(state);
  return checkpoint;
}

const fs::path& Checkpoint::folder() const { return state_->folder; }
const std::string& Checkpoint::config() const { return state_->config_text; }
bool Checkpoint::contains(const std::string& name) const { return state_->contains(name); }
std::vector<std::string> Checkpoint::names() const { return state_->names; }
std::int64_t Checkpoint::bytes() const { return state_->weights.bytes(); }

Tensor Checkpoint::tensor(const std::string& name, const Shape& shape, DType dtype) const {
  check<FileError>(contains(name), "{}: has no tensor '{}'", folder().string(), name);
  const Tensor tensor = state_->weights.tensor(name);
  check(tensor.shape() == shape, "{}: tensor '{}' has shape {}, not {}", folder().string(), name, tensor.shape(), shape);
  return copied_out(tensor, dtype);
}

std::shared_ptr<LinearBase> Checkpoint::linear(const std::string& prefix, std::int64_t in, std::int64_t out, DType dtype) const {
  const std::vector<std::string> parts = state_->parts(prefix);
  check<FileError>(!parts.empty(), "{}: has no tensors of a module '{}'", folder().string(), prefix);
  if (state_->quantized(prefix)) {
    Stored stored = state_->stored(prefix);
    stored.in = in;
    stored.out = out;
    const auto original = stored.tensors;
    auto layer = make_layer(state_->decode(std::move(stored)), original, dtype);
    for (const auto& [part, tensor] : original) release_pages(tensor);
    return layer;
  }
  for (const std::string& part : parts)
    check(part == "weight" || part == "bias", "{}: has a tensor '{}', which a dense layer does not use", prefix, part);
  const Tensor weight = state_->weights.tensor(prefix + ".weight");
  check<TypeError>(is_floating(weight.dtype()), "{}: weight holds {}, which without scales is no weight", prefix, weight.dtype());
  check(weight.shape() == Shape{out, in}, "{}: weight has shape {}; {} in and {} out features need {}", prefix, weight.shape(),
        in, out, Shape{out, in});
  return std::make_shared<Linear>(copied_out(weight, dtype),
                                  contains(prefix + ".bias") ? tensor(prefix + ".bias", {out}, dtype) : Tensor());
}

std::vector<std::string> Checkpoint::quantized_modules() const {
  std::vector<std::string> modules;
  for (const std::string& name : state_->names) {
    const auto dot = name.rfind('.');
    if (dot == std::string::npos) continue;
    const std::string module = name.substr(0, dot);
    if ((modules.empty() || modules.back() != module) && state_->quantized(module)) modules.push_back(module);
  }
  // Sorted by tensor name is not sorted by module name: "a.b.qweight" comes before "a.qweight".
  std::sort(modules.begin(), modules.end());
  modules.erase(std::unique(modules.begin(), modules.end()), modules.end());
  return modules;
}

std::pair<std::int64_t, std::int64_t> Checkpoint::features(const std::string& module) const {
  check(state_->quantized(module), "{}: holds no packed weights", module);
  Stored stored = state_->stored(module);
  // EETQ's layout is not known yet, but its shapes are the same in all.
  if (stored.description.method == "eetq" && stored.description.layout.empty()) stored.description.layout = "plain";
  return format_of(stored.description).features(stored);
}

Decoded Checkpoint::decode(const std::string& module) const {
  const auto [in, out] = features(module);
  Stored stored = state_->stored(module);
  stored.in = in;
  stored.out = out;
  return state_->decode(std::move(stored));
}

}  // namespace graft::quant
