#include "graft/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "graft/autograd/ops.h"

namespace graft {
namespace {

using Function = std::function<Tensor(std::span<const Tensor>)>;

// Σ ⟨wᵢ, xᵢ⟩ with fixed numbers w in (0.5, 1.5): no entry can hide.
Tensor weighted_sum(std::span<const Tensor> xs) {
  Generator generator{20240229, 0};
  Tensor total;
  for (const Tensor& x : xs) {
    const Tensor weights = uniform(x.shape(), 0.5, 1.5, generator, DType::f64, x.device());
    const Tensor part = sum(mul(to(x, DType::f64), weights));
    total = total.defined() ? add(total, part) : part;
  }
  return total;
}

// Fresh leaves with the values of `inputs`.
std::vector<Tensor> leaves(std::span<const Tensor> inputs) {
  std::vector<Tensor> fresh;
  for (const Tensor& x : inputs) {
    fresh.push_back(x.clone());
    fresh.back().set_requires_grad(x.requires_grad());
  }
  return fresh;
}

std::vector<Tensor> differentiated(std::span<const Tensor> xs) {
  std::vector<Tensor> wanted;
  for (const Tensor& x : xs)
    if (x.requires_grad()) wanted.push_back(x);
  return wanted;
}

// Derivatives of the scalar y for the inputs that ask for one; zeros where y does not depend on them.
std::vector<Tensor> derivatives(const Tensor& y, std::span<const Tensor> inputs, bool create_graph) {
  const std::vector<Tensor> wanted = differentiated(inputs);
  std::vector<Tensor> found(wanted.size());
  if (y.requires_grad()) found = grad({&y, 1}, wanted, {}, {.create_graph = create_graph});
  for (std::size_t i = 0; i < found.size(); ++i)
    if (!found[i].defined()) found[i] = Tensor::zeros(wanted[i].shape(), DType::f64, wanted[i].device());
  return found;
}

struct Slope {
  double value, rounding;  // the second is how much of the first may be the rounding of f
};

// f'(0) of a function of one number from four values: off by h⁴ f⁽⁵⁾/30 and by the rounding of f, a few units in the last place, over h.
Slope difference(const std::function<double(double)>& f, double h) {
  const double near[] = {f(h), f(-h)}, far[] = {f(2 * h), f(-2 * h)};
  return {(8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * h),
          8 * std::numeric_limits<double>::epsilon() * std::max(std::abs(near[0]), std::abs(far[0])) / h};
}

// Compares the derivatives of the scalar function f with differences, entry by entry, into `result`.
void compare(const Function& f, std::span<const Tensor> inputs, double step, double tolerance, const char* order, double& worst,
             std::string& message) {
  const std::vector<Tensor> at = leaves(inputs);
  const std::vector<Tensor> analytic = derivatives(f(at), at, false);
  std::size_t which = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    const std::vector<double> found = analytic[which++].to_vector<double>();
    const std::vector<double> values = inputs[i].to_vector<double>();
    double scale = 0;
    for (const double value : values) scale = std::max(scale, std::abs(value));
    if (scale == 0) scale = 1;
    const auto numeric_at = [&](std::size_t entry, double share) {
      const auto moved_by = [&](double distance) {
        std::vector<double> moved = values;
        moved[entry] += distance;
        std::vector<Tensor> there = leaves(inputs);
        there[i].copy_(Tensor::from(moved, inputs[i].shape()));
        return f(there).item();
      };
      return difference(moved_by, step * scale * share);
    };
    std::vector<Slope> numeric(values.size());
    double largest = 0;
    for (std::size_t entry = 0; entry < values.size(); ++entry) {
      numeric[entry] = numeric_at(entry, 1);
      largest = std::max({largest, std::abs(numeric[entry].value), std::abs(found[entry])});
    }
    const auto error_of = [&](std::size_t entry, const Slope& slope) {
      const double distance = std::abs(found[entry] - slope.value);
      if (std::isnan(distance)) return std::numeric_limits<double>::infinity();
      const double error = distance == 0 ? 0 : distance / largest;
      return error > tolerance && distance <= slope.rounding ? 0 : error;  // more cannot be told from such a difference
    };
    for (std::size_t entry = 0; entry < values.size(); ++entry) {
      double error = error_of(entry, numeric[entry]);
      // A kink within reach of the stencil, or a fifth derivative that is large: the same from nearer by. What is wrong stays wrong.
      for (const double share : {0.1, 0.01, 0.001}) {
        if (error <= tolerance) break;
        const Slope nearer = numeric_at(entry, share);
        const double its_error = error_of(entry, nearer);
        // From so near that its rounding hides the gradient, it says nothing.
        if (nearer.rounding <= tolerance * largest && its_error < error) error = its_error, numeric[entry] = nearer;
      }
      worst = std::max(worst, error);
      if (error > tolerance && message.empty())
        message =
            fmt::format("{} derivative for input {}, entry {}: {} where differences give {} (off by {} of the largest entry, {})",
                        order, i, entry, found[entry], numeric[entry].value, error, largest);
    }
  }
}

}  // namespace

GradcheckResult gradcheck(const Function& f, std::span<const Tensor> inputs, const GradcheckOptions& options) {
  for (const Tensor& x : inputs)
    check<TypeError>(!x.requires_grad() || x.dtype() == DType::f64, "gradcheck: inputs are f64, not {}", x.dtype());
  const GradMode on(true);
  GradcheckResult result;
  const Function first = [&](std::span<const Tensor> xs) {
    const Tensor y = f(xs);
    return weighted_sum({&y, 1});
  };
  compare(first, inputs, options.step, options.tolerance, "first", result.worst, result.message);
  if (!options.second_order) return result;
  const Function second = [&](std::span<const Tensor> xs) {
    const Tensor y = first(xs);
    return weighted_sum(derivatives(y, xs, true));
  };
  compare(second, inputs, options.step, options.tolerance2, "second", result.worst2, result.message);
  return result;
}

}  // namespace graft
