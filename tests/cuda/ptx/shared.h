// The shared memory of one block: bytes, and for each byte who wrote and read it last, so that what no barrier orders is found.
#pragma once

#include <cstddef>
#include <vector>

#include "memory.h"
#include "order.h"

namespace graft::ptx {

/// Who touches shared memory.
struct Toucher {
  unsigned warp, lane;
  /// As whom it is remembered: the thread itself, or an agent that works for it.
  Event as;
  bool strong = false;        // volatile, relaxed, acquire, release or atomic: may meet others of its kind
  bool asynchronous = false;  // through the async proxy: wgmma and bulk copies
};

class SharedMemory {
 public:
  SharedMemory(std::size_t bytes, const Order& order);

  std::size_t size() const { return data_.size(); }
  /// Bytes at an address (of the space, which begins at address::shared_begin), after all checks.
  const std::byte* read(const Toucher& who, std::uint32_t address, std::size_t bytes);
  /// Lanes of one warp may write one byte at once if they write the same.
  void write(const Toucher& who, std::uint32_t address, std::size_t bytes, const void* from);

  /// What a byte may hold beside data.
  enum State : std::uint8_t { plain, copying, bulk_copying, barrier };
  /// write(), into bytes that nobody may touch until settle().
  std::byte* write_pending(const Toucher& who, std::uint32_t address, std::size_t bytes, State state);
  /// The copy has arrived: its bytes, which were written by `as`.
  std::byte* settle(Event as, std::uint32_t address, std::size_t bytes);
  /// An mbarrier's 8 bytes: written by `who`, and refused to ordinary accesses until plain again.
  void mark(std::uint32_t address, std::size_t bytes, State state);
  /// Whether the one who marked them did so in the past of `who`.
  void check_marked(const Toucher& who, std::uint32_t address, std::size_t bytes) const;

 private:
  struct Reader {
    std::uint32_t clock = 0;
    Lanes lanes = 0;
  };
  struct Cell {
    std::uint32_t write_clock = 0;
    Actor writer = nobody;
    State state = plain;
    bool strong = false, asynchronous = false;
    std::uint16_t reader = nobody;  // a warp, or an agent counted behind the warps; `many`: readers_[readers.clock]
    Reader readers;
  };
  static constexpr std::uint16_t nobody = 0xffff, many = 0xfffe;

  std::size_t check(std::uint32_t address, std::size_t bytes) const;
  std::uint16_t group(Actor actor) const {
    return actor < order_.threads() ? actor / warp_size : Actor(actor - order_.threads() + order_.threads() / warp_size);
  }
  Actor actor(std::uint16_t group, unsigned lane) const {
    const unsigned warps = order_.threads() / warp_size;
    return Actor(group < warps ? group * warp_size + lane : group - warps + order_.threads());
  }
  bool knows(const Toucher& who, std::uint16_t group, const Reader& reader, Actor& unknown) const;
  void check_writer(const Toucher& who, const Cell& cell, std::size_t at, const char* what) const;
  void write(const Toucher& who, std::size_t at, State state);
  void check_readers(const Toucher& who, Cell& cell, std::size_t at);
  void remember_reader(const Toucher& who, Cell& cell);
  std::string named(Actor actor) const;

  const Order& order_;
  std::vector<std::byte> data_;
  std::vector<Cell> cells_;
  std::vector<std::vector<Reader>> readers_;  // of bytes with several, by group
  std::vector<std::uint32_t> free_readers_;
};

}  // namespace graft::ptx
