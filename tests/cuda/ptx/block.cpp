#include "block.h"

#include <algorithm>

namespace graft::ptx {

Block::Block(Grid& in, Dim at)
    : grid(in),
      index(at),
      threads(unsigned(in.launch.block.size())),
      order((threads + warp_size - 1) / warp_size),
      shared(in.kernel.dynamic_shared_at + in.launch.dynamic_shared, order),
      mbarriers(shared, order) {
  const unsigned count = (threads + warp_size - 1) / warp_size;
  released_.resize(count);
  acquired_.resize(count);
  warps.reserve(count);
  for (unsigned warp = 0; warp < count; ++warp) {
    const unsigned lanes = std::min(warp_size, threads - warp * warp_size);
    warps.emplace_back(*this, warp, lanes == warp_size ? ~Lanes(0) : (Lanes(1) << lanes) - 1);
  }
}

void Block::run() {
  for (Warp& warp : warps)
    if (warp.state() == Warp::State::running) warp.run();
  // One copy arrives when all warps had a turn: later than any of them may count on.
  moved_ |= mbarriers.deliver();
}

bool Block::ended() const {
  return std::all_of(warps.begin(), warps.end(), [](const Warp& warp) { return warp.state() == Warp::State::ended; });
}

bool Block::moved() {
  const bool running =
      std::any_of(warps.begin(), warps.end(), [](const Warp& warp) { return warp.state() == Warp::State::running; });
  const bool moved = moved_;
  moved_ = false;
  return moved && (running || ended());
}

void Block::stuck(const std::string& reason) {
  std::string all;
  const Warp* first = nullptr;
  for (const Warp& warp : warps) {
    if (!first && warp.state() != Warp::State::ended) first = &warp;
    if (warp.index() < 8) all += fmt::format("; {}", warp.where());
    if (warp.index() == 8) all += "; ...";
  }
  fault(*first, *first->current_instruction(), reason + all);
}

void Block::fault(const Warp& warp, const Instruction& i, const std::string& reason) const {
  const unsigned thread = warp.index() * warp_size + warp.lane;
  const Dim size = grid.launch.block;
  throw Fault(grid.kernel.name, i.line, grid.program.statement(i.begin), index,
              {thread % size.x, thread / size.x % size.y, thread / size.x / size.y}, reason);
}

void Block::arrive(Warp& warp, const Instruction&, unsigned id, unsigned count, bool wait) {
  if (id >= std::size(barriers_)) refuse("there is no barrier {}", id);
  if (count % warp_size) refuse("barrier {} of {} threads, which is not a multiple of {}", id, count, warp_size);
  const unsigned all = unsigned(warps.size()) * warp_size;
  if (count > all) refuse("barrier {} of {} threads in a block of {}", id, count, threads);
  Barrier& barrier = barriers_[id];
  if (count == 0) count = all;
  if (barrier.arrived && barrier.threads != count)
    refuse("barrier {} of {} threads, at which others arrived for {}", id, count, barrier.threads);
  barrier.threads = count;
  barrier.arrived += warp_size;
  barrier.knowledge.join(order.release(warp.index(), warp.live()));
  if (wait) {
    barrier.waiting.push_back(warp.index());
    warp.stop_at_barrier();
  }
  if (barrier.arrived > count) refuse("more than {} threads arrive at barrier {}", count, id);
  if (barrier.arrived == count) open(barrier);
}

void Block::publish(Warp& warp, const Instruction& i, unsigned lane, std::uint64_t address) {
  if (address / address::slot_size != address::shared / address::slot_size) return;
  const Knowledge& knowledge = i.release ? order.release(warp.index(), Lanes(1) << lane) : released_[warp.index()];
  if (!knowledge.empty()) published_[address].join(knowledge);
}

void Block::observe(Warp& warp, const Instruction& i, unsigned lane, std::uint64_t address) {
  const auto at = published_.find(address);
  if (at == published_.end()) return;
  if (i.acquire) order.acquire(warp.index(), Lanes(1) << lane, warp.live(), at->second);
  else acquired_[warp.index()].join(at->second);
}

void Block::fence(Warp& warp, Lanes lanes) {
  const unsigned index = warp.index();
  order.acquire(index, lanes, warp.live(), acquired_[index]);
  acquired_[index] = {};
  released_[index] = order.release(index, lanes);
}

void Block::vote(unsigned id, Lanes votes, Lanes lanes) {
  if (id >= std::size(barriers_)) refuse("there is no barrier {}", id);
  barriers_[id].votes += unsigned(__builtin_popcount(votes & lanes));
  barriers_[id].voters += unsigned(__builtin_popcount(lanes));
}

void Block::open(Barrier& barrier) {
  moved_ = true;
  for (const unsigned index : barrier.waiting) {
    Warp& warp = warps[index];
    order.acquire(index, warp.live(), warp.live(), barrier.knowledge);
    warp.pass_barrier(barrier.votes, barrier.voters);
  }
  barrier = {};
}

}  // namespace graft::ptx
