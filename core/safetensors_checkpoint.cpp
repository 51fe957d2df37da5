#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <set>
#include <system_error>

#include "graft/core/safetensors.h"

namespace graft::safetensors {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view index_suffix = ".safetensors.index.json";

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  check<FileError>(file.good() || file.eof(), "{}: cannot be read", path.string());
  return text;
}

// {tensor: shard} of an index file, its paths checked.
std::map<std::string, std::string> read_index(const fs::path& path) {
  std::vector<std::set<std::string>> keys;
  const auto no_duplicates = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key)
      check<FileError>(keys.back().insert(value.get<std::string>()).second, "{}: has the key '{}' twice", path.string(),
                       value.get<std::string>());
    return true;
  };
  nlohmann::json index;
  try {
    index = nlohmann::json::parse(read_text(path), no_duplicates);
  } catch (const nlohmann::json::exception& error) {
    fail<FileError>("{}: is not valid JSON: {}", path.string(), error.what());
  }
  check<FileError>(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
                   "{}: has no object weight_map", path.string());
  std::map<std::string, std::string> map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    check<FileError>(file.is_string(), "{}: the file of tensor '{}' is not a string", path.string(), name);
    const fs::path shard = file.get<std::string>();
    const bool inside = !shard.empty() && shard.is_relative() && std::find(shard.begin(), shard.end(), "..") == shard.end();
    check<FileError>(inside, "{}: tensor '{}' is said to be in '{}', outside the folder", path.string(), name, shard.string());
    map.emplace(name, shard.string());
  }
  return map;
}

// The file that stands for a folder: an index before single files, Hugging Face's own names before others.
fs::path weights_in(const fs::path& folder) {
  std::vector<fs::path> indexes, singles;
  std::error_code code;
  for (fs::directory_iterator i(folder, code), end; !code && i != end; i.increment(code)) {
    const std::string name = i->path().filename().string();
    if (name == "model.safetensors.index.json") return i->path();
    if (name.ends_with(index_suffix)) indexes.push_back(i->path());
    if (name.ends_with(".safetensors")) singles.push_back(i->path());
  }
  check<FileError>(!code, "{}: cannot be listed: {}", folder.string(), code.message());
  for (const auto& single : singles)
    if (single.filename() == "model.safetensors") return single;
  auto& found = indexes.empty() ? singles : indexes;
  check<FileError>(!found.empty(), "{}: holds no model.safetensors, no index and no other *.safetensors", folder.string());
  std::sort(found.begin(), found.end());
  check<FileError>(found.size() == 1, "{}: holds {} and {}, and no model.safetensors that would decide", folder.string(),
                   found[0].filename().string(), found.size() > 1 ? found[1].filename().string() : "");
  return found[0];
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& path) {
  std::error_code code;
  const auto status = fs::status(path, code);
  check<FileError>(fs::exists(status), "{}: does not exist", path.string());
  const fs::path file = fs::is_directory(status) ? weights_in(path) : path;
  Checkpoint checkpoint;
  if (file.extension() != ".json") {
    checkpoint.files_.push_back(File::open(file));
    for (const auto& [name, entry] : checkpoint.files_[0].entries()) checkpoint.where_.emplace(name, 0);
    return checkpoint;
  }

  const auto map = read_index(file);
  std::map<std::string, std::size_t> shards;
  for (const auto& [name, shard] : map) {
    const auto [at, added] = shards.emplace(shard, checkpoint.files_.size());
    if (added) checkpoint.files_.push_back(File::open(file.parent_path() / shard));
    check<FileError>(checkpoint.files_[at->second].contains(name), "{}: tensor '{}' is not in {}, where the index puts it",
                     file.string(), name, shard);
    checkpoint.where_.emplace(name, at->second);
  }
  for (const auto& [shard, at] : shards)
    for (const auto& [name, entry] : checkpoint.files_[at].entries()) {
      const auto listed = map.find(name);
      check<FileError>(listed != map.end(), "{}: tensor '{}' of {} is not listed", file.string(), name, shard);
      check<FileError>(listed->second == shard, "{}: tensor '{}' is in {} and in {}", file.string(), name, shard, listed->second);
    }
  return checkpoint;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(where_.size());
  for (const auto& [name, at] : where_) names.push_back(name);
  return names;
}

const Entry& Checkpoint::entry(const std::string& name) const {
  const auto found = where_.find(name);
  check<FileError>(found != where_.end(), "the checkpoint has no tensor '{}'", name);
  return files_[found->second].entries().at(name);
}

Tensor Checkpoint::tensor(const std::string& name) const {
  const auto found = where_.find(name);
  check<FileError>(found != where_.end(), "the checkpoint has no tensor '{}'", name);
  return files_[found->second].tensor(name);
}

std::int64_t Checkpoint::bytes() const {
  std::int64_t sum = 0;
  for (const auto& file : files_)
    for (const auto& [name, entry] : file.entries()) sum += entry.end - entry.begin;
  return sum;
}

std::map<std::string, std::string> Checkpoint::metadata() const {
  std::map<std::string, std::string> all;
  for (const auto& file : files_) all.insert(file.metadata().begin(), file.metadata().end());
  return all;
}

}  // namespace graft::safetensors
