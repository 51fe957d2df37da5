// The tensor: a typed, strided view of a storage. Copies are cheap and share the data; views are free.
//
// Everything here is unrecorded. Differentiable functions are in autograd/ops.h; the few members below that are marked
// "recorded" are short spellings of those and are defined there.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "graft/core/dtype.h"
#include "graft/core/shape.h"
#include "graft/core/storage.h"
#include "graft/core/view.h"

namespace graft {

struct Node;  // autograd/tape.h
struct BackwardOptions;

class Tensor {
 public:
  /// An undefined tensor, the "none" of optional arguments.
  Tensor() = default;

  // ---- making ----
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {}) { return full(shape, 0, dtype, device); }
  static Tensor ones(const Shape& shape, DType dtype = DType::f32, Device device = {}) { return full(shape, 1, dtype, device); }
  static Tensor scalar(double value, DType dtype = DType::f32, Device device = {}) { return full({}, value, dtype, device); }
  /// 0, 1, …, n-1.
  static Tensor arange(std::int64_t n, DType dtype = DType::i64, Device device = {});
  /// The n × n identity.
  static Tensor eye(std::int64_t n, DType dtype = DType::f32, Device device = {});
  /// A CPU copy of `values` in the given shape; ValueError if the counts differ.
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  /// A view of a storage; ValueError if it would reach outside it. `offset` counts elements.
  static Tensor of(std::shared_ptr<Storage> storage, DType dtype, const Shape& shape, const Strides& strides,
                   std::int64_t offset = 0);

  // ---- describing ----
  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const;
  const Strides& strides() const;
  int rank() const { return shape().rank(); }
  /// Extent of dimension `i`, counted from the end when negative.
  std::int64_t dim(int i) const;
  std::int64_t count() const;
  DType dtype() const;
  Device device() const;
  bool is_contiguous() const;
  const std::shared_ptr<Storage>& storage() const;
  std::int64_t offset() const;
  View view() const;

  // ---- elements ----
  /// First element; TypeError if T is not the dtype, ValueError off the CPU.
  template <class T>
  T* data() const;
  /// The only element, as a double; ValueError if there are more. Copies from the device if needed.
  double item() const;
  /// All elements in row-major order, converted to T.
  template <class T>
  std::vector<T> to_vector() const;

  // ---- unrecorded views and copies ----
  /// Another view of the same storage.
  Tensor alias(const Shape& shape, const Strides& strides, std::int64_t offset) const;
  /// The same data, unknown to the tape.
  Tensor detach() const;
  /// An unrecorded contiguous copy.
  Tensor clone() const;

  // ---- changing in place: unrecorded, and backward refuses rules that captured the old values ----
  /// Copies and converts; `source` must have this shape.
  void copy_(const Tensor& source) const;
  void fill_(double value) const;
  /// Every handle of this tensor shows the elements of `other` from now on, wherever these lie; it stays the leaf that it is, and other views
  /// of its old elements stay what they are. ValueError for another shape and for a result of recorded operations, TypeError for another dtype.
  void set_data(const Tensor& other) const;
  std::uint64_t version() const;
  void bump_version() const;

  // ---- differentiation ----
  bool requires_grad() const;
  /// Marks a leaf as something to differentiate (or not); TypeError unless floating, ValueError for a result of recorded operations.
  Tensor& set_requires_grad(bool requires_grad = true);
  /// The accumulated gradient of a leaf; undefined before the first backward().
  Tensor grad() const;
  void set_grad(Tensor grad) const;
  /// Where the tape continues; null when nobody differentiates this tensor.
  const std::shared_ptr<Node>& node() const;
  void set_node(std::shared_ptr<Node> node) const;

  // ---- recorded: defined in autograd ----
  /// Accumulates into the gradients of all leaves below; the tensor must have one element unless `dy` is given.
  void backward(const Tensor& dy = {}) const;
  void backward(const Tensor& dy, const BackwardOptions& options) const;
  /// Matrix transpose of the last two dimensions.
  Tensor t() const;
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;
  Tensor reshape(const Shape& shape) const;
  Tensor contiguous() const;

  /// Identity: true if both are the same tensor (not equal values).
  bool same(const Tensor& other) const { return impl_ == other.impl_; }

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
  friend struct Node;
  explicit Tensor(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  const Impl& impl(const char* what) const;

 public:
  /// A reference that does not keep the tensor alive; lock() gives an undefined tensor once it is gone.
  class Weak {
   public:
    Weak() = default;
    explicit Weak(const Tensor& tensor) : impl_(tensor.impl_) {}
    Tensor lock() const { return Tensor(impl_.lock()); }

   private:
    std::weak_ptr<Impl> impl_;
  };
};

/// "f32[2, 3]", with values for small tensors.
std::string to_string(const Tensor& tensor);

}  // namespace graft
