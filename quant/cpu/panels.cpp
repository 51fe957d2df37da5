// Products through the blocked driver: the weight's side of it computes its panels from codes.
#include <algorithm>

#include "graft/core/parallel.h"
#include "graft/quant/cpu/low_rank.h"
#include "graft/quant/pack.h"

namespace graft::quant {
namespace {

template <class From>
void gather(const From* from, std::int64_t stride, const std::int32_t* order, std::int64_t count, From* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = order[i] < 0 ? From{} : from[order[i] * stride];
}

// x in the order of the packed rows: gathered, and zero where a row is filling.
template <class T>
class GatheredPanels final : public cpu::Panels<T> {
 public:
  GatheredPanels(const cpu::GemmKernels<T>& kernels, const View& x, const Packed& weight)
      : kernels_(kernels),
        x_(x),
        weight_(weight),
        strided_(kernels, x.data, x.dtype, x.sizes[0], x.strides[0], x.strides[1], weight.in) {}

  cpu::LanesInPlace<T> in_place() const override { return weight_.order.empty() ? strided_.in_place() : cpu::LanesInPlace<T>(); }
  void fill(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const override {
    if (weight_.order.empty()) {
      const std::int64_t real = std::clamp<std::int64_t>(weight_.in - begin, 0, count);
      if (real > 0) strided_.fill(begin, real, lane, lanes, panel);
      std::fill(panel + real * lanes, panel + count * lanes, T(0));
      return;
    }
    const std::int64_t rows = std::min<std::int64_t>(lanes, x_.sizes[0] - lane);
    dispatch(x_.dtype, FloatingTypes{}, "quantized product", [&]<class From>() {
      std::vector<From> gathered(static_cast<std::size_t>(rows * count));
      for (std::int64_t i = 0; i < rows; ++i)
        gather(x_.as<From>() + (lane + i) * x_.strides[0], x_.strides[1], weight_.order.data() + begin, count,
               gathered.data() + i * count);
      kernels_.pack(gathered.data(), x_.dtype, count, 1, count, static_cast<int>(rows), lanes, panel);
    });
  }

 private:
  const cpu::GemmKernels<T>& kernels_;
  const View& x_;
  const Packed& weight_;
  cpu::StridedPanels<T> strided_;
};

class WeightPanels final : public cpu::Panels<float> {
 public:
  WeightPanels(const CodeKernels& kernels, const Packed& weight, bool transposed)
      : kernels_(kernels), weights_(weights(weight)), transposed_(transposed) {}
  void fill(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, float* panel) const override {
    (transposed_ ? kernels_.backward_panel : kernels_.forward_panel)(weights_, begin, count, lane, lanes, panel);
  }

 private:
  const CodeKernels& kernels_;
  Weights weights_;
  bool transposed_;
};

// The same, rounded to bf16.
class RoundedPanels final : public cpu::Panels<cpu::Pair> {
 public:
  RoundedPanels(const cpu::GemmKernels<cpu::Pair>& kernels, const WeightPanels& exact) : kernels_(kernels), exact_(exact) {}
  void fill(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, cpu::Pair* panel) const override {
    constexpr std::int64_t step = Packed::tile_columns;  // that stays in the first-level cache
    const cpu::Scratch<float> dense(step * lanes);
    for (std::int64_t d = 0; d < count; d += step, panel += step / 2 * lanes) {
      const std::int64_t depth = std::min(step, count - d);
      exact_.fill(begin + d, depth, lane, lanes, dense.get());
      kernels_.pack(dense.get(), DType::f32, depth, lanes, 1, lanes, lanes, panel);
    }
  }

 private:
  const cpu::GemmKernels<cpu::Pair>& kernels_;
  const WeightPanels& exact_;
};

// The weight exactly, one element at a time.
class ExactPanels final : public cpu::Panels<double> {
 public:
  ExactPanels(const Packed& weight, bool transposed)
      : weight_(weight), transposed_(transposed), groups_(static_cast<std::size_t>(weight.rows)) {
    for (const Packed::Segment& s : weight.segments) std::fill(groups_.begin() + s.begin, groups_.begin() + s.end, s.group);
  }
  void fill(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, double* panel) const override {
    for (std::int64_t d = begin; d < begin + count; ++d)
      for (std::int64_t l = lane; l < lane + lanes; ++l) *panel++ = transposed_ ? at(l, d) : at(d, l);
  }
  double at(std::int64_t row, std::int64_t column) const {
    if (row >= weight_.rows || column >= weight_.columns) return 0;
    const std::int64_t table = groups_[static_cast<std::size_t>(row)] * weight_.columns + column;
    const double scale = static_cast<const float*>(weight_.scales->data())[table];
    const double zero = static_cast<const float*>(weight_.zeros->data())[table], code = code_at(weight_, row, column);
    return weight_.affine ? scale * code + zero : scale * (code - zero);
  }

