// mma.sync: 16 x K times K x 8, accumulated. With g = lane / 4 and t = lane % 4, and `per` elements to a register:
// register r of A holds row g + 8 (r % 2), columns per t ... of its (r / 2)-th 16 bytes; register r of B holds the rows per t ... of the
// r-th 16 bytes of column g; C and D hold rows g and g + 8, columns 2 t and 2 t + 1.
#include <algorithm>

#include "block.h"
#include "elements.h"
#include "lanewise.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

constexpr unsigned rows = 16, columns = 8, most_k = 32;

/// i.type: of D and C; i.from: of A; i.mode: K; i.vector: type of B.
void execute_mma(Warp& w, const Instruction& i, Lanes) {
  if (!w.gather_all(i)) return;
  const unsigned k = i.mode, width = i.width, per = 4 / width;
  const Type type_b = Type(i.vector);
  double a[rows][most_k], b[columns][most_k];
  for (unsigned half = 0; half * 4 * per < k; ++half)
    for (unsigned lane = 0; lane < warp_size; ++lane)
      for (unsigned at = 0; at < per; ++at) {
        const unsigned column = half * 4 * per + lane % 4 * per + at, shift = 8 * width * at;
        for (unsigned r = 0; r < 2; ++r)
          a[lane / 4 + 8 * r][column] = element(i.from, std::uint32_t(w.in(i, i.part[1] + 2 * half + r)[lane]) >> shift);
        b[lane / 4][column] = element(type_b, std::uint32_t(w.in(i, i.part[2] + half)[lane]) >> shift);
      }
  for (unsigned lane = 0; lane < warp_size; ++lane)
    for (unsigned at = 0; at < 4; ++at) {
      const unsigned row = lane / 4 + 8 * (at / 2), column = lane % 4 * 2 + at % 2;
      double sum = 0;
      for (unsigned x = 0; x < k; ++x) sum += a[row][x] * b[column][x];
      if (i.type == Type::f32) {
        w.out(i, at)[lane] = pack(float(sum + double(unpack<float>(w.in(i, i.part[3] + at)[lane]))));
      } else if (i.type == Type::s32) {
        const std::int64_t total = std::int64_t(sum) + std::int32_t(w.in(i, i.part[3] + at)[lane]);
        w.out(i, at)[lane] = std::uint32_t(i.saturate ? std::clamp<std::int64_t>(total, INT32_MIN, INT32_MAX) : total);
      } else {
        const unsigned shift = 16 * (at % 2);
        const double c = decode(Half{std::uint16_t(w.in(i, i.part[3] + at / 2)[lane] >> shift)});
        std::uint64_t& d = w.out(i, at / 2)[lane];
        const std::uint64_t half = encode(half_format, sum + c);
        d = shift ? (d & 0xffff) | half << 16 : half;
      }
    }
  for (unsigned at = 0; at < i.outputs; ++at) w.define(w.operand(i, at), w.live(), w.live());
  ++w.group().pc;
}

void decode_mma(Spelling& s, Instruction& i) {
  s.one_of({"sync"}), s.one_of({"aligned"}), s.one_of({"row"}), s.one_of({"col"});
  constexpr std::uint8_t depths[] = {4, 8, 16, 32};
  i.mode = depths[s.one_of({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"})];
  i.saturate = s.take("satfinite");
  i.type = s.type();
  i.from = s.type();
  const Type b = s.type(), c = s.type();
  i.vector = std::uint8_t(b);
  i.width = std::uint8_t(bytes(i.from));
  const bool integer = i.from == Type::s8 || i.from == Type::u8;
  const bool known = integer ? (b == Type::s8 || b == Type::u8) && i.type == Type::s32
                             : b == i.from && (i.from == Type::f16 || i.from == Type::bf16 || i.from == Type::tf32) &&
                                   (i.type == Type::f32 || (i.type == Type::f16 && i.from == Type::f16));
  // 16 or 32 bytes of each row.
  const unsigned halves = i.mode * i.width / 16u;
  if (!known || c != i.type || (halves != 1 && halves != 2) || i.mode * i.width % 16) s.unknown();
  const unsigned d = i.type == Type::f16 ? 2 : 4;
  if (i.parts != 4 || i.outputs != d || i.part[2] - i.part[1] != int(2 * halves) || i.part[3] - i.part[2] != int(halves) ||
      i.count - i.part[3] != int(d))
    s.unknown("an operand has another length");
  i.control = true;
  i.execute = execute_mma;
}

}  // namespace

void add_products(Decoders& decoders) { decoders["mma"] = decode_mma; }

}  // namespace graft::ptx
