// wgmma: 64 x 16 times 16 x N by four warps, each for 16 rows. It is computed when it is issued; until its group was waited for its
// accumulators are no values, and what it read may not be written.
#include <cstring>

#include "block.h"
#include "elements.h"
#include "lanewise.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

constexpr unsigned warp_rows = 16, depth = 16, most_columns = 256;

/// Where a descriptor says that an operand's 16 bytes lie: those with 8 neighbours along k (K-major), or along m or n (MN-major).
struct Tile {
  std::uint32_t start, leading, stride;  // bytes
  unsigned swizzle;                      // bytes of a row of its pattern: 16 (none), 32, 64, 128

  explicit Tile(std::uint64_t descriptor)
      : start(std::uint32_t(descriptor & 0x3fff) << 4),
        leading(std::uint32_t(descriptor >> 16 & 0x3fff) << 4),
        stride(std::uint32_t(descriptor >> 32 & 0x3fff) << 4) {
    constexpr unsigned widths[] = {16, 128, 64, 32};
    swizzle = widths[descriptor >> 62];
    if (descriptor >> 49 & 7) refuse("a descriptor with a base offset");
    if (swizzle > 16 && leading % 16) refuse("a descriptor with a leading offset of {} bytes", leading);
  }

  /// 16-byte columns of a pattern change places with the row: bits 4 ... of the address by bits 7 ...
  std::uint32_t swizzled(std::uint32_t address) const { return address ^ ((address >> 7 & (swizzle / 16 - 1)) << 4); }

  /// The 8 elements from k on of a row of A, or a column of B.
  std::uint32_t along_k(unsigned row, unsigned k) const {
    const std::uint32_t address = start + row / 8 * stride + row % 8 * swizzle;
    return swizzled(address + (swizzle == 16 ? k / 8 * leading : k / 8 * 16));
  }
  /// The 8 rows of A, or columns of B, from `row` on, at k.
  std::uint32_t across_k(unsigned row, unsigned k) const {
    const unsigned unit = row / 8, wide = swizzle / 16;
    if (swizzle == 16) return start + unit * stride + k % 8 * 16 + k / 8 * leading;
    return swizzled(start + unit % wide * 16 + unit / wide * leading + k % 8 * swizzle + k / 8 * stride);
  }
};

/// An operand's rows [first, first + count) x 16.
void read_tile(Warp& w, const Toucher& who, const Tile& tile, bool transposed, Type type, unsigned first, unsigned count,
               float (*to)[depth]) {
  std::uint16_t bits[8];
  for (unsigned row = 0; row < count; row += transposed ? 8 : 1)
    for (unsigned k = 0; k < depth; k += transposed ? 1 : 8) {
      const std::uint32_t address = transposed ? tile.across_k(first + row, k) : tile.along_k(first + row, k);
      std::memcpy(bits, w.block().shared.read(who, address, 16), 16);
      for (unsigned at = 0; at < 8; ++at) (transposed ? to[row + at][k] : to[row][k + at]) = float(element(type, bits[at]));
    }
}

std::uint64_t uniform(Warp& w, const Instruction& i, unsigned k) {
  const std::uint64_t* values = w.in(i, k);
  each(w, ~Lanes(0), [&](unsigned lane) {
    if (values[lane] != values[0]) refuse("lanes of one warp give different descriptors");
  });
  w.lane = 0;
  return values[0];
}

