// What the lanes of a warp tell each other: shfl, vote, match, redux, activemask, elect.
#include <algorithm>

#include "block.h"
#include "lanewise.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

/// The mask that operand k gives, when all lanes that it names are here; 0 while they are not.
Lanes members(Warp& w, const Instruction& i, unsigned k, Lanes lanes) {
  const std::uint64_t* masks = w.in(i, k);
  const auto mask = Lanes(masks[__builtin_ctz(lanes)]);
  each(w, lanes, [&](unsigned lane) {
    if (Lanes(masks[lane]) != mask) refuse("lanes of one warp name different masks, {:#x} and {:#x}", mask, Lanes(masks[lane]));
    if (!(mask >> lane & 1)) refuse("a lane that the mask {:#x} does not name", mask);
  });
  if (!w.gather(mask)) return 0;
  if (lanes != mask) refuse("the mask {:#x} names lanes that are predicated off", mask);
  return mask;
}

/// Runs `f(mask)` when all are here. These instructions move pc themselves, because they may have to wait.
template <class F>
void together(Warp& w, const Instruction& i, unsigned k, Lanes lanes, F f) {
  const Lanes mask = members(w, i, k, lanes);
  if (!mask) return;
  f(mask);
  for (unsigned at = 0; at < i.outputs; ++at) w.define(w.operand(i, at), mask, mask);
  ++w.group().pc;
}

enum Shuffle : std::uint8_t { up, down, bfly, idx };

void execute_shuffle(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned k = i.part[1];
  together(w, i, i.count - 1u, lanes, [&](Lanes mask) {
    const std::uint64_t *a = w.in(i, k), *b = w.in(i, k + 1), *c = w.in(i, k + 2);
    std::uint64_t source[warp_size];
    std::copy_n(a, warp_size, source);
    std::uint64_t* d = w.out(i, 0);
    Lanes inside = 0;
    each(w, mask, [&](unsigned lane) {
      const unsigned clamp = c[lane] & 31, segment = c[lane] >> 8 & 31, by = b[lane] & 31;
      const unsigned last = (lane & segment) | (clamp & ~segment), first = lane & segment;
      int from = 0;
      bool valid = false;
      switch (i.mode) {
        case up: from = int(lane) - int(by), valid = from >= int(last); break;
        case down: from = int(lane + by), valid = from <= int(last); break;
        case bfly: from = int(lane ^ by), valid = from <= int(last); break;
        default: from = int(first | (by & ~segment)), valid = from <= int(last);
      }
      if (!valid) from = int(lane);
      if (!(mask >> from & 1)) refuse("takes a value from lane {}, which the mask {:#x} does not name", from, mask);
      d[lane] = source[from];
      inside |= Lanes(valid) << lane;
    });
    if (i.outputs > 1) w.set_predicate(i, 1, mask, inside);
  });
}

enum Vote : std::uint8_t { all, any, uni, ballot };

void execute_vote(Warp& w, const Instruction& i, Lanes lanes) {
  together(w, i, i.count - 1u, lanes, [&](Lanes mask) {
    const Lanes votes = w.predicate(i, 1) & mask;
    if (i.mode == ballot) {
      fast(mask, [&](unsigned lane) { w.out(i, 0)[lane] = votes; });
      return;
    }
    const bool result = i.mode == all ? votes == mask : i.mode == any ? votes != 0 : votes == mask || votes == 0;
    w.set_predicate(i, 0, mask, result ? ~Lanes(0) : 0);
  });
}

void execute_match(Warp& w, const Instruction& i, Lanes lanes) {
  together(w, i, i.count - 1u, lanes, [&](Lanes mask) {
    const std::uint64_t* a = w.in(i, i.part[1]);
    const std::uint64_t bits = i.width == 8 ? ~std::uint64_t(0) : 0xffffffff;
    Lanes same[warp_size] = {};
    each(w, mask, [&](unsigned lane) {
      each(w, mask, [&](unsigned other) { same[lane] |= Lanes((a[lane] & bits) == (a[other] & bits)) << other; });
    });
    const bool equal = same[__builtin_ctz(mask)] == mask;
    fast(mask, [&](unsigned lane) { w.out(i, 0)[lane] = i.mode == any ? same[lane] : equal ? mask : 0; });
    if (i.outputs > 1) w.set_predicate(i, 1, mask, equal ? ~Lanes(0) : 0);
  });
}

enum Reduction : std::uint8_t { add, min, max, and_, or_, xor_ };

void execute_reduction(Warp& w, const Instruction& i, Lanes lanes) {
  together(w, i, i.count - 1u, lanes, [&](Lanes mask) {
    const std::uint64_t* a = w.in(i, 1);
    auto result = std::uint32_t(a[__builtin_ctz(mask)]);
    each(w, mask & (mask - 1), [&](unsigned lane) {
      const auto b = std::uint32_t(a[lane]);
      const bool less = is_signed(i.type) ? std::int32_t(b) < std::int32_t(result) : b < result;
      switch (i.mode) {
        case add: result += b; break;
        case min: result = less ? b : result; break;
        case max: result = less ? result : b; break;
        case and_: result &= b; break;
        case or_: result |= b; break;
        default: result ^= b;
      }
    });
    fast(mask, [&](unsigned lane) { w.out(i, 0)[lane] = result; });
  });
}

/// elect.sync d|p, mask: the lowest lane of the mask.
void execute_elect(Warp& w, const Instruction& i, Lanes lanes) {
  together(w, i, i.count - 1u, lanes, [&](Lanes mask) {
    const unsigned leader = unsigned(__builtin_ctz(mask));
    fast(mask, [&](unsigned lane) { w.out(i, 0)[lane] = leader; });
    w.set_predicate(i, 1, mask, Lanes(1) << leader);
  });
}

void execute_active(Warp& w, const Instruction& i, Lanes lanes) {
  fast(lanes, [&](unsigned lane) { w.out(i, 0)[lane] = lanes; });
}

void decode_exchange(Spelling& s, Instruction& i, Execute execute, std::initializer_list<std::string_view> modes) {
  s.one_of({"sync"});
  if (modes.size()) i.mode = std::uint8_t(s.one_of(modes));
  if (s.has_type()) i.type = s.type();
  i.width = std::uint8_t(bytes(i.type));
  i.control = true;
  i.execute = execute;
}

}  // namespace

void add_exchanges(Decoders& decoders) {
  decoders["shfl"] = [](Spelling& s, Instruction& i) { decode_exchange(s, i, execute_shuffle, {"up", "down", "bfly", "idx"}); };
  decoders["vote"] = [](Spelling& s, Instruction& i) { decode_exchange(s, i, execute_vote, {"all", "any", "uni", "ballot"}); };
  decoders["match"] = [](Spelling& s, Instruction& i) { decode_exchange(s, i, execute_match, {"all", "any"}); };
  decoders["redux"] = [](Spelling& s, Instruction& i) {
    decode_exchange(s, i, execute_reduction, {"add", "min", "max", "and", "or", "xor"});
  };
  decoders["elect"] = [](Spelling& s, Instruction& i) {
    s.ignore({"aligned"});
    decode_exchange(s, i, execute_elect, {});
    if (i.outputs != 2) s.unknown();
  };
  decoders["activemask"] = [](Spelling& s, Instruction& i) { s.type(), i.execute = execute_active; };
}

}  // namespace graft::ptx
