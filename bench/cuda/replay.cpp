#include "graft/bench/cuda/replay.h"

#include <cuda.h>

#include "graft/cuda/gpu.h"

namespace graft::bench {
namespace {

using cuda::require;

cudaStream_t stream() { return cuda::current_gpu().stream(); }

/// Of a node's kernel, whoever loaded it: the runtime's own function knows those of the runtime alone, and cuBLASLt's are not among them.
Replay::Launch configuration(cudaGraphNode_t node) {
  using Ask = CUresult (*)(CUgraphNode, CUDA_KERNEL_NODE_PARAMS*);
  static const Ask ask = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    require(cudaGetDriverEntryPointByVersion("cuGraphKernelNodeGetParams", &function, 12000, cudaEnableDefault, &found),
            "asking the driver for a function");
    check<CudaError>(found == cudaDriverEntryPointSuccess && function, "the driver has no cuGraphKernelNodeGetParams");
    return reinterpret_cast<Ask>(function);
  }();
  CUDA_KERNEL_NODE_PARAMS of{};
  const CUresult result = ask(node, &of);
  check<CudaError>(result == CUDA_SUCCESS, "asking for a launch's configuration: CUDA error {}", static_cast<int>(result));
  return {dim3(of.gridDimX, of.gridDimY, of.gridDimZ), dim3(of.blockDimX, of.blockDimY, of.blockDimZ), of.sharedMemBytes};
}

}  // namespace

Replay::Replay(std::function<void()> launches) : launches_(std::move(launches)) {
  require(cudaEventCreate(&begin_), "making an event");
  require(cudaEventCreate(&end_), "making an event");
  try {
    capture();
  } catch (const Error& error) {
    trouble_ = error.what();
    executable_ = nullptr;
    kernels_.clear();
  }
  start();
  cuda::current_gpu().wait();
}

Replay::~Replay() {
  if (executable_) cudaGraphExecDestroy(executable_);
  if (graph_) cudaGraphDestroy(graph_);
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGraphMemTrim(device);  // what launches allocated belongs to the graph
}

void Replay::capture() {
  require(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "beginning to capture");
  std::string trouble;
  try {
    launches_();
  } catch (const Error& error) {
    trouble = error.what();
  }
  const cudaError_t ended = cudaStreamEndCapture(stream(), &graph_);  // whatever happened: the stream must not stay a recorder
  check<CudaError>(trouble.empty(), "{}", trouble);
  require(ended, "capturing");
  std::size_t count = 0;
  require(cudaGraphGetNodes(graph_, nullptr, &count), "looking at a graph");
  std::vector<cudaGraphNode_t> nodes(count);
  require(cudaGraphGetNodes(graph_, nodes.data(), &count), "looking at a graph");
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    require(cudaGraphNodeGetType(node, &type), "looking at a graph");
    if (type == cudaGraphNodeTypeKernel) kernels_.push_back(configuration(node));
  }
  require(cudaGraphInstantiate(&executable_, graph_, 0), "making a graph");
  require(cudaGraphUpload(executable_, stream()), "making a graph");
}

void Replay::start() const {
  if (executable_) require(cudaGraphLaunch(executable_, stream()), "launching a graph");
  else launches_();
}

double Replay::seconds() const {
  start();
  require(cudaEventRecord(begin_, stream()), "recording an event");
  start();
  require(cudaEventRecord(end_, stream()), "recording an event");
  require(cudaEventSynchronize(end_), "waiting for the GPU");
  float milliseconds = 0;
  require(cudaEventElapsedTime(&milliseconds, begin_, end_), "asking for a time");
  return milliseconds * 1e-3;
}

void launch_empty(const std::vector<Replay::Launch>& launches) {
  static const cudaKernel_t nothing = [] {
    // Compiled by the driver, for any GPU.
    static constexpr char text[] = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry nothing() { ret; }\n";
    cudaLibrary_t library = nullptr;
    cudaKernel_t kernel = nullptr;
    require(cudaLibraryLoadData(&library, text, nullptr, nullptr, 0, nullptr, nullptr, 0), "loading an empty kernel");
    require(cudaLibraryGetKernel(&kernel, library, "nothing"), "loading an empty kernel");
    require(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(cuda::properties().most_shared)),
            "setting up an empty kernel");
    return kernel;
  }();
  for (const Replay::Launch& launch : launches)
    require(cudaLaunchKernel(reinterpret_cast<const void*>(nothing), launch.grid, launch.block, nullptr, launch.shared, stream()),
            "launching an empty kernel");
}

}  // namespace graft::bench
