// Integer arithmetic, bits and logic.
#include <algorithm>
#include <limits>

#include "floats.h"
#include "lanewise.h"

namespace graft::ptx {
namespace {

template <class T>
using Wider = std::conditional_t<sizeof(T) == 8, std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>,
                                 std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>;

struct Add {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    const Wider<T> sum = Wider<T>(a) + Wider<T>(b);
    if (i.saturate) return T(std::clamp<Wider<T>>(sum, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
    return T(sum);
  }
};
struct Sub {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    const Wider<T> difference = Wider<T>(a) - Wider<T>(b);
    if (i.saturate) return T(std::clamp<Wider<T>>(difference, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
    return T(difference);
  }
};
struct Low {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return T(Wider<T>(a) * Wider<T>(b));
  }
};
struct High {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return T((Wider<T>(a) * Wider<T>(b)) >> (8 * sizeof(T)));
  }
};
struct Wide {
  template <class T>
  std::int64_t operator()(const Instruction&, T a, T b) const {
    return std::int64_t(std::uint64_t(a) * std::uint64_t(b));  // of signed numbers extended, so that the bits are right for both
  }
};
template <class Product>
struct PlusProduct {
  template <class T, class C>
  C operator()(const Instruction& i, T a, T b, C c) const {
    return C(std::uint64_t(Product()(i, a, b)) + std::uint64_t(c));
  }
};
// Division by zero is undefined in PTX; the hardware gives all ones, and the dividend as remainder.
struct Div {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return b == 0 ? T(-1) : T(Wider<T>(a) / Wider<T>(b));
  }
};
struct Rem {
  template <class T>
  T operator()(const Instruction&, T a, T b) const {
    return b == 0 ? a : T(Wider<T>(a) % Wider<T>(b));
  }
};
struct Min {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    return i.mode ? std::max(std::min(a, b), T(0)) : std::min(a, b);
  }
};
struct Max {
  template <class T>
  T operator()(const Instruction& i, T a, T b) const {
    return i.mode ? std::max({a, b, T(0)}) : std::max(a, b);
  }
};
struct Abs {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return a < 0 ? T(0 - std::make_unsigned_t<T>(a)) : a;
  }
};
struct Neg {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return T(0 - std::make_unsigned_t<T>(a));
  }
};
struct Sad {
  template <class T>
  T operator()(const Instruction&, T a, T b, T c) const {
    return T(std::uint64_t(c) + (a < b ? std::uint64_t(b) - std::uint64_t(a) : std::uint64_t(a) - std::uint64_t(b)));
  }
};
struct And {
  std::uint64_t operator()(const Instruction&, std::uint64_t a, std::uint64_t b) const { return a & b; }
};
struct Or {
  std::uint64_t operator()(const Instruction&, std::uint64_t a, std::uint64_t b) const { return a | b; }
};
struct Xor {
  std::uint64_t operator()(const Instruction&, std::uint64_t a, std::uint64_t b) const { return a ^ b; }
};
struct Not {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return T(~a);
  }
};
struct Cnot {
  template <class T>
  T operator()(const Instruction&, T a) const {
    return a == 0;
  }
};
struct Shl {
  template <class T>
  T operator()(const Instruction&, T a, std::uint32_t b) const {
    return b >= 8 * sizeof(T) ? T(0) : T(std::make_unsigned_t<T>(a) << b);
  }
};
struct Shr {
  template <class T>
  T operator()(const Instruction&, T a, std::uint32_t b) const {
    return T(a >> std::min<std::uint32_t>(b, 8 * sizeof(T) - 1) >> (b >= 8 * sizeof(T)));
  }
};
struct ExtractField {
  template <class T>
  T operator()(const Instruction&, T a, std::uint32_t position, std::uint32_t length) const {
    constexpr unsigned width = 8 * sizeof(T);
    position &= 0xff, length &= 0xff;
    const bool sign = std::is_signed_v<T> && length > 0 && a >> std::min(position + length - 1, width - 1) & 1;
    T d = 0;
    for (unsigned bit = 0; bit < width; ++bit)
      if (bit < length && position + bit < width ? a >> (position + bit) & 1 : sign) d = T(d | T(1) << bit);
    return d;
  }
};
template <class T>
void execute_insert(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2), *c = w.in(i, 3), *e = w.in(i, 4);
  std::uint64_t* d = w.out(i, 0);
  constexpr unsigned width = 8 * sizeof(T);
  fast(lanes, [&](unsigned lane) {
    const unsigned position = c[lane] & 0xff, length = std::min<unsigned>(e[lane] & 0xff, width);
    const T field = position >= width ? T(0) : T((length == width ? ~T(0) : (T(1) << length) - 1) << position);
    d[lane] = (T(b[lane]) & T(~field)) | (position >= width ? T(0) : T(T(a[lane]) << position) & field);
  });
}
struct FindTop {
  template <class T>
  std::uint32_t operator()(const Instruction& i, T a) const {
    using U = std::make_unsigned_t<T>;
    const U bits = a < 0 ? U(~U(a)) : U(a);
    if (!bits) return ~0u;
    const auto top = std::uint32_t(std::bit_width(bits)) - 1;
    return i.mode ? std::uint32_t(8 * sizeof(T)) - 1 - top : top;
  }
};
struct Count {
  template <class T>
  std::uint32_t operator()(const Instruction&, T a) const {
    return std::uint32_t(std::popcount(std::make_unsigned_t<T>(a)));
  }
};
struct LeadingZeros {
  template <class T>
  std::uint32_t operator()(const Instruction&, T a) const {
    return std::uint32_t(std::countl_zero(std::make_unsigned_t<T>(a)));
  }
};
struct Reverse {
  template <class T>
  T operator()(const Instruction&, T a) const {
    T d = 0;
    for (unsigned bit = 0; bit < 8 * sizeof(T); ++bit) d = T(d << 1 | (a >> bit & 1));
    return d;
  }
};
template <bool left, bool wrap>
struct Funnel {
  std::uint32_t operator()(const Instruction&, std::uint32_t a, std::uint32_t b, std::uint32_t c) const {
    const std::uint64_t both = std::uint64_t(b) << 32 | a;
    const std::uint32_t n = wrap ? c & 31 : std::min(c, 32u);
    return left ? std::uint32_t((both << n) >> 32) : std::uint32_t(both >> n);
  }
};
/// Sums of products of bytes; i.mode: bit 0: a is signed, bit 1: b is.
struct Dot4 {
  std::uint32_t operator()(const Instruction& i, std::uint32_t a, std::uint32_t b, std::uint32_t c) const {
    for (unsigned at = 0; at < 32; at += 8) {
      const std::int32_t x = i.mode & 1 ? std::int8_t(a >> at) : std::uint8_t(a >> at),
                         y = i.mode & 2 ? std::int8_t(b >> at) : std::uint8_t(b >> at);
      c += std::uint32_t(x * y);
    }
    return c;
  }
};

