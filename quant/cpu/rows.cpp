// Which kernel answers which problem.
#include "graft/quant/cpu/rows.h"

#include "graft/core/elementwise.h"
#include "graft/core/kernels.h"
#include "graft/core/parallel.h"
#include "graft/core/tensor.h"
#include "graft/quant/cpu/dots.h"
#include "graft/quant/cpu/outer.h"
#include "graft/quant/pack.h"

namespace graft::quant {
namespace {

// Rows of activations up to which unpacking codes again for every few rows is cheaper than writing panels.
constexpr std::int64_t most_fused_forward = 2 * fused_forward_rows, most_fused_backward = fused_backward_rows,
                       most_packed_dots = 2 * dot_rows;

bool is_int8(const Problem& problem) { return !problem.transposed && problem.compute == Compute::int8_activations; }
bool is_f64(const Problem& problem) { return !is_int8(problem) && problem.x.dtype == DType::f64; }
bool is_f32(const Problem& problem) { return !is_int8(problem) && problem.x.dtype != DType::f64; }
bool is_small(const Problem& problem) {
  return is_f32(problem) && problem.m() <= (problem.transposed ? most_fused_backward : most_fused_forward);
}

template <Isa isa>
bool supports_fused(const Problem& problem) {
  return is_small(problem) && code_kernels(isa, problem.weight.bits) != nullptr;
}
template <Isa isa>
bool supports_panels(const Problem& problem) {
  return is_f32(problem) && code_kernels(isa, problem.weight.bits) != nullptr;
}
template <Isa isa>
void fused(const Problem& problem) {
  run_fused(problem, isa);
}
template <Isa isa>
void panels(const Problem& problem) {
  run_panels(problem, isa);
}

template <Isa isa>
constexpr Row fused_row(std::string_view name) {
  return {name, isa, supports_fused<isa>, fused<isa>, true};
}
template <Isa isa>
constexpr Row panels_row(std::string_view name) {
  return {name, isa, supports_panels<isa>, panels<isa>};
}

template <Dot dot, Isa isa, bool unpacked>
bool supports_dots(const Problem& problem) {
  const bool taken = dot == Dot::int8 ? is_int8(problem) && problem.x.dtype != DType::f64
                                      : is_f32(problem) && !problem.transposed && problem.x.dtype == DType::bf16;
  return taken && (unpacked || problem.m() <= most_packed_dots) && dot_kernels(dot, isa, problem.weight.bits) != nullptr;
}
template <Dot dot, Isa isa, bool unpacked>
void dots(const Problem& problem) {
  run_dots(problem, dot, isa, unpacked);
}
template <Dot dot, Isa isa, bool unpacked>
constexpr Row dots_row(std::string_view name) {
  return {name, isa, supports_dots<dot, isa, unpacked>, dots<dot, isa, unpacked>};
}

template <Isa isa>
bool supports_digits(const Problem& problem) {
  return is_f32(problem) && !problem.transposed && digits_kernel(problem, isa) != nullptr;
}
template <Isa isa>
void digits(const Problem& problem) {
  run_digits(problem, isa);
}

template <Isa isa>
bool supports_rounded(const Problem& problem) {
  return problem.transposed && problem.x.dtype == DType::bf16 && (problem.terms.empty() || problem.joins_rounded()) &&
         cpu::pair_kernels(isa) != nullptr && code_kernels(isa, problem.weight.bits) != nullptr;
}
template <Isa isa>
void rounded(const Problem& problem) {
  run_rounded(problem, isa);
}

constexpr Row all_rows[] = {
    dots_row<Dot::int8, Isa::avx512_dot, false>("int8-fused-avx512_dot"),
    dots_row<Dot::int8, Isa::avx512_dot, true>("int8-panels-avx512_dot"),
    dots_row<Dot::int8, Isa::avx2, false>("int8-fused-avx2"),
    dots_row<Dot::int8, Isa::avx2, true>("int8-panels-avx2"),
    dots_row<Dot::int8, Isa::scalar, true>("int8-panels-scalar"),
    dots_row<Dot::int8, Isa::scalar, false>("int8-fused-scalar"),
    {"digits-avx512_dot", Isa::avx512_dot, supports_digits<Isa::avx512_dot>, digits<Isa::avx512_dot>},
    dots_row<Dot::bf16, Isa::avx512_dot, false>("bf16-fused-avx512_dot"),
    dots_row<Dot::bf16, Isa::avx512_dot, true>("bf16-panels-avx512_dot"),
    fused_row<Isa::avx512>("fused-avx512"),
    {"bf16-rounded-avx512_dot", Isa::avx512_dot, supports_rounded<Isa::avx512_dot>, rounded<Isa::avx512_dot>},
    panels_row<Isa::avx512>("panels-avx512"),
    fused_row<Isa::avx2>("fused-avx2"),
    panels_row<Isa::avx2>("panels-avx2"),
    fused_row<Isa::neon>("fused-neon"),
    panels_row<Isa::neon>("panels-neon"),
    panels_row<Isa::scalar>("panels-scalar"),
    fused_row<Isa::scalar>("fused-scalar"),
    {"exact", Isa::scalar, is_f64, run_exact},
};

/// x, in the operations that the rotation is composed of where gradients are wanted.
void make_x(const Problem& problem) {
  if (!problem.rotated) return;
  const View &from = problem.rotated->from, &blocks = problem.rotated->blocks, &x = problem.x;
  const auto in_their_type = [&](const View& view) {
    return view.dtype == blocks.dtype ? Tensor() : Tensor::empty({view.sizes[0], view.sizes[1]}, blocks.dtype);
  };
  const Tensor own = in_their_type(from), turned = in_their_type(x);
  if (own.defined()) cpu_kernels().copy(from, own.view());
  multiply_blocks(own.defined() ? own.view() : from, blocks, turned.defined() ? turned.view() : x, cpu_kernels().matmul);
  if (turned.defined()) cpu_kernels().copy(turned.view(), x);
}

Tensor group_sums(const View& x, std::int64_t group) {
  const Tensor sums = Tensor::empty({x.sizes[0], x.sizes[1] / group}, x.dtype == DType::f64 ? DType::f64 : DType::f32);
  cpu_kernels().reduce(ReduceOp::sum, by_groups(x, group), by_groups(sums.view(), 1));
  return sums;
}

/// u of all terms that have their A.
void make_u(const Problem& problem) {
  for (const LowRank& term : problem.terms) {
    if (!term.A.data) continue;
    const View x = term.rows_of(problem.x);
    const Tensor sums = term.group > 1 ? group_sums(x, term.group) : Tensor();
    cpu_kernels().matmul(sums.defined() ? sums.view() : x, transposed(term.A), term.u);
    if (term.u_scale != 1) cpu_kernels().unary(UnaryOp::affine, term.u, term.u, term.u_scale, 0);
  }
}

void run(const char* what, const Problem& problem) {
  const View &x = problem.x, &y = problem.y;
  const std::int64_t in = problem.transposed ? problem.weight.out : problem.weight.in;
  const std::int64_t out = problem.transposed ? problem.weight.in : problem.weight.out;
  check(x.rank == 2 && y.rank == 2 && x.sizes[1] == in && y.sizes[1] == out && x.sizes[0] == y.sizes[0],
        "{}: a weight of {} × {} cannot take {} to {}", what, problem.weight.in, problem.weight.out, shape_of(x), shape_of(y));
  for (const View* view : {&x, &y, problem.bias ? problem.bias : &y}) {
    check<TypeError>(is_floating(view->dtype), "{}: does not take elements of type {}", what, view->dtype);
    check<TypeError>((view->dtype == DType::f64) == (x.dtype == DType::f64) || view == problem.bias, "{}: {} meets {}", what,
                     x.dtype, view->dtype);
  }
  check<TypeError>(!is_int8(problem) || x.dtype != DType::f64, "{}: int8 activations are made of f32, f16 or bf16, not of f64",
                   what);
  check(!problem.bias || (problem.bias->rank == 1 && problem.bias->sizes[0] == out), "{}: the bias must have {} elements", what,
        out);
  for (const LowRank& term : problem.terms) {
    const View &u = term.u, &v = term.v;
    check(u.rank == 2 && v.rank == 2 && term.first_row >= 0 && u.sizes[0] <= x.sizes[0] - term.first_row &&
              u.sizes[1] == v.sizes[0] && v.sizes[1] == out,
          "{}: a term of {} by {}, from row {} on, is not one of [{}, {}]", what, shape_of(u), shape_of(v), term.first_row,
          x.sizes[0], out);
    check((term.join == Join::summed) == !problem.joins_rounded(), "{}: some terms are summed with the product, others are not",
          what);
    check(!term.A.data ||
              (term.A.rank == 2 && term.A.sizes[0] == u.sizes[1] && term.group > 0 && term.A.sizes[1] * term.group == in),
          "{}: a factor of {} for groups of {} does not make {} from {}", what, shape_of(term.A), term.group, shape_of(u),
          shape_of(x));
    for (const View* view : {&u, &v, term.A.data ? &term.A : &u})
      check<TypeError>(is_floating(view->dtype) && (view->dtype == DType::f64) == (x.dtype == DType::f64), "{}: {} meets {}",
                       what, x.dtype, view->dtype);
  }
  if (problem.rotated) {
    const auto& [from, blocks] = *problem.rotated;
    const std::int64_t b = blocks.sizes[1];
    check(from.rank == 2 && from.sizes[0] == x.sizes[0] && from.sizes[1] == in && blocks.rank == 3 && b == blocks.sizes[2] &&
              b > 0 && in % b == 0 && (blocks.sizes[0] == 1 || blocks.sizes[0] == in / b),
          "{}: blocks of {} do not turn {} to {}", what, shape_of(blocks), shape_of(from), shape_of(x));
    check<TypeError>((blocks.dtype == from.dtype || (blocks.dtype == DType::f32 && is_half(from.dtype))) &&
                         (x.dtype == from.dtype || x.dtype == blocks.dtype),
                     "{}: {} turned by {} does not make {}", what, from.dtype, blocks.dtype, x.dtype);
  }
  const Device device = problem.weight.device();
  check_operands(problem.outer);
  for (const Outer& outer : problem.outer)
    check(outer.a.sizes[0] == problem.m(), "{}: an outer product of {} rows beside one of {}", what, outer.a.sizes[0], problem.m());
  if (problem.m() == 0) return outer_products(problem.outer, device);
  if (!device.is_cpu()) {
    cuda::product(problem);
    return outer_products(problem.outer, device);
  }
  make_x(problem);
  make_u(problem);
  for (const Row& row : rows())
    if (includes(isa(), row.isa) && row.supports(problem)) {
      row.run(problem);
      if (!row.takes_outer || !OuterParts::fit(problem.outer)) outer_products(problem.outer, device);
      return;
    }
  fail<NotImplementedError>("{}: no kernel takes {} bits and {} on this processor", what, problem.weight.bits, x.dtype);
}

}  // namespace

std::span<const Row> rows() { return all_rows; }

void forward(const Packed& weight, const View& x, const View* bias, const View& y, std::span<const LowRank> terms,
             Compute compute, const Rotated* rotated) {
  run("quantized product", {weight, false, x, bias, y, terms, compute, {}, rotated});
}

void backward(const Packed& weight, const View& dy, const View& dx, std::span<const LowRank> terms,
              std::span<const Outer> outer) {
  run("quantized product's gradient", {weight, true, dy, nullptr, dx, terms, Compute::exact, outer});
}

const CodeKernels* code_kernels(Isa isa, int bits) {
  const Unit* unit = includes(isa, Isa::avx512) ? unit_avx512()
                     : isa == Isa::avx2         ? unit_avx2()
                     : isa == Isa::neon         ? unit_neon()
                                                : unit_scalar();
  if (!unit) return nullptr;
  return bits == 2 ? &unit->bits2 : bits == 3 ? &unit->bits3 : bits == 4 ? &unit->bits4 : &unit->bits8;
}

Weights weights(const Packed& packed) {
  return {static_cast<const std::uint8_t*>(packed.codes->data()),
          static_cast<const float*>(packed.scales->data()),
          static_cast<const float*>(packed.zeros->data()),
          packed.segments.data(),
          packed.tiles.data(),
          packed.rows,
          packed.columns,
          packed.row_tiles(),
          packed.column_tiles(),
          packed.affine};
}

template <class T>
std::vector<T> bias_of(const Problem& problem) {
  if (!problem.bias) return {};
  std::vector<T> bias(static_cast<std::size_t>(problem.bias->sizes[0]));
  dispatch(problem.bias->dtype, FloatingTypes{}, "bias", [&]<class From>() {
    for (std::size_t i = 0; i < bias.size(); ++i)
      bias[i] = static_cast<T>(problem.bias->as<From>()[static_cast<std::int64_t>(i) * problem.bias->strides[0]]);
  });
  return bias;
}

template <class T>
cpu::Target<T> target(const Problem& problem, std::vector<T>& bias) {
  const View& y = problem.y;
  cpu::Target<T> to{y.data, y.dtype, y.strides[0], y.strides[1], nullptr, nullptr};
  if (problem.transposed && !problem.weight.order.empty()) to.columns = problem.weight.order.data();
  if (problem.bias && !problem.joins_rounded()) {
    bias = bias_of<T>(problem);
    to.bias = bias.data();
  }
  return to;
}

template std::vector<float> bias_of(const Problem&);
template std::vector<double> bias_of(const Problem&);
template cpu::Target<float> target(const Problem&, std::vector<float>&);
template cpu::Target<double> target(const Problem&, std::vector<double>&);

}  // namespace graft::quant
