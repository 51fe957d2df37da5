#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <system_error>

#include "graft/core/formats/json.h"
#include "graft/core/safetensors.h"
#include "graft/core/safetensors_names.h"

namespace graft::safetensors {
namespace {

namespace fs = std::filesystem;

std::size_t dtype_rank(DType dtype) {
  const auto* row =
      std::find_if(dtype_names.begin(), dtype_names.end(), [&](const auto& names) { return names.second == dtype; });
  return static_cast<std::size_t>(row - dtype_names.begin());
}

// A file beside its target that takes the target's name when it is complete, and vanishes when it is not.
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path& target) : target_(target) {
    for (int attempt = 0; file_ < 0; ++attempt) {
      temporary_ = target.parent_path() / fmt::format(".{}.{}-{}.tmp", target.filename().string(), ::getpid(), attempt);
      file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (file_ < 0 && errno != EEXIST) refuse("cannot be created", errno);
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (file_ >= 0) ::close(file_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  void write(const void* data, std::int64_t bytes) {
    constexpr std::int64_t piece = 1 << 30;  // one call writes less than 2 GiB
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(file_, at, static_cast<std::size_t>(std::min(bytes, piece)));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse("cannot be written", errno);
      at += written, bytes -= written;
    }
  }

  // The data reach the disk before the name does, and the name before we return.
  void commit() {
    if (::fsync(file_) != 0) refuse("cannot be flushed", errno);
    const int closed = ::close(std::exchange(file_, -1));
    if (closed != 0) refuse("cannot be closed", errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) refuse("cannot be replaced", errno);
    temporary_.clear();
    const fs::path folder = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;  // a folder that may be written but not read: the rename stands
    ::fsync(directory);
    ::close(directory);
  }

 private:
  [[noreturn]] void refuse(std::string_view what, int code) const {
    fail<FileError>("{}: {}: {}", target_.string(), what, std::generic_category().message(code));
  }
  fs::path target_, temporary_;
  int file_ = -1;
};

}  // namespace

void save(const fs::path& path, const std::vector<NamedTensor>& tensors, const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedTensor*> order;
  std::set<std::string_view> names;
  for (const auto& named : tensors) {
    check(named.tensor.defined(), "saving {}: tensor '{}' is undefined", path.string(), named.name);
    check(named.name != "__metadata__", "saving {}: '__metadata__' cannot be the name of a tensor", path.string());
    check(names.insert(named.name).second, "saving {}: tensor '{}' is given twice", path.string(), named.name);
    order.push_back(&named);
  }
  // Wide elements first keeps every tensor aligned, since the data begin at a multiple of eight.
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const auto rank_a = dtype_rank(a->tensor.dtype()), rank_b = dtype_rank(b->tensor.dtype());
    return rank_a != rank_b ? rank_a > rank_b : a->name < b->name;
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t end = 0;
  for (const auto* named : order) {
    const Tensor& tensor = named->tensor;
    const std::int64_t begin = end;
    end += tensor.count() * size_of(tensor.dtype());
    // push_back: assignment through [] would search all earlier keys.
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(
        named->name, nlohmann::ordered_json{{"dtype", dtype_names[dtype_rank(tensor.dtype())].first},
                                            {"shape", std::vector<std::int64_t>(tensor.shape().begin(), tensor.shape().end())},
                                            {"data_offsets", {begin, end}}});
  }
  std::string text;
  try {
    text = dump_json(header);
  } catch (const nlohmann::json::exception&) {
    fail("saving {}: a name or a metadata string is not valid UTF-8", path.string());
  }
  text.append((prefix_bytes - text.size() % prefix_bytes) % prefix_bytes, ' ');
  check(std::ssize(text) <= max_header_bytes, "saving {}: a header of {} bytes; the format allows {}", path.string(), text.size(),
        max_header_bytes);

  std::array<unsigned char, prefix_bytes> length;
  for (std::size_t i = 0; i < length.size(); ++i) length[i] = static_cast<unsigned char>(text.size() >> (8 * i));
  AtomicFile file(path);
  file.write(length.data(), prefix_bytes);
  file.write(text.data(), static_cast<std::int64_t>(text.size()));
  for (const auto* named : order) {
    Tensor tensor = named->tensor;
    if (!tensor.device().is_cpu() || !tensor.is_contiguous()) {
      tensor = Tensor::empty(tensor.shape(), tensor.dtype());
      tensor.copy_(named->tensor);
    }
    file.write(tensor.view().data, tensor.count() * size_of(tensor.dtype()));
  }
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text.data(), static_cast<std::int64_t>(text.size()));
  file.commit();
}

}  // namespace graft::safetensors
