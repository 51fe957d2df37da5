// The host's half of the products through dequantized tiles: what of a problem the kernels can take as it lies, and how it is cut.
#include "graft/cuda/tiled.h"

#include <optional>

#include "graft/cuda/entries.h"
#include "graft/cuda/kernel_names.h"
#include "graft/cuda/prepass.h"
#include "graft/cuda/products.h"
#include "graft/cuda/rotation.h"

namespace graft::cuda {
namespace {

using quant::Packed;
using quant::Problem;

/// A kernel for so many rows of x, the threads of its blocks, and how many of these run on a multiprocessor at once at most.
struct Variant {
  int rows, threads, resident;
};
struct Kind {
  const char *image, *suffix;
  Variant narrow, wide;
  std::int64_t narrow_until;  // m up to which the narrow one is the faster: its tiles are not half empty
  std::size_t (*shared)(int rows, int bits);
};
template <class Shared>
std::size_t shared(int rows, int bits) {
  return static_cast<std::size_t>(Shared(rows, bits).total());
}
constexpr Kind sm80{"tiled", "", {64, 256, 2}, {128, 256, 2}, 64, shared<tiles::Shared80>};
constexpr Kind sm90{"tiled_sm90a", "_sm90a", {64, 256, 2}, {256, 384, 1}, 192, shared<tiles::Shared90>};

/// x as the kernels read it: rows of aligned 16-byte pieces, and forward in the order of the packed rows. What terms need of x is made of it
/// on the way.
class Columns {
 public:
  explicit Columns(const Problem& problem) : columns_(problem.x.sizes[1]) {
    const Packed& w = problem.weight;
    if (problem.transposed || w.order.empty()) {
      rotate(problem);
      lines_.emplace(problem.x);
      data_ = lines_->data(), ld_ = lines_->ld();
      prepass(problem, *lines_, nullptr);
      return;
    }
    columns_ = w.rows, ld_ = divide_up(columns_, tiles::chunk) * tiles::chunk;
    copy_.emplace(static_cast<std::size_t>(problem.m() * ld_ * size_of(problem.x.dtype)));
    data_ = copy_->data();
    const Arranged to{static_cast<std::uint16_t*>(copy_->data()), ld_, static_cast<const std::int32_t*>(w.places->data()),
                      static_cast<int>(w.rows)};
    if (rotate(problem, to)) return;
    rotate(problem);
    lines_.emplace(problem.x);
    prepass(problem, *lines_, &to);
  }
  const void* data() const { return data_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t ld() const { return ld_; }

 private:
  std::optional<Lines> lines_;
  const void* data_;
  std::int64_t columns_, ld_;
  std::optional<Scratch> copy_;
};

bool in_pairs(const View& y) {
  const std::int64_t bytes = size_of(y.dtype);
  return y.strides[1] == 1 && reinterpret_cast<std::uintptr_t>(y.data) % static_cast<std::uintptr_t>(2 * bytes) == 0 &&
         (y.strides[0] % 2 == 0 || y.sizes[0] == 1);
}

bool fits(const Problem& problem, const Kind& kind) {
  const Packed& w = problem.weight;
  constexpr std::int64_t most = std::int64_t{1} << 30;
  return is_half(problem.x.dtype) && problem.m() > 0 && w.in > 0 && w.out > 0 && problem.m() < most && w.rows < most &&
         w.columns < most && Added::holds(problem) && (!problem.joins_rounded() || problem.y.dtype == problem.x.dtype) &&
         kind.shared(kind.wide.rows, w.bits) <= properties().most_shared;
}

void run(const Problem& problem, const Kind& kind) {
  const Packed& w = problem.weight;
  const View& y = problem.y;
  const Variant variant = problem.m() <= kind.narrow_until ? kind.narrow : kind.wide;
  const Columns x(problem);

  TiledProduct p{};
  p.codes = static_cast<const std::uint8_t*>(w.codes->data());
  p.scales = static_cast<const float*>(w.scales->data()), p.zeros = static_cast<const float*>(w.zeros->data());
  p.places = static_cast<const std::int32_t*>(w.places->data());
  p.rows = static_cast<int>(w.rows), p.columns = static_cast<int>(w.columns);
  p.bits = w.bits, p.affine = w.affine;
  p.x = x.data(), p.ld = x.ld();
  p.m = static_cast<int>(problem.m()), p.depth = static_cast<int>(x.columns());
  p.results = static_cast<int>(problem.transposed ? w.rows : w.out);
  p.y = y.data, p.y_dtype = y.dtype, p.y_in_pairs = in_pairs(y);
  p.y_strides[0] = y.strides[0], p.y_strides[1] = y.strides[1];
  p.added.take(problem);

  // Where there are fewer tiles than the GPU runs blocks at once, blocks share the sum of one: but none has fewer than four stages.
  p.row_tiles = static_cast<int>(divide_up(p.m, variant.rows));
  p.result_tiles = static_cast<int>(divide_up(p.results, tiles::width));
  p.steps = static_cast<int>(divide_up(problem.transposed ? w.columns : w.rows, tiles::depth));
  const std::int64_t count = static_cast<std::int64_t>(p.row_tiles) * p.result_tiles;
  const std::size_t shared = kind.shared(variant.rows, w.bits);
  const Properties gpu = properties();
  // Most of a multiprocessor's shared memory may be one block's; the driver takes 1 KB of each.
  const auto resident = std::min<std::int64_t>(variant.resident, static_cast<std::int64_t>(gpu.most_shared / (shared + 1024)));
  const std::int64_t blocks = gpu.multiprocessors * std::max<std::int64_t>(resident, 1);
  const std::int64_t wanted = std::max<std::int64_t>(std::min<std::int64_t>(blocks / count, p.steps / 4), 1);
  p.part_steps = static_cast<int>(divide_up(p.steps, wanted));
  p.parts = static_cast<int>(divide_up(p.steps, p.part_steps));
  std::optional<Scratch> partial, parts_done;
  if (p.parts > 1) {
    partial.emplace(static_cast<std::size_t>(count * p.parts * variant.rows * tiles::width * size_of(DType::f32)));
    parts_done.emplace(static_cast<std::size_t>(count * size_of(DType::i32)));
    p.partial = static_cast<float*>(partial->data()), p.parts_done = static_cast<unsigned*>(parts_done->data());
    fill({parts_done->data(), DType::i32, 1, {count}, {1}}, 0);
  }
  launch({kind.image, fmt::format("tiled_{}_{}_{}{}", problem.transposed ? "backward" : "forward", name(problem.x.dtype),
                                  variant.rows, kind.suffix)},
         {count * p.parts}, variant.threads, p, shared);
}

/// Weights that can be streamed are; and for many rows a dense copy of them costs nothing beside the product.
bool in_range(const Problem& problem) { return !is_skinny(problem) && problem.m() < 4096; }

}  // namespace

bool supports_tiled_sm80(const Problem& problem) {
  return properties().capability >= 80 && in_range(problem) && fits(problem, sm80);
}
void tiled_product_sm80(const Problem& problem) { run(problem, sm80); }

// Code for sm_90a runs on sm_90 and nowhere else.
bool supports_tiled_sm90a(const Problem& problem) {
  return properties().capability == 90 && in_range(problem) && fits(problem, sm90);
}
void tiled_product_sm90a(const Problem& problem) { run(problem, sm90); }

}  // namespace graft::cuda
