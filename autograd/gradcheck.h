// Derivatives against finite differences, in f64.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "graft/core/tensor.h"

namespace graft {

struct GradcheckResult {
  double worst = 0;     // largest |analytic − numeric|, relative to the largest entry of that input's gradient
  double worst2 = 0;    // the same for second derivatives
  std::string message;  // which input and entry; empty when everything agrees
  explicit operator bool() const { return message.empty(); }
};

struct GradcheckOptions {
  double step =
      1e-3;  // of the four-point differences, relative to the input's largest entry; smaller ones are tried where this fails
  double tolerance = 1e-7;
  bool second_order = false;  // also check the derivative of the derivative, to tolerance2
  double tolerance2 = 1e-5;
};

/// Checks f at `inputs`, for those with requires_grad, which must be f64 (else TypeError). Non-scalar results are weighted with
/// fixed random numbers.
GradcheckResult gradcheck(const std::function<Tensor(std::span<const Tensor>)>& f, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});

}  // namespace graft