/// The truth table is the last operand.
void execute_lop3(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2), *c = w.in(i, 3);
  const auto table = unsigned(w.in(i, 4)[0]);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    std::uint64_t bits = 0;
    for (unsigned row = 0; row < 8; ++row)
      if (table >> row & 1)
        bits |= (row & 4 ? a[lane] : ~a[lane]) & (row & 2 ? b[lane] : ~b[lane]) & (row & 1 ? c[lane] : ~c[lane]);
    d[lane] = std::uint32_t(bits);
  });
}

/// add.cc, addc, sub.cc, subc; i.mode: bit 0: takes the carry, bit 1: gives it, bit 2: subtracts.
template <class T>
void execute_carry(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  std::uint64_t* d = w.out(i, 0);
  Lanes carry = w.carry;
  fast(lanes, [&](unsigned lane) {
    const bool in = i.mode & 1 && w.carry >> lane & 1;
    const unsigned __int128 x = T(a[lane]), y = T(b[lane]);
    const unsigned __int128 sum = i.mode & 4 ? x - y - in : x + y + in;
    d[lane] = T(sum);
    const Lanes out = Lanes(sum >> (8 * sizeof(T)) & 1);
    carry = (carry & ~(Lanes(1) << lane)) | out << lane;
  });
  if (i.mode & 2) w.carry = carry;
}
/// mad.cc and madc; i.mode: as above; bit 3: the product's high half.
template <class T>
void execute_multiply_carry(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2), *c = w.in(i, 3);
  std::uint64_t* d = w.out(i, 0);
  Lanes carry = w.carry;
  fast(lanes, [&](unsigned lane) {
    const bool in = i.mode & 1 && w.carry >> lane & 1;
    const T product = i.mode & 8 ? High()(i, T(a[lane]), T(b[lane])) : Low()(i, T(a[lane]), T(b[lane]));
    const unsigned __int128 sum =
        static_cast<unsigned __int128>(std::make_unsigned_t<T>(product)) + std::make_unsigned_t<T>(c[lane]) + in;
    d[lane] = pack(T(sum));
    carry = (carry & ~(Lanes(1) << lane)) | Lanes(sum >> (8 * sizeof(T)) & 1) << lane;
  });
  if (i.mode & 2) w.carry = carry;
}

