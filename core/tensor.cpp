#include "graft/core/tensor.h"

#include <algorithm>
#include <atomic>

#include "graft/core/kernels.h"

namespace graft {

struct Tensor::Impl {
  std::shared_ptr<Storage> storage;
  std::int64_t offset = 0;
  Shape shape;
  Strides strides;
  DType dtype = DType::f32;
  // What the tape thinks of it. A leaf may be frozen and trained again while other threads record operations on it, so that its node,
  // once made, stays.
  enum Role { constant, frozen, trained, recorded };
  std::atomic<Role> role{constant};
  std::shared_ptr<Node> node;
  Tensor grad;
};

const Tensor::Impl& Tensor::impl(const char* what) const {
  check(impl_ != nullptr, "{}: the tensor is undefined", what);
  return *impl_;
}

// ---- making ----

namespace {

// Whether a view stays within `held` elements. The outermost elements that it reaches may be further away than 63 bits can count.
bool is_within(std::int64_t held, const Shape& shape, const Strides& strides, std::int64_t offset) {
  if (shape.count() == 0) return true;
  std::int64_t first = offset, last = offset;
  for (int i = 0; i < shape.rank(); ++i) {
    std::int64_t& end = strides[i] < 0 ? first : last;
    std::int64_t reach;
    if (__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) || __builtin_add_overflow(end, reach, &end)) return false;
  }
  return first >= 0 && last < held;
}

}  // namespace

Tensor Tensor::of(std::shared_ptr<Storage> storage, DType dtype, const Shape& shape, const Strides& strides,
                  std::int64_t offset) {
  check(shape.rank() == strides.rank(), "shape {} needs as many strides, not {}", shape, strides);
  const std::int64_t held = storage->bytes() / size_of(dtype);
  check(is_within(held, shape, strides, offset), "a view of shape {}, strides {} and offset {} reaches outside {} elements",
        shape, strides, offset, held);
  auto impl = std::make_shared<Impl>();
  impl->storage = std::move(storage);
  impl->offset = offset;
  impl->shape = shape;
  impl->strides = strides;
  impl->dtype = dtype;
  return Tensor(std::move(impl));
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  std::int64_t bytes;
  check<OutOfMemoryError>(!__builtin_mul_overflow(shape.count(), size_of(dtype), &bytes), "shape {} of {} is too large", shape,
                          dtype);
  return of(Storage::allocate(bytes, device), dtype, shape, contiguous_strides(shape));
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor y = empty(shape, dtype, device);
  y.fill_(value);
  return y;
}

Tensor Tensor::arange(std::int64_t n, DType dtype, Device device) {
  Tensor counted = empty({n}, DType::i64);
  for (std::int64_t i = 0; i < n; ++i) counted.data<std::int64_t>()[i] = i;
  Tensor y = empty({n}, dtype, device);
  y.copy_(counted);
  return y;
}

Tensor Tensor::eye(std::int64_t n, DType dtype, Device device) {
  Tensor y = zeros({n, n}, dtype, device);
  y.alias({n}, {n + 1}, 0).fill_(1);
  return y;
}

template <class T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape) {
  check(static_cast<std::int64_t>(values.size()) == shape.count(), "{} values do not fill shape {}", values.size(), shape);
  Tensor y = empty(shape, dtype_of<T>);
  std::copy(values.begin(), values.end(), y.data<T>());
  return y;
}

// ---- describing ----

const Shape& Tensor::shape() const { return impl("shape").shape; }
const Strides& Tensor::strides() const { return impl("strides").strides; }
std::int64_t Tensor::dim(int i) const { return shape()[wrap_dim(i, rank(), "dim")]; }
std::int64_t Tensor::count() const { return shape().count(); }
DType Tensor::dtype() const { return impl("dtype").dtype; }
Device Tensor::device() const { return impl("device").storage->device(); }
const std::shared_ptr<Storage>& Tensor::storage() const { return impl("storage").storage; }
std::int64_t Tensor::offset() const { return impl("offset").offset; }

bool Tensor::is_contiguous() const {
  std::int64_t step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape()[i] != 1 && strides()[i] != step) return false;
    step *= shape()[i];
  }
  return true;
}

View Tensor::view() const {
  const Impl& t = impl("view");
  View view;
  view.data = static_cast<char*>(t.storage->data()) + t.offset * size_of(t.dtype);
  view.dtype = t.dtype;
  view.rank = t.shape.rank();
  std::copy(t.shape.begin(), t.shape.end(), view.sizes);
  std::copy(t.strides.begin(), t.strides.end(), view.strides);
  return view;
}

// ---- elements ----

template <class T>
T* Tensor::data() const {
  const Impl& t = impl("data");
  check<TypeError>(t.dtype == dtype_of<T>, "data: the tensor holds {}, not {}", t.dtype, dtype_of<T>);
  check(t.storage->device().is_cpu(), "data: the tensor is on {}; copy it to the CPU first", t.storage->device());
  return static_cast<T*>(t.storage->data()) + t.offset;
}

namespace {

// A tensor of dtype T on the CPU with the same values: the tensor itself when it already is one.
Tensor on_cpu(const Tensor& x, DType dtype) {
  if (x.device().is_cpu() && x.dtype() == dtype && x.is_contiguous()) return x;
  Tensor y = Tensor::empty(x.shape(), dtype);
  y.copy_(x);
  return y;
}

}  // namespace

