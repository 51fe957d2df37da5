// One program for all cases: it lists them for ctest, and runs what a filter leaves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "graft/core/isa.h"

#include "golden.h"

namespace golden {
namespace {

/// Writes one add_test per case. GoogleTest's filters read '-' as "but not", so that names go in with '?' for it.
void write_ctest(const std::string& file, const std::string& program) {
  std::ofstream out(file);
  const auto& all = *testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i)
    for (int j = 0; j < all.GetTestSuite(i)->total_test_count(); ++j) {
      const std::string name = fmt::format("{}.{}", all.GetTestSuite(i)->name(), all.GetTestSuite(i)->GetTestInfo(j)->name());
      std::string filter = name;
      std::replace(filter.begin(), filter.end(), '-', '?');
      out << fmt::format("add_test([=[golden.{0}]=] [=[{1}]=] [=[--gtest_filter={2}]=])\n", name, program, filter)
          << fmt::format(
                 "set_tests_properties([=[golden.{0}]=] PROPERTIES LABELS golden TIMEOUT 600 SKIP_REGULAR_EXPRESSION [=[\\[  "
                 "SKIPPED \\]]=])\n",
                 name);
    }
  graft::check<graft::FileError>(out.good(), "{}: cannot be written", file);
}

}  // namespace
}  // namespace golden

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {  // --isas lists the instruction sets that there are, one of which GRAFT_ISA pins
    if (const char* set = std::getenv("GRAFT_ISA")) graft::pin_isa(graft::isa_named(set));
    golden::add_all();
    const std::string option = "--write_ctest=", argument = argc > 1 ? argv[1] : "";
    if (argument.starts_with(option))
      return golden::write_ctest(argument.substr(option.size()), std::filesystem::absolute(argv[0]).string()), 0;
    if (argument == "--isas") {
      for (const graft::Isa isa : graft::all_isas)
        if (includes(graft::best_isa(), isa)) fmt::print("{}\n", name(isa));
      return 0;
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "golden_tests: %s\n", error.what());
    return 1;
  }
  const int result = RUN_ALL_TESTS();
  if (!testing::GTEST_FLAG(list_tests) && testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::fprintf(stderr, "golden_tests: nothing in %s has such a name (GoogleTest reads '-' as \"but not\": write '?' for it)\n",
                 golden::root().c_str());
    return 1;
  }
  return result;
}
