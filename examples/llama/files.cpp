#include "graft/examples/llama/files.h"

#include <fstream>
#include <iterator>

#include "graft/core/error.h"

namespace graft::llama {

std::string read_text(const std::filesystem::path& path) {
  std::error_code error;
  check<FileError>(std::filesystem::exists(path, error), "{}: no such file", path.string());
  check<FileError>(std::filesystem::is_regular_file(path, error), "{}: a file is wanted, and this is none", path.string());
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  check<FileError>(file.is_open() && !file.bad(), "{}: cannot be read", path.string());
  return text;
}

}  // namespace graft::llama
