#include "graft/core/safetensors.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>

#include "graft/core/safetensors_names.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace graft::safetensors {
namespace {

namespace fs = std::filesystem;

std::string system_message(int code) { return std::generic_category().message(code); }

// Receives the header's JSON, which may be one object of objects and nothing else. A tree of the document would have swallowed
// duplicate keys, and would cost more memory than the tensors' own entries.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const fs::path& path, std::int64_t data_bytes) : path_(path), data_bytes_(data_bytes) {}

  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    switch (at_) {
      case At::start: return go(At::names);
      case At::metadata: return go(At::metadata_key);
      case At::entry: return go(At::field);
      default: refuse_value("an object");
    }
  }
  bool end_object() override {
    switch (at_) {
      case At::names: return go(At::end);
      case At::metadata_key: return go(At::names);
      default: finish_entry(); return go(At::names);
    }
  }
  bool key(string_t& key) override {
    if (at_ == At::names) return name_key(key);
    key_ = key;
    if (at_ == At::metadata_key) return go(At::metadata_value);
    if (key == "dtype") return first(dtype_.has_value(), At::dtype);
    if (key == "shape") return first(shape_.has_value(), At::shape);
    if (key == "data_offsets") return first(offsets_.has_value(), At::offsets);
    refuse("tensor '{}' has the field '{}'; known are dtype, shape and data_offsets", name_, key);
  }
  bool string(string_t& text) override {
    if (at_ == At::metadata_value) {
      if (!metadata.emplace(key_, text).second) refuse("the metadata has the key '{}' twice", key_);
      return go(At::metadata_key);
    }
    if (at_ != At::dtype) refuse_value("a string");
    for (const auto& [name, dtype] : dtype_names)
      if (name == text) dtype_ = dtype;
    if (!dtype_)
      refuse("tensor '{}' has elements of type '{}'; known are BOOL, U8, I8, I16, I32, I64, F16, BF16, F32, F64", name_, text);
    return go(At::field);
  }
  bool start_array(std::size_t) override {
    if (at_ == At::shape) return shape_.emplace(), go(At::extent);
    if (at_ == At::offsets) return offsets_.emplace(), go(At::offset);
    refuse_value("an array");
  }
  bool end_array() override { return go(At::field); }
  bool number_unsigned(number_unsigned_t number) override {
    if (at_ == At::extent) {
      if (shape_->rank() == max_rank) refuse("tensor '{}' has more than {} dimensions", name_, max_rank);
      if (number > static_cast<number_unsigned_t>(INT64_MAX)) refuse("tensor '{}' has an extent of {}", name_, number);
      shape_->push_back(static_cast<std::int64_t>(number));
    } else if (at_ == At::offset) {
      if (number > static_cast<number_unsigned_t>(data_bytes_))
        refuse("tensor '{}' reaches to byte {} of the data, which has {}", name_, number, data_bytes_);
      offsets_->push_back(static_cast<std::int64_t>(number));
      if (offsets_->size() > 2) refuse("tensor '{}' has more than two data_offsets", name_);
    } else {
      refuse_value("a number");
    }
    return true;
  }
  bool number_integer(number_integer_t number) override {
    if (at_ == At::extent || at_ == At::offset)
      refuse("tensor '{}' has a negative number, {}, in its shape or offsets", name_, number);
    refuse_value("a number");
  }
  bool number_float(number_float_t, const string_t& text) override {
    if (at_ == At::extent || at_ == At::offset)
      refuse("tensor '{}' has {}, not an integer, in its shape or offsets", name_, text);
    refuse_value("a number");
  }
  bool null() override { refuse_value("null"); }
  bool boolean(bool) override { refuse_value("a boolean"); }
  bool binary(binary_t&) override { refuse_value("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    refuse("the header is not valid UTF-8 JSON: {}", error.what());
  }

 private:
  enum class At {
    start,
    names,
    metadata,
    metadata_key,
    metadata_value,
    entry,
    field,
    dtype,
    shape,
    extent,
    offsets,
    offset,
    end
  };

  bool go(At at) {
    at_ = at;
    return true;
  }
  bool name_key(const std::string& key) {
    name_ = key;
    if (key == "__metadata__") {
      if (has_metadata_) refuse("the header has __metadata__ twice");
      has_metadata_ = true;
      return go(At::metadata);
    }
    if (entries.count(key)) refuse("tensor '{}' appears twice", key);
    dtype_.reset(), shape_.reset(), offsets_.reset();
    return go(At::entry);
  }
  bool first(bool seen, At next) {
    if (seen) refuse("tensor '{}' has the field '{}' twice", name_, key_);
    return go(next);
  }
  void finish_entry() {
    if (!dtype_ || !shape_ || !offsets_)
      refuse("tensor '{}' has no {}", name_, !dtype_ ? "dtype" : !shape_ ? "shape" : "data_offsets");
    if (offsets_->size() != 2) refuse("tensor '{}' has {} data_offsets, not two", name_, offsets_->size());
    const auto begin = (*offsets_)[0], end = (*offsets_)[1];
    // Zero extents do not excuse the others: strides are products of all of them.
    std::int64_t span = size_of(*dtype_);
    bool empty = false;
    for (auto extent : *shape_) {
      empty = empty || extent == 0;
      if (__builtin_mul_overflow(span, std::max<std::int64_t>(extent, 1), &span))
        refuse("tensor '{}' of shape {} has more bytes than can be counted", name_, *shape_);
    }
    if (empty) span = 0;
    if (begin > end) refuse("tensor '{}' begins at byte {} and ends before it, at {}", name_, begin, end);
    if (end - begin != span)
      refuse("tensor '{}' spans {} bytes, but {}{} needs {}", name_, end - begin, graft::name(*dtype_), *shape_, span);
    entries.emplace(name_, Entry{*dtype_, *shape_, begin, end});
  }
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
    fail<FileError>("{}: {}", path_.string(), fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void refuse_value(std::string_view what) {
    switch (at_) {
      case At::start: refuse("the header is {}, not an object", what);
      case At::metadata:
      case At::metadata_key:
      case At::metadata_value: refuse("the metadata holds {}; it must be an object of strings", what);
      case At::entry: refuse("tensor '{}' is {}, not an object", name_, what);
      default: refuse("tensor '{}' has {} in its {}", name_, what, key_);
    }
  }

  const fs::path& path_;
  std::int64_t data_bytes_;
  At at_ = At::start;
  bool has_metadata_ = false;
  std::string name_, key_;
  std::optional<DType> dtype_;
  std::optional<Shape> shape_;
  std::optional<std::vector<std::int64_t>> offsets_;
};

// Tensors in the order of their data must meet without a hole or an overlap, and fill the data.
void check_layout(const fs::path& path, const std::map<std::string, Entry>& entries, std::int64_t data_bytes) {
  std::vector<const std::pair<const std::string, Entry>*> order;
  order.reserve(entries.size());
  for (const auto& named : entries) order.push_back(&named);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::int64_t end = 0;
  for (const auto* named : order) {
    const auto& [name, entry] = *named;
    check<FileError>(entry.begin >= end, "{}: tensor '{}' begins at byte {}, inside another that ends at {}", path.string(), name,
                     entry.begin, end);
    check<FileError>(entry.begin == end, "{}: bytes {} to {} before tensor '{}' belong to no tensor", path.string(), end,
                     entry.begin, name);
    end = entry.end;
  }
  check<FileError>(end == data_bytes, "{}: {} bytes after the last tensor belong to no tensor", path.string(), data_bytes - end);
}

}  // namespace

