// Loading a folder of packed layers: seconds and peak resident memory, against the file's size, what the repacked weights need,
// and how fast this disk reads the same files in the same run. Each load is a fresh process, so that its peak is its own.
//
//   load_bench                  folders of one shape in each method, made in a temporary place
//   load_bench --layers N       the same with N layers in each; below some 100 MB the program's own pages count for more than weights
//   load_bench FOLDER           a folder of yours
//
// Ends with 1 if a peak is above 1.05 x the files and the repacked weights.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "graft/autograd/ops.h"
#include "graft/bench/roofline.h"
#include "graft/core/parallel.h"
#include "graft/quant/checkpoint.h"
#include "graft/quant/kernels.h"
#include "graft/quant/pack_checkpoint.h"
#include "graft/quant/round_to_nearest.h"

namespace {

namespace fs = std::filesystem;
using namespace graft;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A line of /proc/self/status, in bytes: VmHWM is the peak of the resident memory since this program began.
double memory_line(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(name + ":")) return std::stod(line.substr(name.size() + 1)) * 1024;
  fail<FileError>("/proc/self/status has no {}", name);
}

// ---- the process that loads ----

struct Load {
  double seconds = 0;
  double packed = 0;  // bytes of repacked weights
  double peak = 0;    // resident bytes beyond those of the bare program
};

/// Everything in the folder as a model would take it: packed layers repacked, other tensors copied as they are stored.
Load load(const fs::path& folder) {
  const double bare = memory_line("VmRSS");
  Load load;
  const auto start = std::chrono::steady_clock::now();
  const auto checkpoint = quant::Checkpoint::open(folder);
  const auto weights = safetensors::Checkpoint::open(folder);
  std::vector<std::shared_ptr<LinearBase>> layers;
  std::vector<Tensor> others;
  const std::vector<std::string> modules = checkpoint.quantized_modules();
  for (const std::string& module : modules) {
    const auto [in, out] = checkpoint.features(module);
    layers.push_back(checkpoint.linear(module, in, out, DType::f32));
    const auto& packed = static_cast<const quant::QuantLinear&>(*layers.back()).packed();
    load.packed += static_cast<double>(packed.bytes());
  }
  for (const std::string& name : checkpoint.names()) {
    if (std::binary_search(modules.begin(), modules.end(), name.substr(0, name.rfind('.')))) continue;
    const auto& entry = weights.entry(name);
    others.push_back(checkpoint.tensor(name, entry.shape, entry.dtype));
  }
  load.seconds = seconds_since(start);
  load.peak = memory_line("VmHWM") - bare;
  return load;
}

Load load_in_a_new_process(const char* program, const fs::path& folder) {
  const std::string command = fmt::format("'{}' --child '{}'", program, folder.string());
  FILE* pipe = ::popen(command.c_str(), "r");
  check<FileError>(pipe != nullptr, "{}: cannot be started", command);
  Load load;
  const int read = std::fscanf(pipe, "%lf %lf %lf", &load.seconds, &load.packed, &load.peak);
  const int status = ::pclose(pipe);
  check<FileError>(read == 3 && status == 0, "{}: failed", command);
  return load;
}

// ---- the disk ----

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  return files;
}

/// Writes a file's pages back and drops them, so that the next read comes from the disk.
void forget(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check<FileError>(file >= 0, "{}: cannot be opened", path.string());
  ::fsync(file);
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
}

void forget_all(const fs::path& folder) {
  for (const fs::path& path : weight_files(folder)) forget(path);
}

/// Seconds to read all weights front to back, in pieces that are thrown away.
double read_seconds(const fs::path& folder) {
  std::vector<char> piece(std::size_t{8} << 20);
  const auto start = std::chrono::steady_clock::now();
  for (const fs::path& path : weight_files(folder)) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    check<FileError>(file >= 0, "{}: cannot be opened", path.string());
    while (::read(file, piece.data(), piece.size()) > 0) {
    }
    ::close(file);
  }
  return seconds_since(start);
}

// ---- one row ----

bool report(const char* program, const std::string& label, const fs::path& folder) {
  double bytes = 0;
  for (const fs::path& path : weight_files(folder)) bytes += static_cast<double>(fs::file_size(path));
  forget_all(folder);
  const double cold_read = read_seconds(folder), warm_read = read_seconds(folder);
  forget_all(folder);
  const Load cold = load_in_a_new_process(program, folder);
  const Load warm = load_in_a_new_process(program, folder);
  const double peak = std::max(cold.peak, warm.peak), bound = 1.05 * bytes + warm.packed;
  constexpr double mb = 1e6;
  fmt::print("{:12} {:8.1f} {:8.1f} | {:6.2f} {:6.2f} {:6.0f}% | {:6.2f} {:6.2f} {:6.0f}% | {:8.1f} {:8.1f} {:6.0f}%{}\n", label,
             bytes / mb, warm.packed / mb, cold_read, cold.seconds, 100 * cold_read / cold.seconds, warm_read, warm.seconds,
             100 * warm_read / warm.seconds, peak / mb, bound / mb, 100 * peak / bound, peak <= bound ? "" : "  ABOVE");
  std::fflush(stdout);
  return peak <= bound;
}

