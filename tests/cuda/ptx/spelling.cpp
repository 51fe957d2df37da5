#include "spelling.h"

#include <algorithm>
#include <array>

namespace graft::ptx {
namespace {

struct Named {
  std::string_view name;
  Type type;
  unsigned bytes;
};
constexpr std::array types{
    Named{"pred", Type::pred, 1}, Named{"b8", Type::b8, 1},         Named{"b16", Type::b16, 2}, Named{"b32", Type::b32, 4},
    Named{"b64", Type::b64, 8},   Named{"b128", Type::b128, 16},    Named{"u8", Type::u8, 1},   Named{"u16", Type::u16, 2},
    Named{"u32", Type::u32, 4},   Named{"u64", Type::u64, 8},       Named{"s8", Type::s8, 1},   Named{"s16", Type::s16, 2},
    Named{"s32", Type::s32, 4},   Named{"s64", Type::s64, 8},       Named{"f16", Type::f16, 2}, Named{"f16x2", Type::f16x2, 4},
    Named{"bf16", Type::bf16, 2}, Named{"bf16x2", Type::bf16x2, 4}, Named{"f32", Type::f32, 4}, Named{"tf32", Type::tf32, 4},
    Named{"f64", Type::f64, 8},
};

}  // namespace

unsigned bytes(Type type) {
  const auto at = std::find_if(types.begin(), types.end(), [&](const Named& named) { return named.type == type; });
  return at == types.end() ? 0 : at->bytes;
}

Type type_named(std::string_view name) {
  const auto at = std::find_if(types.begin(), types.end(), [&](const Named& named) { return named.name == name; });
  return at == types.end() ? Type::none : at->type;
}

Spelling::Spelling(const Token& word) : word_(word) {
  std::string_view rest = word.text;
  const auto part = [&] {
    const auto dot = std::min(rest.find('.'), rest.size());
    const std::string_view first = rest.substr(0, dot);
    rest.remove_prefix(std::min(dot + 1, rest.size()));
    return first;
  };
  opcode_ = part();
  while (!rest.empty()) modifiers_.push_back(part());
}

bool Spelling::take(std::string_view modifier) {
  const auto at = std::find(modifiers_.begin(), modifiers_.end(), modifier);
  if (at == modifiers_.end()) return false;
  modifiers_.erase(at);
  return true;
}

void Spelling::ignore(std::initializer_list<std::string_view> modifiers) {
  for (const auto modifier : modifiers) take(modifier);
}

int Spelling::one_of(std::initializer_list<std::string_view> modifiers, int otherwise) {
  int index = 0;
  for (const auto modifier : modifiers) {
    if (take(modifier)) return index;
    ++index;
  }
  if (otherwise < 0) unknown();
  return otherwise;
}

bool Spelling::has_type() const {
  return std::any_of(modifiers_.begin(), modifiers_.end(), [](std::string_view name) { return type_named(name) != Type::none; });
}

Type Spelling::type() {
  const auto at =
      std::find_if(modifiers_.begin(), modifiers_.end(), [](std::string_view name) { return type_named(name) != Type::none; });
  if (at == modifiers_.end()) unknown();
  const Type type = type_named(*at);
  modifiers_.erase(at);
  return type;
}

Rounding Spelling::rounding() {
  constexpr Rounding all[] = {Rounding::nearest, Rounding::zero, Rounding::down, Rounding::up, Rounding::nearest_away};
  return all[one_of({"rn", "rz", "rm", "rp", "rna"}, 0)];
}

void Spelling::finish() const {
  if (!modifiers_.empty()) unknown(fmt::format("this instruction is not known with .{}", modifiers_.front()));
}

void Spelling::unknown(std::string_view reason) const { syntax_error(word_.line, word_.text, reason); }

const Decoders& decoders() {
  static const Decoders all = [] {
    Decoders decoders;
    for (const auto add : {add_moves, add_integers, add_comparisons, add_floats, add_conversions, add_control, add_accesses,
                           add_atomics, add_exchanges, add_copies, add_mbarriers, add_matrices, add_products, add_group_products})
      add(decoders);
    return decoders;
  }();
  return all;
}

}  // namespace graft::ptx