template <class F>
Execute same_binary(Type type) {
  return with_integer(type, [](auto* t) -> Execute {
    using T = std::remove_pointer_t<decltype(t)>;
    return binary<T, T, T, F>;
  });
}
template <class F>
Execute same_unary(Type type) {
  return with_integer(type, [](auto* t) -> Execute {
    using T = std::remove_pointer_t<decltype(t)>;
    return unary<T, T, F>;
  });
}
template <class F>
Execute shift(Type type) {
  return with_integer(type, [](auto* t) -> Execute {
    using T = std::remove_pointer_t<decltype(t)>;
    return binary<T, T, std::uint32_t, F>;
  });
}
template <class F>
Execute count(Type type) {
  return with_integer(type, [](auto* t) -> Execute {
    using T = std::remove_pointer_t<decltype(t)>;
    return unary<std::uint32_t, T, F>;
  });
}

using Decode = void (*)(Spelling&, Instruction&);

/// Integers by `F`, floats by `decode_float`.
template <class F, Decode decode_float>
void decode_arithmetic(Spelling& s, Instruction& i) {
  i.type = s.type();
  if (is_float(i.type)) return decode_float(s, i);
  i.saturate = s.take("sat");
  i.mode = s.take("relu");
  i.execute = same_binary<F>(i.type);
}
template <class F, Decode decode_float>
void decode_sign(Spelling& s, Instruction& i) {
  i.type = s.type();
  if (is_float(i.type)) return decode_float(s, i);
  i.execute = same_unary<F>(i.type);
}

template <bool subtract, bool takes, class F, Decode decode_float>
void decode_sum(Spelling& s, Instruction& i) {
  const bool gives = s.take("cc");
  if (!takes && !gives) return decode_arithmetic<F, decode_float>(s, i);
  i.type = s.type();
  i.mode = std::uint8_t(takes | gives << 1 | subtract << 2);
  i.execute = bytes(i.type) == 8 ? execute_carry<std::uint64_t> : execute_carry<std::uint32_t>;
}

void decode_multiply(Spelling& s, Instruction& i) {
  i.type = s.type();
  if (is_float(i.type)) return decode_float_mul(s, i);
  switch (s.one_of({"lo", "hi", "wide"})) {
    case 0: i.execute = same_binary<Low>(i.type); break;
    case 1: i.execute = same_binary<High>(i.type); break;
    default:
      i.execute = with_integer(i.type, [](auto* t) -> Execute {
        using T = std::remove_pointer_t<decltype(t)>;
        return binary<std::int64_t, T, T, Wide>;
      });
  }
}

template <bool takes>
void decode_multiply_add(Spelling& s, Instruction& i) {
  i.type = s.type();
  if (is_float(i.type)) return decode_float_fma(s, i);
  const bool gives = s.take("cc");
  const int part = s.one_of({"lo", "hi", "wide"});
  if (takes || gives) {
    if (part == 2 || bytes(i.type) < 4) s.unknown();
    i.mode = std::uint8_t(takes | gives << 1 | part << 3);
    i.execute =
        with_integer(i.type, [](auto* t) -> Execute { return execute_multiply_carry<std::remove_pointer_t<decltype(t)>>; });
    return;
  }
  i.execute = with_integer(i.type, [&](auto* t) -> Execute {
    using T = std::remove_pointer_t<decltype(t)>;
    if (part == 0) return ternary<T, T, T, T, PlusProduct<Low>>;
    if (part == 1) return ternary<T, T, T, T, PlusProduct<High>>;
    return ternary<std::int64_t, T, T, std::int64_t, PlusProduct<Wide>>;
  });
}

enum class Logic : std::uint8_t { and_, or_, xor_, not_ };
template <Logic logic>
void execute_predicate_logic(Warp& w, const Instruction& i, Lanes lanes) {
  const Lanes a = w.predicate(i, 1), b = logic == Logic::not_ ? 0 : w.predicate(i, 2);
  w.set_predicate(i, 0, lanes, logic == Logic::and_ ? a & b : logic == Logic::or_ ? a | b : logic == Logic::xor_ ? a ^ b : ~a);
}
template <Logic logic, class F>
void decode_logic(Spelling& s, Instruction& i) {
  i.type = s.type();
  if (i.type == Type::pred) i.execute = execute_predicate_logic<logic>;
  else if constexpr (logic == Logic::not_) i.execute = same_unary<F>(i.type);
  else i.execute = binary<std::uint64_t, std::uint64_t, std::uint64_t, F>;
}

