// Bodies of functions, from text to instructions.
#include <algorithm>
#include <bit>
#include <charconv>

#include "control.h"
#include "parser.h"
#include "special.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

std::size_t align_up(std::size_t at, std::size_t align) { return (at + align - 1) / align * align; }

/// What a name means inside braces.
struct Scope {
  std::map<std::string, std::int32_t, std::less<>> registers;
  std::map<std::string, std::pair<std::int32_t, std::int32_t>, std::less<>> ranges;  // %r<10>: the first, how many
  std::map<std::string, std::uint64_t, std::less<>> addresses;                       // of variables in their own space
  std::map<std::string, std::size_t, std::less<>> sizes;                             // of parameters
  std::map<std::string, std::uint32_t, std::less<>> labels;
  std::map<std::string, std::vector<std::string>, std::less<>> tables;  // of .branchtargets
  int outer = -1;
};

class Builder {
 public:
  Builder(const Program& program, const Function& function) : program_(program), kernel_(std::make_unique<Kernel>()) {
    kernel_->name = function.name;
    kernel_->register_names.push_back("_");
    kernel_->parameters = function.parameters;
    for (const Parameter& parameter : function.parameters) kernel_->parameter_bytes = parameter.offset + parameter.size;
    for (const Variable& variable : program.variables)
      if (variable.space == Space::shared && !variable.external) place_shared(globals_, variable);
    functions_.push_back({&function, 0});
    for (std::size_t at = 0; at < functions_.size(); ++at) build(at);
    for (std::size_t call = 0; call < kernel_->calls.size(); ++call) link(call);
    kernel_->dynamic_shared_at = align_up(kernel_->static_shared, dynamic_align());
    for (const std::size_t constant : dynamic_constants_)
      std::fill_n(kernel_->constants.begin() + std::ptrdiff_t(constant * warp_size), warp_size,
                  address::shared_begin + kernel_->dynamic_shared_at);
  }
  std::unique_ptr<Kernel> take() { return std::move(kernel_); }

 private:
  struct Built {
    const Function* function;
    std::uint32_t entry;
    std::map<std::string, std::uint32_t> parameter_offsets = {};  // in the frame
  };
  struct Jump {
    std::uint32_t instruction;
    std::string label;
    int scope;
    std::size_t line;
  };
  struct Call {
    std::size_t caller, function;
    std::vector<std::uint32_t> results, arguments;  // offsets in the frame
    std::size_t line;
  };

  std::size_t dynamic_align() const {
    std::size_t align = 1;
    for (const Variable& variable : program_.variables)
      if (variable.space == Space::shared && variable.external) align = std::max(align, variable.align);
    return align;
  }

  void place_shared(Scope& scope, const Variable& variable) {
    kernel_->static_shared = align_up(kernel_->static_shared, std::max<std::size_t>(variable.align, 1));
    scope.addresses[variable.name] = address::shared_begin + kernel_->static_shared;
    kernel_->static_shared += variable.size;
  }

  std::uint32_t place_frame(const Parameter& parameter) {
    kernel_->frame_bytes = align_up(kernel_->frame_bytes, parameter.align);
    const auto offset = std::uint32_t(kernel_->frame_bytes);
    kernel_->frame_bytes += parameter.size;
    return offset;
  }

  std::int32_t new_register(std::string name) {
    kernel_->register_names.push_back(std::move(name));
    return std::int32_t(kernel_->register_names.size()) - 1;
  }

  std::int32_t constant(std::uint64_t value) {
    const auto [at, added] = constants_.try_emplace(value, std::int32_t(kernel_->constants.size() / warp_size));
    if (added) kernel_->constants.resize(kernel_->constants.size() + warp_size, value);
    return ~at->second;
  }

  std::int32_t dynamic_shared() {
    const std::size_t index = kernel_->constants.size() / warp_size;
    kernel_->constants.resize(kernel_->constants.size() + warp_size);
    dynamic_constants_.push_back(index);
    return ~std::int32_t(index);
  }

