// The interpreter behind the CUDA half, for tests of what it finds in the library's own kernels.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace graft::cuda {

/// A change of a kernel's text: `to`, in which $1 is a group, stands for what the regular expression `from` matches.
struct Edit {
  std::string from, to;
  enum Where { everywhere, first, last } where = everywhere;
};

/// While it lives, a kernel of an image has its text changed by `edits` in turn; ValueError if one finds nothing to change.
class Edited {
 public:
  Edited(std::string image, std::string_view kernel, std::span<const Edit> edits);
  ~Edited();
  Edited(const Edited&) = delete;
  Edited& operator=(const Edited&) = delete;

 private:
  std::string image_;
};

}  // namespace graft::cuda
