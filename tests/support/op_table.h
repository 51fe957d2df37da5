// One row per public operation of autograd/ops.h, hook.h and checkpoint.h: how to make its inputs, and what it must compute. tests/autograd/op_table_test.cpp
// derives from a row its value, gradients, layouts, dtypes, captures and thread checks.
#pragma once

#include <array>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "graft/core/tensor.h"

namespace graft::test {

/// A dense array of doubles, the currency of the naive references.
struct Array {
  using Index = std::array<std::int64_t, max_rank>;
  Shape shape;
  std::vector<double> data;

  explicit Array(const Shape& shape) : shape(shape), data(static_cast<std::size_t>(shape.count())) {}
  explicit Array(const Tensor& x) : shape(x.shape()), data(x.to_vector<double>()) {}
  /// The element at the first rank() entries of `at`; dimensions are matched from the end and extents of 1 repeat, as in a broadcast
  /// from `rank` dimensions.
  double broadcast(const Index& at, int rank) const;
  template <class... I>
  double& operator()(I... at) {
    return data[offset({static_cast<std::int64_t>(at)...})];
  }
  template <class... I>
  double operator()(I... at) const {
    return data[offset({static_cast<std::int64_t>(at)...})];
  }
  /// Calls f(index, element) in row-major order.
  void each(const std::function<void(const Index&, double&)>& f);

 private:
  std::size_t offset(std::initializer_list<std::int64_t> at) const;
};

struct Input {
  enum class Kind {
    real,   // uniform in [low, high], differentiated
    whole,  // whole numbers in low … high, as reals, so that equal ones meet; not differentiated
    index,  // i64, uniform in low … high − 1
    boolean,
    dominant,  // real, with the number of rows added to the diagonal: well conditioned, and symmetric positive definite when `symmetric`
  };
  Shape shape;
  double low = -2, high = 2;
  Kind kind = Kind::real;
  bool symmetric = false;
};

struct Row {
  std::string name;          // as in ops.h
  std::string variant = {};  // tells rows of one name apart
  /// The inputs at size 1 (a few elements) and larger.
  std::function<std::vector<Input>(std::int64_t n)> inputs;
  std::function<Tensor(std::span<const Tensor>)> op;
  /// Row-major elements of the result, from f64 inputs, computed in a plain way.
  std::function<Array(const std::vector<Array>&)> reference;
  bool differentiable = true;
  bool twice = true;          // has derivatives of derivatives
  bool halves = true;         // takes f16 and bf16; otherwise they must be refused with TypeError
  bool floating_only = true;  // refuses i64 in place of its real inputs with TypeError
  double slack = 1;           // times the tolerance of the dtype checks, for ill-conditioned functions
  std::int64_t large = 512;   // n at which several threads have work

  std::string label() const { return variant.empty() ? name : name + "_" + variant; }
};

const std::vector<Row>& op_table();

/// The inputs of a row in f64, deterministic.
std::vector<Tensor> make_inputs(const Row& row, std::int64_t n);

}  // namespace graft::test
