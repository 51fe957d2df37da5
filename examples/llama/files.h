// Reading whole text files.
#pragma once

#include <filesystem>
#include <string>

namespace graft::llama {

/// The bytes of a file; FileError naming it if it is missing, not a regular file, or unreadable.
std::string read_text(const std::filesystem::path& path);

}  // namespace graft::llama
