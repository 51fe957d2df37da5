// cp.async in its groups, and cp.async.bulk.
#include <cstring>

#include "accesses.h"
#include "block.h"
#include "lanewise.h"

namespace graft::ptx {
namespace {

/// cp.async [to], [from], bytes {, bytes that are there}: the rest of `bytes` becomes zero.
void execute_copy(Warp& w, const Instruction& i, Lanes lanes) {
  Block& block = w.block();
  each(w, lanes, [&](unsigned lane) {
    const auto size = std::uint32_t(w.in(i, 2)[lane]);
    const std::uint32_t there = i.mode ? std::uint32_t(w.in(i, 3)[lane]) : size;
    if (there > size) refuse("copies {} of {} bytes", there, size);
    const std::uint32_t to = w.shared_address(i, 0, lane);
    check_aligned(to, size);
    std::byte* data = block.shared.write_pending(w.toucher(lane, i), to, size, SharedMemory::copying);
    std::memset(data, 0, size);
    if (there) {
      const std::uint64_t from = w.in(i, 1)[lane] + std::uint64_t(std::int64_t(w.operand(i, 1).offset));
      check_aligned(from, size);
      const auto [allocation, offset] = block.grid.memory.at(from);
      std::memcpy(data, allocation->read(offset, there), there);
    }
    w.copies.push_back({lane, to, size, w.copy_groups[lane]});
  });
}

void execute_commit(Warp& w, const Instruction&, Lanes lanes) {
  fast(lanes, [&](unsigned lane) { ++w.copy_groups[lane]; });
}

/// The copies of `lanes` in groups before `end(lane)` are there.
template <class F>
void settle(Warp& w, const Instruction& i, Lanes lanes, F end) {
  std::erase_if(w.copies, [&](const Warp::Copy& copy) {
    if (!(lanes >> copy.lane & 1) || copy.group >= end(copy.lane)) return false;
    w.block().shared.settle(w.toucher(copy.lane, i).as, copy.address, copy.bytes);
    return true;
  });
}

void execute_wait_groups(Warp& w, const Instruction& i, Lanes lanes) {
  const auto left = std::uint32_t(w.in(i, 0)[0]);
  settle(w, i, lanes, [&](unsigned lane) { return w.copy_groups[lane] < left ? 0 : w.copy_groups[lane] - left; });
}

void execute_wait_all(Warp& w, const Instruction& i, Lanes lanes) {
  settle(w, i, lanes, [&](unsigned lane) { return w.copy_groups[lane] + 1; });
}

/// cp.async.mbarrier.arrive: an arrival when the lane's copies are there, which is now. i.mode: .noinc.
void execute_copy_arrival(Warp& w, const Instruction& i, Lanes lanes) {
  execute_wait_all(w, i, lanes);
  Block& block = w.block();
  const Knowledge knowledge = block.order.release(w.index(), lanes);
  each(w, lanes, [&](unsigned lane) {
    const std::uint32_t address = w.shared_address(i, 0, lane);
    if (!i.mode) block.mbarriers.expect_arrival(w.toucher(lane, i), address);
    block.mbarriers.arrive(w.toucher(lane, i), address, 1, 0, false, knowledge);
  });
  block.progress();
}

void check_bulk(std::uint64_t to, std::uint64_t from, std::uint32_t bytes) {
  if (bytes % 16) refuse("a bulk copy of {} bytes, which is not a multiple of 16", bytes);
  check_aligned(to, 16);
  check_aligned(from, 16);
}

/// cp.async.bulk into shared memory: [to], [from], bytes, [mbarrier].
void execute_bulk_load(Warp& w, const Instruction& i, Lanes lanes) {
  Block& block = w.block();
  each(w, lanes, [&](unsigned lane) {
    const std::uint64_t from = w.in(i, 1)[lane] + std::uint64_t(std::int64_t(w.operand(i, 1).offset));
    const std::uint32_t to = w.shared_address(i, 0, lane);
    const auto size = std::uint32_t(w.in(i, 2)[lane]);
    check_bulk(to, from, size);
    const auto [allocation, offset] = block.grid.memory.at(from);
    const std::byte* data = allocation->read(offset, size);
    block.mbarriers.copy(w.toucher(lane, i), to, {data, data + size}, w.shared_address(i, 3, lane));
  });
  block.progress();
}

/// cp.async.bulk out of shared memory: [to], [from], bytes. Its source must not be written before its group was waited for.
void execute_bulk_store(Warp& w, const Instruction& i, Lanes lanes) {
  Block& block = w.block();
  each(w, lanes, [&](unsigned lane) {
    const std::uint64_t to = w.in(i, 0)[lane] + std::uint64_t(std::int64_t(w.operand(i, 0).offset));
    const std::uint32_t from = w.shared_address(i, 1, lane);
    const auto size = std::uint32_t(w.in(i, 2)[lane]);
    check_bulk(to, from, size);
    Toucher who = w.toucher(lane, i);
    who.asynchronous = true;
    who.as = {block.order.stores(w.index()), w.store_groups};
    const std::byte* data = block.shared.read(who, from, size);
    const auto [allocation, offset] = block.grid.memory.at(to);
    std::memcpy(allocation->write(offset, size), data, size);
  });
  block.progress();
}

void execute_bulk_commit(Warp& w, const Instruction&, Lanes) { ++w.store_groups; }

void execute_bulk_wait(Warp& w, const Instruction& i, Lanes lanes) {
  const auto left = std::uint32_t(w.in(i, 0)[0]);
  if (w.store_groups <= left) return;
  Knowledge knowledge;
  knowledge.add({w.block().order.stores(w.index()), w.store_groups - left - 1});
  w.block().order.acquire(w.index(), lanes, w.live(), knowledge);
}

void execute_bulk_prefetch(Warp&, const Instruction&, Lanes) {}

void decode_bulk(Spelling& s, Instruction& i) {
  i.outputs = 0;
  if (s.take("commit_group")) {
    i.execute = execute_bulk_commit;
  } else if (s.take("wait_group")) {
    s.take("read");
    i.execute = execute_bulk_wait;
  } else if (s.take("prefetch")) {
    s.ignore({"L2", "global", "L2::cache_hint"});
    i.execute = execute_bulk_prefetch;
  } else {
    const bool bulk_group = s.take("bulk_group"), arrives = s.take("mbarrier::complete_tx::bytes");
    s.one_of({"global"});
    s.one_of({"shared::cta", "shared::cluster"});
    s.take("L2::cache_hint");
    if (bulk_group == arrives) s.unknown();
    i.space = Space::shared;
    i.execute = arrives ? execute_bulk_load : execute_bulk_store;
  }
}

void decode_copy(Spelling& s, Instruction& i) {
  s.one_of({"async"});
  if (s.take("bulk")) return decode_bulk(s, i);
  i.outputs = 0;
  i.space = Space::shared;
  if (s.take("commit_group")) {
    i.execute = execute_commit;
  } else if (s.take("wait_group")) {
    i.execute = execute_wait_groups;
  } else if (s.take("wait_all")) {
    i.execute = execute_wait_all;
  } else if (s.take("mbarrier")) {
    s.one_of({"arrive"});
    i.mode = s.take("noinc");
    s.ignore({"b64"});
    i.space = take_space(s);
    i.execute = execute_copy_arrival;
  } else {
    const bool policy = s.take("L2::cache_hint");
    s.one_of({"ca", "cg"});
    take_hints(s);
    s.one_of({"shared", "shared::cta"});
    s.one_of({"global"});
    i.mode = i.parts == 4 + policy;
    if (i.parts < 3 + policy) s.unknown();
    i.execute = execute_copy;
  }
}

}  // namespace

void add_copies(Decoders& decoders) { decoders["cp"] = decode_copy; }

}  // namespace graft::ptx
