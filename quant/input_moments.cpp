#include "graft/quant/input_moments.h"

#include <Eigen/Dense>
#include <cmath>

#include "graft/core/parallel.h"

namespace graft::quant {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

InputMoments::InputMoments(std::int64_t features) {
  check(features > 0, "input moments of {} features", features);
  gram_ = Tensor::empty({features, features});
  magnitude_ = Tensor::empty({features}, DType::f64);
  std::fill_n(gram_.data<float>(), gram_.count(), 0.0f);
  std::fill_n(magnitude_.data<double>(), features, 0.0);
}

void InputMoments::add(const Tensor& x) {
  check<TypeError>(is_floating(x.dtype()), "input moments: the activations hold {}; a floating type is wanted", x.dtype());
  check(x.rank() >= 1 && x.shape().back() == features(), "input moments: activations of shape {} for {} features", x.shape(), features());
  const std::int64_t width = features(), rows = x.count() / width;
  Tensor batch = x.detach();
  if (!x.device().is_cpu() || x.dtype() != DType::f32 || !x.is_contiguous()) {
    batch = Tensor::empty(x.shape());
    batch.copy_(x);
  }
  const float* values = batch.data<float>();
  for (std::int64_t i = 0; i < rows * width; ++i)
    check(std::isfinite(values[i]), "input moments: feature {} of a token is {}", i % width, values[i]);

  const Eigen::Map<const Matrix> tokens(values, rows, width);
  Eigen::Map<Matrix> gram(gram_.data<float>(), width, width);
  // Each chunk owns rows [begin, end) of the lower triangle and their mirror image.
  parallel_ranges(width, 128, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t height = end - begin;
    gram.block(begin, 0, height, end).noalias() += tokens.middleCols(begin, height).transpose() * tokens.leftCols(end);
    for (std::int64_t i = begin; i < end; ++i)
      for (std::int64_t j = 0; j < i; ++j) gram(j, i) = gram(i, j);
    Eigen::Map<Eigen::RowVectorXd>(magnitude_.data<double>(), width).segment(begin, height) +=
        tokens.middleCols(begin, height).cast<double>().cwiseAbs().colwise().sum();
  });
  tokens_ += rows;
}

Tensor InputMoments::mean_magnitude() const {
  check(tokens_ > 0, "input moments: no tokens have been counted");
  Tensor mean = Tensor::empty({features()});
  for (std::int64_t k = 0; k < features(); ++k)
    mean.data<float>()[k] = static_cast<float>(magnitude_.data<double>()[k] / static_cast<double>(tokens_));
  return mean;
}

}  // namespace graft::quant
