#include "special.h"

#include <algorithm>
#include <array>

#include "block.h"

namespace graft::ptx {
namespace {

unsigned part(const Dim& dim, char axis) { return axis == 'x' ? dim.x : axis == 'y' ? dim.y : dim.z; }

Dim thread(const Warp& warp, unsigned lane) {
  const Dim size = warp.block().grid.launch.block;
  const unsigned index = warp.index() * warp_size + lane;
  return {index % size.x, index / size.x % size.y, index / size.x / size.y};
}

unsigned shared_bytes(const Warp& warp) { return unsigned(warp.block().shared.size()); }

using Value = std::uint64_t (*)(const Warp&, unsigned lane, char axis);
struct Special {
  std::string_view name;
  bool vector;
  Value value;
};
constexpr std::array specials{
    Special{"%tid", true, [](const Warp& w, unsigned lane, char axis) -> std::uint64_t { return part(thread(w, lane), axis); }},
    Special{"%ntid", true,
            [](const Warp& w, unsigned, char axis) -> std::uint64_t { return part(w.block().grid.launch.block, axis); }},
    Special{"%ctaid", true, [](const Warp& w, unsigned, char axis) -> std::uint64_t { return part(w.block().index, axis); }},
    Special{"%nctaid", true,
            [](const Warp& w, unsigned, char axis) -> std::uint64_t { return part(w.block().grid.launch.grid, axis); }},
    // A cluster is one block.
    Special{"%clusterid", true, [](const Warp& w, unsigned, char axis) -> std::uint64_t { return part(w.block().index, axis); }},
    Special{"%nclusterid", true,
            [](const Warp& w, unsigned, char axis) -> std::uint64_t { return part(w.block().grid.launch.grid, axis); }},
    Special{"%cluster_ctaid", true, [](const Warp&, unsigned, char) -> std::uint64_t { return 0; }},
    Special{"%cluster_nctaid", true, [](const Warp&, unsigned, char) -> std::uint64_t { return 1; }},
    Special{"%cluster_ctarank", false, [](const Warp&, unsigned, char) -> std::uint64_t { return 0; }},
    Special{"%cluster_nctarank", false, [](const Warp&, unsigned, char) -> std::uint64_t { return 1; }},
    Special{"%laneid", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return lane; }},
    Special{"%warpid", false, [](const Warp& w, unsigned, char) -> std::uint64_t { return w.index(); }},
    Special{"%nwarpid", false,
            [](const Warp& w, unsigned, char) -> std::uint64_t { return w.block().order.threads() / warp_size; }},
    Special{"%lanemask_eq", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return 1u << lane; }},
    Special{"%lanemask_lt", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return (1u << lane) - 1; }},
    Special{"%lanemask_le", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return (2u << lane) - 1; }},
    Special{"%lanemask_gt", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return ~((2u << lane) - 1); }},
    Special{"%lanemask_ge", false, [](const Warp&, unsigned lane, char) -> std::uint64_t { return ~((1u << lane) - 1); }},
    Special{"%smid", false, [](const Warp&, unsigned, char) -> std::uint64_t { return 0; }},
    Special{"%nsmid", false, [](const Warp&, unsigned, char) -> std::uint64_t { return 1; }},
    Special{"%gridid", false, [](const Warp&, unsigned, char) -> std::uint64_t { return 0; }},
    Special{"%dynamic_smem_size", false,
            [](const Warp& w, unsigned, char) -> std::uint64_t { return w.block().grid.launch.dynamic_shared; }},
    Special{"%total_smem_size", false, [](const Warp& w, unsigned, char) -> std::uint64_t { return shared_bytes(w); }},
    Special{"%aggr_smem_size", false, [](const Warp& w, unsigned, char) -> std::uint64_t { return shared_bytes(w); }},
    Special{"%clock", false, nullptr},
    Special{"%clock64", false, nullptr},
    Special{"%clock_hi", false, nullptr},
    Special{"%globaltimer", false, nullptr},
    Special{"%globaltimer_lo", false, nullptr},
    Special{"%globaltimer_hi", false, nullptr},
};

const Special* find(std::string_view name, char& axis) {
  const bool vector = name.size() > 2 && name[name.size() - 2] == '.' && name.back() >= 'x' && name.back() <= 'z';
  axis = vector ? name.back() : 'x';
  const std::string_view bare = vector ? name.substr(0, name.size() - 2) : name;
  const auto at = std::find_if(specials.begin(), specials.end(),
                               [&](const Special& special) { return special.name == bare && special.vector == vector; });
  return at == specials.end() ? nullptr : &*at;
}

}  // namespace

bool is_special(std::string_view name) {
  char axis = 'x';
  return find(name, axis) != nullptr;
}

bool is_clock(std::string_view name) {
  char axis = 'x';
  const Special* special = find(name, axis);
  return special && !special->value;
}

std::uint64_t special_value(std::string_view name, const Warp& warp, unsigned lane) {
  char axis = 'x';
  const Special* special = find(name, axis);
  return special->value ? special->value(warp, lane, axis) : 0;
}

void execute_clock(Warp& w, const Instruction& i, Lanes lanes) {
  const std::uint64_t now = w.block().grid.report.instructions;
  const bool high = w.kernel().register_names[std::size_t(w.operand(i, 1).slot)].ends_with("_hi");
  std::uint64_t* d = w.out(i, 0);
  fast(lanes, [&](unsigned lane) { d[lane] = high ? now >> 32 : now; });
  w.define(w.operand(i, 0), lanes, lanes);
}

}  // namespace graft::ptx
