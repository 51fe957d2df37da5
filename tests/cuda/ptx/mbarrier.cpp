#include "mbarrier.h"

#include <cstring>

#include "accesses.h"
#include "block.h"
#include "lanewise.h"

namespace graft::ptx {

Mbarriers::Mbarrier& Mbarriers::find(const Toucher& who, std::uint32_t address) {
  const auto at = barriers_.find(address);
  if (at == barriers_.end())
    refuse("no mbarrier was initialised at byte {} of shared memory", std::int64_t(address) - address::shared_begin);
  shared_.check_marked(who, address, size);
  return at->second;
}

void Mbarriers::init(const Toucher& who, std::uint32_t address, std::uint32_t count) {
  check_aligned(address, size);
  if (count == 0 || count > most) refuse("an mbarrier of {} arrivals", count);
  if (barriers_.contains(address)) refuse("initialises an mbarrier that was initialised and not invalidated");
  shared_.write_pending(who, address, size, SharedMemory::barrier);
  Mbarrier& barrier = barriers_[address];
  barrier.expected = barrier.pending = count;
  barrier.index = initialised_++;
}

void Mbarriers::invalidate(const Toucher& who, std::uint32_t address) {
  find(who, address);
  shared_.mark(address, size, SharedMemory::plain);
  barriers_.erase(address);
}

void Mbarriers::finish(Mbarrier& barrier) {
  if (barrier.pending || barrier.transactions) return;
  barrier.completed.join(barrier.arriving);
  barrier.arriving = {};
  barrier.pending = barrier.expected;
  ++barrier.phase;
}

std::uint64_t Mbarriers::arrive(const Toucher& who, std::uint32_t address, std::uint32_t count, std::uint32_t transactions,
                                bool drop, const Knowledge& knowledge) {
  expect(who, address, transactions);
  Mbarrier& barrier = find(who, address);
  const std::uint64_t phase = barrier.phase;
  if (count > barrier.pending)
    refuse("{} arrivals at an mbarrier that waits for {} of {}", count, barrier.pending, barrier.expected);
  if (drop) {
    if (barrier.expected == 1) refuse("drops the last arrival that an mbarrier waits for");
    --barrier.expected;
  }
  barrier.pending -= count;
  barrier.arriving.join(knowledge);
  finish(barrier);
  return phase;
}

void Mbarriers::expect(const Toucher& who, std::uint32_t address, std::uint32_t transactions) {
  Mbarrier& barrier = find(who, address);
  barrier.transactions += transactions;
  if (barrier.transactions > most) refuse("an mbarrier expects {} bytes, at most {}", barrier.transactions, most);
}

void Mbarriers::complete(const Toucher& who, std::uint32_t address, std::uint32_t transactions) {
  Mbarrier& barrier = find(who, address);
  barrier.transactions -= transactions;
  if (barrier.transactions < -std::int64_t(most)) refuse("an mbarrier has {} bytes too many", -barrier.transactions);
  finish(barrier);
}

void Mbarriers::expect_arrival(const Toucher& who, std::uint32_t address) { ++find(who, address).pending; }

bool Mbarriers::over(const Toucher& who, std::uint32_t address, std::uint64_t phase, bool parity, const Knowledge*& knowledge) {
  const Mbarrier& barrier = find(who, address);
  knowledge = &barrier.completed;
  return parity ? (barrier.phase & 1) != (phase & 1) : barrier.phase != phase;
}

void Mbarriers::copy(const Toucher& who, std::uint32_t address, std::vector<std::byte> bytes, std::uint32_t barrier_address) {
  Toucher through = who;
  through.asynchronous = true;
  Mbarrier& barrier = find(through, barrier_address);
  const Event event{order_.copies(barrier.index), barrier.copies++};
  through.as = event;
  shared_.write_pending(through, address, bytes.size(), SharedMemory::bulk_copying);
  copies_.push_back({address, barrier_address, std::move(bytes), event});
}

bool Mbarriers::deliver() {
  if (copies_.empty()) return false;
  const Copy copy = std::move(copies_.front());
  copies_.pop_front();
  const auto at = barriers_.find(copy.barrier);
  std::memcpy(shared_.settle(copy.event, copy.address, copy.bytes.size()), copy.bytes.data(), copy.bytes.size());
  if (at == barriers_.end()) return true;  // invalidated under the copy; nobody can wait for it
  at->second.arriving.add(copy.event);
  at->second.transactions -= std::int64_t(copy.bytes.size());
  finish(at->second);
  return true;
}

namespace {

enum BarrierOperation : std::uint8_t { init, inval, expect, complete };

Toucher toucher(Warp& w, unsigned lane, const Instruction& i) { return w.toucher(lane, i); }

void execute_init(Warp& w, const Instruction& i, Lanes lanes) {
  each(w, lanes, [&](unsigned lane) {
    const std::uint32_t address = w.shared_address(i, 0, lane);
    if (i.mode == init) w.block().mbarriers.init(toucher(w, lane, i), address, std::uint32_t(w.in(i, 1)[lane]));
    else w.block().mbarriers.invalidate(toucher(w, lane, i), address);
  });
}

/// Operands: the state unless it is not wanted, the address, then transactions (with expect_tx) or a count.
void execute_arrive(Warp& w, const Instruction& i, Lanes lanes) {
  Block& block = w.block();
  const unsigned k = i.outputs;
  const Knowledge knowledge = block.order.release(w.index(), lanes);
  const bool expects = i.vector == 2;
  each(w, lanes, [&](unsigned lane) {
    const auto operand = i.count > k + 1 ? std::uint32_t(w.in(i, k + 1)[lane]) : 1u;
    const std::uint64_t phase = block.mbarriers.arrive(toucher(w, lane, i), w.shared_address(i, k, lane), expects ? 1 : operand,
                                                       expects ? operand : 0, i.mode == 1, knowledge);
    if (i.outputs && w.operand(i, 0).slot != sink) w.out(i, 0)[lane] = phase;
  });
  block.progress();
}

void execute_transactions(Warp& w, const Instruction& i, Lanes lanes) {
  each(w, lanes, [&](unsigned lane) {
    const std::uint32_t address = w.shared_address(i, 0, lane), bytes = std::uint32_t(w.in(i, 1)[lane]);
    if (i.mode == expect) w.block().mbarriers.expect(toucher(w, lane, i), address, bytes);
    else w.block().mbarriers.complete(toucher(w, lane, i), address, bytes);
  });
  w.block().progress();
}

/// i.mode: bit 0: by parity; i.acquire.
void execute_wait(Warp& w, const Instruction& i, Lanes lanes) {
  Lanes over = 0;
  const Knowledge* knowledge = nullptr;
  std::map<const Knowledge*, Lanes> brought;
  each(w, lanes, [&](unsigned lane) {
    const bool is =
        w.block().mbarriers.over(toucher(w, lane, i), w.shared_address(i, 1, lane), w.in(i, 2)[lane], i.mode & 1, knowledge);
    over |= Lanes(is) << lane;
    if (is && i.acquire) brought[knowledge] |= Lanes(1) << lane;
  });
  for (const auto& [from, to] : brought) w.block().order.acquire(w.index(), to, w.live(), *from);
  w.set_predicate(i, 0, lanes, over);
  if (over != lanes) w.yield();
}

void decode_mbarrier(Spelling& s, Instruction& i) {
  const bool noComplete = s.take("noComplete"), parity = s.take("parity"), expects = s.take("expect_tx");
  int operation = s.one_of({"init", "inval", "arrive", "arrive_drop", "complete_tx", "test_wait", "try_wait"}, 7);
  const bool relaxed = s.take("relaxed");
  s.ignore({"release", "acquire", "cta", "cluster", "b64"});
  i.space = take_space(s);
  if (noComplete) s.unknown(".noComplete is not known");
  switch (operation) {
    case 0:
    case 1: i.outputs = 0, i.mode = operation == 0 ? init : inval, i.execute = execute_init; break;
    case 2:
    case 3:
      // `mbarrier.arrive state, [a]`, and without a state for an mbarrier of the cluster.
      i.outputs = !(i.addresses & 1);
      i.mode = operation == 3, i.vector = expects ? 2 : 1, i.execute = execute_arrive;
      break;
    case 4: i.outputs = 0, i.mode = complete, i.execute = execute_transactions; break;
    case 5:
    case 6: i.mode = parity, i.acquire = !relaxed, i.execute = execute_wait; break;
    default:
      if (!expects) s.unknown();
      i.outputs = 0, i.mode = expect, i.execute = execute_transactions;
  }
}

}  // namespace

void add_mbarriers(Decoders& decoders) { decoders["mbarrier"] = decode_mbarrier; }

}  // namespace graft::ptx
