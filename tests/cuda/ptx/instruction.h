// An instruction as it runs: what executes it, and where its operands lie.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace graft::ptx {

class Warp;
struct Instruction;

/// One bit per lane of a warp.
using Lanes = std::uint32_t;
constexpr unsigned warp_size = 32;

using Execute = void (*)(Warp&, const Instruction&, Lanes);

enum class Type : std::uint8_t {
  none,
  pred,
  b8,
  b16,
  b32,
  b64,
  b128,
  u8,
  u16,
  u32,
  u64,
  s8,
  s16,
  s32,
  s64,
  f16,
  f16x2,
  bf16,
  bf16x2,
  f32,
  tf32,
  f64
};
unsigned bytes(Type type);
/// "s32" and the like; Type::none for anything else.
Type type_named(std::string_view name);
inline bool is_signed(Type type) { return type >= Type::s8 && type <= Type::s64; }
inline bool is_float(Type type) { return type >= Type::f16; }

enum class Space : std::uint8_t { generic, global, shared, local, constant, param };
enum class Rounding : std::uint8_t {
  nearest,
  zero,
  down,
  up,
  nearest_away,
  integer_nearest,
  integer_zero,
  integer_down,
  integer_up
};

/// A register, or a constant that all lanes share (immediates and the addresses of variables).
struct Operand {
  std::int32_t slot;        // of the warp's registers; ~slot of the kernel's constants if negative
  std::int32_t offset = 0;  // added to an address
  bool negated = false;     // !%p
};
constexpr std::int32_t sink = 0;  // the register `_`, written and never read

struct Instruction {
  Execute execute = nullptr;
  std::uint32_t operand = 0;    // the first of its operands; those of `{a, b}` and `a|b` follow each other
  std::uint16_t count = 0;      // of operands
  std::uint16_t outputs = 0;    // how many of them, from the first, are written and not read
  std::uint16_t part[10] = {};  // where each operand of the text begins among them; the next one's is its end
  std::uint8_t parts = 0;       // operands of the text
  std::uint16_t addresses = 0;  // which of them stand in brackets
  std::int32_t guard = -1;      // the predicate's register, if any
  bool guard_negated = false;
  bool control = false;  // moves its group's pc itself
  bool lenient = false;  // hands undefined registers on, or looks itself
  bool ftz = false;
  bool saturate = false;
  bool strong = false;  // a memory access that may meet others without a barrier: volatile, relaxed, acquire, release, atomic
  bool acquire = false;
  bool release = false;
  Type type = Type::none, from = Type::none;
  Space space = Space::generic;
  Rounding rounding = Rounding::nearest;
  std::uint8_t width = 0;    // bytes of an element in memory
  std::uint8_t vector = 1;   // elements
  std::uint8_t mode = 0;     // what else the group of instructions tells apart
  std::uint32_t target = 0;  // an instruction, a function, a table of branches
  std::uint32_t line = 0;    // of the text
  std::uint32_t begin = 0;   // its place in the text
};

}  // namespace graft::ptx
