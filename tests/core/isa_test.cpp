#include "graft/core/isa.h"

#include <gtest/gtest.h>

#include "graft/core/error.h"

#include "../support/errors.h"

namespace graft {
namespace {

TEST(Isa, IsTheBestUnlessPinned) {
  EXPECT_EQ(isa(), best_isa());
  pin_isa(Isa::scalar);
  EXPECT_EQ(isa(), Isa::scalar);
  pin_isa(std::nullopt);
  EXPECT_EQ(isa(), best_isa());
}

TEST(Isa, HasNames) {
  EXPECT_EQ(name(Isa::scalar), "scalar");
  EXPECT_EQ(name(Isa::avx2), "avx2");
  EXPECT_EQ(name(Isa::avx512), "avx512");
  EXPECT_EQ(name(Isa::avx512_dot), "avx512_dot");
  EXPECT_EQ(name(Isa::neon), "neon");
  for (const Isa isa : all_isas) EXPECT_EQ(isa_named(name(isa)), isa);
  test::expect_error<ValueError>([] { isa_named("sse"); }, "there is no instruction set 'sse'");
}

TEST(Isa, SetsOfOneArchitectureIncludeNarrowerOnes) {
  constexpr bool wanted[5][5] = {{true, false, false, false, false},  // of scalar
                                 {true, true, false, false, false},
                                 {true, true, true, false, false},
                                 {true, true, true, true, false},
                                 {true, false, false, false, true}};
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 5; ++j) EXPECT_EQ(includes(all_isas[i], all_isas[j]), wanted[i][j]) << name(all_isas[i]) << " and " << name(all_isas[j]);
}

TEST(Isa, EveryProcessorOfAArch64HasNeon) {
#if defined(__aarch64__)
  EXPECT_EQ(best_isa(), Isa::neon);
#else
  EXPECT_FALSE(includes(best_isa(), Isa::neon));
#endif
}

TEST(Isa, RefusesWhatTheProcessorLacks) {
  const Isa other = best_isa() == Isa::neon ? Isa::avx2 : Isa::neon;
  try {
    pin_isa(other);
    FAIL() << "pinned a set that the processor lacks";
  } catch (const ValueError& error) {
    EXPECT_EQ(std::string(error.what()), fmt::format("pin_isa: this processor offers {}, not {}", name(best_isa()), name(other)));
  }
  EXPECT_EQ(isa(), best_isa());
}

}  // namespace
}  // namespace graft
