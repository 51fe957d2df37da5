// What a warp's accesses to global memory cost: whole sectors of 32 bytes, however little of them is asked for.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <set>

namespace graft::cuda {

/// The bytes that lanes ask for, each `count` from its address on, and the sectors that these lie in.
struct Access {
  std::set<std::int64_t> bytes, sectors;

  template <class Address>
  Access(int lanes, int count, Address address) {
    for (int lane = 0; lane < lanes; ++lane)
      for (std::int64_t at = address(lane), end = at + count; at < end; ++at) bytes.insert(at), sectors.insert(at / 32);
  }
};

/// One instruction: nothing comes that was not asked for.
template <class Address>
void expect_whole_sectors(int lanes, int count, Address address) {
  const Access access(lanes, count, address);
  EXPECT_EQ(access.bytes.size(), 32 * access.sectors.size());
}

}  // namespace graft::cuda
