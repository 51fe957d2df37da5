// A warp: the registers of 32 threads, and the groups of lanes that are at the same instruction.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "program.h"
#include "shared.h"

namespace graft::ptx {

class Block;

/// Lanes that go together. Of several groups the one deepest in calls, then the one furthest behind runs, until it meets another.
struct Group {
  std::uint32_t pc = 0;
  Lanes lanes = 0;
  std::vector<std::uint32_t> calls;  // the call instructions that it will return behind
  bool waiting = false;              // for other lanes, at pc
};

class Warp {
 public:
  Warp(Block& block, unsigned index, Lanes lanes);

  /// Runs until the warp waits, ends, or has had its turn.
  void run();
  enum class State { running, at_barrier, ended };
  State state() const { return state_; }
  /// Its barrier opened: on behind it, with what the barrier's vote found.
  void pass_barrier(unsigned votes, unsigned voters);

  // What executes instructions works with these.

  const std::uint64_t* in(const Instruction& i, unsigned k) const {
    const std::int32_t slot = operand(i, k).slot;
    return slot >= 0 ? registers_.data() + std::size_t(slot) * warp_size : constants_ + std::size_t(~slot) * warp_size;
  }
  std::uint64_t* out(const Instruction& i, unsigned k) { return registers_.data() + std::size_t(operand(i, k).slot) * warp_size; }
  const Operand& operand(const Instruction& i, unsigned k) const { return operands_[i.operand + k]; }
  /// Predicates lie in the first word of their register, a bit per lane.
  Lanes predicate(const Instruction& i, unsigned k) const;
  void set_predicate(const Instruction& i, unsigned k, Lanes lanes, Lanes value);
  Lanes defined(const Operand& operand) const { return operand.slot >= 0 ? defined_[std::size_t(operand.slot)] : ~Lanes(0); }
  void define(const Operand& operand, Lanes lanes, Lanes value) {
    Lanes& defined = defined_[std::size_t(operand.slot)];
    defined = (defined & ~lanes) | (value & lanes);
  }

  void load(unsigned lane, const Instruction& i, std::uint64_t address, void* to, std::size_t bytes);
  void store(unsigned lane, const Instruction& i, std::uint64_t address, const void* from, std::size_t bytes);
  /// The address of operand k as a generic one.
  std::uint64_t address(const Instruction& i, unsigned k, unsigned lane) const;
  /// The same for one that must be of shared memory, as an address there.
  std::uint32_t shared_address(const Instruction& i, unsigned k, unsigned lane) const;
  Toucher toucher(unsigned lane, const Instruction& i) const;

  /// Whether all of `wanted` are here; if not, those who are wait for the others. For instructions that move pc themselves.
  bool gather(Lanes wanted);
  /// gather() of all lanes of the warp that have not ended; refuses if some have.
  bool gather_all(const Instruction& i);
  void branch(Lanes taken, std::uint32_t target);
  /// `taken` go to `target`, `staying` remain at this instruction, the rest goes on.
  void scatter(Lanes taken, std::uint32_t target, Lanes staying);
  void call(const Instruction& i, Lanes lanes);
  void leave(Lanes lanes);  // the function
  /// A call of a function that the driver provides: its results are 0.
  void skip_call(const Instruction& i, Lanes lanes);
  void exit(Lanes lanes);
  void stop_at_barrier() { state_ = State::at_barrier; }
  /// Others should have their turn: this one waits for something that they do.
  void yield() { turn_ = 0, yielded_ = true; }
  Group& group() { return groups_[current_]; }

  const Kernel& kernel() const { return *kernel_; }
  Block& block() const { return *block_; }
  unsigned index() const { return index_; }
  Lanes live() const { return live_; }
  std::string where() const;  // for messages: the instruction that it is at
  const Instruction* current_instruction() const;

  Lanes carry = 0;    // of add.cc
  unsigned lane = 0;  // whose part of the instruction is being executed

  /// cp.async of its lanes, oldest first.
  struct Copy {
    unsigned lane;
    std::uint32_t address, bytes;
    std::uint32_t group;
  };
  std::vector<Copy> copies;
  std::array<std::uint32_t, warp_size> copy_groups{};  // committed, by lane

  /// Groups of wgmma, and of bulk copies out of shared memory: how many were committed.
  std::uint32_t product_groups = 0, store_groups = 0;
  bool product_fence = false;  // wgmma.fence since the last wait
  /// Registers that a wgmma in flight accumulates to, or reads.
  enum class Hold : std::uint8_t { accumulator, operand };
  void hold(const Operand& operand, Hold how);
  bool holds_accumulator(const Operand& operand) const;
  /// Groups before this one are over: their accumulators hold values again.
  void release_groups(std::uint32_t end);

 private:
  void step(const Instruction& i, Lanes lanes);
  void choose();
  void rotate();  // to a group that had to wait: the one that ran may be waiting for it
  void find_limit();
  void copy_parameters(Lanes lanes, const std::vector<Kernel::Call::Copy>& copies);
  void check_inputs(const Instruction& i, Lanes lanes);
  void check_outputs(const Instruction& i);
  void pass_hold(const Instruction& i);
  std::byte* private_bytes(unsigned lane, std::uint64_t address, std::size_t bytes, bool writes);

  Block* block_;
  const Kernel* kernel_;
  unsigned index_;
  Lanes live_;
  State state_ = State::running;
  std::vector<Group> groups_;
  std::size_t current_ = 0;
  std::uint32_t limit_ = ~0u;  // where the current group meets the next
  std::uint32_t turn_ = 0;     // instructions left
  bool yielded_ = false;
  const Operand* operands_;
  const std::uint64_t* constants_;
  std::vector<std::uint64_t> registers_;
  std::vector<Lanes> defined_;
  struct Held {
    std::uint32_t group = 0;  // counted from 1; 0: not held
    Hold how = Hold::accumulator;
  };
  std::vector<Held> held_;  // by register; empty unless a wgmma is in flight
  std::vector<std::byte> locals_, frames_;
  std::vector<std::uint8_t> locals_written_, frames_written_;
};

/// f(lane) for each of `lanes`; the lane is known if it is refused.
template <class F>
inline void each(Warp& warp, Lanes lanes, F f) {
  for (; lanes; lanes &= lanes - 1) {
    warp.lane = unsigned(__builtin_ctz(lanes));
    f(warp.lane);
  }
}
/// The same for what cannot fail.
template <class F>
inline void fast(Lanes lanes, F f) {
  if (lanes == ~Lanes(0)) {
    for (unsigned lane = 0; lane < warp_size; ++lane) f(lane);
  } else {
    for (; lanes; lanes &= lanes - 1) f(unsigned(__builtin_ctz(lanes)));
  }
}

}  // namespace graft::ptx
