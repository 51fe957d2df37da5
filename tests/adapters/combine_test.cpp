#include "graft/adapters/combine.h"

#include <gtest/gtest.h>

#include <cmath>

#include "graft/adapters/inject.h"
#include "graft/adapters/lora.h"
#include "graft/adapters/model.h"
#include "graft/adapters/peft_io.h"
#include "graft/autograd/ops.h"

#include "../support/errors.h"
#include "layers.h"

namespace graft::adapters::combine_test {
namespace {

using test::distance;
using test::expect_error;

using Ranks = std::vector<std::int64_t>;

/// A model with adapters "a", "b", … of these ranks on q_proj, which all do something.
std::unique_ptr<test::Model> model_with(const Ranks& ranks, const std::string& format = "dense") {
  auto model = std::make_unique<test::Model>(format);
  for (std::size_t i = 0; i < ranks.size(); ++i)
    inject(*model,
           LoraConfig{.r = ranks[i],
                      .lora_alpha = 2.0 * static_cast<double>(ranks[i]),
                      .target_modules = {"q_proj"},
                      .init_lora_weights = false},
           {.adapter_name = std::string(1, static_cast<char>('a' + i)), .seed = i});
  return model;
}

AdapterLayer& first_layer(Module& model) {
  AdapterLayer* found = nullptr;
  for_each_layer(model, [&](const std::string&, AdapterLayer& layer) { found = found ? found : &layer; });
  return *found;
}
lora::LoraAdapter& adapter_of(Module& model, const std::string& name) {
  return dynamic_cast<lora::LoraAdapter&>(*first_layer(model).adapter(name));
}
Tensor delta(Module& model, const std::string& name) { return adapter_of(model, name).delta_weight(); }

/// The change that combining gives, and its rank.
Tensor combined(test::Model& model, const std::vector<std::string>& parts, const std::vector<double>& weights,
                CombineOptions options) {
  if (first_layer(model).has_adapter("mixed")) delete_adapter(model, "mixed");
  add_weighted_adapter(model, parts, weights, "mixed", options);
  return delta(model, "mixed");
}

TEST(Combine, SideBySideIsTheExactSum) {
  for (const char* format : {"dense", "gptq"}) {
    const auto model = model_with({4, 2}, format);
    const Tensor sum = delta(*model, "a") * 0.5 + delta(*model, "b") * -2;
    EXPECT_LT(distance(combined(*model, {"a", "b"}, {0.5, -2}, {.combination_type = "cat"}), sum), 1e-6);
    EXPECT_EQ(adapter_of(*model, "mixed").r(), 6);
    EXPECT_EQ(adapter_of(*model, "mixed").scaling(), 1);
  }
}

TEST(Combine, ItWaitsFrozenAndIsSavedWithItsRank) {
  const auto model = model_with({4, 2});
  add_weighted_adapter(*model, {"a", "b"}, {1, 1}, "mixed", {.combination_type = "cat"});
  EXPECT_EQ(first_layer(*model).active_adapters(), std::vector<std::string>{"a"});
  EXPECT_FALSE(first_layer(*model).trainable("mixed"));
  set_adapter(*model, {"mixed"});
  const Tensor x = test::random({3, 64}, 5), y = model->forward(x);
  const test::TemporaryFolder folder;
  save_pretrained(*model, folder.path(), {.adapter_names = {"mixed"}});
  test::Model other;
  load_pretrained(other, folder.path() + "/mixed");
  EXPECT_EQ(distance(other.forward(x), y), 0);
}

TEST(Combine, LinearCombinesTheFactors) {
  const auto model = model_with({4, 4});
  const auto factors = [&](const std::string& name) { return std::pair(adapter_of(*model, name).A, adapter_of(*model, name).B); };
  const auto [A1, B1] = factors("a");
  const auto [A2, B2] = factors("b");
  const double w1 = std::sqrt(0.5 * 2), w2 = std::sqrt(3 * 2.0);
  const Tensor wanted = matmul(B1 * w1 + B2 * w2, A1 * w1 + A2 * w2);
  EXPECT_LT(distance(combined(*model, {"a", "b"}, {0.5, 3}, {}), wanted), 1e-5);

  // The sign of a weight cancels in PEFT's way; otherwise it is B's.
  EXPECT_LT(distance(combined(*model, {"a"}, {-0.5}, {.as_peft = true}), delta(*model, "a") * 0.5), 1e-6);
  EXPECT_LT(distance(combined(*model, {"a"}, {-0.5}, {}), delta(*model, "a") * -0.5), 1e-6);
}

TEST(Combine, ASingleAdapterIsCombinedLinearlyWhateverTheType) {
  const auto model = model_with({4});
  EXPECT_LT(distance(combined(*model, {"a"}, {2}, {.combination_type = "cat"}), delta(*model, "a") * 2), 1e-6);
  EXPECT_LT(distance(combined(*model, {"a"}, {2}, {.combination_type = "ties"}), delta(*model, "a") * 2), 1e-6);
}

TEST(Combine, SvdIsTheBestOfItsRank) {
  const auto model = model_with({4, 2});
  const Tensor sum = delta(*model, "a") * 0.5 + delta(*model, "b");
  const CombineOptions wide{.combination_type = "svd", .svd_rank = 6};
  EXPECT_LT(distance(combined(*model, {"a", "b"}, {0.5, 1}, wide), sum), 1e-5);
  // PEFT counts scalings (2 for both adapters) twice.
  EXPECT_LT(
      distance(combined(*model, {"a", "b"}, {0.5, 1}, {.combination_type = "svd", .svd_rank = 6, .as_peft = true}), sum * 2),
      1e-5);

  const auto [u, s, vt] = svd(to(sum, DType::f64));
  const Tensor best = matmul(slice(u, 1, 0, 4) * slice(s, 0, 0, 4), slice(vt, 0, 0, 4));
  EXPECT_LT(distance(combined(*model, {"a", "b"}, {0.5, 1}, {.combination_type = "svd"}), to(best, DType::f32)), 1e-5);
  EXPECT_EQ(adapter_of(*model, "mixed").r(), 4) << "the largest rank of the parts";
}

TEST(Combine, PruningKeepsTheLargestAndDensityOneKeepsAll) {
  const auto model = model_with({4, 4});
  const Tensor linear = combined(*model, {"a", "b"}, {1, 1}, {});
  EXPECT_EQ(distance(combined(*model, {"a", "b"}, {1, 1}, {.combination_type = "magnitude_prune", .density = 1}), linear), 0);
  EXPECT_EQ(distance(combined(*model, {"a", "b"}, {1, 1}, {.combination_type = "dare_linear", .density = 1}), linear), 0);

  combined(*model, {"a", "b"}, {1, 0}, {.combination_type = "magnitude_prune", .density = 0.25});
  const auto kept = adapter_of(*model, "mixed").A.to_vector<double>(), before = adapter_of(*model, "a").A.to_vector<double>();
  double least_kept = 1e9, largest_gone = 0;
  std::size_t count = 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] != 0) least_kept = std::min(least_kept, std::abs(before[i])), ++count;
    else largest_gone = std::max(largest_gone, std::abs(before[i]));
  }
  EXPECT_EQ(count, kept.size() / 4);
  EXPECT_GE(least_kept, largest_gone);
}

