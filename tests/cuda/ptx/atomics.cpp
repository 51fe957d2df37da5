// atom and red.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "accesses.h"
#include "block.h"
#include "lanewise.h"

namespace graft::ptx {
namespace {

enum Operation : std::uint8_t { add, min, max, inc, dec, exch, cas, and_, or_, xor_ };

template <class T>
T combine(std::uint8_t operation, T old, T value, T third) {
  if constexpr (std::is_integral_v<T>) {
    switch (operation) {
      case add: return T(std::make_unsigned_t<T>(old) + std::make_unsigned_t<T>(value));
      case min: return std::min(old, value);
      case max: return std::max(old, value);
      case inc: return old >= value ? T(0) : T(old + 1);
      case dec: return old == 0 || old > value ? value : T(old - 1);
      case exch: return value;
      case cas: return old == value ? third : old;
      case and_: return old & value;
      case or_: return old | value;
      default: return old ^ value;
    }
  } else if constexpr (std::is_floating_point_v<T>) {
    return operation == add   ? old + value
           : operation == min ? std::fmin(old, value)
           : operation == max ? std::fmax(old, value)
                              : value;
  } else if constexpr (std::is_same_v<T, Half>) {
    return Half{std::uint16_t(encode(half_format, combine(operation, decode(old), decode(value), 0.0)))};
  } else if constexpr (std::is_same_v<T, Bfloat>) {
    return Bfloat{std::uint16_t(encode(bfloat_format, combine(operation, decode(old), decode(value), 0.0)))};
  } else {
    return {combine(operation, old.low, value.low, third.low), combine(operation, old.high, value.high, third.high)};
  }
}

/// atom writes the old values to operand 0; red does not.
template <class T>
void execute_atomic(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned k = i.outputs ? i.part[1] : 0;  // of the address
  const unsigned first = i.outputs ? i.part[2] : i.part[1];
  each(w, lanes, [&](unsigned lane) {
    T old[8], value[8];
    const std::uint64_t address = w.address(i, k, lane);
    w.load(lane, i, address, old, sizeof(T) * i.vector);
    for (unsigned at = 0; at < i.vector; ++at) {
      const T third = i.mode == cas ? unpack<T>(w.in(i, first + 1)[lane]) : T{};
      value[at] = combine(i.mode, old[at], unpack<T>(w.in(i, first + at)[lane]), third);
    }
    w.block().observe(w, i, lane, address);
    w.block().publish(w, i, lane, address);
    w.store(lane, i, address, value, sizeof(T) * i.vector);
    if (i.outputs)
      for (unsigned at = 0; at < i.vector; ++at)
        if (w.operand(i, at).slot != sink) w.out(i, at)[lane] = pack(old[at]);
  });
  w.block().progress();
}

void decode_atomic(Spelling& s, Instruction& i, bool result) {
  i.strong = true;
  take_semantics(s, i);
  i.space = take_space(s);
  i.mode = std::uint8_t(s.one_of({"add", "min", "max", "inc", "dec", "exch", "cas", "and", "or", "xor"}));
  s.ignore({"noftz"});
  take_hints(s);
  constexpr std::uint8_t vectors[] = {2, 4, 8, 1};
  i.vector = vectors[s.one_of({"v2", "v4", "v8"}, 3)];
  i.type = s.type();
  i.width = std::uint8_t(bytes(i.type));
  if (!result) i.outputs = 0;
  const bool arithmetic = i.mode <= max;
  switch (i.type) {
    case Type::f16: i.execute = execute_atomic<Half>; break;
    case Type::bf16: i.execute = execute_atomic<Bfloat>; break;
    case Type::f16x2: i.execute = execute_atomic<Pair<Half>>; break;
    case Type::bf16x2: i.execute = execute_atomic<Pair<Bfloat>>; break;
    case Type::f32: i.execute = execute_atomic<float>; break;
    case Type::f64: i.execute = execute_atomic<double>; break;
    default:
      i.execute = with_integer(i.type, [](auto* t) -> Execute { return execute_atomic<std::remove_pointer_t<decltype(t)>>; });
  }
  if (!i.execute || (is_float(i.type) && !arithmetic) || i.width == 1) s.unknown();
}

}  // namespace

void add_atomics(Decoders& decoders) {
  decoders["atom"] = [](Spelling& s, Instruction& i) { decode_atomic(s, i, true); };
  decoders["red"] = [](Spelling& s, Instruction& i) { decode_atomic(s, i, false); };
}

}  // namespace graft::ptx
