// Branches, calls, barriers: instructions that say where a warp goes on, or when.
#include "control.h"

#include "block.h"
#include "spelling.h"

namespace graft::ptx {
namespace {

enum BarrierMode : std::uint8_t { sync, arrive, vote_count, vote_and, vote_or };

void execute_branch(Warp& w, const Instruction& i, Lanes lanes) { w.branch(lanes, i.target); }

void execute_indexed(Warp& w, const Instruction& i, Lanes lanes) {
  const auto& targets = w.kernel().branches[i.target];
  const std::uint64_t* index = w.in(i, 0);
  each(w, lanes, [&](unsigned lane) {
    if (std::uint32_t(index[lane]) >= targets.size()) refuse("branch {} of {}", std::uint32_t(index[lane]), targets.size());
  });
  w.lane = unsigned(__builtin_ctz(lanes));
  const std::uint32_t first = std::uint32_t(index[w.lane]);
  Lanes same = 0;
  for (unsigned lane = 0; lane < warp_size; ++lane)
    if (lanes >> lane & 1 && std::uint32_t(index[lane]) == first) same |= Lanes(1) << lane;
  // The other targets have their turn when what stays here is furthest behind.
  w.scatter(same, targets[first], lanes & ~same);
}

void execute_call(Warp& w, const Instruction& i, Lanes lanes) {
  if (i.mode == external_assert) refuse("an assertion of the kernel failed");
  if (i.mode == external_print) return w.skip_call(i, lanes);
  w.call(i, lanes);
}

void execute_trap(Warp&, const Instruction&, Lanes) { refuse("the kernel traps"); }
void execute_nothing(Warp&, const Instruction&, Lanes) {}

unsigned uniform(Warp& w, const Instruction& i, unsigned k, Lanes lanes) {
  const std::uint64_t* values = w.in(i, k);
  const auto value = std::uint32_t(values[__builtin_ctz(lanes)]);
  each(w, lanes, [&](unsigned lane) {
    if (std::uint32_t(values[lane]) != value) refuse("lanes of one warp give {} and {} here", value, std::uint32_t(values[lane]));
  });
  return value;
}

void execute_barrier(Warp& w, const Instruction& i, Lanes lanes) {
  if (!w.gather_all(i)) return;
  const bool votes = i.mode >= vote_count;
  const unsigned first = votes ? 1 : 0;
  const unsigned last = i.count - (votes ? 1 : 0);
  const unsigned id = uniform(w, i, first, lanes);
  const unsigned threads = last > first + 1 ? uniform(w, i, first + 1, lanes) : 0;
  if (votes) w.block().vote(id, w.predicate(i, last), lanes);
  if (i.mode == arrive) ++w.group().pc;
  w.block().arrive(w, i, id, threads, i.mode != arrive);
}

void execute_warp_barrier(Warp& w, const Instruction& i, Lanes lanes) {
  const unsigned members = uniform(w, i, 0, lanes);
  each(w, lanes, [&](unsigned lane) {
    if (!(members >> lane & 1)) refuse("a lane that the mask {:#x} does not name", members);
  });
  if (!w.gather(members)) return;
  w.block().order.synchronize(w.index(), members, w.live());
  ++w.group().pc;
}

void decode_barrier(Spelling& s, Instruction& i) {
  i.control = true;
  s.ignore({"cta", "aligned"});
  if (s.take("warp")) {
    s.one_of({"sync"});
    i.outputs = 0;
    i.execute = execute_warp_barrier;
    return;
  }
  i.execute = execute_barrier;
  i.mode = std::uint8_t(s.one_of({"sync", "arrive", "red"}));
  if (i.mode == 2) {
    i.mode = std::uint8_t(vote_count + s.one_of({"popc", "and", "or"}));
    s.type();
  } else {
    i.outputs = 0;
  }
  if (i.count < 1) s.unknown();
}

void execute_fence(Warp& w, const Instruction&, Lanes lanes) { w.block().fence(w, lanes); }
void execute_proxy_fence(Warp& w, const Instruction&, Lanes lanes) { w.block().order.proxy_fence(w.index(), lanes, w.live()); }

void decode_fence(Spelling& s, Instruction& i) {
  i.outputs = 0;
  const bool initialised = s.take("mbarrier_init");
  const bool proxy = s.take("proxy");
  if (proxy) s.one_of({"async", "async::generic", "alias", "async.shared::cta"});
  s.ignore({"sc", "acq_rel", "acquire", "release", "cta", "cluster", "gpu", "sys", "gl", "global", "shared::cta",
            "shared::cluster", "sync_restrict::shared::cta", "sync_restrict::shared::cluster"});
  i.execute = initialised || proxy ? execute_proxy_fence : execute_fence;
}

void decode_membar(Spelling& s, Instruction& i) {
  i.outputs = 0;
  s.one_of({"cta", "gl", "sys"});
  i.execute = execute_fence;
}

void control(Instruction& i, Execute execute) {
  i.outputs = 0;
  i.control = true;
  i.execute = execute;
}

}  // namespace

void execute_exit(Warp& w, const Instruction&, Lanes lanes) { w.exit(lanes); }
void execute_return(Warp& w, const Instruction&, Lanes lanes) { w.leave(lanes); }

void finish_barrier(Warp& w, const Instruction& i, unsigned votes, unsigned voters) {
  if (i.mode < vote_count) return;
  if (i.mode == vote_count) {
    std::uint64_t* d = w.out(i, 0);
    fast(w.live(), [&](unsigned lane) { d[lane] = votes; });
  } else {
    w.set_predicate(i, 0, w.live(), (i.mode == vote_and ? votes == voters : votes > 0) ? ~Lanes(0) : 0);
  }
  w.define(w.operand(i, 0), w.live(), w.live());
}

void add_control(Decoders& decoders) {
  decoders["bra"] = [](Spelling& s, Instruction& i) { s.take("uni"), control(i, execute_branch); };
  decoders["brx"] = [](Spelling& s, Instruction& i) { s.one_of({"idx"}), s.take("uni"), control(i, execute_indexed); };
  decoders["call"] = [](Spelling& s, Instruction& i) { s.take("uni"), control(i, execute_call); };
  decoders["ret"] = [](Spelling& s, Instruction& i) { s.take("uni"), control(i, execute_return); };
  decoders["exit"] = [](Spelling&, Instruction& i) { control(i, execute_exit); };
  decoders["trap"] = [](Spelling&, Instruction& i) { i.execute = execute_trap; };
  decoders["brkpt"] = decoders["nanosleep"] = decoders["setmaxnreg"] =
      decoders["griddepcontrol"] = [](Spelling& s, Instruction& i) {
        s.ignore({"u32", "inc", "dec", "sync", "aligned", "launch_dependents", "wait"});
        i.outputs = 0;
        i.execute = execute_nothing;
      };
  decoders["bar"] = decoders["barrier"] = decode_barrier;
  decoders["fence"] = decode_fence;
  decoders["membar"] = decode_membar;
}

}  // namespace graft::ptx
