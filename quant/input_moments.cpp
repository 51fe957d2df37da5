#include "graft/quant/input_moments.h"

#include <cmath>

#include "graft/core/kernels.h"
#include "graft/core/parallel.h"

namespace graft::quant {

InputMoments::InputMoments(std::int64_t features) {
  check(features > 0, "input moments of {} features", features);
  gram_ = Tensor::zeros({features, features});
  magnitude_ = Tensor::zeros({features}, DType::f64);
}

void InputMoments::add(const Tensor& x) {
  check<TypeError>(is_floating(x.dtype()), "input moments: the activations hold {}; a floating type is wanted", x.dtype());
  check(x.rank() >= 1 && x.shape().back() == features(), "input moments: activations of shape {} for {} features", x.shape(),
        features());
  const std::int64_t width = features(), rows = x.count() / width;
  Tensor tokens = x.detach();
  if (!x.device().is_cpu() || x.dtype() != DType::f32 || !x.is_contiguous()) {
    tokens = Tensor::empty(x.shape());
    tokens.copy_(x);
  }
  const float* values = tokens.data<float>();
  for (std::int64_t i = 0; i < rows * width; ++i)
    check(std::isfinite(values[i]), "input moments: feature {} of a token is {}", i % width, values[i]);
  tokens_ += rows;

  double* magnitude = magnitude_.data<double>();
  parallel_ranges(width, 256, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t k = begin; k < end; ++k) magnitude[k] += std::abs(values[t * width + k]);
  });

  // A strip of rows up to the diagonal at a time, and its mirror image.
  constexpr std::int64_t strip = 512;
  const auto matmul = kernel(Device{}, &Kernels::matmul, "input moments");
  float* gram = gram_.data<float>();
  for (std::int64_t first = 0; first < width; first += strip) {
    const std::int64_t height = std::min(strip, width - first), reach = first + height;
    const Tensor sums = Tensor::empty({height, reach});
    matmul(tokens.alias({height, rows}, {1, width}, tokens.offset() + first).view(),
           tokens.alias({rows, reach}, {width, 1}, tokens.offset()).view(), sums.view());
    parallel_ranges(height, 32, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        for (std::int64_t j = 0; j <= first + i; ++j) gram[(first + i) * width + j] += sums.data<float>()[i * reach + j];
      // Columns of one chunk, so that no two chunks write to one place.
      for (std::int64_t j = 0; j < first + end; ++j)
        for (std::int64_t i = std::max(begin, j - first); i < end; ++i)
          gram[j * width + first + i] = gram[(first + i) * width + j];
    });
  }
}

Tensor InputMoments::mean_magnitude() const {
  check(tokens_ > 0, "input moments: no tokens have been counted");
  const Tensor mean = Tensor::empty({features()});
  for (std::int64_t k = 0; k < features(); ++k)
    mean.data<float>()[k] = static_cast<float>(magnitude_.data<double>()[k] / static_cast<double>(tokens_));
  return mean;
}

}  // namespace graft::quant
