#include "graft/examples/llama/output_folder.h"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "graft/core/error.h"

namespace graft::llama {

namespace fs = std::filesystem;

OutputFolder::OutputFolder(const fs::path& path) : path_(path) {
  std::error_code error;
  for (fs::path folder = path; !folder.empty() && !fs::exists(folder, error); folder = folder.parent_path())
    made_.push_back(folder);
  fs::create_directories(path, error);
  if (!error && ::access(path.c_str(), W_OK | X_OK) != 0) error = {errno, std::generic_category()};
  if (!error) return;
  remove_made();
  fail<FileError>("{}: a folder to write to is wanted: {}", path.string(), error.message());
}

void OutputFolder::first_save(const std::function<void()>& save) {
  try {
    save();
  } catch (...) {
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(path_, ignored)) fs::remove_all(entry.path(), ignored);
    throw;
  }
  made_.clear();
}

// A folder that is not empty stays: somebody else put something there.
void OutputFolder::remove_made() {
  std::error_code ignored;
  for (const fs::path& folder : made_) fs::remove(folder, ignored);
}

}  // namespace graft::llama
