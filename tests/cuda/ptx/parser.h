// Declarations of PTX, which stand in modules and in functions alike.
#pragma once

#include "lexer.h"
#include "program.h"

namespace graft::ptx {

/// The variables of one `.global`, `.const`, `.shared` or `.local` declaration, whose space was taken; up to and with its `;`.
std::vector<Variable> parse_variables(Lexer& lexer, Space space, bool external);
/// One `.param` of a list, or of a call, up to its name's end; `.param` was taken.
Parameter parse_parameter(Lexer& lexer);
/// Past directives that say nothing about what runs (.loc, .pragma, .file); false if none comes next.
bool skip_directive(Lexer& lexer);

}  // namespace graft::ptx
