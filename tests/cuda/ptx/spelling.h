// The word that an instruction begins with, taken apart: `ld.global.v4.f32` is the opcode ld with three modifiers. Groups of
// instructions register decoders by opcode; a modifier that a decoder does not take makes the instruction unknown.
#pragma once

#include <initializer_list>
#include <map>
#include <string_view>
#include <vector>

#include "instruction.h"
#include "lexer.h"

namespace graft::ptx {

class Spelling {
 public:
  explicit Spelling(const Token& word);

  std::string_view opcode() const { return opcode_; }
  /// Whether the modifier is there; it counts as understood then.
  bool take(std::string_view modifier);
  /// Any number of these.
  void ignore(std::initializer_list<std::string_view> modifiers);
  /// Which of these is there: its index. Exactly one must be, unless `otherwise` says what none means.
  int one_of(std::initializer_list<std::string_view> modifiers, int otherwise = -1);
  /// The first type among the modifiers.
  Type type();
  bool has_type() const;
  /// Rounding of floating results (rn, rz, rm, rp, rna), nearest where none is written.
  Rounding rounding();
  /// Refuses modifiers that nobody took.
  void finish() const;
  [[noreturn]] void unknown(std::string_view reason = "this instruction is not known") const;

 private:
  Token word_;
  std::string_view opcode_;
  std::vector<std::string_view> modifiers_;
};

/// Chooses what executes an instruction whose operands are filled in. Written operands are those of its first part unless it says otherwise.
using Decoder = void (*)(Spelling&, Instruction&);
using Decoders = std::map<std::string_view, Decoder>;

/// All opcodes, group by group.
const Decoders& decoders();
void add_moves(Decoders&);
void add_integers(Decoders&);
void add_comparisons(Decoders&);
void add_floats(Decoders&);
void add_conversions(Decoders&);
void add_control(Decoders&);
void add_accesses(Decoders&);
void add_atomics(Decoders&);
void add_exchanges(Decoders&);
void add_copies(Decoders&);
void add_mbarriers(Decoders&);
void add_matrices(Decoders&);
void add_products(Decoders&);
void add_group_products(Decoders&);

}  // namespace graft::ptx
