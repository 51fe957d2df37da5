// setp, set, slct.
#include <cmath>

#include "lanewise.h"
#include "memory.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

enum Comparison : std::uint8_t { eq, ne, lt, le, gt, ge, lo, ls, hi, hs, equ, neu, ltu, leu, gtu, geu, num, nan_ };
enum Combination : std::uint8_t { alone, with_and, with_or, with_xor };

template <class T>
bool compare(std::uint8_t how, T a, T b) {
  switch (how) {
    case eq:
    case equ: return a == b;
    case ne:
    case neu: return a != b;
    case lt:
    case lo:
    case ltu: return a < b;
    case le:
    case ls:
    case leu: return a <= b;
    case gt:
    case hi:
    case gtu: return a > b;
    default: return a >= b;
  }
}

/// Ordered comparisons with NaN are false, those named ..u are true.
bool compare_float(std::uint8_t how, double a, double b) {
  const bool unordered = std::isnan(a) || std::isnan(b);
  if (how == num) return !unordered;
  if (how == nan_) return unordered;
  if (unordered) return how >= equ;
  return compare(how, a, b);
}

template <class T>
double number_of(const Instruction& i, std::uint64_t bits) {
  if constexpr (std::is_floating_point_v<T>) {
    const T value = unpack<T>(bits);
    if (i.ftz && std::fpclassify(value) == FP_SUBNORMAL) return 0;
    return value;
  } else {
    return decode(unpack<T>(bits));
  }
}

/// The lanes for which the comparison of operands 1 and 2 (counted from `first`) holds.
template <class T>
Lanes compared(Warp& w, const Instruction& i, unsigned first) {
  const std::uint64_t *a = w.in(i, first), *b = w.in(i, first + 1);
  Lanes result = 0;
  for (unsigned lane = 0; lane < warp_size; ++lane) {
    bool holds = false;
    if constexpr (std::is_integral_v<T>) holds = compare<T>(i.mode & 31, unpack<T>(a[lane]), unpack<T>(b[lane]));
    else holds = compare_float(i.mode & 31, number_of<T>(i, a[lane]), number_of<T>(i, b[lane]));
    result |= Lanes(holds) << lane;
  }
  return result;
}

Lanes combine(Warp& w, const Instruction& i, Lanes result, unsigned k) {
  switch (i.mode >> 5) {
    case with_and: return result & w.predicate(i, k);
    case with_or: return result | w.predicate(i, k);
    case with_xor: return result ^ w.predicate(i, k);
    default: return result;
  }
}

template <class T>
void execute_setp(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned first = i.part[1];
  const Lanes result = compared<T>(w, i, first);
  const Lanes p = combine(w, i, result, first + 2), q = first > 1 ? combine(w, i, ~result, first + 2) : 0;
  w.set_predicate(i, 0, lanes, p);
  if (first > 1) w.set_predicate(i, 1, lanes, q);
}

/// setp.f16x2 p|q: of the low halves and of the high ones.
template <class T>
void execute_setp_pair(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned first = i.part[1];
  const std::uint64_t *a = w.in(i, first), *b = w.in(i, first + 1);
  for (unsigned half = 0; half < first; ++half) {
    Lanes result = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane)
      result |=
          Lanes(compare_float(i.mode & 31, number_of<T>(i, a[lane] >> (16 * half)), number_of<T>(i, b[lane] >> (16 * half))))
          << lane;
    w.set_predicate(i, half, lanes, combine(w, i, result, first + 2));
  }
}

void decode_comparison(Spelling& s, Instruction& i) {
  const int how = s.one_of(
      {"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
  const int combination = s.one_of({"and", "or", "xor"}, 3);
  i.mode = std::uint8_t(how | (combination == 3 ? alone : combination + 1) << 5);
  i.ftz = s.take("ftz");
}

void decode_setp(Spelling& s, Instruction& i) {
  decode_comparison(s, i);
  i.type = s.type();
  switch (i.type) {
    case Type::f16: i.execute = execute_setp<Half>; break;
    case Type::bf16: i.execute = execute_setp<Bfloat>; break;
    case Type::f16x2: i.execute = execute_setp_pair<Half>; break;
    case Type::bf16x2: i.execute = execute_setp_pair<Bfloat>; break;
    case Type::f32: i.execute = execute_setp<float>; break;
    case Type::f64: i.execute = execute_setp<double>; break;
    default:
      i.execute = with_integer(i.type, [](auto* t) -> Execute { return execute_setp<std::remove_pointer_t<decltype(t)>>; });
  }
}

/// set: all ones or 1.0 where it holds.
template <class T>
void execute_set(Warp& w, const Instruction& i, Lanes lanes) {
  const Lanes result = combine(w, i, compared<T>(w, i, 1), 3);
  const std::uint64_t yes = i.from == Type::f32    ? std::bit_cast<std::uint32_t>(1.0f)
                            : i.from == Type::f16  ? 0x3c00
                            : i.from == Type::bf16 ? 0x3f80
                                                   : ~std::uint32_t(0);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = result >> lane & 1 ? yes : 0; });
}
template <class T>
void execute_set_pair(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  const std::uint32_t yes = i.from == Type::f16x2 ? 0x3c00 : i.from == Type::bf16x2 ? 0x3f80 : 0xffff;
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    std::uint32_t bits = 0;
    for (unsigned at = 0; at < 32; at += 16)
      if (compare_float(i.mode & 31, number_of<T>(i, a[lane] >> at), number_of<T>(i, b[lane] >> at))) bits |= yes << at;
    d[lane] = bits;
  });
}

void decode_set(Spelling& s, Instruction& i) {
  decode_comparison(s, i);
  i.from = s.type();
  i.type = s.has_type() ? s.type() : i.from;
  switch (i.type) {
    case Type::f16: i.execute = execute_set<Half>; break;
    case Type::bf16: i.execute = execute_set<Bfloat>; break;
    case Type::f16x2: i.execute = execute_set_pair<Half>; break;
    case Type::bf16x2: i.execute = execute_set_pair<Bfloat>; break;
    case Type::f32: i.execute = execute_set<float>; break;
    case Type::f64: i.execute = execute_set<double>; break;
    default: i.execute = with_integer(i.type, [](auto* t) -> Execute { return execute_set<std::remove_pointer_t<decltype(t)>>; });
  }
}

void execute_slct(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2), *c = w.in(i, 3);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    const bool first = i.from == Type::f32 ? number_of<float>(i, c[lane]) >= 0 : std::int32_t(c[lane]) >= 0;
    d[lane] = first ? a[lane] : b[lane];
  });
}

}  // namespace

void add_comparisons(Decoders& decoders) {
  decoders["setp"] = decode_setp;
  decoders["set"] = decode_set;
  decoders["slct"] = [](Spelling& s, Instruction& i) {
    i.ftz = s.take("ftz"), i.type = s.type(), i.from = s.type(), i.execute = execute_slct;
  };
}

}  // namespace graft::ptx
