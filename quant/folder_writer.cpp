#include "graft/quant/folder_writer.h"

#include <fstream>
#include <sstream>
#include <system_error>

#include "graft/core/formats/json.h"

namespace graft::quant {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Weights in any form, and configs that are written anew.
bool passed_on(const fs::path& file) {
  const std::string name = file.filename().string(), extension = file.extension().string();
  for (const char* own : {"config.json", "quantize_config.json", "quant_config.json"})
    if (name == own) return false;
  for (const char* weights : {".safetensors", ".bin", ".pt", ".pth", ".gguf"})
    if (extension == weights) return false;
  return !name.ends_with(".index.json");
}

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  check<FileError>(file.good(), "{}: cannot be read", path.string());
  return std::move(text).str();
}

Json parse_object(const std::string& text, const std::string& what) {
  Json json = parse_json<Json>(text, false);
  check(json.is_object(), "{} is not a JSON object", what);
  return json;
}

fs::path shard_name(std::size_t index, std::size_t count) {
  return count == 1 ? fs::path("model.safetensors") : fs::path(fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count));
}

// Until the number of shards is known.
fs::path part_name(std::size_t index) { return fmt::format("part-{}.safetensors", index); }

}  // namespace

FolderWriter::FolderWriter(fs::path source, fs::path target, std::int64_t shard_bytes)
    : source_folder_(std::move(source)), target_(std::move(target)), shard_bytes_(shard_bytes) {
  check(shard_bytes > 0, "shards of {} bytes", shard_bytes);
  if (!target_.has_filename()) target_ = target_.parent_path();
  std::error_code error;
  check<FileError>(!fs::exists(target_, error), "{}: exists already", target_.string());
  source_ = safetensors::Checkpoint::open(source_folder_);
  config_ = text_of(source_folder_ / "config.json");
  check(!parse_object(config_, (source_folder_ / "config.json").string()).contains("quantization_config"),
        "{} is quantized already", source_folder_.string());
  const fs::path partial = target_.parent_path() / fmt::format(".{}.partial", target_.filename().string());
  fs::remove_all(partial, error);  // of a run that was killed
  fs::create_directories(partial, error);
  check<FileError>(!error, "{}: cannot be made: {}", partial.string(), error.message());
  partial_ = partial;
}

FolderWriter::~FolderWriter() {
  std::error_code ignored;  // nothing can be done about what cannot be removed
  if (!partial_.empty()) fs::remove_all(partial_, ignored);
}

void FolderWriter::take(const std::string& name) { check(taken_.insert(name).second, "{}: replaced twice", name); }

void FolderWriter::put(const std::string& module, const Stored& stored) {
  const std::string weight = module + ".weight";
  check<FileError>(source_.contains(weight), "{}: has no tensor '{}'", source_folder_.string(), weight);
  check(source_.entry(weight).shape == Shape{stored.out, stored.in},
        "{} has shape {}; the packed layer has {} outputs and {} inputs", weight, source_.entry(weight).shape, stored.out,
        stored.in);
  take(weight);
  for (const auto& [name, tensor] : stored.tensors) {
    const std::string full = module + "." + name;
    if (full != weight && source_.contains(full)) take(full);
    add(full, tensor);
  }
}

void FolderWriter::replace(const std::string& name, const Tensor& value) {
  check<FileError>(source_.contains(name), "{}: has no tensor '{}'", source_folder_.string(), name);
  const safetensors::Entry& entry = source_.entry(name);
  check(value.shape() == entry.shape, "{} has shape {}; its replacement has {}", name, entry.shape, value.shape());
  take(name);
  const Tensor converted = Tensor::empty(entry.shape, entry.dtype);
  converted.copy_(value);
  add(name, converted);
}

void FolderWriter::add(std::string name, Tensor tensor) {
  const std::int64_t bytes = tensor.count() * size_of(tensor.dtype());
  if (!pending_.empty() && pending_bytes_ + bytes > shard_bytes_) flush();
  pending_.push_back({std::move(name), std::move(tensor)});
  pending_bytes_ += bytes;
}

void FolderWriter::flush() {
  safetensors::save(partial_ / part_name(shards_.size()), pending_, {{"format", "pt"}});
  std::vector<std::string> names;
  for (NamedTensor& named : pending_) names.push_back(std::move(named.name));
  shards_.push_back(std::move(names));
  pending_.clear();
  total_bytes_ += std::exchange(pending_bytes_, 0);
}

void FolderWriter::write_index() {
  Json map = Json::object();
  std::map<std::string, std::string> files;
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    const std::string file = shard_name(i, shards_.size()).string();
    fs::rename(partial_ / part_name(i), partial_ / file);
    for (const std::string& name : shards_[i]) files[name] = file;
  }
  if (shards_.size() == 1) return;
  const Json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", files}};
  safetensors::write_file_atomically(partial_ / "model.safetensors.index.json", dump_json(index, 2) + "\n");
}

void FolderWriter::finish(const std::string& quantization_config, bool separate_config) {
  const Json quantization = parse_object(quantization_config, "the quantization config");
  for (const std::string& name : source_.names())
    if (!taken_.contains(name)) add(name, source_.tensor(name));
  flush();
  try {
    write_index();
    for (const auto& entry : fs::directory_iterator(source_folder_))
      if (entry.is_regular_file() && passed_on(entry.path())) {
        const fs::path copy = partial_ / entry.path().filename();
        fs::copy_file(entry.path(), copy);
        fs::permissions(copy, fs::perms::owner_write, fs::perm_options::add);  // the source may be for reading alone
      }
    Json config = parse_json<Json>(config_);
    config["quantization_config"] = quantization;
    safetensors::write_file_atomically(partial_ / "config.json", dump_json(config, 2) + "\n");
    if (separate_config) safetensors::write_file_atomically(partial_ / "quantize_config.json", dump_json(quantization, 2) + "\n");
    fs::rename(partial_, target_);
    partial_.clear();
  } catch (const fs::filesystem_error& error) {
    fail<FileError>("{}: {}", target_.string(), error.what());
  }
}

}  // namespace graft::quant
