// The host's half of the pre-pass: which terms its kernels take, and how x is cut.
#include "graft/cuda/prepass.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "graft/core/elementwise.h"
#include "graft/core/tf32.h"
#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"
#include "graft/cuda/rotation.h"

namespace graft::cuda {
namespace {

using quant::LowRank;
using quant::Problem;

/// Whether kernels take x, whatever its strides.
bool takes(const View& x) {
  constexpr std::int64_t most = std::int64_t{1} << 30;
  return x.dtype != DType::f64 && x.sizes[0] > 0 && x.sizes[0] < most && x.sizes[1] > 0 && x.sizes[1] < most &&
         properties().capability >= 80;
}
bool takes(const View& x, const LowRank& term) {
  return takes(x) && term.A.dtype == DType::f32 && term.u.dtype == DType::f32 && term.u.count() > 0;
}

/// So many terms, and the arranged copy unless it is null, in one reading of x.
void run(const View& x, const Lines& lines, std::span<const LowRank* const> terms, const Arranged* arranged) {
  const Properties gpu = properties();
  Prepass p{};
  p.x = lines.data(), p.ld = lines.ld(), p.columns = static_cast<int>(x.sizes[1]);
  std::deque<Lines> factors;  // for as long as the kernel needs them
  for (const LowRank* term : terms) {
    const View& u = term->u;
    const Lines& A = factors.emplace_back(term->A);
    Prepass::Term& t = p.term[p.terms++];
    t.A = static_cast<const float*>(A.data()), t.ld = A.ld();
    t.u = u.as<float>();
    std::copy_n(u.strides, 2, t.u_strides);
    t.rank = static_cast<int>(u.sizes[1]), t.group = static_cast<int>(term->group);
    t.first_row = static_cast<int>(term->first_row), t.rows = static_cast<int>(u.sizes[0]);
    t.units_before = p.units, p.units += static_cast<int>(divide_up(t.rank, shrink::unit_ranks));
    t.scale = static_cast<float>(term->u_scale);
  }
  if (arranged) p.arranged = *arranged;
  for (std::int64_t row = 0; row < x.sizes[0]; row += shrink::most_rows) {
    p.m = static_cast<int>(std::min(x.sizes[0] - row, shrink::most_rows));
    const shrink::Cut cut = shrink::cut(p.m, p.columns, static_cast<int>(size_of(x.dtype)), arranged != nullptr, p.terms > 0,
                                        gpu.multiprocessors, static_cast<std::int64_t>(gpu.most_shared));
    p.parts = cut.parts, p.part_columns = cut.part_columns, p.line = cut.line, p.whole = cut.whole;
    std::optional<Scratch> partial;
    p.partial = nullptr;
    if (p.parts > 1 && p.units > 0) {
      const std::int64_t sums = std::int64_t{cut.row_blocks} * p.parts * p.units * shrink::unit_sums(cut.rows);
      partial.emplace(static_cast<std::size_t>(sums * size_of(DType::f32)));
      p.partial = static_cast<float*>(partial->data());
    }
    launch({"prepass", fmt::format("prepass_{}_{}", x.dtype, cut.rows)}, {std::int64_t{cut.row_blocks} * p.parts},
           shrink::threads, p, static_cast<std::size_t>(cut.shared_bytes()));
    // The next rows are the first ones then.
    p.x = static_cast<const char*>(p.x) + shrink::most_rows * p.ld * size_of(x.dtype);
    if (arranged) p.arranged.x += shrink::most_rows * p.arranged.ld;
    for (int i = 0; i < p.terms; ++i) p.term[i].first_row -= static_cast<int>(shrink::most_rows);
  }
}

void prepass(const View& x, std::span<const LowRank> terms, const Lines& lines, const Arranged* arranged) {
  const tf32::Guard off(false);  // no kernel of packed weights rounds
  std::vector<const LowRank*> taken;
  for (const LowRank& term : terms) {
    if (!term.A.data) continue;
    if (takes(x, term)) {
      taken.push_back(&term);
      continue;
    }
    const View rows = term.rows_of(x);
    std::optional<Dense> sums;
    if (term.group > 1) {
      const View like{nullptr, x.dtype, 2, {rows.sizes[0], rows.sizes[1] / term.group}, {}};
      sums.emplace(like, x.dtype == DType::f64 ? DType::f64 : DType::f32);
      reduce(ReduceOp::sum, quant::by_groups(rows, term.group), quant::by_groups(sums->view(), 1));
    }
    matmul(sums ? sums->view() : rows, transposed(term.A), term.u);
    if (term.u_scale != 1) unary(UnaryOp::affine, term.u, term.u, term.u_scale, 0);
  }
  for (std::size_t first = 0; first < taken.size() || arranged; first += quant::most_terms, arranged = nullptr)
    run(x, lines, std::span(taken).subspan(first, std::min(taken.size() - first, quant::most_terms)), arranged);
}

}  // namespace

void prepass(const Problem& problem, const Lines& lines, const Arranged* arranged) {
  prepass(problem.x, problem.terms, lines, arranged);
}

void prepass(const Problem& problem) {
  rotate(problem);
  prepass(problem.x, problem.terms);
}

void prepass(const View& x, std::span<const LowRank> terms) {
  const auto to_make = [](const LowRank& term) { return term.A.data != nullptr; };
  if (std::ranges::any_of(terms, to_make)) prepass(x, terms, Lines(x), nullptr);
}

}  // namespace graft::cuda
