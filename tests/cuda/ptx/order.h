// Which events of a block happened before which: vector clocks of its threads, and of the agents that copy and multiply for them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "instruction.h"

namespace graft::ptx {

/// A thread of the block (32 * warp + lane), or an agent, numbered behind them.
using Actor = std::uint16_t;

struct Event {
  Actor actor;
  std::uint32_t clock;
};

/// How far in the past of every actor events have been seen: those with a smaller clock. `fenced`: seen, and a proxy fence lay between.
struct Knowledge {
  std::vector<std::uint32_t> seen, fenced;
  bool empty() const { return seen.empty(); }
  void join(const Knowledge& other);
  void add(Event event);
};

class Order {
 public:
  explicit Order(unsigned warps);

  // Agents: a warp's wgmma, its bulk copies out of shared memory, and the copies that complete at the `index`-th mbarrier.
  Actor products(unsigned warp) const { return Actor(threads_ + warp); }
  Actor stores(unsigned warp) const { return Actor(threads_ + warps_.size() + warp); }
  Actor copies(unsigned index) const { return Actor(threads_ + 2 * warps_.size() + index % barrier_agents); }
  unsigned actors() const { return threads_ + 2 * unsigned(warps_.size()) + barrier_agents; }
  unsigned threads() const { return threads_; }

  std::uint32_t clock(unsigned warp) const { return warps_[warp].clock; }
  bool knows(unsigned warp, unsigned lane, Event event) const;
  bool knows_fenced(unsigned warp, unsigned lane, Event event) const;

  /// What `lanes` pass on when they arrive somewhere; what they do afterwards is no part of it.
  Knowledge release(unsigned warp, Lanes lanes);
  void acquire(unsigned warp, Lanes lanes, Lanes live, const Knowledge& knowledge);
  /// bar.warp.sync of `lanes`.
  void synchronize(unsigned warp, Lanes lanes, Lanes live) { acquire(warp, lanes, live, release(warp, lanes)); }
  /// fence.proxy.async by `lanes`.
  void proxy_fence(unsigned warp, Lanes lanes, Lanes live);

 private:
  static constexpr unsigned barrier_agents = 128;
  struct Past {
    std::uint32_t clock = 0;
    Knowledge common;                                              // of all live lanes
    std::array<std::unique_ptr<Knowledge>, warp_size> additional;  // of single lanes
  };
  unsigned threads_;
  std::vector<Past> warps_;
};

}  // namespace graft::ptx
