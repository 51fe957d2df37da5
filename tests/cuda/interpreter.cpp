// The backend of the CUDA half where no GPU is: the library's PTX is interpreted, and memory is the host's, behind addresses that only
// the interpreter understands. Whatever a kernel reads before somebody wrote it is a fault, from the moment of its allocation on.
#include "interpreter.h"

#include <bit>
#include <cmath>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <regex>
#include <span>
#include <vector>

#include "graft/core/kernels.h"
#include "graft/cuda/backend.h"
#include "graft/cuda/table.h"

#include "ptx/launch.h"
#include "ptx/memory.h"

namespace graft::cuda {
namespace {

class Interpreter {
 public:
  void* allocate(std::size_t bytes) {
    // Released buffers serve again: the interpreter's memory only grows. Their bytes are unwritten once more.
    auto& free = free_[bytes];
    if (!free.empty()) {
      void* data = free.back();
      free.pop_back();
      auto& written = at(data).first->written;
      std::fill(written.begin(), written.end(), 0);
      live_[data] = bytes;
      return data;
    }
    check<OutOfMemoryError>(bytes <= std::size_t{1} << 30, "out of memory: {} bytes could not be allocated on cuda:0", bytes);
    host_.push_back(std::make_unique<std::byte[]>(bytes));
    void* data = memory_.undefined(std::span(host_.back().get(), bytes), "allocation");
    live_[data] = bytes;
    return data;
  }
  void release(void* data) noexcept {
    const auto found = live_.find(data);
    if (found == live_.end()) return;
    free_[found->second].push_back(data);
    live_.erase(found);
  }
  /// Where `bytes` bytes at a device's address lie in the host's memory, as something that is read or written.
  const std::byte* readable(const void* data, std::size_t bytes) {
    const auto [buffer, offset] = at(data);
    check(offset >= 0 && offset + bytes <= buffer->size, "a copy of {} bytes from offset {} of {}", bytes, offset, buffer->size);
    return buffer->data + offset;
  }
  std::byte* writable(void* data, std::size_t bytes) {
    const auto [buffer, offset] = at(data);
    check(offset >= 0 && offset + bytes <= buffer->size, "a copy of {} bytes to offset {} of {}", bytes, offset, buffer->size);
    return buffer->write(offset, bytes);
  }
  bool knows(const void* data) const {
    const auto above = live_.upper_bound(const_cast<void*>(data));
    if (above == live_.begin()) return false;
    const auto& [begin, bytes] = *std::prev(above);
    return data < static_cast<const std::byte*>(begin) + bytes;
  }
  void run(const Kernel& kernel, Grid grid, int threads, std::size_t shared, const void* argument, std::size_t bytes) {
    const auto found = modules_.try_emplace(kernel.image);
    if (found.second) found.first->second = ptx::Module::read(path_of(kernel.image));
    const ptx::Argument arguments[] = {{argument, bytes}};
    const ptx::Launch launch{.grid = {static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)},
                             .block = {static_cast<unsigned>(threads)},
                             .dynamic_shared = shared};
    ptx::run(found.first->second, kernel.name, launch, memory_, std::span<const ptx::Argument>(arguments));
  }
  static std::string path_of(std::string_view image) { return fmt::format("{}/{}.ptx", GRAFT_PTX_DIR, image); }
  void replace(const std::string& image, ptx::Module module) { modules_.insert_or_assign(image, std::move(module)); }
  /// The image is read again when a kernel of it is launched next.
  void forget(const std::string& image) { modules_.erase(image); }

 private:
  std::pair<ptx::Allocation*, std::int64_t> at(const void* data) try {
    return memory_.contents->at(reinterpret_cast<std::uint64_t>(data));
  } catch (const ptx::Refusal& refusal) {
    fail<CudaError>("not the device's memory: {}", refusal.reason);
  }

  ptx::Memory memory_;
  std::vector<std::unique_ptr<std::byte[]>> host_;
  std::map<void*, std::size_t> live_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::map<std::string, ptx::Module, std::less<>> modules_;
};

// Autograd may release from several threads.
std::recursive_mutex mutex;
Interpreter& interpreter() {
  static Interpreter* const one = new Interpreter;
  return *one;
}

struct InterpretedRuntime final : DeviceRuntime {
  void* allocate(std::size_t bytes) override { return cuda::allocate(bytes); }
  void release(void* data, std::size_t) noexcept override { cuda::release(data); }
  void empty_cache() noexcept override {}
  const Kernels& kernels() const override { return cuda_kernels(); }
  void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) override {
    if (bytes == 0) return;
    const std::lock_guard lock(mutex);
    const void* source = from_device.is_cpu() ? from : interpreter().readable(from, bytes);
    void* target = to_device.is_cpu() ? to : interpreter().writable(to, bytes);
    std::memcpy(target, source, bytes);
  }
};

}  // namespace

Current::Current(int) {}
Current::Current(const void* data) {
  check<CudaError>(interpreter().knows(data), "a kernel for GPUs was given memory that is on none");
}
Current::~Current() = default;

// An H200's, but few multiprocessors, so that small problems are divided too.
Properties properties() { return {90, 4, 227 << 10}; }

void* allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  return interpreter().allocate(bytes ? bytes : 1);
}
void release(void* data) noexcept {
  const std::lock_guard lock(mutex);
  interpreter().release(data);
}
void read(void* host, const void* device, std::size_t bytes) { runtime(0).copy(host, {}, device, Device::cuda(), bytes); }
void write(void* device, const void* host, std::size_t bytes) { runtime(0).copy(device, Device::cuda(), host, {}, bytes); }

void launch_bytes(const Kernel& kernel, Grid grid, int threads, std::size_t shared, const void* argument, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  interpreter().run(kernel, grid, threads, shared, argument, bytes);
}

namespace {

/// A copy in f32, rounded as cvt.rna.tf32 does: to nearest, ties away from zero.
class Tf32 {
 public:
  explicit Tf32(const View& m) : numbers_(static_cast<std::size_t>(m.count())), view_(m) {
    view_.data = numbers_.data();
    view_.strides[0] = m.sizes[1] * m.sizes[2], view_.strides[1] = m.sizes[2], view_.strides[2] = 1;
    cpu_kernels().copy(m, view_);
    for (float& x : numbers_)
      if (std::isfinite(x)) x = std::bit_cast<float>((std::bit_cast<std::uint32_t>(x) + 0x1000) & ~std::uint32_t{0x1fff});
  }
  const View& view() const { return view_; }

 private:
  std::vector<float> numbers_;
  View view_;
};

}  // namespace

// cuBLASLt is not interpreted. What it is asked for is, by the CPU's product over the matrices as they are described.
void multiply(const Gemm& gemm) {
  const std::lock_guard lock(mutex);
  const auto view = [&](const Gemm::Matrix& m, std::int64_t rows, std::int64_t columns, bool written) {
    check(m.ld >= (m.transposed ? rows : columns), "a leading dimension of {} for a matrix of {} × {}", m.ld, rows, columns);
    View v{nullptr, m.dtype, 3, {gemm.batch, rows, columns}, {m.distance, m.transposed ? 1 : m.ld, m.transposed ? m.ld : 1}};
    std::int64_t last = 0;
    for (int i = 0; i < 3; ++i) last += (v.sizes[i] - 1) * v.strides[i];
    interpreter().readable(m.data, static_cast<std::size_t>((last + 1) * size_of(m.dtype)));
    v.data = const_cast<std::byte*>(interpreter().readable(m.data, 0));
    // The bytes of each row, or column, become written.
    for (std::int64_t b = 0; written && b < gemm.batch; ++b)
      for (std::int64_t line = 0; line < (m.transposed ? columns : rows); ++line)
        interpreter().writable(static_cast<char*>(m.data) + (b * m.distance + line * m.ld) * size_of(m.dtype),
                               static_cast<std::size_t>((m.transposed ? rows : columns) * size_of(m.dtype)));
    return v;
  };
  check<TypeError>(gemm.a.dtype == gemm.b.dtype && (gemm.y.dtype == gemm.a.dtype || gemm.y.dtype == DType::f32),
                   "cuBLASLt has no product of {} and {} to {}", gemm.a.dtype, gemm.b.dtype, gemm.y.dtype);
  check<TypeError>(!gemm.tf32 || gemm.a.dtype == DType::f32, "cuBLASLt has no product of {} in tf32", gemm.a.dtype);
  const View a = view(gemm.a, gemm.rows, gemm.depth, false), b = view(gemm.b, gemm.depth, gemm.columns, false),
             y = view(gemm.y, gemm.rows, gemm.columns, true);
  if (gemm.tf32) cpu_kernels().matmul(Tf32(a).view(), Tf32(b).view(), y);
  else cpu_kernels().matmul(a, b, y);
}

Edited::Edited(std::string image, std::string_view kernel, std::span<const Edit> edits) : image_(std::move(image)) {
  std::ifstream file(Interpreter::path_of(image_));
  std::string text(std::istreambuf_iterator<char>(file), {});
  const std::size_t begin = text.find(fmt::format(".entry {}(", kernel));
  check(begin != text.npos, "there is no kernel {} in {}", kernel, image_);
  const std::size_t length = text.find(".entry", begin + 1) - begin;
  std::string body = text.substr(begin, length);
  for (const Edit& edit : edits) {
    const std::regex from(edit.from);
    std::vector<std::smatch> places(std::sregex_iterator(body.begin(), body.end(), from), {});
    check(!places.empty(), "there is no '{}' in {}", edit.from, kernel);
    if (edit.where == Edit::first) places.erase(places.begin() + 1, places.end());
    if (edit.where == Edit::last) places.erase(places.begin(), places.end() - 1);
    std::string changed;
    auto rest = body.cbegin();
    for (const std::smatch& place : places) {
      changed.append(rest, place[0].first).append(place.format(edit.to));
      rest = place[0].second;
    }
    body = changed.append(rest, body.cend());
  }
  const std::lock_guard lock(mutex);
  interpreter().replace(image_, ptx::Module::parse(text.replace(begin, length, body)));
}
Edited::~Edited() {
  const std::lock_guard lock(mutex);
  interpreter().forget(image_);
}

DeviceRuntime& runtime(int index) {
  static InterpretedRuntime* const one = new InterpretedRuntime;
  check<CudaError>(index == 0, "device cuda:{} was asked for, but the last of 1 GPUs is cuda:0", index);
  return *one;
}

int device_count() { return 1; }

}  // namespace graft::cuda
