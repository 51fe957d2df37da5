#include "graft/cuda/random.h"

#include <cmath>

#include "graft/cuda/dense.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"

namespace graft::cuda {

void draw(Draw kind, std::uint64_t seed, std::uint64_t stream, const View& y, double p0, double p1) {
  check<TypeError>(kind == Draw::bernoulli || is_floating(y.dtype), "draw: random {} numbers need floating elements, not {}",
                   kind == Draw::uniform ? "uniform" : "normal", y.dtype);
  if (!is_dense(y)) {
    const Dense dense(y, y.dtype);
    draw(kind, seed, stream, dense.view(), p0, p1);
    return copy(dense.view(), y);
  }
  const auto below = static_cast<std::int32_t>(std::ceil(std::clamp(p0, 0.0, 1.0) * 0x1p24));
  const DrawInto d{y.data, y.dtype, y.count(), seed, stream, p0, p1, below};
  const char* of = y.dtype == DType::f64 ? suffix<double> : suffix<float>;
  const std::string name =
      kind == Draw::bernoulli ? "bernoulli" : fmt::format("{}{}", kind == Draw::uniform ? "uniform" : "normal", of);
  launch({"random", name}, blocks_for(divide_up(d.count, 4)), block_threads, d);
}

}  // namespace graft::cuda
