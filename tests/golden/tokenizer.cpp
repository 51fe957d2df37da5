// Texts to ids and back with the shipped tokenizer.json, as Hugging Face's tokenizers do it.
#include "graft/examples/llama/tokenizer.h"

#include <gtest/gtest.h>

#include "golden.h"

namespace golden {

void check_tokenizer_case(const Case& golden_case) {
  static const auto tokenizer = graft::llama::Tokenizer::load(root() / "models/tiny-llama-gptq");
  const auto text = golden_case.row.at("text").get<std::string>();
  const auto ids = golden_case.row.at("ids").get<std::vector<std::int64_t>>();
  EXPECT_EQ(tokenizer.encode(text), ids) << '"' << text << '"';
  EXPECT_EQ(tokenizer.decode(ids), golden_case.row.at("decoded").get<std::string>());
}

}  // namespace golden
