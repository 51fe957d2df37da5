// Device time of a sequence of launches on the library's stream: a CUDA graph of them, replayed between two events.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <vector>

namespace graft::bench {

class Replay {
 public:
  /// Captures what `launches` launches; it has run before, so that nothing is loaded or chosen within. What cannot be captured is
  /// launched one by one, and trouble() says why.
  explicit Replay(std::function<void()> launches);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  /// Seconds from the first to the last of one replay, which follows another so that the GPU never waits for the host.
  double seconds() const;
  const std::string& trouble() const { return trouble_; }

  /// A launch's configuration, of every kernel that was captured.
  struct Launch {
    dim3 grid, block;
    unsigned shared;
  };
  const std::vector<Launch>& kernels() const { return kernels_; }

 private:
  void capture();
  void start() const;

  std::function<void()> launches_;
  std::string trouble_;
  std::vector<Launch> kernels_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// Launches a kernel that does nothing with each of these configurations: what the launches alone cost.
void launch_empty(const std::vector<Replay::Launch>& launches);

}  // namespace graft::bench
