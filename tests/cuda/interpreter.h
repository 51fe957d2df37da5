// The interpreter behind the CUDA half, for tests of what it finds in the library's own kernels.
#pragma once

#include <string>
#include <string_view>

namespace graft::cuda {

/// While it lives, an image of the library has `to` wherever its text had `from`; ValueError if it nowhere has.
class Edited {
 public:
  Edited(std::string image, std::string_view from, std::string_view to);
  ~Edited();
  Edited(const Edited&) = delete;
  Edited& operator=(const Edited&) = delete;

 private:
  std::string image_;
};

}  // namespace graft::cuda
