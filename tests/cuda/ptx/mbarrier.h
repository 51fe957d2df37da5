// The mbarriers of a block, and the bulk copies that complete at them.
#pragma once

#include <deque>
#include <map>
#include <vector>

#include "order.h"
#include "shared.h"

namespace graft::ptx {

class Warp;

class Mbarriers {
 public:
  Mbarriers(SharedMemory& shared, Order& order) : shared_(shared), order_(order) {}

  // All refuse an address where no mbarrier was initialised, or not in the past of `who`.
  void init(const Toucher& who, std::uint32_t address, std::uint32_t count);
  void invalidate(const Toucher& who, std::uint32_t address);
  /// `count` arrivals that bring `knowledge`, after `transactions` more bytes became expected. Returns the phase that they arrived in.
  std::uint64_t arrive(const Toucher& who, std::uint32_t address, std::uint32_t count, std::uint32_t transactions, bool drop,
                       const Knowledge& knowledge);
  void expect(const Toucher& who, std::uint32_t address, std::uint32_t transactions);
  void complete(const Toucher& who, std::uint32_t address, std::uint32_t transactions);
  /// cp.async.mbarrier.arrive without .noinc adds the arrival that it then makes.
  void expect_arrival(const Toucher& who, std::uint32_t address);
  /// Whether the phase is over; if so, what was brought to it.
  bool over(const Toucher& who, std::uint32_t address, std::uint64_t phase, bool parity, const Knowledge*& knowledge);

  /// A bulk copy into shared memory: its bytes are nobody's until deliver() makes it arrive.
  void copy(const Toucher& who, std::uint32_t address, std::vector<std::byte> bytes, std::uint32_t barrier);
  /// Lets the oldest copy arrive; false if there is none.
  bool deliver();

 private:
  struct Mbarrier {
    std::uint32_t expected = 0, pending = 0;
    std::int64_t transactions = 0;
    std::uint64_t phase = 0;
    std::uint32_t copies = 0;  // the clock of its agent
    unsigned index = 0;
    Knowledge arriving, completed;
  };
  struct Copy {
    std::uint32_t address, barrier;
    std::vector<std::byte> bytes;
    Event event;
  };
  static constexpr std::uint32_t size = 8;  // bytes
  static constexpr std::uint32_t most = (1 << 20) - 1;
  Mbarrier& find(const Toucher& who, std::uint32_t address);
  void finish(Mbarrier& barrier);

  SharedMemory& shared_;
  Order& order_;
  std::map<std::uint32_t, Mbarrier> barriers_;
  std::deque<Copy> copies_;
  unsigned initialised_ = 0;
};

}  // namespace graft::ptx