  void build(std::size_t index) {
    const Function& function = *functions_[index].function;
    building_ = index;
    functions_[index].entry = std::uint32_t(kernel_->code.size());
    scopes_.assign(1, {});
    scope_ = 0;
    jumps_.clear();
    for (const Parameter& parameter : function.parameters) {
      scopes_[0].addresses[parameter.name] =
          function.kernel ? parameter.offset
                          : address::frame_param + (functions_[index].parameter_offsets[parameter.name] = place_frame(parameter));
      scopes_[0].sizes[parameter.name] = parameter.size;
    }
    for (const Parameter& parameter : function.results) {
      scopes_[0].addresses[parameter.name] =
          address::frame_param + (functions_[index].parameter_offsets[parameter.name] = place_frame(parameter));
      scopes_[0].sizes[parameter.name] = parameter.size;
    }
    Lexer lexer(program_.text, function.begin, function.end, function.line);
    while (!lexer.peek().text.empty()) statement(lexer);
    // The end of the text is the end of the function, whether or not it says so.
    Instruction end;
    end.line = std::uint32_t(lexer.peek().line), end.begin = std::uint32_t(function.end);
    end.execute = function.kernel ? execute_exit : execute_return, end.control = true;
    kernel_->code.push_back(end);
    for (const Jump& jump : jumps_) resolve(jump);
  }

  void statement(Lexer& lexer) {
    if (skip_directive(lexer)) return;
    if (lexer.accept("{")) {
      scopes_.push_back({});
      scopes_.back().outer = scope_;
      scope_ = int(scopes_.size()) - 1;
    } else if (lexer.accept("}")) {
      scope_ = scopes_[std::size_t(scope_)].outer;
    } else if (lexer.accept(".reg")) {
      registers(lexer);
    } else if (lexer.accept(".shared")) {
      for (const Variable& variable : parse_variables(lexer, Space::shared, false)) place_shared(current(), variable);
    } else if (lexer.accept(".local")) {
      for (const Variable& variable : parse_variables(lexer, Space::local, false)) {
        kernel_->local_bytes = align_up(kernel_->local_bytes, std::max<std::size_t>(variable.align, 1));
        current().addresses[variable.name] = kernel_->local_bytes;
        kernel_->local_bytes += variable.size;
      }
    } else if (lexer.accept(".param")) {
      const Parameter parameter = parse_parameter(lexer);
      current().addresses[parameter.name] = address::frame_param + place_frame(parameter);
      current().sizes[parameter.name] = parameter.size;
      lexer.expect(";");
    } else if (!lexer.accept(";")) {
      instruction(lexer);
    }
  }

  void registers(Lexer& lexer) {
    const Token type = lexer.take();
    if (type_named(type.text.substr(1)) == Type::none) syntax_error(type.line, type.text, "not a type of registers");
    do {
      const std::string name(lexer.take().text);
      if (lexer.accept("<")) {
        const auto count = std::int32_t(number(lexer.take()));
        lexer.expect(">");
        current().ranges[name] = {std::int32_t(kernel_->register_names.size()), count};
        for (std::int32_t at = 0; at < count; ++at) new_register(name + std::to_string(at));
      } else {
        current().registers[name] = new_register(name);
      }
    } while (lexer.accept(","));
    lexer.expect(";");
  }

  void instruction(Lexer& lexer) {
    Instruction instruction;
    const std::size_t begin = lexer.position();
    if (lexer.accept("@")) {
      instruction.guard_negated = lexer.accept("!");
      instruction.guard = find_register(lexer.take());
    }
    const Token word = lexer.take();
    if (lexer.accept(":")) {
      if (lexer.accept(".branchtargets")) {
        auto& table = current().tables[std::string(word.text)];
        do table.emplace_back(lexer.take().text);
        while (lexer.accept(","));
        lexer.expect(";");
      } else {
        current().labels[std::string(word.text)] = std::uint32_t(kernel_->code.size());
      }
      return;
    }
    instruction.line = std::uint32_t(word.line), instruction.begin = std::uint32_t(begin);
    Spelling spelling(word);
    const auto decoder = decoders().find(spelling.opcode());
    if (!word.is_word() || decoder == decoders().end()) syntax_error(word.line, word.text, "this instruction is not known");
    instruction.operand = std::uint32_t(kernel_->operands.size());
    clock_ = false;
    if (spelling.opcode() == "bra") {
      jumps_.push_back({std::uint32_t(kernel_->code.size()), std::string(lexer.take().text), scope_, word.line});
    } else if (spelling.opcode() == "brx") {
      operand(lexer, instruction, word);
      lexer.expect(",");
      jumps_.push_back({std::uint32_t(kernel_->code.size()), std::string(lexer.take().text), scope_, word.line});
    } else if (spelling.opcode() == "call") {
      call(lexer, instruction);
    } else if (lexer.peek() != ";") {
      do operand(lexer, instruction, word);
      while (lexer.accept(","));
    }
    instruction.count = std::uint16_t(kernel_->operands.size() - instruction.operand);
    instruction.part[instruction.parts] = instruction.count;
    instruction.outputs = instruction.parts > 0 ? instruction.part[1] : 0;
    lexer.expect(";");
    decoder->second(spelling, instruction);
    spelling.finish();
    if (clock_) instruction.execute = execute_clock;
    for (unsigned at = 0; at < instruction.outputs; ++at)
      if (kernel_->operands[instruction.operand + at].slot < 0) spelling.unknown("its result is not a register");
    kernel_->code.push_back(instruction);
  }

