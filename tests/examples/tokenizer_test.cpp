#include "graft/examples/llama/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "graft/core/error.h"
#include "graft/core/formats/json.h"

#include "../support/errors.h"

namespace graft::llama::tokenizer_test {
namespace {

using test::expect_error;

using Ids = std::vector<std::int64_t>;
using nlohmann::json;

// A vocabulary of single bytes (ids 1 … 256 in the alphabet's order), the merges "h e", "l l", "he ll", "Ġ a" behind it, and a
// special token with id 0.
json description() {
  json vocabulary = {{"<s>", 0}};
  std::int64_t next = 1;
  for (int byte = 0, extra = 0x100; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    const int c = printable ? byte : extra++;
    std::string character;
    if (c < 0x80) character = static_cast<char>(c);
    else character = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    vocabulary[character] = next++;
  }
  for (const char* token : {"he", "ll", "hell", "\u0120a"}) vocabulary[token] = next++;
  return {{"added_tokens", json::array({{{"id", 0}, {"content", "<s>"}, {"normalized", false}, {"special", true}}})},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocabulary},
            {"merges", json::array({json::array({"h", "e"}), json::array({"l", "l"}), json::array({"he", "ll"}),
                                    json::array({"\u0120", "a"})})}}}};
}
constexpr std::int64_t he = 257, ll = 258, hell = 259, space_a = 260;
std::int64_t byte(unsigned char c) { return c + 1; }

Tokenizer make(const json& description) { return Tokenizer::parse(dump_json(description)); }

template <class E>
std::string message_of(const json& description) {
  try {
    make(description);
  } catch (const E& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Tokenizer, AgreesWithTheOriginalOnEveryRecordedText) {
  std::ifstream file(GRAFT_SOURCE_DIR "/tests/golden/text/tokenizer_cases.json");
  const json cases = parse_json<json>(std::string(std::istreambuf_iterator<char>(file), {}));
  const Tokenizer tokenizer = Tokenizer::load(GRAFT_SOURCE_DIR "/examples/models/tiny-llama-gptq");
  ASSERT_EQ(cases.size(), 35u);
  for (const json& entry : cases) {
    EXPECT_EQ(tokenizer.encode(entry["text"].get<std::string>()), entry["ids"].get<Ids>()) << entry["text"];
    EXPECT_EQ(tokenizer.decode(entry["ids"].get<Ids>()), entry["decoded"].get<std::string>());
  }
  EXPECT_EQ(tokenizer.size(), 1024);
  EXPECT_EQ(tokenizer.id_of("<|endoftext|>"), 0);
  EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  const Tokenizer tokenizer = make(description());
  EXPECT_EQ(tokenizer.encode("hello a"), (Ids{hell, byte('o'), space_a}));
  EXPECT_EQ(tokenizer.encode("lll"), (Ids{ll, byte('l')}));
  EXPECT_EQ(tokenizer.encode("he"), (Ids{he}));
}

TEST(Tokenizer, SpellsMergesBothWays) {
  json spelled = description();
  spelled["model"]["merges"] = {"h e", "l l", "he ll", "\u0120 a"};
  EXPECT_EQ(make(spelled).encode("hell a"), (Ids{hell, space_a}));
  spelled["model"]["merges"] = {"h e l"};
  EXPECT_EQ(message_of<ValueError>(spelled),
            "tokenizer.json: a merge is a pair of tokens with one space between them, not \"h e l\"");
}

TEST(Tokenizer, TakesWholeWordsFirstWhenMergesAreIgnored) {
  json whole = description();
  whole["model"]["merges"] = json::array();
  EXPECT_EQ(make(whole).encode("hell").size(), 4u);
  whole["model"]["ignore_merges"] = true;
  EXPECT_EQ(make(whole).encode("hell"), (Ids{hell}));
}

TEST(Tokenizer, PutsTheTemplateAroundOneText) {
  json templated = description();
  templated["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
         {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}}}};
  const Tokenizer tokenizer = make(templated);
  EXPECT_EQ(tokenizer.encode("he"), (Ids{0, he}));
  EXPECT_EQ(tokenizer.encode("he", false), (Ids{he}));
  templated["post_processor"]["processors"][1]["single"].erase(1);
  EXPECT_EQ(message_of<ValueError>(templated), "tokenizer.json: the template for one text leaves the text out");
}