struct File::Mapping {
  fs::path path;
  std::byte* bytes = nullptr;
  std::int64_t size = 0;
  std::int64_t data = 0;  // where the data begin
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;

  ~Mapping() {
    if (!bytes) return;
    forbid_tail(false);
    ::munmap(bytes, static_cast<std::size_t>(size));
  }

  // The last page is mapped whole, so reading beyond the file goes unnoticed: under the address sanitizer it shall not.
  void forbid_tail([[maybe_unused]] bool forbid) const {
#if defined(__SANITIZE_ADDRESS__)
    const auto page = static_cast<std::int64_t>(::sysconf(_SC_PAGESIZE));
    const auto tail = static_cast<std::size_t>((page - size % page) % page);
    if (forbid) ASAN_POISON_MEMORY_REGION(bytes + size, tail);
    else ASAN_UNPOISON_MEMORY_REGION(bytes + size, tail);
#endif
  }
};

File File::open(const fs::path& path) {
  const auto mapping = std::make_shared<Mapping>();
  mapping->path = path;
  {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    check<FileError>(file >= 0, "{}: cannot be opened: {}", path.string(), system_message(errno));
    struct stat status = {};
    const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    mapping->size = regular ? status.st_size : 0;
    void* bytes = MAP_FAILED;
    if (mapping->size >= prefix_bytes)
      bytes = ::mmap(nullptr, static_cast<std::size_t>(mapping->size), PROT_READ, MAP_PRIVATE, file, 0);
    const int code = errno;
    ::close(file);
    check<FileError>(regular, "{}: is not a regular file", path.string());
    check<FileError>(mapping->size >= prefix_bytes, "{}: has {} bytes, too few for the length of a header", path.string(),
                     mapping->size);
    check<FileError>(bytes != MAP_FAILED, "{}: cannot be mapped: {}", path.string(), system_message(code));
    mapping->bytes = static_cast<std::byte*>(bytes);
    mapping->forbid_tail(true);
  }

  std::uint64_t length = 0;
  for (int i = prefix_bytes - 1; i >= 0; --i) length = length << 8 | std::to_integer<std::uint64_t>(mapping->bytes[i]);
  check<FileError>(length <= max_header_bytes, "{}: the header claims {} bytes; at most {} are allowed", path.string(), length,
                   max_header_bytes);
  const auto header_bytes = static_cast<std::int64_t>(length);
  check<FileError>(header_bytes <= mapping->size - prefix_bytes, "{}: the header claims {} bytes, but only {} follow",
                   path.string(), length, mapping->size - prefix_bytes);
  mapping->data = prefix_bytes + header_bytes;

  const auto* header = reinterpret_cast<const char*>(mapping->bytes + prefix_bytes);
  check<FileError>(header_bytes > 0 && header[0] == '{', "{}: the header does not begin with '{{'", path.string());
  HeaderReader reader(path, mapping->size - mapping->data);
  nlohmann::json::sax_parse(header, header + header_bytes, &reader);
  check_layout(path, reader.entries, mapping->size - mapping->data);
  mapping->entries = std::move(reader.entries);
  mapping->metadata = std::move(reader.metadata);

  File opened;
  opened.mapping_ = mapping;
  return opened;
}