  void operand(Lexer& lexer, Instruction& instruction, const Token& word) {
    if (instruction.parts == std::size(instruction.part) - 1) lexer.fail("too many operands");
    instruction.part[instruction.parts++] = std::uint16_t(kernel_->operands.size() - instruction.operand);
    auto& operands = kernel_->operands;
    if (lexer.accept("{")) {
      do operands.push_back(element(lexer, word));
      while (lexer.accept(","));
      lexer.expect("}");
    } else if (lexer.accept("[")) {
      instruction.addresses |= std::uint16_t(1 << (instruction.parts - 1));
      Operand operand = element(lexer, word);
      while (lexer.peek() == "+" || lexer.peek() == "-") {
        const bool minus = lexer.take() == "-";
        const bool negative = lexer.accept("-");
        const auto offset = std::int32_t(number(lexer.take()));
        operand.offset += minus != negative ? -offset : offset;
      }
      lexer.expect("]");
      operands.push_back(operand);
    } else {
      operands.push_back(element(lexer, word));
      if (lexer.accept("|")) operands.push_back(element(lexer, word));
    }
  }

  Operand element(Lexer& lexer, const Token& word) {
    if (lexer.accept("!")) {
      Operand operand{find_register(lexer.take())};
      operand.negated = true;
      return operand;
    }
    const bool negative = lexer.accept("-");
    if (lexer.peek().is_number()) {
      const Token token = lexer.take();
      std::uint64_t value = number(token);
      if (token.text.find('.') != token.text.npos && word.text.ends_with(".f32"))
        value = std::bit_cast<std::uint32_t>(float(std::bit_cast<double>(value)));
      return {constant(negative ? ~value + 1 : value)};
    }
    return {symbol(lexer.take())};
  }

  std::int32_t symbol(const Token& token) {
    if (token == "_") return sink;
    if (token == "WARP_SZ") return constant(warp_size);
    for (int scope = scope_; scope >= 0; scope = scopes_[std::size_t(scope)].outer) {
      const auto& addresses = scopes_[std::size_t(scope)].addresses;
      if (const auto at = addresses.find(token.text); at != addresses.end()) return constant(at->second);
    }
    if (const auto at = globals_.addresses.find(token.text); at != globals_.addresses.end()) return constant(at->second);
    if (const auto at = program_.variable_named.find(token.text); at != program_.variable_named.end()) {
      if (program_.variables[at->second].space == Space::shared) return dynamic_shared();
      return constant(address::variables + at->second * address::slot_size);
    }
    return find_register(token);
  }

  std::int32_t find_register(const Token& token) {
    const std::string_view name = token.text;
    const auto digits = name.find_last_not_of("0123456789") + 1;
    for (int scope = scope_; scope >= 0; scope = scopes_[std::size_t(scope)].outer) {
      const Scope& inner = scopes_[std::size_t(scope)];
      if (const auto at = inner.registers.find(name); at != inner.registers.end()) return at->second;
      if (const auto range = inner.ranges.find(name.substr(0, digits)); range != inner.ranges.end() && digits < name.size()) {
        std::int32_t index = 0;
        std::from_chars(name.data() + digits, name.data() + name.size(), index);
        if (index < range->second.second) return range->second.first + index;
      }
    }
    if (is_special(name)) {
      clock_ |= is_clock(name);
      for (const auto& [known, slot] : kernel_->specials)
        if (known == name) return slot;
      kernel_->specials.emplace_back(name, new_register(std::string(name)));
      return kernel_->specials.back().second;
    }
    syntax_error(token.line, name, "nothing has this name");
  }

  std::uint32_t frame_offset(const Token& token) {
    for (int scope = scope_; scope >= 0; scope = scopes_[std::size_t(scope)].outer) {
      const auto& addresses = scopes_[std::size_t(scope)].addresses;
      if (const auto at = addresses.find(token.text); at != addresses.end())
        return std::uint32_t(at->second - address::frame_param);
    }
    syntax_error(token.line, token.text, "calls pass .param variables here");
  }