TEST(Tokenizer, FindsAddedTokensAsTheyAskFor) {
  json added = description();
  const auto add = [&](int id, const char* content, json flags) {
    flags.update({{"id", id}, {"content", content}});
    added["added_tokens"].push_back(flags);
  };
  add(300, "<s>>", {{"normalized", false}});
  add(301, "[w]", {{"single_word", true}});
  add(302, "[l]", {{"lstrip", true}});
  add(303, "[r]", {{"rstrip", true}});
  const Tokenizer tokenizer = make(added);
  EXPECT_EQ(tokenizer.encode("<s>><s>"), (Ids{300, 0})) << "the longest wins";
  EXPECT_EQ(tokenizer.encode("[w]"), (Ids{301}));
  EXPECT_EQ(tokenizer.encode("é[w]").size(), 5u) << "touched by a letter of two bytes";
  EXPECT_EQ(tokenizer.encode("he \u3000[l]"), (Ids{he, 302}));
  EXPECT_EQ(tokenizer.encode("[r] \n he"), (Ids{303, he}));
  EXPECT_EQ(tokenizer.size(), 304);
  EXPECT_EQ(tokenizer.decode(Ids{0, he, 303}), "<s>he[r]");
  EXPECT_EQ(tokenizer.decode(Ids{0, he, 303}, true), "he[r]");
}

TEST(Tokenizer, CutsWithTheFilesOwnPatterns) {
  json split = description();
  const auto words = [&](json steps) {
    steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
    return PreTokenizer::parse({{"type", "Sequence"}, {"pretokenizers", steps}}).split("ab12--cd");
  };
  const auto step = [](const char* behavior, bool invert = false) {
    return json{{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}};
  };
  using Words = std::vector<std::string>;
  EXPECT_EQ(words({step("Isolated")}), (Words{"ab12", "-", "-", "cd"}));
  EXPECT_EQ(words({step("Removed")}), (Words{"ab12", "cd"}));
  EXPECT_EQ(words({step("Removed", true)}), (Words{"-", "-"}));
  EXPECT_EQ(words({step("MergedWithPrevious")}), (Words{"ab12-", "-", "cd"}));
  EXPECT_EQ(words({step("MergedWithNext")}), (Words{"ab12", "-", "-cd"}));
  EXPECT_EQ(words({step("Contiguous")}), (Words{"ab12", "--", "cd"}));
  EXPECT_EQ(words({{{"type", "Digits"}, {"individual_digits", true}}}), (Words{"ab", "1", "2", "--cd"}));
  EXPECT_EQ(words({{{"type", "Digits"}, {"individual_digits", false}}}), (Words{"ab", "12", "--cd"}));
  EXPECT_EQ(words({{{"type", "Split"}, {"pattern", {{"Regex", "\\p{N}{1,3}|[^\\p{N}]+"}}}, {"behavior", "Isolated"}}}),
            (Words{"ab", "12", "--cd"}));
}

