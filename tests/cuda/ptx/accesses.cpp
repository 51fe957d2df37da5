// ld, st, prefetch.
#include "accesses.h"

#include <cstring>

#include "block.h"
#include "lanewise.h"

namespace graft::ptx {
namespace {

std::uint64_t widened(Type type, std::uint64_t bits) {
  switch (type) {
    case Type::s8: return std::uint64_t(std::int64_t(std::int8_t(bits)));
    case Type::s16: return std::uint64_t(std::int64_t(std::int16_t(bits)));
    case Type::s32: return std::uint64_t(std::int64_t(std::int32_t(bits)));
    default: return bits;
  }
}

void execute_load(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned k = i.part[1];
  each(w, lanes, [&](unsigned lane) {
    std::byte data[32];
    const std::uint64_t address = w.address(i, k, lane);
    w.load(lane, i, address, data, std::size_t(i.width) * i.vector);
    for (unsigned at = 0; at < i.vector; ++at) {
      std::uint64_t bits = 0;
      std::memcpy(&bits, data + std::size_t(at) * i.width, i.width);
      if (w.operand(i, at).slot != sink) w.out(i, at)[lane] = widened(i.type, bits);
    }
    if (i.strong) w.block().observe(w, i, lane, address);
  });
  if (i.strong) w.yield();
}

void execute_store(Warp& w, const Instruction& i, Lanes lanes) {
  each(w, lanes, [&](unsigned lane) {
    std::byte data[32];
    for (unsigned at = 0; at < i.vector; ++at)
      std::memcpy(data + std::size_t(at) * i.width, &w.in(i, i.part[1] + at)[lane], i.width);
    const std::uint64_t address = w.address(i, 0, lane);
    if (i.strong) w.block().publish(w, i, lane, address);
    w.store(lane, i, address, data, std::size_t(i.width) * i.vector);
  });
  w.block().progress();
}

void execute_prefetch(Warp&, const Instruction&, Lanes) {}

void decode_access(Spelling& s, Instruction& i) {
  take_semantics(s, i);
  i.space = take_space(s);
  take_hints(s);
  constexpr std::uint8_t vectors[] = {2, 4, 8, 1};
  i.vector = vectors[s.one_of({"v2", "v4", "v8"}, 3)];
  i.type = s.type();
  i.width = std::uint8_t(bytes(i.type));
  if (i.width > 8) s.unknown("accesses of 128 bits are known as vectors only");
}

void decode_load(Spelling& s, Instruction& i) {
  decode_access(s, i);
  if (i.part[1] != i.vector) s.unknown("the vector has another length");
  i.execute = execute_load;
}

void decode_store(Spelling& s, Instruction& i) {
  decode_access(s, i);
  i.outputs = 0;
  if (i.part[2] - i.part[1] != i.vector) s.unknown("the vector has another length");
  i.execute = execute_store;
}

}  // namespace

Space take_space(Spelling& s) {
  constexpr Space spaces[] = {Space::global, Space::shared, Space::local, Space::constant, Space::param,
                              Space::shared, Space::shared, Space::param, Space::param,    Space::generic};
  return spaces[s.one_of(
      {"global", "shared", "local", "const", "param", "shared::cta", "shared::cluster", "param::entry", "param::func"}, 9)];
}

void take_semantics(Spelling& s, Instruction& i) {
  switch (s.one_of({"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio"}, 0)) {
    case 0: break;
    case 3: i.acquire = i.strong = true; break;
    case 4: i.release = i.strong = true; break;
    case 5: i.acquire = i.release = i.strong = true; break;
    default: i.strong = true;
  }
  s.ignore({"cta", "cluster", "gpu", "sys"});
}

void take_hints(Spelling& s) {
  s.ignore({"ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "nc",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
            "L2::cache_hint",
            "L2::64B",
            "L2::128B",
            "L2::256B"});
}

void add_accesses(Decoders& decoders) {
  decoders["ld"] = decoders["ldu"] = decode_load;
  decoders["st"] = decode_store;
  decoders["prefetch"] = decoders["prefetchu"] = decoders["applypriority"] =
      decoders["discard"] = [](Spelling& s, Instruction& i) {
        take_space(s), take_hints(s);
        s.ignore({"L1", "L2"});
        i.outputs = 0;
        i.execute = execute_prefetch;
      };
  // A policy is a number that only hints take.
  decoders["createpolicy"] = [](Spelling& s, Instruction& i) {
    s.ignore(
        {"fractional", "range", "global", "L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged", "b64"});
    i.execute = [](Warp& w, const Instruction& i, Lanes lanes) { fast(lanes, [&](unsigned lane) { w.out(i, 0)[lane] = 0; }); };
  };
}

}  // namespace graft::ptx
