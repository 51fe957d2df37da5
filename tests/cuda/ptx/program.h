// A PTX text as it was parsed, and its kernels as they are decoded from it.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "instruction.h"

namespace graft::ptx {

/// Where the spaces lie among generic addresses. The upper 32 bits choose; each buffer of global memory has its own, and begins in
/// the middle, so that addresses before it are still its own.
namespace address {
constexpr std::uint64_t slot_size = std::uint64_t(1) << 32;
constexpr std::uint64_t middle = slot_size / 2;
constexpr std::uint64_t buffers = slot_size + middle;
constexpr std::uint64_t variables = 0x4000 * slot_size + middle;  // of modules
constexpr std::uint64_t shared = 0x7f01 * slot_size;
constexpr std::uint64_t local = 0x7f02 * slot_size;
constexpr std::uint64_t param = 0x7f03 * slot_size;
constexpr std::uint32_t shared_begin = 1024;      // the system's own, as on sm_90
constexpr std::uint32_t frame_param = 0x10000;    // parameters of functions, behind those of the kernel
constexpr std::size_t shared_limit = 227 * 1024;  // bytes of a block
}  // namespace address

struct Variable {
  std::string name;
  Space space = Space::global;
  Type type = Type::none;
  std::size_t align = 1, size = 0;                               // bytes
  bool external = false;                                         // `.extern .shared x[]`: the launch's dynamic memory
  std::vector<std::byte> initial;                                // padded with zeros to `size`
  std::vector<std::pair<std::size_t, std::string>> relocations;  // offsets that hold the address of another variable
};

struct Parameter {
  std::string name;
  std::size_t align = 1, size = 0, offset = 0;
};

/// A kernel or a function of the text. Its body is a range of the text.
struct Function {
  std::string name;
  bool kernel = false, defined = false;
  std::vector<Parameter> results, parameters;
  std::size_t begin = 0, end = 0;  // of the body, without its braces
  std::size_t line = 1;            // where it begins
};

/// A kernel with all functions that it calls, ready to run.
struct Kernel {
  struct Call {
    std::uint32_t target = 0;  // the function's first instruction
    struct Copy {
      std::uint32_t from, to, size;
    };  // between parameters of the frames
    std::vector<Copy> arguments;
    std::vector<Copy> results;
  };
  std::string name;
  std::vector<Instruction> code;
  std::vector<Operand> operands;
  std::vector<std::uint64_t> constants;  // warp_size of each
  std::vector<std::string> register_names;
  std::vector<std::vector<std::uint32_t>> branches;  // of brx.idx
  std::vector<Call> calls;
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0;
  std::size_t local_bytes = 0;        // of a thread
  std::size_t frame_bytes = 0;        // of a thread: parameters of functions
  std::size_t static_shared = 0;      // bytes
  std::size_t dynamic_shared_at = 0;  // from the beginning of the block's shared memory
  std::vector<std::pair<std::string, std::int32_t>>
      specials;  // special registers that are used, and the registers that hold them
};

struct Program {
  std::string text;
  unsigned target = 80;  // sm
  std::vector<Variable> variables;
  std::map<std::string, std::size_t, std::less<>> variable_named;
  std::vector<Function> functions;
  std::map<std::string, std::size_t, std::less<>> function_named;

  /// Decodes it at the first time. Throws SyntaxError.
  const Kernel& kernel(const Function& function);
  /// The statement that begins there, up to its `;`, on one line.
  std::string statement(std::size_t begin) const;

 private:
  std::mutex mutex_;
  std::map<const Function*, std::unique_ptr<Kernel>> kernels_;
};

/// Parses everything but the bodies of functions. Throws SyntaxError.
std::shared_ptr<Program> parse(std::string text);
/// Throws SyntaxError.
std::unique_ptr<Kernel> decode(const Program& program, const Function& function);

}  // namespace graft::ptx