const fs::path& File::path() const { return mapping_->path; }
const std::map<std::string, Entry>& File::entries() const { return mapping_->entries; }
const std::map<std::string, std::string>& File::metadata() const { return mapping_->metadata; }

Tensor File::tensor(const std::string& name) const {
  const auto found = mapping_->entries.find(name);
  check<FileError>(found != mapping_->entries.end(), "{}: has no tensor '{}'", mapping_->path.string(), name);
  const Entry& entry = found->second;
  std::byte* data = mapping_->bytes + mapping_->data + entry.begin;
  const std::int64_t bytes = entry.end - entry.begin;
  if (entry.dtype == DType::boolean)  // any other byte would be undefined behaviour as a bool
    check<FileError>(std::all_of(data, data + bytes, [](std::byte byte) { return byte <= std::byte{1}; }),
                     "{}: tensor '{}' has a byte that is neither 0 nor 1, but is BOOL", mapping_->path.string(), name);
  std::shared_ptr<Storage> storage;
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(size_of(entry.dtype)) == 0) {
    storage = Storage::wrap(data, bytes, mapping_, true);
  } else {  // the format does not promise alignment
    storage = Storage::allocate(bytes);
    std::memcpy(storage->data(), data, static_cast<std::size_t>(bytes));
  }
  return Tensor::of(std::move(storage), entry.dtype, entry.shape, contiguous_strides(entry.shape));
}

}  // namespace graft::safetensors
