// The golden tests: cases made by the Python originals, found on disk and checked one by one.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>

#include "graft/core/safetensors.h"

namespace golden {

using Json = nlohmann::json;

/// One case: a file, a folder, or a row of a list.
struct Case {
  std::string suite, name;
  std::filesystem::path path;  // the file or folder; for a row, the list that holds it
  Json row;                    // null unless the case is a row
};

// A checker throws or fails an expectation when Graft disagrees with the case, and when it does not understand it.
void check_decode_case(const Case& golden_case);      // decode.cpp
void check_layers_case(const Case& golden_case);      // layers.cpp
void check_runs_case(const Case& golden_case);        // runs.cpp
void check_quantizers_case(const Case& golden_case);  // quantizers.cpp
void check_adapters_case(const Case& golden_case);    // runs.cpp
void check_errors_case(const Case& golden_case);      // errors.cpp
void check_tokenizer_case(const Case& golden_case);   // tokenizer.cpp

/// Makes a test of each case below root(). A file that no suite expects becomes a failing test.
void add_all();
/// The cases that compute on the tested device: single layers as GoldenLayers, whole runs as GoldenRuns. A root() that is not there becomes
/// a failing test.
void add_for_device();

/// The folder of the whole data: $GRAFT_GOLDEN, or the repository's own part.
std::filesystem::path root();

/// FileError naming the file when it is missing or not JSON.
Json read_json(const std::filesystem::path& path);

/// The tensors of a case's file, and what its metadata key "case" says.
class Tensors {
 public:
  explicit Tensors(const std::filesystem::path& path);
  const Json& info() const { return info_; }
  bool has(const std::string& name) const { return file_.contains(name); }
  /// As in the file, to compare with.
  graft::Tensor operator[](const std::string& name) const { return file_.tensor(name); }
  /// A copy on the tested device, to compute with.
  graft::Tensor copy(const std::string& name) const;
  const graft::safetensors::File& file() const { return file_; }

 private:
  graft::safetensors::File file_;
  Json info_;
};

/// Largest |got − want|, in f64, over the largest |want| (over 1 where want is zero everywhere); infinite where one is NaN or infinite and
/// the other is not equal to it. Expects equal shapes.
double worst_relative_error(const graft::Tensor& got, const graft::Tensor& want);
/// One unit in the last place of the largest entry, relative to it.
double unit(const graft::Tensor& want, graft::DType dtype);
/// What may lie between a result in half precision and the truth, relative to that: 1.2 times the original's own distance and one unit.
double half_tolerance(const graft::Tensor& theirs, const graft::Tensor& truth);

/// Expects equal shapes and worst_relative_error ≤ tolerance; failures name `what` and the worst entry.
void expect_close(const graft::Tensor& got, const graft::Tensor& want, double tolerance, const std::string& what);
/// The same with the difference alone.
void expect_close_absolute(const graft::Tensor& got, const graft::Tensor& want, double tolerance, const std::string& what);
/// Expects the same dtype, shape and bits.
void expect_same_bits(const graft::Tensor& got, const graft::Tensor& want, const std::string& what);
/// Expects the same tensors bit for bit under the same names, whatever their order.
void expect_same_files(const graft::safetensors::File& got, const graft::safetensors::File& want);

}  // namespace golden