void decode_funnel(Spelling& s, Instruction& i) {
  using U = std::uint32_t;
  const bool left = s.one_of({"l", "r"}) == 0, wrap = s.one_of({"clamp", "wrap"}) == 1;
  s.type();
  i.execute = left ? (wrap ? ternary<U, U, U, U, Funnel<true, true>> : ternary<U, U, U, U, Funnel<true, false>>)
                   : (wrap ? ternary<U, U, U, U, Funnel<false, true>> : ternary<U, U, U, U, Funnel<false, false>>);
}

}  // namespace

void add_integers(Decoders& decoders) {
  decoders["add"] = decode_sum<false, false, Add, decode_float_add>;
  decoders["addc"] = decode_sum<false, true, Add, decode_float_add>;
  decoders["sub"] = decode_sum<true, false, Sub, decode_float_sub>;
  decoders["subc"] = decode_sum<true, true, Sub, decode_float_sub>;
  decoders["mul"] = decode_multiply;
  decoders["mad"] = decode_multiply_add<false>;
  decoders["madc"] = decode_multiply_add<true>;
  decoders["fma"] = [](Spelling& s, Instruction& i) { i.type = s.type(), decode_float_fma(s, i); };
  decoders["div"] = decode_arithmetic<Div, decode_float_div>;
  decoders["rem"] = [](Spelling& s, Instruction& i) { i.type = s.type(), i.execute = same_binary<Rem>(i.type); };
  decoders["min"] = decode_arithmetic<Min, decode_float_min>;
  decoders["max"] = decode_arithmetic<Max, decode_float_max>;
  decoders["abs"] = decode_sign<Abs, decode_float_abs>;
  decoders["neg"] = decode_sign<Neg, decode_float_neg>;
  decoders["sad"] = [](Spelling& s, Instruction& i) {
    i.execute = with_integer(s.type(), [](auto* t) -> Execute {
      using T = std::remove_pointer_t<decltype(t)>;
      return ternary<T, T, T, T, Sad>;
    });
  };
  decoders["and"] = decode_logic<Logic::and_, And>;
  decoders["or"] = decode_logic<Logic::or_, Or>;
  decoders["xor"] = decode_logic<Logic::xor_, Xor>;
  decoders["not"] = decode_logic<Logic::not_, Not>;
  decoders["cnot"] = [](Spelling& s, Instruction& i) { i.execute = same_unary<Cnot>(s.type()); };
  decoders["shl"] = [](Spelling& s, Instruction& i) { i.execute = shift<Shl>(s.type()); };
  decoders["shr"] = [](Spelling& s, Instruction& i) { i.execute = shift<Shr>(s.type()); };
  decoders["shf"] = decode_funnel;
  decoders["bfe"] = [](Spelling& s, Instruction& i) {
    i.execute = with_integer(s.type(), [](auto* t) -> Execute {
      using T = std::remove_pointer_t<decltype(t)>;
      return ternary<T, T, std::uint32_t, std::uint32_t, ExtractField>;
    });
  };
  decoders["bfi"] = [](Spelling& s, Instruction& i) {
    i.execute = bytes(s.type()) == 8 ? execute_insert<std::uint64_t> : execute_insert<std::uint32_t>;
  };
  decoders["bfind"] = [](Spelling& s, Instruction& i) { i.mode = s.take("shiftamt"), i.execute = count<FindTop>(s.type()); };
  decoders["popc"] = [](Spelling& s, Instruction& i) { i.execute = count<Count>(s.type()); };
  decoders["clz"] = [](Spelling& s, Instruction& i) { i.execute = count<LeadingZeros>(s.type()); };
  decoders["brev"] = [](Spelling& s, Instruction& i) { i.execute = same_unary<Reverse>(s.type()); };
  decoders["lop3"] = [](Spelling& s, Instruction& i) { s.type(), i.execute = execute_lop3; };
  decoders["dp4a"] = [](Spelling& s, Instruction& i) {
    using U = std::uint32_t;
    const Type a = s.type(), b = s.type();
    i.mode = std::uint8_t(is_signed(a) | is_signed(b) << 1);
    i.execute = ternary<U, U, U, U, Dot4>;
  };
}

}  // namespace graft::ptx
