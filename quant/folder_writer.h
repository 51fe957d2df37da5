// Writes a model folder that is another one with some tensors replaced: packed layers for dense ones, and whatever changed with
// them.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "graft/core/safetensors.h"
#include "graft/quant/format.h"

namespace graft::quant {

/// Everything is written beside `target` and appears under its name in finish(), complete. Until then, and if finish() is never
/// reached, there is no such folder.
class FolderWriter {
 public:
  /// FileError if `source` cannot be read or `target` exists; ValueError if `source` is quantized already. A shard holds at most
  /// `shard_bytes` or one tensor.
  FolderWriter(std::filesystem::path source, std::filesystem::path target, std::int64_t shard_bytes = std::int64_t{4} << 30);
  ~FolderWriter();
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;

  const safetensors::Checkpoint& source() const { return source_; }

  /// Writes the packed layer in place of `module`.weight (a bias of the source stays). FileError if the source has no such
  /// tensor, ValueError if it is not [out, in] or was replaced before.
  void put(const std::string& module, const Stored& stored);
  /// Writes `value` in place of the source's tensor `name`, in the dtype that it has there. FileError if there is none,
  /// ValueError for another shape or if it was replaced before.
  void replace(const std::string& name, const Tensor& value);

  /// Writes all other tensors and files of the source as they are, config.json with `quantization_config` (the text of a JSON
  /// object), and that object as quantize_config.json too if `separate_config`.
  void finish(const std::string& quantization_config, bool separate_config);

 private:
  void take(const std::string& name);
  void add(std::string name, Tensor tensor);
  void flush();
  void write_index();

  std::filesystem::path source_folder_, target_, partial_;
  safetensors::Checkpoint source_;
  std::string config_;
  std::int64_t shard_bytes_;
  std::set<std::string> taken_;       // names of the source that are not passed on
  std::vector<NamedTensor> pending_;  // of the next shard
  std::int64_t pending_bytes_ = 0, total_bytes_ = 0;
  std::vector<std::vector<std::string>> shards_;  // names, in shards that are written
};

}  // namespace graft::quant