/// i.mode: A in registers. i.width: N / 8.
void execute_product(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  Block& block = w.block();
  if (w.index() / 4 * 4 + 4 > block.warps.size()) refuse("wgmma by a warp whose group of four is not whole");
  const unsigned n = i.width * 8u, k = i.part[1];
  const bool registers = i.mode;
  const auto immediate = [&](unsigned part) { return std::int64_t(w.in(i, i.part[part])[0]); };
  const bool transposed_a = !registers && immediate(6) != 0, transposed_b = immediate(registers ? 6 : 7) != 0;
  // What it reads of registers must be there, except for accumulators on their way to another wgmma of the same shape.
  const Lanes accumulates = w.predicate(i, i.part[3]);
  const bool adds = accumulates & 1;
  if ((accumulates != 0 && accumulates != ~Lanes(0)) || w.defined(w.operand(i, i.part[3])) != ~Lanes(0))
    refuse("scale-d is not the same for all lanes");
  bool flying = true;
  for (unsigned at = 0; at < k; ++at) {
    const bool held = w.holds_accumulator(w.operand(i, at));
    flying = flying && held;
    if (adds && !held && w.defined(w.operand(i, at)) != ~Lanes(0)) refuse("accumulates to a register that nobody has written");
  }
  if (!flying && !w.product_fence) refuse("no wgmma.fence stands before this wgmma");
  for (unsigned at = k; at < i.part[3]; ++at)
    if (w.defined(w.operand(i, at)) != ~Lanes(0)) refuse("an operand that nobody has written, or that is not there yet");

  Toucher who = w.toucher(0, i);
  who.asynchronous = true;
  who.as = {block.order.products(w.index()), w.product_groups};
  static thread_local float a[warp_rows][depth], b[most_columns][depth];
  if (registers) {
    for (unsigned r = 0; r < 4; ++r) {
      const std::uint64_t* values = w.in(i, k + r);
      for (unsigned lane = 0; lane < warp_size; ++lane)
        for (unsigned at = 0; at < 2; ++at)
          a[lane / 4 + 8 * (r % 2)][r / 2 * 8 + lane % 4 * 2 + at] =
              float(element(i.from, std::uint32_t(values[lane]) >> (16 * at)));
      w.hold(w.operand(i, k + r), Warp::Hold::operand);
    }
  } else {
    read_tile(w, who, Tile(uniform(w, i, k)), transposed_a, i.from, w.index() % 4 * warp_rows, warp_rows, a);
  }
  read_tile(w, who, Tile(uniform(w, i, i.part[2])), transposed_b, i.from, 0, n, b);
  const double sign = double(immediate(4) * immediate(5));
  for (unsigned at = 0; at < k; ++at) {
    std::uint64_t* d = w.out(i, at);
    for (unsigned lane = 0; lane < warp_size; ++lane) {
      const float* row = a[lane / 4 + 8 * (at / 2 % 2)];
      const float* column = b[at / 4 * 8 + lane % 4 * 2 + at % 2];
      double sum = 0;
      for (unsigned x = 0; x < depth; ++x) sum += double(row[x]) * double(column[x]);
      d[lane] = pack(float(sign * sum + (adds ? double(unpack<float>(d[lane])) : 0.0)));
    }
    w.hold(w.operand(i, at), Warp::Hold::accumulator);
  }
  ++w.group().pc;
}

void execute_group_fence(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  w.product_fence = true;
  ++w.group().pc;
}

void execute_group_commit(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  ++w.product_groups;
  ++w.group().pc;
}

void execute_group_wait(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  const auto left = std::uint32_t(w.in(i, 0)[0]);
  if (w.product_groups > left) w.release_groups(w.product_groups - left);
  ++w.group().pc;
}

void decode_product(Spelling& s, Instruction& i) {
  i.control = true;
  if (s.take("fence")) i.execute = execute_group_fence, i.outputs = 0;
  else if (s.take("commit_group")) i.execute = execute_group_commit;
  else if (s.take("wait_group")) i.execute = execute_group_wait, i.outputs = 0;
  else if (!s.take("mma_async")) s.unknown();
  s.one_of({"sync"}), s.one_of({"aligned"});
  if (i.execute) return;
  for (unsigned n = 8; n <= most_columns && !i.width; n += 8)
    if (s.take(fmt::format("m64n{}k16", n))) i.width = std::uint8_t(n / 8);
  i.type = s.type();
  i.from = s.type();
  if (!i.width || i.type != Type::f32 || s.type() != i.from || (i.from != Type::bf16 && i.from != Type::f16)) s.unknown();
  const unsigned a = i.part[2] - i.part[1];
  const bool registers = a == 4;
  // d, a, b, scale-d, scale-a, scale-b, and transposition of a (unless it is in registers) and b.
  if (i.part[1] != i.width * 4 || (a != 1 && a != 4) || i.parts != (registers ? 7 : 8))
    s.unknown("an operand has another length");
  i.outputs = 0;
  i.lenient = true;
  i.execute = execute_product;
  i.mode = registers;
}

}  // namespace

void add_group_products(Decoders& decoders) { decoders["wgmma"] = decode_product; }

}  // namespace graft::ptx