  void call(Lexer& lexer, Instruction& instruction) {
    Call call{};
    call.caller = building_;
    call.line = lexer.peek().line;
    const auto list = [&](std::vector<std::uint32_t>& offsets) {
      while (!lexer.accept(")")) {
        offsets.push_back(frame_offset(lexer.take()));
        lexer.accept(",");
      }
    };
    if (lexer.accept("(")) {
      list(call.results);
      lexer.expect(",");
    }
    const Token name = lexer.take();
    if (lexer.accept(",")) {
      lexer.expect("(");
      list(call.arguments);
    }
    const auto at = program_.function_named.find(name.text);
    if (at == program_.function_named.end() || lexer.peek() != ";")
      syntax_error(name.line, name.text, "calls through pointers are not known");
    const Function& function = program_.functions[at->second];
    instruction.target = std::uint32_t(kernel_->calls.size());
    kernel_->calls.push_back({});
    if (!function.defined) {
      instruction.mode = name == "__assertfail" ? external_assert : name == "vprintf" ? external_print : 0;
      if (!instruction.mode) syntax_error(name.line, name.text, "this function has no body");
      call.function = 0;
      calls_.push_back(call);
      return;
    }
    const auto built =
        std::find_if(functions_.begin(), functions_.end(), [&](const Built& other) { return other.function == &function; });
    call.function = std::size_t(built - functions_.begin());
    if (built == functions_.end()) functions_.push_back({&function, 0});
    calls_.push_back(call);
  }

  void link(std::size_t index) {
    const Call& call = calls_[index];
    if (call.function == 0) {
      for (const std::uint32_t result : call.results) kernel_->calls[index].results.push_back({0, result, 4});
      return;
    }
    if (reaches(call.function, call.caller, 0))
      syntax_error(call.line, functions_[call.function].function->name, "recursion is not known");
    Kernel::Call& linked = kernel_->calls[index];
    Built& built = functions_[call.function];
    linked.target = built.entry;
    const auto pair = [&](const std::vector<Parameter>& formal, const std::vector<std::uint32_t>& actual,
                          std::vector<Kernel::Call::Copy>& copies, bool in) {
      if (formal.size() != actual.size())
        syntax_error(call.line, built.function->name, "called with another number of parameters");
      for (std::size_t at = 0; at < formal.size(); ++at) {
        const std::uint32_t theirs = built.parameter_offsets[formal[at].name];
        copies.push_back({in ? actual[at] : theirs, in ? theirs : actual[at], std::uint32_t(formal[at].size)});
      }
    };
    pair(built.function->parameters, call.arguments, linked.arguments, true);
    pair(built.function->results, call.results, linked.results, false);
  }

  bool reaches(std::size_t from, std::size_t to, std::size_t depth) const {
    if (from == to) return true;
    return depth <= functions_.size() && std::any_of(calls_.begin(), calls_.end(), [&](const Call& call) {
             return call.function && call.caller == from && reaches(call.function, to, depth + 1);
           });
  }

  void resolve(const Jump& jump) {
    Instruction& instruction = kernel_->code[jump.instruction];
    for (int scope = jump.scope; scope >= 0; scope = scopes_[std::size_t(scope)].outer) {
      const Scope& inner = scopes_[std::size_t(scope)];
      if (const auto at = inner.labels.find(jump.label); at != inner.labels.end()) {
        instruction.target = at->second;
        return;
      }
      if (const auto at = inner.tables.find(jump.label); at != inner.tables.end()) {
        std::vector<std::uint32_t> targets;
        for (const std::string& label : at->second) {
          resolve({jump.instruction, label, scope, jump.line});
          targets.push_back(instruction.target);
        }
        instruction.target = std::uint32_t(kernel_->branches.size());
        kernel_->branches.push_back(std::move(targets));
        return;
      }
    }
    syntax_error(jump.line, jump.label, "no label has this name");
  }

  Scope& current() { return scopes_[std::size_t(scope_)]; }

  const Program& program_;
  std::unique_ptr<Kernel> kernel_;
  Scope globals_;
  std::vector<Built> functions_;
  std::vector<Call> calls_;
  std::vector<Scope> scopes_;
  int scope_ = 0;
  std::vector<Jump> jumps_;
  std::map<std::uint64_t, std::int32_t> constants_;
  std::vector<std::size_t> dynamic_constants_;
  std::size_t building_ = 0;
  bool clock_ = false;
};

}  // namespace

std::unique_ptr<Kernel> decode(const Program& program, const Function& function) { return Builder(program, function).take(); }

}  // namespace graft::ptx