TEST(Tokenizer, PutsASpaceBeforeTheFirstWord) {
  json prefixed = description();
  prefixed["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(make(prefixed).encode("a"), (Ids{space_a}));
  EXPECT_EQ(make(prefixed).encode(" a"), (Ids{space_a}));
}

TEST(Tokenizer, ShowsBrokenBytesAsReplacementCharacters) {
  const Tokenizer tokenizer = make(description());
  const auto decoded = [&](std::string_view bytes) {
    Ids ids;
    for (const char c : bytes) ids.push_back(byte(static_cast<unsigned char>(c)));
    return tokenizer.decode(ids);
  };
  EXPECT_EQ(decoded("a\xC3\xA9"), "a\u00e9");
  EXPECT_EQ(decoded("a\xC3"), "a\uFFFD");
  EXPECT_EQ(decoded("\xF0\x9F\x8E"), "\uFFFD") << "one mark for a sequence that breaks off";
  EXPECT_EQ(decoded("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate is three broken bytes";
}

TEST(Tokenizer, RefusesWhatItCannotRead) {
  const Tokenizer tokenizer = make(description());
  expect_error<ValueError>([&] { tokenizer.encode("a\xFF"); }, "text in UTF-8 is wanted, and byte 1 of 2 is not part of any");
  expect_error<ValueError>([&] { tokenizer.decode(Ids{1000}); }, "the tokenizer has no token 1000; its ids are below 261");
  expect_error<ValueError>([] { Tokenizer::parse("{"); }, "tokenizer.json is malformed: ");
  expect_error<FileError>([] { Tokenizer::load("/nonexistent"); }, "/nonexistent/tokenizer.json: no such file");

  const auto with = [](const char* path, const json& value) {
    json changed = description();
    changed[json::json_pointer(path)] = value;
    return changed;
  };
  EXPECT_EQ(message_of<NotImplementedError>(with("/normalizer", {{"type", "NFC"}})),
            "tokenizer.json: no normalizer is wanted, not {\"type\":\"NFC\"}");
  EXPECT_EQ(message_of<NotImplementedError>(with("/decoder", nullptr)),
            "tokenizer.json: a decoder ByteLevel is wanted, not null");
  EXPECT_EQ(message_of<NotImplementedError>(with("/pre_tokenizer", {{"type", "Metaspace"}})),
            "tokenizer.json: the pre-tokenizer Metaspace is not one of ByteLevel, Split, Digits, Sequence");
  EXPECT_EQ(message_of<NotImplementedError>(with("/model/type", "WordPiece")),
            "tokenizer.json: a model of type BPE is wanted, not WordPiece");
  EXPECT_EQ(message_of<NotImplementedError>(with("/model/byte_fallback", true)),
            "tokenizer.json: byte-level BPE with byte_fallback = true is not supported");
  EXPECT_EQ(message_of<ValueError>(with("/model/vocab/he", 1)).substr(0, 23), "tokenizer.json: tokens ");
  EXPECT_EQ(message_of<ValueError>(with("/model/vocab/he", -1)),
            "tokenizer.json: token \"he\" has the id -1, not a count from 0");
  EXPECT_EQ(message_of<ValueError>(with("/model/merges/0", json{"x", "y"})),
            "tokenizer.json: the merges need the token \"xy\", which the vocabulary does not have");
  EXPECT_EQ(message_of<ValueError>(with("/added_tokens/0/id", 5)),
            "tokenizer.json: the added token \"<s>\" has the id 5, but 0 in the vocabulary");
  EXPECT_EQ(message_of<ValueError>(with("/model/vocab", "no")),
            "tokenizer.json: the vocabulary is a map from tokens to ids, not of type string");
  EXPECT_NE(message_of<ValueError>(with("/added_tokens/0/content", 7)).find("tokenizer.json is malformed: "), std::string::npos);

  json incomplete = description();
  incomplete["model"]["vocab"].erase("z");
  EXPECT_NO_THROW(make(incomplete).encode("a"));
  expect_error<ValueError>([&] { make(incomplete).encode("z"); }, "the vocabulary has no token for the byte 0x7A");
}

TEST(Tokenizer, RefusesPartsThatItCannotFollow) {
  const auto pre_tokenizer = [](const json& pattern, const char* behavior = "Isolated") {
    json changed = description();
    changed["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers", {{{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}}, {{"type", "ByteLevel"}}}}};
    return changed;
  };
  EXPECT_EQ(message_of<ValueError>(pre_tokenizer({{"Regex", "a(b"}})),
            "the pattern \"a(b\" is malformed at byte 3: missing closing parenthesis");
  EXPECT_EQ(message_of<ValueError>(pre_tokenizer({{"Glob", "*"}})),
            "tokenizer.json: a Split pattern is a \"Regex\" or a \"String\", not {\"Glob\":\"*\"}");
  EXPECT_EQ(message_of<ValueError>(pre_tokenizer({{"String", "-"}}, "Doubled")),
            "tokenizer.json: Split's behavior \"Doubled\" is not one of Isolated, Removed, MergedWithPrevious, MergedWithNext, "
            "Contiguous");
  json changed = description();
  changed["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
  EXPECT_EQ(message_of<NotImplementedError>(changed),
            "tokenizer.json: the pre-tokenizer Digits after ByteLevel would see its byte alphabet, not the text");
  changed["pre_tokenizer"] = {{"type", "Digits"}};
  EXPECT_EQ(message_of<NotImplementedError>(changed),
            "tokenizer.json: a pre_tokenizer that ends in ByteLevel is wanted, not {\"type\":\"Digits\"}");

  changed = description();
  changed["post_processor"] = {{"type", "BertProcessing"}};
  EXPECT_EQ(message_of<NotImplementedError>(changed),
            "tokenizer.json: the post-processor BertProcessing is not one of ByteLevel, TemplateProcessing, Sequence");
  const json text{{"Sequence", {{"id", "A"}}}}, token{{"SpecialToken", {{"id", "<s>"}}}};
  const auto templated = [&](const json& single, std::int64_t id) {
    changed["post_processor"] = {
        {"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"<s>", {{"ids", {id}}}}}}};
    return changed;
  };
  EXPECT_EQ(message_of<ValueError>(templated({text, token, text}, 0)),
            "tokenizer.json: the template for one text has the text twice");
  EXPECT_EQ(message_of<ValueError>(templated({token, text}, 999)),
            "tokenizer.json: the template's token \"<s>\" has the unknown id 999");
}

}  // namespace
}  // namespace graft::llama::tokenizer_test
