#include "parser.h"

#include <algorithm>
#include <cstring>

namespace graft::ptx {
namespace {

std::size_t positive(Lexer& lexer) {
  if (!lexer.peek().is_number()) lexer.fail("wanted a number");
  return number(lexer.take());
}

/// What stands between a declaration's space and its name: alignment, vector, type.
struct Shape {
  std::size_t align = 0, size = 0;
  Type type = Type::none;
};

Shape parse_shape(Lexer& lexer) {
  Shape shape;
  std::size_t elements = 1;
  while (lexer.peek().text.starts_with('.')) {
    const Token token = lexer.take();
    if (token == ".align") {
      shape.align = positive(lexer);
    } else if (token == ".v2" || token == ".v4") {
      elements = token == ".v2" ? 2 : 4;
    } else if (token == ".attribute") {
      while (!lexer.accept(")")) lexer.take();
    } else if (token == ".ptr" || token == ".global" || token == ".shared" || token == ".const" || token == ".local") {
      // about what a parameter points to
    } else if (const Type type = type_named(token.text.substr(1)); type != Type::none) {
      shape.type = type, shape.size = bytes(type) * elements;
    } else {
      syntax_error(token.line, token.text, "not known in a declaration");
    }
  }
  if (shape.type == Type::none) lexer.fail("wanted a type");
  shape.align = std::max(shape.align, shape.size);
  return shape;
}

/// `[4][8]` as a number of elements; 0 for `[]`.
std::size_t parse_extent(Lexer& lexer) {
  std::size_t elements = 1;
  while (lexer.accept("[")) {
    elements *= lexer.peek() == "]" ? 0 : positive(lexer);
    lexer.expect("]");
  }
  return elements;
}

void parse_initial(Lexer& lexer, Variable& variable, std::size_t& at) {
  if (lexer.accept("{")) {
    while (!lexer.accept("}")) {
      parse_initial(lexer, variable, at);
      lexer.accept(",");
    }
    return;
  }
  const std::size_t element = bytes(variable.type);
  if (at + element > variable.size) lexer.fail("more values than the variable has");
  const bool negative = lexer.accept("-");
  if (lexer.peek().is_number()) {
    const Token token = lexer.take();
    std::uint64_t bits = number(token);
    if (negative) bits = ~bits + 1;
    std::memcpy(variable.initial.data() + at, &bits, element);
  } else {
    Token token = lexer.take();
    const bool parenthesis = token == "generic";
    if (parenthesis) lexer.expect("("), token = lexer.take();
    variable.relocations.emplace_back(at, token.text);
    if (parenthesis) lexer.expect(")");
    if (lexer.accept("+")) {
      const std::uint64_t offset = positive(lexer);
      std::memcpy(variable.initial.data() + at, &offset, element);
    }
  }
  at += element;
}

std::vector<Parameter> parse_parameters(Lexer& lexer) {
  std::vector<Parameter> list;
  if (!lexer.accept("(")) return list;
  std::size_t offset = 0;
  while (!lexer.accept(")")) {
    lexer.expect(".param");
    Parameter parameter = parse_parameter(lexer);
    offset = (offset + parameter.align - 1) / parameter.align * parameter.align;
    parameter.offset = offset;
    offset += parameter.size;
    list.push_back(std::move(parameter));
    lexer.accept(",");
  }
  return list;
}

Function parse_function(Lexer& lexer, bool kernel) {
  Function function;
  function.kernel = kernel;
  while (lexer.peek() == ".attribute")
    while (!lexer.accept(")")) lexer.take();
  if (!kernel) function.results = parse_parameters(lexer);
  function.name = lexer.take().text;
  function.parameters = parse_parameters(lexer);
  while (lexer.peek() != "{") {  // bounds of launches and the like
    if (lexer.accept(";")) return function;
    if (lexer.take() == ".pragma") lexer.take(), lexer.expect(";");
  }
  function.defined = true;
  lexer.expect("{");
  function.begin = lexer.position();
  function.line = lexer.peek().line;
  function.end = lexer.skip_block();
  return function;
}

void add(Program& program, Variable variable) {
  const auto [at, added] = program.variable_named.try_emplace(variable.name, program.variables.size());
  if (added) program.variables.push_back(std::move(variable));
  else if (program.variables[at->second].size == 0) program.variables[at->second] = std::move(variable);
}

void add(Program& program, Function function) {
  const auto [at, added] = program.function_named.try_emplace(function.name, program.functions.size());
  if (added) program.functions.push_back(std::move(function));
  else if (function.defined) program.functions[at->second] = std::move(function);
}

}  // namespace

Parameter parse_parameter(Lexer& lexer) {
  Parameter parameter;
  const Shape shape = parse_shape(lexer);
  parameter.align = shape.align;
  parameter.name = lexer.take().text;
  parameter.size = shape.size * parse_extent(lexer);
  return parameter;
}

std::vector<Variable> parse_variables(Lexer& lexer, Space space, bool external) {
  const Shape shape = parse_shape(lexer);
  std::vector<Variable> list;
  do {
    Variable variable;
    variable.name = lexer.take().text;
    variable.space = space, variable.type = shape.type, variable.align = shape.align, variable.external = external;
    variable.size = shape.size * parse_extent(lexer);
    variable.initial.resize(variable.size);
    std::size_t at = 0;
    if (lexer.accept("=")) parse_initial(lexer, variable, at);
    list.push_back(std::move(variable));
  } while (lexer.accept(","));
  lexer.expect(";");
  return list;
}

bool skip_directive(Lexer& lexer) {
  if (lexer.peek() == ".loc" || lexer.peek() == ".file") {
    const std::size_t line = lexer.peek().line;
    while (!lexer.peek().text.empty() && lexer.peek().line == line) lexer.take();
    return true;
  }
  if (lexer.accept(".pragma")) {
    while (!lexer.accept(";")) lexer.take();
    return true;
  }
  if (lexer.accept(".section")) {
    lexer.take();
    lexer.expect("{");
    lexer.skip_block();
    return true;
  }
  return false;
}

std::shared_ptr<Program> parse(std::string text) {
  auto program = std::make_shared<Program>();
  program->text = std::move(text);
  Lexer lexer(program->text, 0, program->text.size(), 1);
  bool external = false;
  while (!lexer.peek().text.empty()) {
    if (skip_directive(lexer)) continue;
    const Token token = lexer.take();
    if (token == ".version" || token == ".address_size") {
      lexer.take();
    } else if (token == ".target") {
      const Token target = lexer.take();
      if (!target.text.starts_with("sm_")) syntax_error(target.line, target.text, "wanted a target sm_N");
      program->target = 0;
      for (const char c : target.text.substr(3))
        if (c >= '0' && c <= '9') program->target = program->target * 10 + unsigned(c - '0');
      while (lexer.accept(",")) lexer.take();
    } else if (token == ".visible" || token == ".weak" || token == ".common") {
    } else if (token == ".extern") {
      external = true;
      continue;
    } else if (token == ".global" || token == ".const" || token == ".shared") {
      const Space space = token == ".global" ? Space::global : token == ".const" ? Space::constant : Space::shared;
      for (Variable& variable : parse_variables(lexer, space, external)) add(*program, std::move(variable));
    } else if (token == ".entry" || token == ".func") {
      add(*program, parse_function(lexer, token == ".entry"));
    } else if (!(token == ";")) {
      syntax_error(token.line, token.text, "not known in a module");
    }
    external = false;
  }
  return program;
}

const Kernel& Program::kernel(const Function& function) {
  const std::lock_guard lock(mutex_);
  auto& kernel = kernels_[&function];
  if (!kernel) kernel = decode(*this, function);
  return *kernel;
}

std::string Program::statement(std::size_t begin) const {
  std::string line;
  for (std::size_t at = begin; at < text.size() && text[at] != ';'; ++at) {
    if (!std::isspace(static_cast<unsigned char>(text[at]))) line += text[at];
    else if (!line.empty() && line.back() != ' ') line += ' ';
  }
  return line;
}

}  // namespace graft::ptx
