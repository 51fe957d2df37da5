// The compiled kernels of one source, as they lie in the library: machine code for the architectures of the build, and PTX.
#pragma once

#include <span>

namespace graft::cuda {

struct Image {
  const char* name;  // cuda/<name>.cu
  const void* data;
};
std::span<const Image> images();

}  // namespace graft::cuda