TEST(Combine, DareIsDrawnFromItsSeedAndKeepsTheMean) {
  const auto model = model_with({4, 4});
  const auto drawn = [&](std::uint64_t seed) {
    combined(*model, {"a", "b"}, {1, 0}, {.combination_type = "dare_linear", .density = 0.5, .seed = seed});
    return adapter_of(*model, "mixed").A.clone();
  };
  EXPECT_EQ(distance(drawn(1), drawn(1)), 0);
  EXPECT_GT(distance(drawn(1), drawn(2)), 0);
  const double root = std::sqrt(2.0);
  const auto some = drawn(1).to_vector<double>(), all = adapter_of(*model, "a").A.to_vector<double>();
  std::size_t kept = 0;
  for (std::size_t i = 0; i < some.size(); ++i) {
    if (some[i] == 0) continue;
    ++kept;
    EXPECT_NEAR(some[i], 2 * root * all[i], 1e-6);
  }
  EXPECT_NEAR(static_cast<double>(kept), static_cast<double>(some.size()) / 2, 40);
}

TEST(Combine, TiesElectsSigns) {
  const auto model = model_with({1, 1, 1});
  // In one entry of A each: agreement, a larger minority, zeros.
  const std::vector<std::vector<float>> entries = {{1, 3, 0}, {2, -1, 0}, {3, -1, 4}};
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<float> row(64, 0);
    std::copy(entries[i].begin(), entries[i].end(), row.begin());
    adapter_of(*model, std::string(1, static_cast<char>('a' + i))).A.copy_(Tensor::from(row, {1, 64}));
  }
  const auto elected = [&](const char* method) {
    combined(*model, {"a", "b", "c"}, {1, 1, 1}, {.combination_type = "ties", .density = 1, .majority_sign_method = method});
    return slice(adapter_of(*model, "mixed").A, 1, 0, 3).to_vector<double>();
  };
  const double root = std::sqrt(2.0);  // of weight · scaling
  const auto total = elected("total"), frequency = elected("frequency");
  for (const auto& v : {total, frequency}) {
    EXPECT_NEAR(v[0], root * 2, 1e-6);
    EXPECT_NEAR(v[2], root * 4, 1e-6);
  }
  EXPECT_NEAR(total[1], root * 3, 1e-6) << "3 outweighs two times -1";
  EXPECT_NEAR(frequency[1], root * -1, 1e-6) << "two negatives against one";
}

