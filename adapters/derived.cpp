#include "graft/adapters/derived.h"

namespace graft::adapters {
namespace {

std::vector<std::uint64_t> versions(const std::vector<Tensor>& tensors) {
  std::vector<std::uint64_t> found;
  for (const Tensor& tensor : tensors) found.push_back(tensor.defined() ? tensor.version() : 0);
  return found;
}

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  bool equal = a.size() == b.size();
  for (std::size_t i = 0; equal && i < a.size(); ++i) equal = a[i].same(b[i]);
  return equal;
}

bool same(const std::weak_ptr<const void>& a, const std::weak_ptr<const void>& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}

}  // namespace

struct Derived::Kept {
  Source source;
  std::vector<std::uint64_t> versions;
  Tensor value;
};

Tensor Derived::find(const Source& source) const {
  std::shared_ptr<const Kept> kept;
  {
    const std::lock_guard lock(mutex_);
    kept = kept_;
  }
  const bool current = kept && same(kept->source.tensors, source.tensors) && kept->versions == versions(source.tensors) &&
                       kept->source.numbers == source.numbers && same(kept->source.object, source.object);
  return current ? kept->value : Tensor();
}

void Derived::keep(const Source& source, const Tensor& value) const {
  auto kept = std::make_shared<const Kept>(Kept{source, versions(source.tensors), value});
  const std::lock_guard lock(mutex_);
  kept_ = std::move(kept);
}

}  // namespace graft::adapters