// ---- folders to load ----

/// `layers` times one random layer of 4096 × 4096 under different names, and an embedding. `fused`: layers come in pairs that
/// were permuted as one matrix and cut after that, as AutoEETQ does it.
void write_folder(const fs::path& folder, const quant::Grid& grid, std::string_view config, int layers, bool fused) {
  constexpr std::int64_t width = 4096;
  Generator random{.seed = 1};
  const auto stored = quant::to_stored(quant::round_to_nearest(normal({fused ? 2 * width : width, width}, 0, 0.02, random), grid),
                                       quant::usual_layout(grid));
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < layers; ++i)
    for (const auto& [part, tensor] : stored.tensors) {
      const std::string block = fmt::format("model.layers.{}.mlp.", i);
      if (!fused) tensors.push_back({fmt::format("{}{}", block, part), tensor});
      for (std::int64_t half = 0; fused && half < 2; ++half) {
        const Shape shape = tensor.rank() == 2 ? Shape{tensor.dim(0), width} : Shape{width};
        tensors.push_back({fmt::format("{}{}.{}", block, half == 0 ? "gate_proj" : "up_proj", part),
                           tensor.alias(shape, tensor.strides(), half * width)});
      }
    }
  tensors.push_back({"model.embed_tokens.weight", Tensor::full({4000, width}, 0.5, DType::f16)});
  fs::create_directories(folder);
  safetensors::save(folder / "model.safetensors", tensors);
  safetensors::write_file_atomically(folder / "config.json", fmt::format("{{\"quantization_config\": {}}}", config));
}

struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "graft-load-XXXXXX").string();
    check<FileError>(::mkdtemp(name.data()) != nullptr, "{}: cannot be made", name);
    path = name;
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

/// With `layers` in each folder, or as many as make some 300 MB. False if one peak was too high.
bool report_generated(const char* program, int layers) {
  const quant::Grid gptq{.bits = 4, .group_size = 128, .sym = true};
  const quant::Grid gptq3{.bits = 3, .group_size = 32, .sym = false};
  const quant::Grid gptq6{.bits = 6, .group_size = 64, .sym = false};
  const quant::Grid awq{.bits = 4, .group_size = 128, .sym = false, .rule = quant::GridRule::awq};
  const struct {
    const char* label;
    quant::Grid grid;
    const char* config;
    int layers;
    bool fused = false;
  } rows[] = {
      {"gptq 4 g128", gptq, R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "format": "gptq"})", 32},
      {"gptq 3 g32", gptq3, R"({"quant_method": "gptq", "bits": 3, "group_size": 32, "sym": false, "format": "gptq_v2"})", 32},
      {"gptq 6 g64", gptq6, R"({"quant_method": "gptq", "bits": 6, "group_size": 64, "sym": false, "format": "gptq_p"})", 20},
      {"awq 4 g128", awq, R"({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "gemm"})", 32},
      {"eetq", quant::eetq_grid(), R"({"quant_method": "eetq", "weights": "int8"})", 16},
      {"eetq fused", quant::eetq_grid(), R"({"quant_method": "eetq", "zero_point": false, "bits": 8})", 8, true}};
  bool kept = true;
  for (const auto& row : rows) {
    const TemporaryFolder folder;
    write_folder(folder.path, row.grid, row.config, layers > 0 ? layers : row.layers, row.fused);
    kept = report(program, row.label, folder.path) && kept;
  }
  return kept;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 3 && std::string_view(argv[1]) == "--child") {
    const Load result = load(argv[2]);
    fmt::print("{} {} {}\n", result.seconds, result.packed, result.peak);
    return 0;
  }
  const bool sized = argc == 3 && std::string_view(argv[1]) == "--layers";
  const int layers = sized ? std::atoi(argv[2]) : 0;
  if ((sized && layers < 1) || (!sized && argc > 2) || (argc == 2 && argv[1][0] == '-')) {
    fmt::print(stderr, "usage: load_bench [--layers N | FOLDER]\n");
    return 2;
  }
  const int threads = thread_pool()->size();
  fmt::print(
      "{} threads; memory reads {:.1f} GB/s. Times in seconds, sizes in MB; cold: the file is not in the page cache.\n"
      "%: of what reading the file alone takes, and of 1.05 x file + packed.\n"
      "{:12} {:>8} {:>8} | {:>6} {:>6} {:>7} | {:>6} {:>6} {:>7} | {:>8} {:>8} {:>7}\n",
      threads, bench::roofline(threads).bytes_per_second / 1e9, "", "file", "packed", "read", "load", "cold", "read", "load",
      "warm", "peak", "bound", "");
  const bool kept =
      argc == 2 ? report(argv[0], fs::path(argv[1]).filename().string(), argv[1]) : report_generated(argv[0], layers);
  return kept ? 0 : 1;
} catch (const std::exception& error) {
  fmt::print(stderr, "load_bench: {}\n", error.what());
  return 1;
}
