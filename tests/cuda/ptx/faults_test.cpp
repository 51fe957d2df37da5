// The net holds: kernels with one fault each, and what is said about it.
#include <numeric>

#include "support/snippets.h"

namespace graft::ptx {
namespace {

class Faults : public testing::Test {
 protected:
  Faults() { std::iota(x.begin(), x.end(), 0.0f); }
  std::vector<float> x = std::vector<float>(512), y = std::vector<float>(512);
  Memory memory;
  Module module = snippet("faults");

  Fault fault(const char* kernel, Dim block, std::initializer_list<std::string> parts) {
    return fault_of(
        [&] {
          run(module, kernel, {.block = block}, memory, memory.global(std::span(std::as_const(x)), "x"),
              memory.undefined(std::span(y), "y"));
        },
        parts);
  }
};

TEST_F(Faults, MissingBarrier) {
  const Fault fault =
      this->fault("missing_barrier", {64},
                  {"race: reads byte", "of shared memory, which lane", "of warp 0 wrote, and nothing orders the two"});
  EXPECT_EQ(fault.kernel, "missing_barrier");
  EXPECT_EQ(fault.instruction.substr(0, 9), "ld.shared");
  EXPECT_GT(fault.line, 0u);
}

TEST_F(Faults, MissingWarpBarrier) { fault("missing_warp_barrier", {32}, {"race: reads byte"}); }

TEST_F(Faults, StageOverwrittenTooEarly) { fault("overwritten_too_early", {64}, {"race: ", "and nothing orders the two"}); }

TEST_F(Faults, OutOfBoundsByOneElement) {
  const auto* device = memory.undefined(std::span(y.data(), 100), "the result");
  const Fault fault = fault_of([&] { run(module, "one_past_the_end", {.grid = {4}, .block = {32}}, memory, device, 100); },
                               {"out of bounds: 4 bytes at offset 400 of 'the result', which has 400 bytes"});
  EXPECT_EQ(fault.block, (Dim{3, 0, 0}));
  EXPECT_EQ(fault.thread, (Dim{4, 0, 0}));
  this->fault("one_before_the_beginning", {32}, {"out of bounds: 4 bytes at offset -4 of 'x', which has 2048 bytes"});
}

TEST_F(Faults, MisalignedVector) { fault("misaligned_vector", {32}, {"misaligned: 16 bytes at address"}); }

TEST_F(Faults, UnwrittenSharedMemory) {
  fault_of([&] { run(module, "unwritten_shared", {.block = {64}}, memory, memory.undefined(std::span(y), "y")); },
           {"thread (63, 0, 0)", "reads byte 252 of shared memory, which nobody has written"});
}

TEST_F(Faults, UnwrittenGlobalMemory) {
  const float* device = memory.undefined(std::span(x), "x");
  fault_of([&] { run(module, "missing_barrier", {.block = {64}}, memory, device, memory.undefined(std::span(y), "y")); },
           {"reads byte 0 of 'x', which nobody has written"});
}

TEST_F(Faults, UnwrittenLocalMemory) {
  fault_of([&] { run(module, "unwritten_local", {.block = {32}}, memory, memory.undefined(std::span(y), "y"), 0); },
           {"of local memory, which nobody has written"});
}

TEST_F(Faults, ConstMemoryWritten) {
  const float* device = memory.global(std::span(std::as_const(x)), "x");
  fault_of([&] { run(module, "writes_const", {.block = {32}}, memory, device); }, {"writes 'x', which is const"});
}

TEST_F(Faults, SharedMemoryExceeded) {
  auto* device = memory.undefined(std::span(y), "y");
  fault_of([&] { run(module, "past_shared", {.block = {32}, .dynamic_shared = 128}, memory, device); },
           {"out of bounds: 4 bytes at offset 128 of shared memory, which has 128 bytes"});
  try {
    run(module, "past_shared", {.block = {32}, .dynamic_shared = 227 * 1024 + 16}, memory, device);
    FAIL() << "more shared memory than a block can have";
  } catch (const ValueError& error) {
    EXPECT_STREQ(error.what(), "past_shared: 232464 bytes of shared memory, at most 232448");
  }
}

TEST_F(Faults, Barriers) {
  auto* device = memory.undefined(std::span(y), "y");
  fault_of([&] { run(module, "barrier_without_partner", {.block = {64}}, memory, device); },
           {"deadlock: no warp can go on; warp 0 is at line", "warp 1 has ended"});
  fault_of([&] { run(module, "barrier_in_a_branch", {.block = {32}}, memory, device); },
           {"all lanes of a warp must come here, and lanes 16, 17", "have exited"});
  fault_of([&] { run(module, "barrier_after_exit", {.block = {64}}, memory, device, 48); },
           {"all lanes of a warp must come here", "have exited"});
  fault_of([&] { run(module, "barrier_after_exit", {.block = {64}}, memory, device, 32); }, {"deadlock"});
  std::vector<int> z(32);
  fault_of([&] { run(module, "shuffle_with_absent_lanes", {.block = {32}}, memory, memory.undefined(std::span(z), "z")); },
           {"waits for lanes 16, 17", "have exited"});
}

TEST_F(Faults, EndlessLoops) {
  std::vector<int> flag(1);
  fault_of([&] { run(module, "endless", {.block = {32}}, memory, memory.global(std::span(flag), "flag")); }, {"deadlock"});
}

TEST_F(Faults, CopiesNotWaitedFor) {
  struct Four {
    float values[4];
  };
  const auto go = [&](const char* kernel, Dim block) {
    const auto* from = reinterpret_cast<const Four*>(memory.global(std::span(std::as_const(x)), "x"));
    run(module, kernel, {.block = block}, memory, from, reinterpret_cast<Four*>(memory.undefined(std::span(y), "y")));
  };
  go("copies_waited_for", {32});
  EXPECT_EQ(y[0], 31 * 4);
  EXPECT_EQ(y[255], 128 + 3);
  fault_of([&] { go("copies_not_waited_for", {32}); },
           {"is the destination of a cp.async of lane 31 of warp 0 that was not waited for"});
  fault_of([&] { go("last_copy_not_waited_for", {32}); }, {"byte 1008 of shared memory", "that was not waited for"});
  fault_of([&] { go("copies_without_barrier", {64}); }, {"race: reads byte"});
}

// Registers, and what a launch must fit.
constexpr const char* header = ".version 9.0\n.target sm_80\n.address_size 64\n";

void run_text(const std::string& body, Launch launch = {.block = {32}}) {
  Memory memory;
  run(Module::parse(header + body), "probe", launch, memory);
}

TEST(Refusals, UnwrittenRegisters) {
  const Fault fault = fault_of([] { run_text(".entry probe() {\n.reg .b32 %r<3>;\nadd.s32 %r1, %r2, 1;\n}"); },
                               {"reads %r2, which nobody has written"});
  EXPECT_EQ(fault.line, 6u);
  EXPECT_EQ(fault.instruction, "add.s32 %r1, %r2, 1");
  fault_of([] { run_text(".entry probe() {\n.reg .pred %p;\n@%p exit;\n}"); }, {"reads %p, which nobody has written"});
  // A copy of nothing is nothing, and no fault by itself.
  run_text(".entry probe() {\n.reg .b32 %r<3>;\nmov.u32 %r1, %r2;\n}");
  fault_of([] { run_text(".entry probe() {\n.reg .b32 %r<3>;\nmov.u32 %r1, %r2;\nneg.s32 %r1, %r1;\n}"); },
           {"reads %r1, which nobody has written"});
}

TEST(Refusals, TrapsAndLoops) {
  fault_of([] { run_text(".entry probe() {\ntrap;\n}"); }, {"the kernel traps"});
  fault_of([] { run_text(".entry probe() {\nL: bra L;\n}", {.block = {32}, .max_instructions = 100000}); },
           {"still running after 100000 instructions"});
}

template <class E, class F>
void expect_error(F f, const std::string& wanted) {
  try {
    f();
    ADD_FAILURE() << "no error, wanted: " << wanted;
  } catch (const E& error) {
    EXPECT_EQ(error.what(), wanted);
  }
}

TEST(Refusals, WhatIsNotKnown) {
  expect_error<SyntaxError>([] { run_text(".entry probe() {\ntex.2d.v4.f32.f32 x;\n}"); },
                            "PTX line 5: tex.2d.v4.f32.f32: this instruction is not known");
  expect_error<SyntaxError>([] { run_text(".entry probe() {\n.reg .b32 %r;\nadd.wrong.s32 %r, %r, 1;\n}"); },
                            "PTX line 6: add.wrong.s32: this instruction is not known with .wrong");
  expect_error<SyntaxError>([] { run_text(".entry probe() {\nbra NOWHERE;\n}"); }, "PTX line 5: NOWHERE: no label has this name");
  expect_error<SyntaxError>([] { run_text(".entry probe() {\n.reg .b32 %r<2>;\nmov.u32 %r2, 1;\n}"); },
                            "PTX line 6: %r2: nothing has this name");
  expect_error<SyntaxError>([] { run_text(".entry probe() {\nmov.u32 1, 1;\n}"); },
                            "PTX line 5: mov.u32: its result is not a register");
  expect_error<SyntaxError>([] { Module::parse("nonsense"); }, "PTX line 1: nonsense: not known in a module");
  expect_error<SyntaxError>([] { run_text(".func f() {\ncall f;\n}\n.entry probe() {\ncall f;\n}"); },
                            "PTX line 5: f: recursion is not known");
}

TEST(Refusals, WhatDoesNotFit) {
  const Module module = Module::parse(
      std::string(header) +
      ".entry _Z5probei(.param .u32 n) {\n}\n.entry _Z5probef(.param .f32 x) {\n}\n.entry _Z4onlyi(.param .u32 n) {\n}");
  Memory memory;
  EXPECT_EQ(module.kernels(), (std::vector<std::string>{"_Z5probei", "_Z5probef", "_Z4onlyi"}));
  run(module, "only", {.block = {32}}, memory, 1);
  expect_error<ValueError>([&] { run(module, "probe", {.block = {32}}, memory, 1); },
                           "kernel 'probe' could be _Z5probei or _Z5probef");
  expect_error<ValueError>([&] { run(module, "other", {.block = {32}}, memory, 1); },
                           "no kernel 'other' in this module, which has _Z5probei, _Z5probef, _Z4onlyi");
  expect_error<ValueError>([&] { run(module, "only", {.block = {32}}, memory); }, "_Z4onlyi takes 1 arguments, got 0");
  expect_error<ValueError>([&] { run(module, "only", {.block = {32}}, memory, 1.0); },
                           "argument 0 of _Z4onlyi has 4 bytes, got 8");
  expect_error<ValueError>([&] { run(module, "only", {.block = {1025}}, memory, 1); },
                           "_Z4onlyi: a block of 1025 threads, 1 deep; at most 1024 and 64");
  expect_error<ValueError>([&] { run(module, "only", {.grid = {0}, .block = {32}}, memory, 1); },
                           "_Z4onlyi: an empty launch of 0 blocks of 32 threads");
  expect_error<ValueError>([&] { memory.symbol(module, "nothing"); }, "no variable 'nothing' in this module");
  expect_error<FileError>([&] { Module::read("/nowhere/at/all.ptx"); }, "/nowhere/at/all.ptx: cannot be read");
}

}  // namespace
}  // namespace graft::ptx