double Tensor::item() const {
  check(count() == 1, "item: the tensor has shape {}, not one element", shape());
  return *on_cpu(*this, DType::f64).data<double>();
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const Tensor values = on_cpu(*this, dtype_of<T>);
  const T* data = values.data<T>();
  return std::vector<T>(data, data + values.count());
}

// ---- views and copies ----

Tensor Tensor::alias(const Shape& shape, const Strides& strides, std::int64_t offset) const {
  return of(storage(), dtype(), shape, strides, offset);
}

Tensor Tensor::detach() const { return alias(shape(), strides(), offset()); }

Tensor Tensor::clone() const {
  Tensor y = empty(shape(), dtype(), device());
  y.copy_(*this);
  return y;
}

// ---- changing in place ----

void Tensor::copy_(const Tensor& source) const {
  check(shape() == source.shape(), "copy_: shape {} cannot take the values of shape {}", shape(), source.shape());
  check(!storage()->read_only(), "copy_: the tensor views memory that is only readable");
  bump_version();
  if (device() == source.device()) {
    kernel(device(), &Kernels::copy, "copy_")(source.view(), view());
    return;
  }
  // Between devices only bytes travel: convert and straighten where the source is, then move, then arrange here.
  Tensor straight = source;
  if (!source.is_contiguous() || source.dtype() != dtype()) {
    straight = empty(source.shape(), dtype(), source.device());
    straight.copy_(source);
  }
  Tensor landing = is_contiguous() ? *this : empty(shape(), dtype(), device());
  DeviceRuntime& mover = runtime(device().is_cpu() ? source.device() : device());
  mover.copy(landing.view().data, device(), straight.view().data, source.device(),
             static_cast<std::size_t>(count() * size_of(dtype())));
  if (!landing.same(*this)) kernel(device(), &Kernels::copy, "copy_")(landing.view(), view());
}

void Tensor::fill_(double value) const {
  check(!storage()->read_only(), "fill_: the tensor views memory that is only readable");
  bump_version();
  kernel(device(), &Kernels::fill, "fill_")(view(), value);
}

void Tensor::set_data(const Tensor& other) const {
  check(shape() == other.shape(), "set_data: shape {} cannot become {}", shape(), other.shape());
  check<TypeError>(dtype() == other.dtype(), "set_data: elements of type {} cannot become {}", dtype(), other.dtype());
  check(impl_->role.load(std::memory_order_relaxed) != Impl::recorded, "set_data: this tensor is the result of recorded operations");
  const std::uint64_t before = version();
  impl_->storage = other.storage();
  impl_->offset = other.offset();
  impl_->strides = other.strides();
  while (version() <= before) bump_version();  // what was saved for backward is not this
}

std::uint64_t Tensor::version() const { return storage()->version(); }
void Tensor::bump_version() const { storage()->bump_version(); }

// ---- differentiation ----

bool Tensor::requires_grad() const {
  const Impl::Role role = impl("requires_grad").role.load(std::memory_order_relaxed);
  return role == Impl::trained || role == Impl::recorded;
}

Tensor& Tensor::set_requires_grad(bool requires_grad) {
  check<TypeError>(!requires_grad || is_floating(dtype()), "set_requires_grad: elements of type {} cannot be differentiated",
                   dtype());
  const Impl::Role role = impl("set_requires_grad").role.load(std::memory_order_relaxed);
  check(role != Impl::recorded, "set_requires_grad: this tensor is the result of recorded operations; detach() it first");
  if (requires_grad || role == Impl::trained)
    impl_->role.store(requires_grad ? Impl::trained : Impl::frozen, std::memory_order_relaxed);
  return *this;
}

Tensor Tensor::grad() const { return impl("grad").grad; }

void Tensor::set_grad(Tensor grad) const {
  impl("set_grad");
  check(!grad.defined() || grad.shape() == shape(), "set_grad: a gradient of shape {} for a tensor of shape {}",
        grad.defined() ? grad.shape() : Shape(), shape());
  impl_->grad = std::move(grad);
}

const std::shared_ptr<Node>& Tensor::node() const { return impl("node").node; }
void Tensor::set_node(std::shared_ptr<Node> node) const {
  impl_->node = std::move(node);
  Impl::Role unknown = Impl::constant;  // a leaf keeps its role
  impl_->role.compare_exchange_strong(unknown, Impl::recorded, std::memory_order_relaxed);
}

std::string to_string(const Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  std::string text = fmt::format("{}{}", tensor.dtype(), tensor.shape());
  if (tensor.count() <= 16) text += fmt::format(" {{{}}}", fmt::join(tensor.to_vector<double>(), ", "));
  return text;
}

#define GRAFT_INSTANTIATE(T)                                                      \
  template Tensor Tensor::from<T>(std::span<const T> values, const Shape& shape); \
  template T* Tensor::data<T>() const;                                            \
  template std::vector<T> Tensor::to_vector<T>() const;
GRAFT_INSTANTIATE(double)
GRAFT_INSTANTIATE(float)
GRAFT_INSTANTIATE(f16)
GRAFT_INSTANTIATE(bf16)
GRAFT_INSTANTIATE(std::int64_t)
GRAFT_INSTANTIATE(std::int32_t)
GRAFT_INSTANTIATE(std::int16_t)
GRAFT_INSTANTIATE(std::int8_t)
GRAFT_INSTANTIATE(std::uint8_t)
#undef GRAFT_INSTANTIATE
template bool* Tensor::data<bool>() const;

}  // namespace graft
