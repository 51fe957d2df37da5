// safetensors: a strict reader over a mapped file, and a writer that replaces the target atomically.
// Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graft/core/module.h"

namespace graft::safetensors {

struct Entry {
  DType dtype;
  Shape shape;
  std::int64_t begin = 0, end = 0;  // bytes, from the start of the data
};

/// A mapped file. Tensors alias the mapping (read-only) and keep it alive.
class File {
 public:
  /// FileError naming the file and the rule that it breaks: missing, too short, header longer than the file or 100 MB, not UTF-8
  /// JSON, duplicate keys, unknown dtype, bad shape, span ≠ product of the shape, overlap, hole, or trailing bytes.
  static File open(const std::filesystem::path& path);
  const std::filesystem::path& path() const;
  const std::map<std::string, Entry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  bool contains(const std::string& name) const { return entries().count(name) != 0; }
  /// FileError if there is no such tensor.
  Tensor tensor(const std::string& name) const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

/// One file or the shards of an index file (model.safetensors.index.json), as one set of tensors.
class Checkpoint {
 public:
  /// A folder (model.safetensors.index.json, else model.safetensors, else the only *.safetensors), a file, or an index file.
  /// FileError for what is missing, for shard paths that leave the folder, and for tensors that the index and the shards disagree about.
  static Checkpoint open(const std::filesystem::path& path);
  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const { return where_.count(name) != 0; }
  const Entry& entry(const std::string& name) const;
  Tensor tensor(const std::string& name) const;
  std::int64_t bytes() const;  // of all tensors
  /// Of all files; where two have the same key, the first one's.
  std::map<std::string, std::string> metadata() const;

 private:
  std::vector<File> files_;
  std::map<std::string, std::size_t> where_;
};

/// Writes tensors (any strides, any device) sorted by name, to a temporary file beside `path` that is flushed and renamed over
/// it. On any FileError (disk full, no permission) the old file is untouched and the temporary one is gone.
void save(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
          const std::map<std::string, std::string>& metadata = {});

/// The same promise for a text file.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace graft::safetensors
