// What moves bits as they are: mov, selp, cvta, prmt.
#include <algorithm>

#include "accesses.h"
#include "lanewise.h"
#include "memory.h"

namespace graft::ptx {
namespace {

void execute_move(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = a[lane]; });
  w.define(w.operand(i, 0), lanes, w.defined(w.operand(i, 1)));
}

void execute_predicate_move(Warp& w, const Instruction& i, Lanes lanes) {
  w.set_predicate(i, 0, lanes, w.predicate(i, 1));
  w.define(w.operand(i, 0), lanes, w.defined(w.operand(i, 1)));
}

/// mov.b32 d, {a, b}: the first is the lowest.
void execute_pack(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned parts = i.count - 1u, width = 8 * bytes(i.type) / parts;
  const std::uint64_t mask = (std::uint64_t(1) << width) - 1;
  Lanes defined = ~Lanes(0);
  for (unsigned k = 1; k <= parts; ++k) defined &= w.defined(w.operand(i, k));
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) {
    std::uint64_t bits = 0;
    for (unsigned k = 0; k < parts; ++k) bits |= (w.in(i, k + 1)[lane] & mask) << (k * width);
    d[lane] = bits;
  });
  w.define(w.operand(i, 0), lanes, defined);
}

void execute_unpack(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned parts = i.count - 1u, width = 8 * bytes(i.type) / parts;
  const std::uint64_t mask = (std::uint64_t(1) << width) - 1;
  const Lanes defined = w.defined(w.operand(i, parts));
  const std::uint64_t* a = w.in(i, parts);
  fast(lanes, [&](unsigned lane) {
    const std::uint64_t bits = a[lane];
    for (unsigned k = 0; k < parts; ++k)
      if (w.operand(i, k).slot != sink) w.out(i, k)[lane] = bits >> (k * width) & mask;
  });
  for (unsigned k = 0; k < parts; ++k) w.define(w.operand(i, k), lanes, defined);
}

void decode_move(Spelling& s, Instruction& i) {
  i.type = s.type();
  i.lenient = true;
  i.execute = i.type == Type::pred ? execute_predicate_move : execute_move;
  if (i.parts != 2) s.unknown();
  if (i.part[1] > 1) i.execute = execute_unpack;
  else if (i.count > 2) i.execute = execute_pack;
}

void execute_select(Warp& w, const Instruction& i, Lanes lanes) {
  if (const Lanes missing = lanes & ~w.defined(w.operand(i, 3))) {
    w.lane = unsigned(__builtin_ctz(missing));
    refuse("reads a predicate that nobody has written");
  }
  const std::uint64_t *a = w.in(i, 1), *b = w.in(i, 2);
  const Lanes chosen = w.predicate(i, 3);
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = chosen >> lane & 1 ? a[lane] : b[lane]; });
  w.define(w.operand(i, 0), lanes, (chosen & w.defined(w.operand(i, 1))) | (~chosen & w.defined(w.operand(i, 2))));
}

std::uint64_t space_base(Space space) {
  return space == Space::shared  ? address::shared
         : space == Space::local ? address::local
         : space == Space::param ? address::param
                                 : 0;
}

/// Between generic addresses and those of a space; i.mode: towards the space.
void execute_address(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t base = space_base(i.space);
  const std::uint64_t* a = w.in(i, 1);
  std::uint64_t* d = w.out(i, 0);
  each(w, lanes, [&](unsigned lane) {
    if (!base) {
      d[lane] = a[lane];
    } else if (i.mode) {
      if (a[lane] / address::slot_size != base / address::slot_size) refuse("not an address of that space: {:#x}", a[lane]);
      d[lane] = a[lane] - base;
    } else {
      d[lane] = base + std::uint32_t(a[lane]);
    }
  });
}

void decode_cvta(Spelling& s, Instruction& i) {
  i.mode = s.take("to");
  i.space = take_space(s);
  s.type();
  i.execute = execute_address;
}

void execute_isspace(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t* a = w.in(i, 1);
  const std::uint64_t base = space_base(i.space) / address::slot_size;
  Lanes is = 0;
  fast(lanes, [&](unsigned lane) {
    const std::uint64_t slot = a[lane] / address::slot_size;
    const bool global = slot < address::shared / address::slot_size;
    is |= Lanes(base ? slot == base : global) << lane;
  });
  w.set_predicate(i, 0, lanes, is);
}

void decode_isspace(Spelling& s, Instruction& i) {
  i.space = take_space(s);
  i.execute = execute_isspace;
}

enum Permutation : std::uint8_t { any, f4e, b4e, rc8, ecl, ecr, rc16 };

unsigned permutation_index(unsigned mode, unsigned selector, unsigned byte) {
  selector &= mode == any ? 0xffff : 3;
  switch (mode) {
    case f4e: return byte + selector;
    case b4e: return (selector - byte) & 7;
    case rc8: return selector;
    case ecl: return std::max(byte, selector);
    case ecr: return std::min(byte, selector);
    case rc16: return (selector & 1) * 2 + (byte & 1);
    default: return selector >> (4 * byte) & 15;
  }
}

struct Permute {
  std::uint32_t operator()(const Instruction& i, std::uint32_t a, std::uint32_t b, std::uint32_t selector) const {
    const std::uint64_t all = std::uint64_t(b) << 32 | a;
    std::uint32_t d = 0;
    for (unsigned byte = 0; byte < 4; ++byte) {
      const unsigned index = permutation_index(i.mode, selector, byte);
      auto value = std::uint8_t(all >> (8 * (index & 7)));
      if (index & 8) value = value & 0x80 ? 0xff : 0;  // its sign instead
      d |= std::uint32_t(value) << (8 * byte);
    }
    return d;
  }
};

}  // namespace

void add_moves(Decoders& decoders) {
  decoders["mov"] = decode_move;
  decoders["selp"] = [](Spelling& s, Instruction& i) { i.type = s.type(), i.lenient = true, i.execute = execute_select; };
  decoders["cvta"] = decode_cvta;
  decoders["isspacep"] = decode_isspace;
  decoders["prmt"] = [](Spelling& s, Instruction& i) {
    s.type();
    const int mode = s.one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}, 6);
    i.mode = std::uint8_t(mode == 6 ? any : mode + 1);
    i.execute = ternary<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t, Permute>;
  };
}

}  // namespace graft::ptx
