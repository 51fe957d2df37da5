// A block of threads: its warps taking turns, its barriers and its shared memory.
#pragma once

#include <map>
#include <vector>

#include "launch.h"
#include "mbarrier.h"
#include "memory.h"
#include "order.h"
#include "shared.h"
#include "warp.h"

namespace graft::ptx {

/// A launch as its blocks see it.
struct Grid {
  const Program& program;
  const Kernel& kernel;
  const Launch& launch;
  GlobalMemory& memory;
  std::vector<std::byte> parameters;
  Report report;
};

class Block {
 public:
  Block(Grid& grid, Dim index);

  /// Gives every warp a turn. Throws Fault.
  void run();
  bool ended() const;
  /// Whether anything was done that another warp can wait for, since the last call.
  bool moved();
  /// Throws the Fault of a block that does not end, with what each warp is at.
  [[noreturn]] void stuck(const std::string& reason);

  /// A warp arrives at a named barrier of `threads` (0: all); `wait`: and stops there.
  void arrive(Warp& warp, const Instruction& i, unsigned barrier, unsigned threads, bool wait);
  /// What a barrier with a vote found, and the vote of one warp.
  void vote(unsigned barrier, Lanes votes, Lanes lanes);
  void progress() { moved_ = true; }

  /// What a strong access to shared memory hands on: release publishes at an address what the lane knows (or knew at its last fence),
  /// acquire takes it from there (or its next fence does).
  void publish(Warp& warp, const Instruction& i, unsigned lane, std::uint64_t address);
  void observe(Warp& warp, const Instruction& i, unsigned lane, std::uint64_t address);
  /// membar, fence.
  void fence(Warp& warp, Lanes lanes);

  [[noreturn]] void fault(const Warp& warp, const Instruction& i, const std::string& reason) const;

  Grid& grid;
  const Dim index;
  const unsigned threads;
  Order order;
  SharedMemory shared;
  Mbarriers mbarriers;
  std::vector<Warp> warps;

 private:
  struct Barrier {
    unsigned threads = 0, arrived = 0;
    Knowledge knowledge;
    std::vector<unsigned> waiting;  // warps
    unsigned votes = 0, voters = 0;
  };
  void open(Barrier& barrier);
  Barrier barriers_[16];
  std::map<std::uint64_t, Knowledge> published_;  // by address
  std::vector<Knowledge> released_, acquired_;    // by warp: at its last fence, until its next
  bool moved_ = true;
};

}  // namespace graft::ptx
