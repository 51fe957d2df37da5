#include "warp.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "block.h"
#include "control.h"
#include "special.h"

namespace graft::ptx {
namespace {

constexpr std::uint32_t turn = 1 << 14;  // instructions
const Instruction nowhere{};

std::string list(Lanes lanes) {
  std::string text;
  for (; lanes; lanes &= lanes - 1) text += fmt::format("{}{}", text.empty() ? "" : ", ", __builtin_ctz(lanes));
  return text;
}

}  // namespace

Warp::Warp(Block& block, unsigned index, Lanes lanes)
    : block_(&block),
      kernel_(&block.grid.kernel),
      index_(index),
      live_(lanes),
      groups_(1),
      operands_(kernel_->operands.data()),
      constants_(kernel_->constants.data()),
      registers_(kernel_->register_names.size() * warp_size),
      defined_(kernel_->register_names.size()),
      locals_(kernel_->local_bytes * warp_size),
      frames_(kernel_->frame_bytes * warp_size),
      locals_written_(locals_.size()),
      frames_written_(frames_.size()) {
  groups_[0].lanes = lanes;
  for (const auto& [name, slot] : kernel_->specials) {
    for (unsigned at = 0; at < warp_size; ++at) registers_[std::size_t(slot) * warp_size + at] = special_value(name, *this, at);
    defined_[std::size_t(slot)] = ~Lanes(0);
  }
}

Lanes Warp::predicate(const Instruction& i, unsigned k) const {
  const Operand& o = operand(i, k);
  const Lanes value = o.slot >= 0                                    ? Lanes(registers_[std::size_t(o.slot) * warp_size])
                      : constants_[std::size_t(~o.slot) * warp_size] ? ~Lanes(0)
                                                                     : 0;
  return o.negated ? ~value : value;
}

void Warp::set_predicate(const Instruction& i, unsigned k, Lanes lanes, Lanes value) {
  std::uint64_t& word = *out(i, k);
  word = (Lanes(word) & ~lanes) | (value & lanes);
}

const Instruction* Warp::current_instruction() const { return groups_.empty() ? &nowhere : &kernel_->code[groups_[current_].pc]; }

std::string Warp::where() const {
  if (groups_.empty()) return fmt::format("warp {} has ended", index_);
  const Instruction& i = *current_instruction();
  return fmt::format("warp {} is at line {}: {}", index_, i.line, block_->grid.program.statement(i.begin));
}

void Warp::choose() {
  for (std::size_t at = 0; at < groups_.size(); ++at) {
    for (std::size_t other = groups_.size(); --other > at;) {
      if (groups_[at].pc != groups_[other].pc || groups_[at].calls != groups_[other].calls) continue;
      groups_[at].lanes |= groups_[other].lanes;
      groups_[at].waiting = false;
      groups_.erase(groups_.begin() + std::ptrdiff_t(other));
    }
  }
  const auto before = [](const Group& a, const Group& b) {
    return std::tuple(a.waiting, b.calls.size(), a.pc) < std::tuple(b.waiting, a.calls.size(), b.pc);
  };
  current_ = std::size_t(std::min_element(groups_.begin(), groups_.end(), before) - groups_.begin());
  const Group& chosen = groups_[current_];
  if (chosen.waiting) {
    lane = unsigned(__builtin_ctz(chosen.lanes));
    refuse("lanes {} wait here for lanes that never come; the warp's others are at: {}", list(chosen.lanes), [&] {
      std::string others;
      for (std::size_t at = 0; at < groups_.size(); ++at)
        if (at != current_)
          others += fmt::format("{}line {} (lanes {})", others.empty() ? "" : ", ", kernel_->code[groups_[at].pc].line,
                                list(groups_[at].lanes));
      return others.empty() ? std::string("none, they have exited") : others;
    }());
  }
  find_limit();
}

void Warp::rotate() {
  do current_ = (current_ + 1) % groups_.size();
  while (groups_[current_].waiting);
  find_limit();
}

void Warp::find_limit() {
  limit_ = ~0u;
  const Group& chosen = groups_[current_];
  for (std::size_t at = 0; at < groups_.size(); ++at)
    if (at != current_ && groups_[at].calls.size() == chosen.calls.size() && groups_[at].pc > chosen.pc)
      limit_ = std::min(limit_, groups_[at].pc);
}

void Warp::run() {
  auto& report = block_->grid.report;
  const Instruction* code = kernel_->code.data();
  if (groups_.size() > 1 && turn_ == 0) rotate();
  turn_ = turn, yielded_ = false;
  const Instruction* i = &nowhere;
  try {
    while (state_ == State::running && turn_) {
      if (groups_[current_].pc >= limit_) choose();
      Group& group = groups_[current_];
      i = code + group.pc;
      --turn_;
      ++report.instructions;
      Lanes lanes = group.lanes;
      if (i->guard >= 0) {
        if ((defined_[std::size_t(i->guard)] & lanes) != lanes) {
          lane = unsigned(__builtin_ctz(lanes & ~defined_[std::size_t(i->guard)]));
          refuse("reads {}, which nobody has written", kernel_->register_names[std::size_t(i->guard)]);
        }
        const Lanes predicate = Lanes(registers_[std::size_t(i->guard) * warp_size]);
        lanes &= i->guard_negated ? ~predicate : predicate;
      }
      report.lane_operations += unsigned(__builtin_popcount(lanes));
      if (!lanes) {
        ++group.pc;
        continue;
      }
      lane = unsigned(__builtin_ctz(lanes));
      if (!i->lenient) check_inputs(*i, lanes);
      if (!held_.empty()) check_outputs(*i);
      if (i->control) {
        i->execute(*this, *i, lanes);
        continue;
      }
      i->execute(*this, *i, lanes);
      if (!held_.empty()) pass_hold(*i);
      if (!i->lenient)
        for (unsigned k = 0; k < i->outputs; ++k) defined_[std::size_t(operands_[i->operand + k].slot)] |= lanes;
      ++group.pc;
    }
    if (!yielded_) block_->progress();
  } catch (const Refusal& refusal) {
    block_->fault(*this, *i, refusal.reason);
  }
}

void Warp::check_inputs(const Instruction& i, Lanes lanes) {
  for (unsigned k = i.outputs; k < i.count; ++k) {
    const std::int32_t slot = operands_[i.operand + k].slot;
    if (slot < 0) continue;
    if (const Lanes missing = lanes & ~defined_[std::size_t(slot)]) {
      lane = unsigned(__builtin_ctz(missing));
      const bool accumulator = !held_.empty() && held_[std::size_t(slot)].group;
      refuse("reads {}, {}", kernel_->register_names[std::size_t(slot)],
             accumulator ? "to which a wgmma accumulates whose group was not waited for" : "which nobody has written");
    }
  }
}

void Warp::check_outputs(const Instruction& i) {
  for (unsigned k = 0; k < i.outputs; ++k) {
    const auto slot = std::size_t(operands_[i.operand + k].slot);
    if (held_[slot].group == 0) continue;
    refuse("writes {}, which a wgmma {} whose group was not waited for", kernel_->register_names[slot],
           held_[slot].how == Hold::operand ? "reads" : "accumulates to");
  }
}

// A compiler may rename accumulators under way: the copy is as little there as they are.
void Warp::pass_hold(const Instruction& i) {
  if (!i.lenient || i.outputs != 1 || i.count != 2) return;
  const std::int32_t from = operands_[i.operand + 1].slot;
  if (from >= 0 && held_[std::size_t(from)].group && held_[std::size_t(from)].how == Hold::accumulator)
    held_[std::size_t(operands_[i.operand].slot)] = held_[std::size_t(from)];
}

void Warp::hold(const Operand& operand, Hold how) {
  if (held_.empty()) held_.resize(defined_.size());
  if (operand.slot < 0) return;
  held_[std::size_t(operand.slot)] = {product_groups + 1, how};
  if (how == Hold::accumulator) defined_[std::size_t(operand.slot)] = 0;
}

bool Warp::holds_accumulator(const Operand& operand) const {
  return operand.slot >= 0 && !held_.empty() && held_[std::size_t(operand.slot)].group &&
         held_[std::size_t(operand.slot)].how == Hold::accumulator;
}

void Warp::release_groups(std::uint32_t end) {
  bool left = false;
  for (std::size_t slot = 0; slot < held_.size(); ++slot) {
    if (held_[slot].group == 0) continue;
    if (held_[slot].group > end) {
      left = true;
      continue;
    }
    if (held_[slot].how == Hold::accumulator) defined_[slot] = ~Lanes(0);
    held_[slot] = {};
  }
  if (!left) held_.clear(), product_fence = false;
  Knowledge knowledge;
  if (end) knowledge.add({block_->order.products(index_), end - 1});
  block_->order.acquire(index_, live_, live_, knowledge);
}

bool Warp::gather(Lanes wanted) {
  Group& group = groups_[current_];
  if ((wanted & ~group.lanes) == 0) return true;
  if (const Lanes gone = wanted & ~live_) refuse("waits for lanes {}, which have exited or were never there", list(gone));
  group.waiting = true;
  choose();
  return false;
}

bool Warp::gather_all(const Instruction& i) {
  const Lanes all =
      block_->threads - index_ * warp_size >= warp_size ? ~Lanes(0) : (Lanes(1) << (block_->threads - index_ * warp_size)) - 1;
  if (const Lanes gone = all & ~live_) refuse("all lanes of a warp must come here, and lanes {} have exited", list(gone));
  if (!gather(live_)) return false;
  if (i.guard >= 0) {
    const Lanes predicate = Lanes(registers_[std::size_t(i.guard) * warp_size]);
    const Lanes lanes = live_ & (i.guard_negated ? ~predicate : predicate);
    if (lanes != live_) refuse("all lanes of a warp must come here, and lanes {} are predicated off", list(live_ & ~lanes));
  }
  return true;
}

void Warp::branch(Lanes taken, std::uint32_t target) {
  Group& group = groups_[current_];
  if (taken == group.lanes) {
    group.pc = target;
  } else {
    Group other = group;
    other.lanes = taken, other.pc = target;
    group.lanes &= ~taken, ++group.pc;
    groups_.push_back(std::move(other));
  }
  if (groups_.size() > 1) choose();
}

void Warp::scatter(Lanes taken, std::uint32_t target, Lanes staying) {
  Group went = groups_[current_], stayed = groups_[current_];
  went.lanes = taken, went.pc = target;
  stayed.lanes = staying;
  Group& group = groups_[current_];
  group.lanes &= ~(taken | staying), ++group.pc;
  if (group.lanes) groups_.push_back(std::move(went));
  else group = std::move(went);
  if (staying) groups_.push_back(std::move(stayed));
  choose();
}

void Warp::copy_parameters(Lanes lanes, const std::vector<Kernel::Call::Copy>& copies) {
  for (; lanes; lanes &= lanes - 1) {
    const std::size_t frame = std::size_t(__builtin_ctz(lanes)) * kernel_->frame_bytes;
    for (const auto& copy : copies) {
      std::memcpy(frames_.data() + frame + copy.to, frames_.data() + frame + copy.from, copy.size);
      std::memcpy(frames_written_.data() + frame + copy.to, frames_written_.data() + frame + copy.from, copy.size);
    }
  }
}

void Warp::skip_call(const Instruction& i, Lanes lanes) {
  for (; lanes; lanes &= lanes - 1) {
    for (const auto& copy : kernel_->calls[i.target].results) {
      const std::size_t at = std::size_t(__builtin_ctz(lanes)) * kernel_->frame_bytes + copy.to;
      std::memset(frames_.data() + at, 0, copy.size);
      std::memset(frames_written_.data() + at, 1, copy.size);
    }
  }
  ++groups_[current_].pc;
}

void Warp::call(const Instruction& i, Lanes lanes) {
  const Kernel::Call& call = kernel_->calls[i.target];
  copy_parameters(lanes, call.arguments);
  Group& group = groups_[current_];
  Group inner = group;
  inner.lanes = lanes, inner.pc = call.target;
  inner.calls.push_back(group.pc);
  if (group.lanes == lanes) group = std::move(inner);
  else group.lanes &= ~lanes, ++group.pc, groups_.push_back(std::move(inner));
  choose();
}

void Warp::leave(Lanes lanes) {
  Group& group = groups_[current_];
  if (group.calls.empty()) return exit(lanes);
  copy_parameters(lanes, kernel_->calls[kernel_->code[group.calls.back()].target].results);
  Group outer = group;
  outer.lanes = lanes, outer.pc = group.calls.back() + 1;
  outer.calls.pop_back();
  if (group.lanes == lanes) group = std::move(outer);
  else group.lanes &= ~lanes, ++group.pc, groups_.push_back(std::move(outer));
  choose();
}

void Warp::exit(Lanes lanes) {
  live_ &= ~lanes;
  Group& group = groups_[current_];
  group.lanes &= ~lanes;
  ++group.pc;
  block_->progress();
  for (Group& other : groups_) other.waiting = false;
  if (!group.lanes) groups_.erase(groups_.begin() + std::ptrdiff_t(current_));
  if (groups_.empty()) {
    state_ = State::ended;
    current_ = 0;
  } else {
    choose();
  }
}

void Warp::pass_barrier(unsigned votes, unsigned voters) {
  const Instruction& i = *current_instruction();
  finish_barrier(*this, i, votes, voters);
  ++groups_[current_].pc;
  state_ = State::running;
}

Toucher Warp::toucher(unsigned at, const Instruction& i) const {
  return {index_, at, {Actor(index_ * warp_size + at), block_->order.clock(index_)}, i.strong, false};
}

std::uint64_t Warp::address(const Instruction& i, unsigned k, unsigned at) const {
  const Operand& o = operand(i, k);
  const std::uint64_t value = in(i, k)[at] + std::uint64_t(std::int64_t(o.offset));
  switch (i.space) {
    case Space::shared: return address::shared + std::uint32_t(value);
    case Space::local: return address::local + std::uint32_t(value);
    case Space::param: return address::param + std::uint32_t(value);
    default: return value;
  }
}

std::uint32_t Warp::shared_address(const Instruction& i, unsigned k, unsigned at) const {
  const std::uint64_t value = in(i, k)[at] + std::uint64_t(std::int64_t(operand(i, k).offset));
  if (i.space == Space::generic && value / address::slot_size != address::shared / address::slot_size)
    refuse("not an address of shared memory: {:#x}", value);
  return std::uint32_t(value);
}

std::byte* Warp::private_bytes(unsigned at, std::uint64_t address, std::size_t bytes, bool writes) {
  const bool local = address / address::slot_size == address::local / address::slot_size;
  const std::size_t size = local ? kernel_->local_bytes : kernel_->frame_bytes;
  const std::int64_t offset = std::int64_t(std::int32_t(address)) - (local ? 0 : std::int64_t(address::frame_param));
  if (offset < 0 || std::size_t(offset) + bytes > size)
    refuse("out of bounds: {} bytes at offset {} of local memory, which has {} bytes", bytes, offset, size);
  auto* written = (local ? locals_written_ : frames_written_).data() + at * size + offset;
  if (writes) std::memset(written, 1, bytes);
  else if (std::memchr(written, 0, bytes))
    refuse("reads byte {} of local memory, which nobody has written",
           offset + static_cast<const std::uint8_t*>(std::memchr(written, 0, bytes)) - written);
  return (local ? locals_ : frames_).data() + at * size + offset;
}

void Warp::load(unsigned at, const Instruction& i, std::uint64_t address, void* to, std::size_t bytes) {
  check_aligned(address, bytes);
  switch (address / address::slot_size) {
    case address::shared / address::slot_size:
      if (i.space != Space::shared && i.space != Space::generic) refuse("an address of shared memory");
      std::memcpy(to, block_->shared.read(toucher(at, i), std::uint32_t(address), bytes), bytes);
      return;
    case address::local / address::slot_size: std::memcpy(to, private_bytes(at, address, bytes, false), bytes); return;
    case address::param / address::slot_size: {
      const std::uint32_t offset = std::uint32_t(address);
      if (offset >= address::frame_param) {
        std::memcpy(to, private_bytes(at, address, bytes, false), bytes);
        return;
      }
      const auto& parameters = block_->grid.parameters;
      if (offset + bytes > parameters.size())
        refuse("out of bounds: {} bytes at offset {} of the kernel's {} bytes of parameters", bytes, offset, parameters.size());
      std::memcpy(to, parameters.data() + offset, bytes);
      return;
    }
    default: {
      const auto [allocation, offset] = block_->grid.memory.at(address);
      std::memcpy(to, allocation->read(offset, bytes), bytes);
    }
  }
}

void Warp::store(unsigned at, const Instruction& i, std::uint64_t address, const void* from, std::size_t bytes) {
  check_aligned(address, bytes);
  switch (address / address::slot_size) {
    case address::shared / address::slot_size:
      if (i.space != Space::shared && i.space != Space::generic) refuse("an address of shared memory");
      block_->shared.write(toucher(at, i), std::uint32_t(address), bytes, from);
      return;
    case address::param / address::slot_size:
      if (std::uint32_t(address) < address::frame_param) refuse("writes a parameter of the kernel");
      [[fallthrough]];
    case address::local / address::slot_size: std::memcpy(private_bytes(at, address, bytes, true), from, bytes); return;
    default: {
      const auto [allocation, offset] = block_->grid.memory.at(address);
      std::memcpy(allocation->write(offset, bytes), from, bytes);
    }
  }
}

}  // namespace graft::ptx
