// The folder that a run writes to: made early, so that one that cannot be written to is refused before any work, and gone again
// when a run ends with nothing to keep.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

namespace graft::llama {

class OutputFolder {
 public:
  /// Makes the folder, and those above it that are missing. FileError if that fails or nothing could be written in it.
  explicit OutputFolder(const std::filesystem::path& path);
  /// Removes what the constructor made, unless something was saved.
  ~OutputFolder() { remove_made(); }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// Runs `save` on the folder, which is still empty; if that throws, it is empty again.
  void first_save(const std::function<void()>& save);

 private:
  void remove_made();

  std::filesystem::path path_;
  std::vector<std::filesystem::path> made_;  // innermost first
};

}  // namespace graft::llama
