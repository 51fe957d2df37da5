#include "shared.h"

namespace graft::ptx {

SharedMemory::SharedMemory(std::size_t bytes, const Order& order) : order_(order), data_(bytes), cells_(bytes) {}

std::size_t SharedMemory::check(std::uint32_t address, std::size_t bytes) const {
  const std::int64_t offset = std::int64_t(address) - address::shared_begin;
  if (offset < 0 || std::size_t(offset) + bytes > data_.size())
    refuse("out of bounds: {} bytes at offset {} of shared memory, which has {} bytes", bytes, offset, data_.size());
  return std::size_t(offset);
}

std::string SharedMemory::named(Actor actor) const {
  if (actor < order_.threads()) return fmt::format("lane {} of warp {}", actor % warp_size, actor / warp_size);
  for (unsigned warp = 0; warp < order_.threads() / warp_size; ++warp) {
    if (actor == order_.products(warp)) return fmt::format("a wgmma of warp {}", warp);
    if (actor == order_.stores(warp)) return fmt::format("a bulk copy of warp {}", warp);
  }
  return "a bulk copy";
}

bool SharedMemory::knows(const Toucher& who, std::uint16_t group, const Reader& reader, Actor& unknown) const {
  for (Lanes lanes = reader.lanes; lanes; lanes &= lanes - 1) {
    unknown = actor(group, unsigned(__builtin_ctz(lanes)));
    if (unknown != who.as.actor && !order_.knows(who.warp, who.lane, {unknown, reader.clock})) return false;
  }
  return true;
}

void SharedMemory::check_writer(const Toucher& who, const Cell& cell, std::size_t at, const char* what) const {
  if (cell.state == copying)
    refuse("byte {} of shared memory is the destination of a cp.async of {} that was not waited for", at, named(cell.writer));
  if (cell.state == bulk_copying) refuse("byte {} of shared memory is the destination of a bulk copy that has not arrived", at);
  if (cell.state == barrier) refuse("byte {} of shared memory belongs to an mbarrier", at);
  if (cell.writer == nobody || cell.writer == who.as.actor || (cell.strong && who.strong)) return;
  const Event event{cell.writer, cell.write_clock};
  if (!order_.knows(who.warp, who.lane, event))
    refuse("race: {} byte {} of shared memory, which {} wrote, and nothing orders the two", what, at, named(cell.writer));
}

void SharedMemory::check_readers(const Toucher& who, Cell& cell, std::size_t at) {
  if (cell.reader == nobody) return;
  Actor unknown = 0;
  bool known = true;
  if (cell.reader != many) {
    known = knows(who, cell.reader, cell.readers, unknown);
  } else {
    auto& all = readers_[cell.readers.clock];
    for (std::size_t group = 0; known && group < all.size(); ++group)
      known = knows(who, std::uint16_t(group), all[group], unknown);
    if (known) free_readers_.push_back(cell.readers.clock);
  }
  if (!known) refuse("race: writes byte {} of shared memory, which {} reads, and nothing orders the two", at, named(unknown));
  cell.reader = nobody;
}

void SharedMemory::remember_reader(const Toucher& who, Cell& cell) {
  const std::uint16_t mine = group(who.as.actor);
  const Lanes bit = who.as.actor < order_.threads() ? Lanes(1) << who.lane : 1;
  const auto add = [&](Reader& reader) {
    if (reader.clock != who.as.clock) reader = {who.as.clock, 0};
    reader.lanes |= bit;
  };
  if (cell.reader == nobody) {
    cell.reader = mine;
    cell.readers = {who.as.clock, bit};
  } else if (cell.reader == mine) {
    add(cell.readers);
  } else if (cell.reader == many) {
    add(readers_[cell.readers.clock][mine]);
  } else if (Actor unknown = 0; knows(who, cell.reader, cell.readers, unknown)) {
    cell.reader = mine;
    cell.readers = {who.as.clock, bit};
  } else {
    if (free_readers_.empty()) {
      free_readers_.push_back(std::uint32_t(readers_.size()));
      readers_.emplace_back();
    }
    const std::uint32_t index = free_readers_.back();
    free_readers_.pop_back();
    auto& all = readers_[index];
    all.assign(3 * (order_.threads() / warp_size), {});  // those that read: warps, their wgmma, their copies
    all[cell.reader] = cell.readers;
    add(all[mine]);
    cell.reader = many;
    cell.readers.clock = index;
  }
}

const std::byte* SharedMemory::read(const Toucher& who, std::uint32_t address, std::size_t bytes) {
  const std::size_t begin = check(address, bytes);
  for (std::size_t at = begin; at < begin + bytes; ++at) {
    Cell& cell = cells_[at];
    if (cell.writer == nobody) refuse("reads byte {} of shared memory, which nobody has written", at);
    check_writer(who, cell, at, "reads");
    if (who.asynchronous && !cell.asynchronous && !order_.knows_fenced(who.warp, who.lane, {cell.writer, cell.write_clock}))
      refuse("the async proxy reads byte {} of shared memory, which {} wrote, without a fence.proxy.async between", at,
             named(cell.writer));
    if (!who.strong) remember_reader(who, cell);
  }
  return data_.data() + begin;
}

void SharedMemory::write(const Toucher& who, std::size_t at, State state) {
  Cell& cell = cells_[at];
  check_writer(who, cell, at, "writes");
  check_readers(who, cell, at);
  cell.writer = who.as.actor, cell.write_clock = who.as.clock;
  cell.strong = who.strong, cell.asynchronous = who.asynchronous, cell.state = state;
}

void SharedMemory::write(const Toucher& who, std::uint32_t address, std::size_t bytes, const void* from) {
  const std::size_t begin = check(address, bytes);
  const auto* values = static_cast<const std::byte*>(from);
  for (std::size_t at = begin; at < begin + bytes; ++at) {
    const std::byte value = values[at - begin];
    const Cell& cell = cells_[at];
    const bool again =
        cell.state == plain && data_[at] == value && cell.writer / warp_size == who.warp && cell.write_clock == who.as.clock;
    if (!again) write(who, at, plain);
    data_[at] = value;
  }
}

std::byte* SharedMemory::write_pending(const Toucher& who, std::uint32_t address, std::size_t bytes, State state) {
  const std::size_t begin = check(address, bytes);
  for (std::size_t at = begin; at < begin + bytes; ++at) write(who, at, state);
  return data_.data() + begin;
}

std::byte* SharedMemory::settle(Event as, std::uint32_t address, std::size_t bytes) {
  const std::size_t begin = check(address, bytes);
  for (std::size_t at = begin; at < begin + bytes; ++at) {
    cells_[at].state = plain;
    cells_[at].writer = as.actor, cells_[at].write_clock = as.clock;
  }
  return data_.data() + begin;
}

void SharedMemory::mark(std::uint32_t address, std::size_t bytes, State state) {
  const std::size_t begin = check(address, bytes);
  for (std::size_t at = begin; at < begin + bytes; ++at) cells_[at].state = state;
}

void SharedMemory::check_marked(const Toucher& who, std::uint32_t address, std::size_t bytes) const {
  const std::size_t at = check(address, bytes);
  const Cell& cell = cells_[at];
  const Event event{cell.writer, cell.write_clock};
  if (cell.writer != who.as.actor && !order_.knows(who.warp, who.lane, event))
    refuse("race: uses the mbarrier at byte {} of shared memory, which {} initialised, and nothing orders the two", at,
           named(cell.writer));
  if (who.asynchronous && !order_.knows_fenced(who.warp, who.lane, event))
    refuse(
        "the async proxy uses the mbarrier at byte {} of shared memory, which {} initialised, without a fence.proxy.async or "
        "fence.mbarrier_init between",
        at, named(cell.writer));
}

}  // namespace graft::ptx