TEST(Combine, RefusesAndLeavesTheModelAsItWas) {
  const auto model = model_with({4, 2});
  const auto refused = [&](const std::vector<std::string>& parts, const std::vector<double>& weights,
                           const CombineOptions& options, const std::string& words, const std::string& name = "mixed") {
    const std::string before = print(*model);
    expect_error<ValueError>([&] { add_weighted_adapter(*model, parts, weights, name, options); }, words);
    EXPECT_EQ(print(*model), before);
  };
  refused({}, {}, {}, "there is nothing to combine");
  refused({"a", "b"}, {1}, {}, "2 adapters are named with 1 weights");
  refused({"a", "z"}, {1, 1}, {}, "there is no adapter 'z' to combine");
  refused({"a", "b"}, {1, 1}, {}, "needs adapters of one rank, and these have 4 and 2");
  refused({"a", "b"}, {1, 1}, {.combination_type = "mean"}, "combination_type 'mean' is not one of linear, ties");
  refused({"a", "b"}, {1, 1}, {.combination_type = "linear_svd"}, "combination_type 'linear_svd' is not one of");
  refused({"a", "b"}, {1, 1}, {.combination_type = "ties_svd"}, "needs a density in (0, 1], not 0");
  refused({"a", "b"}, {1, 1}, {.combination_type = "dare_ties_svd", .density = 1.5}, "needs a density in (0, 1], not 1.5");
  refused({"a", "b"}, {1, 1}, {.combination_type = "svd", .majority_sign_method = "loudest"},
          "majority_sign_method is 'loudest'");
  refused({"a", "b"}, {1, 1}, {.combination_type = "cat"}, "there is an adapter 'a' already", "a");

  const std::string before = print(*model);
  inject(*model, OFTConfig{.oft_block_size = 16, .target_modules = {"q_proj"}}, {.adapter_name = "turned"});
  expect_error<TypeError>(
      [&] {
        add_weighted_adapter(*model, {"a", "turned"}, {1, 1}, "mixed", {.combination_type = "cat"});
      },
      "adapter 'turned' is no plain LoRA adapter");
  delete_adapter(*model, "turned");
  EXPECT_EQ(print(*model), before);
}

}  // namespace
}  // namespace graft::adapters::combine_test