 private:
  const Packed& weight_;
  bool transposed_;
  std::vector<std::int32_t> groups_;  // of every row
};

// One side of a product, and behind its depth that of the low-rank terms.
template <class T>
class Extended final : public cpu::Panels<T> {
 public:
  using Fill = void (LowRankPanels<T>::*)(std::int64_t, std::int64_t, std::int64_t, int, T*) const;
  Extended(const cpu::Panels<T>& base, std::int64_t depth, const LowRankPanels<T>& terms, Fill fill)
      : base_(base), depth_(depth), terms_(terms), fill_(fill) {}

  cpu::LanesInPlace<T> in_place() const override { return base_.in_place(); }
  void fill(std::int64_t begin, std::int64_t count, std::int64_t lane, int lanes, T* panel) const override {
    const std::int64_t own = std::clamp<std::int64_t>(depth_ - begin, 0, count);
    if (own > 0) base_.fill(begin, own, lane, lanes, panel);
    if (own < count) (terms_.*fill_)(begin + own - depth_, count - own, lane, lanes, panel + own * lanes);
  }

 private:
  const cpu::Panels<T>& base_;
  std::int64_t depth_;
  const LowRankPanels<T>& terms_;
  Fill fill_;
};

// Columns of a gradient as they are computed: those of the packed rows where channels are gathered.
std::int64_t result_columns(const Problem& problem) {
  return problem.weight.order.empty() ? problem.weight.in : problem.weight.rows;
}

template <class T>
void blocked(const Problem& problem, const cpu::GemmKernels<T>& kernels, const cpu::Panels<T>& weight) {
  std::vector<T> bias;
  cpu::Target<T> to = target<T>(problem, bias);
  const LowRankPanels<T> terms(kernels, problem);
  const JoinSums<T> join(terms);
  if (terms.joins_sums()) to.epilogue = &join;
  const auto multiply = [&](std::int64_t columns, std::int64_t depth, const cpu::Panels<T>& left) {
    cpu::blocked_product<T>(kernels, problem.m(), columns, depth + terms.depth(),
                            Extended<T>(left, depth, terms, &LowRankPanels<T>::fill_left),
                            Extended<T>(weight, depth, terms, &LowRankPanels<T>::fill_right), to);
  };
  const View& x = problem.x;
  if (problem.transposed)
    multiply(result_columns(problem), problem.weight.out,
             cpu::StridedPanels<T>(kernels, x.data, x.dtype, x.sizes[0], x.strides[0], x.strides[1], problem.weight.out));
  else multiply(problem.weight.out, problem.weight.rows, GatheredPanels<T>(kernels, x, problem.weight));
}

}  // namespace

void run_panels(const Problem& problem, Isa isa) {
  blocked<float>(problem, cpu::gemm_kernels<float>(isa),
                 WeightPanels(*code_kernels(isa, problem.weight.bits), problem.weight, problem.transposed));
}

void run_rounded(const Problem& problem, Isa isa) {
  const cpu::GemmKernels<cpu::Pair>& kernels = *cpu::pair_kernels(isa);
  std::vector<float> no_bias;
  cpu::Target<float> to = target<float>(problem, no_bias);
  const LowRankPanels<float> terms(cpu::gemm_kernels<float>(isa), problem);
  const JoinSums<float> join(terms);
  if (terms.joins_sums()) to.epilogue = &join;
  const View& dy = problem.x;
  const WeightPanels exact(*code_kernels(isa, problem.weight.bits), problem.weight, true);
  cpu::blocked_product<cpu::Pair>(
      kernels, problem.m(), result_columns(problem), problem.weight.out,
      cpu::StridedPanels<cpu::Pair>(kernels, dy.data, dy.dtype, dy.sizes[0], dy.strides[0], dy.strides[1]),
      RoundedPanels(kernels, exact), to);
}

void run_exact(const Problem& problem) {
  blocked<double>(problem, cpu::gemm_kernels<double>(isa()), ExactPanels(problem.weight, problem.transposed));
}

void dequantize(const Packed& weight, std::int64_t begin, std::int64_t end, float* out) {
  check(begin >= 0 && begin <= end && end <= weight.out, "dequantize: rows {} to {} of {}", begin, end, weight.out);
  if (!weight.device().is_cpu()) return cuda::dequantize(weight, begin, end, out);
  const ExactPanels exact(weight, false);
  parallel_ranges(end - begin, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = 0; row < weight.rows; ++row) {
      const std::int64_t k = weight.order.empty() ? row : weight.order[static_cast<std::size_t>(row)];
      if (k < 0 || k >= weight.in) continue;
      for (std::int64_t n = first; n < last; ++n) out[n * weight.in + k] = static_cast<float>(exact.at(row, begin + n));
    }
  });
}

}  // namespace graft::quant
