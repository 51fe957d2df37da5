#include "format_checks.h"

namespace graft::quant {
namespace {

constexpr DType scale_dtypes[] = {DType::f16, DType::bf16, DType::f32};

TEST(GptqFormat, ReadsTheWholeGrid) {
  unsigned seed = 0;
  for (int bits : {2, 3, 4, 8})
    for (const auto& [in, group_size] : groupings)
      for (bool sym : {false, true})
        for (bool act_order : {false, true}) {
          const DType scales = scale_dtypes[++seed % 3];
          const Integers layer = reference::draw(in, in > 200 ? 20 : 36, bits, group_size, sym, act_order, seed, scales);
          const auto expect = [&](ZeroWriter writer, int word_bits, const std::string& zeros) {
            expect_reads(reference::gptq(layer, writer, word_bits, scales), layer, zeros);
          };
          expect(ZeroWriter::as_is, 32, "z");
          expect(ZeroWriter::per_field, 32, "z-1 per field");
          if (bits == 3) {
            expect(ZeroWriter::scrambled, 32, "z-1 scrambled");
            continue;
          }
          // Without a zero point of 0 nothing is borrowed, and both readings of "less one" are the same.
          for (int word_bits : {8, 16, 32}) {
            expect(ZeroWriter::per_word, word_bits, sym ? "z-1 per field" : "z-1 per word");
            if (word_bits < 32) expect(ZeroWriter::as_is, word_bits, "z");
            if (word_bits < 32) expect(ZeroWriter::per_field, word_bits, "z-1 per field");
          }
        }
}

TEST(GptqFormat, ReadsRaggedSizes) {
  for (int bits : {2, 3, 4, 8})
    for (int word_bits : {8, 16, 32})
      for (std::int64_t in : {1, 31, 33, 100})
        for (std::int64_t out : {3, 7, 36}) {
          if (bits == 3 && word_bits < 32) continue;
          const Integers layer = reference::draw(in, out, bits, 32, false, false, static_cast<unsigned>(in * 100 + out));
          expect_reads(reference::gptq(layer, ZeroWriter::as_is, word_bits), layer);
          expect_reads(reference::gptq(layer, bits == 3 ? ZeroWriter::scrambled : ZeroWriter::per_word, word_bits), layer);
        }
}

TEST(GptqFormat, ReadsPlanes) {
  unsigned seed = 0;
  for (int bits = 2; bits <= 8; ++bits)
    for (const auto& [in, group_size] : groupings)
      for (bool sym : {false, true})
        for (bool act_order : {false, true}) {
          const DType scales = scale_dtypes[++seed % 3];
          const Integers layer = reference::draw(in, 32, bits, group_size, sym, act_order, seed, scales);
          expect_reads(reference::gptq_planar(layer, scales), layer, "z");
        }
}

// Act-order by the book gives groups of equal size; what a file says may be anything.
TEST(GptqFormat, ReadsGroupsOfUnequalSize) {
  for (int bits : {2, 3, 4, 8}) {
    Integers layer = reference::draw(160, 64, bits, 32, false, false, static_cast<unsigned>(bits));
    for (std::size_t k = 0; k < layer.g_idx.size(); ++k)
      layer.g_idx[k] = static_cast<std::int32_t>(k * k % 7 % 4);  // 3 and 4 have none
    expect_reads(reference::gptq(layer, ZeroWriter::as_is), layer);
    EXPECT_EQ(decode(reference::gptq(layer, ZeroWriter::as_is)).group_size, 0);
  }
}

TEST(GptqFormat, ReadsScalesOfEveryType) {
  for (DType dtype : scale_dtypes) {
    const Integers layer = reference::draw(64, 32, 4, 32, false, false, 1, dtype);
    const Stored stored = reference::gptq(layer, ZeroWriter::as_is, 32, dtype);
    expect_reads(stored, layer);
    EXPECT_EQ(decode(stored).native, dtype);
  }
}

TEST(GptqFormat, KnownZeroWords) {
  const auto zeros_of = [](std::vector<std::int32_t> words, int bits, const std::string& zeros) {
    Stored stored = reference::gptq(reference::draw(32, 32, bits, -1, false, false, 1), ZeroWriter::as_is);
    words.resize(static_cast<std::size_t>(bits));
    stored.tensors["qzeros"] = Tensor::from(words, {1, bits});
    stored.description.zeros = zeros;
    std::vector<float> read = decode(stored).zeros.to_vector<float>();
    read.resize(8);
    return read;
  };
  using Zeros = std::vector<float>;
  EXPECT_EQ(zeros_of({0x777776F7}, 4, "z-1 per word"), (Zeros{8, 0, 8, 8, 8, 8, 8, 8}));  // a borrow from the third field
  EXPECT_EQ(zeros_of({0x777777F7}, 4, "z-1 per word"), (Zeros{8, 0, 9, 8, 8, 8, 8, 8}));  // the carry of adding it back
  EXPECT_EQ(zeros_of({0x777777F7}, 4, "z-1 per field"), (Zeros{8, 0, 8, 8, 8, 8, 8, 8}));
  EXPECT_EQ(zeros_of({0x777777F7}, 4, "z"), (Zeros{7, 15, 7, 7, 7, 7, 7, 7}));
  const auto fours = Zeros(8, 4);
  EXPECT_EQ(
      zeros_of({static_cast<std::int32_t>(0xDB6DB6DB), static_cast<std::int32_t>(0xB6DB6DB6), 0x6DB6DB6D}, 3, "z-1 per field"),
      fours);
  EXPECT_EQ(zeros_of({0x24924924, 0x49249249, static_cast<std::int32_t>(0x92492492)}, 3, "z"), fours);
  EXPECT_EQ(zeros_of({0, static_cast<std::int32_t>(0xB6DB6DB7), 0x49249249}, 3, "z-1 scrambled"), fours);
}

TEST(GptqFormat, SymmetricDataOverruleTheLabel) {
  for (int bits : {2, 3, 4, 8}) {
    const Integers layer = reference::draw(64, 32, bits, 32, true, false, 1);
    Stored mislabelled = reference::gptq(layer, ZeroWriter::as_is);
    mislabelled.description.layout = "gptq";
    expect_reads(mislabelled, layer, "z");
    EXPECT_NE(decode(mislabelled).description.reading.find("though the label is gptq"), std::string::npos);
    mislabelled = reference::gptq(layer, ZeroWriter::per_field);
    mislabelled.description.layout = "gptq_v2";
    expect_reads(mislabelled, layer, "z-1 per field");
    mislabelled.description.layout = "gptq or gptq_v2";
    expect_reads(mislabelled, layer, "z-1 per field");
    EXPECT_EQ(decode(mislabelled).description.layout, "gptq");
    EXPECT_EQ(decode(mislabelled).description.reading.find("though"), std::string::npos);
  }
  // Scrambled zeros are recognised in a symmetric file whoever is said to have written it.
  const Integers layer = reference::draw(64, 32, 3, 32, true, false, 1);
  Stored anonymous = reference::gptq(layer, ZeroWriter::scrambled);
  anonymous.description.producer = anonymous.description.producer_version = "";
  expect_reads(anonymous, layer, "z-1 scrambled");
}

TEST(GptqFormat, TheProducerDecidesAsymmetricZeros) {
  const Integers layer = reference::draw(64, 32, 3, 32, false, false, 1);
  Stored stored = reference::gptq(layer, ZeroWriter::per_field);
  stored.description.producer = "gptqmodel";
  stored.description.producer_version = "7.0.0";
  expect_reads(stored, layer, "z-1 per field");
  stored = reference::gptq(layer, ZeroWriter::scrambled);
  stored.description.producer_version = "6.0.3";
  expect_reads(stored, layer, "z-1 scrambled");
  stored.description.producer_version = "";
  test::expect_error<ValueError>(
      [&] { decode(stored); },
      "reference: its 3-bit zero points may be stored 'z-1 per field' (GPTQModel from 7.0.0 on) or "
      "'z-1 scrambled' (GPTQModel before), and "
      "the version '' does not say which; set producer_version or zeros (of Choices, or of Description)");
  stored.description.zeros = "z-1 scrambled";
  expect_reads(stored, layer, "z-1 scrambled");
  stored.description.zeros = "scrambled";
  test::expect_error<ValueError>(
      [&] { decode(stored); },
      "reference: zero points stored 'scrambled'; known are 'z', 'z-1 per field', 'z-1 per word', 'z-1 scrambled'");
  stored.description.zeros = "z-1 per word";
  test::expect_error<ValueError>([&] { decode(stored); },
                                 "reference: zero points of 3 bits in layout gptq cannot be stored 'z-1 per word'");
}

TEST(GptqFormat, TwoLabelsAreSettledByTheMeanOfCodeLessZero) {
  Integers layer = reference::draw(256, 64, 4, 32, false, false, 1);
  for (auto& zero : layer.zeros) zero = zero % 2 ? 7 : 8;  // zeros that are right for uniform codes, 7.5 in the mean
  for (const ZeroWriter writer : {ZeroWriter::as_is, ZeroWriter::per_word}) {
    Stored stored = reference::gptq(layer, writer);
    stored.description.layout = "gptq or gptq_v2";
    expect_reads(stored, layer, writer == ZeroWriter::as_is ? "z" : "z-1 per word");
    EXPECT_EQ(decode(stored).description.layout, writer == ZeroWriter::as_is ? "gptq_v2" : "gptq");
  }
  layer.zeros.assign(layer.zeros.size(), 3);
  Stored stored = reference::gptq(layer, ZeroWriter::as_is);
  stored.description.layout = "gptq or gptq_v2";
  test::expect_error<ValueError>([&] { decode(stored); },
                                 "is labelled gptq and gptq_v2, and its data do not tell: code less stored zero point is 4.");
  test::expect_error<ValueError>([&] { decode(stored); },
                                 "gptq_v2 would give 0 and gptq 1; set layout to one of them (of Choices, or of Description)");
}

// Codes that are as often above their zero points as below, as those of trained weights.
Integers balanced(std::int64_t in, std::int64_t out, int bits, std::int64_t group_size) {
  Integers layer = reference::draw(in, out, bits, group_size, false, false, 7);
  for (std::size_t i = 0; i < layer.zeros.size(); ++i)
    layer.zeros[i] = static_cast<std::uint8_t>((1 << (bits - 1)) + static_cast<int>(i % 3) - 1);
  for (std::int64_t k = 0; k < in; ++k)
    for (std::int64_t n = 0; n < out; ++n)
      layer.codes[static_cast<std::size_t>(k * out + n)] =
          static_cast<std::uint8_t>(layer.zero(layer.g_idx[static_cast<std::size_t>(k)], n) + (k + n) % 3 - 1);
  return layer;
}

TEST(GptqFormat, LabelsThatTheDataContradictAreRefusedUnlessTheReadingIsChosen) {
  for (int bits : {3, 4, 8}) {
    const Integers layer = balanced(96, 640, bits, 32);  // more outputs than are looked at
    const auto refused = [&](Stored stored, const char* layout, const char* message, const char* right) {
      expect_reads(stored, layer);
      stored.description.layout = layout;
      test::expect_error<ValueError>([&] { decode(stored); }, std::string("reference: code less zero point is ") + message);
      stored.description.zeros = right;
      expect_reads(stored, layer, right);
    };
    refused(reference::gptq(layer, ZeroWriter::as_is), "gptq",
            bits == 3
                ? "-1.000 in the mean with zero points stored 'z-1 per field', as layout gptq by gptqmodel has them, and 0.000 "
                  "with 'z', where the right reading gives 0; set zeros to one of them (of Choices, or of Description)"
                : "-1.000 in the mean with zero points stored 'z-1 per word', as layout gptq by gptqmodel has them, and 0.000 "
                  "with 'z'",
            "z");
    refused(
        reference::gptq(layer, ZeroWriter::per_field), "gptq_v2",
        "1.000 in the mean with zero points stored 'z', as layout gptq_v2 by auto_gptq has them, and 0.000 with 'z-1 per field'",
        "z-1 per field");
  }
  Stored anonymous = reference::gptq(balanced(96, 64, 4, 32), ZeroWriter::as_is);
  anonymous.description.layout = "gptq";
  anonymous.description.producer = "";
  test::expect_error<ValueError>([&] { decode(anonymous); },
                                 "as layout gptq by an unknown producer has them, and 0.000 with 'z'");
  // In planes, too.
  const Integers layer = balanced(96, 64, 5, 32);
  Stored planes = reference::gptq_planar(layer);
  expect_reads(planes, layer);
  Integers less = layer;
  for (auto& zero : less.zeros) --zero;
  planes = reference::gptq_planar(less);
  test::expect_error<ValueError>([&] { decode(planes); }, "1.000 in the mean with zero points stored 'z'");
  planes.description.zeros = "z-1 per field";
  EXPECT_EQ(decode(planes).zeros.to_vector<float>(), std::vector<float>(layer.zeros.begin(), layer.zeros.end()));
}

TEST(GptqFormat, ZeroPointsThatContradictSymAreRefusedUnlessItIsOnlyAssumed) {
  const Integers layer = balanced(96, 64, 4, 32);
  Stored stored = reference::gptq(layer, ZeroWriter::as_is);
  stored.description.sym = true;
  test::expect_error<ValueError>(
      [&] { decode(stored); },
      "reference: sym says that every zero point is 8, but they are 7 to 9 with zero points stored 'z', 8 to "
      "10 with zero points stored 'z-1 per field'; set sym to false in the config, or zeros to the right one "
      "(of Choices, or of Description)");
  stored.description.zeros = "z";
  expect_reads(stored, layer, "z");
  stored.description.zeros = "";
  stored.description.sym_assumed = true;
  expect_reads(stored, layer, "z");
}

TEST(GptqFormat, WordsThatAutoGptqDamagedAreRefusedUnlessTheReadingIsChosen) {
  const auto with_word = [](int bits, std::int64_t at, std::uint32_t word, const char* producer = "auto_gptq") {
    Stored stored = reference::gptq(balanced(96, 64, bits, 32), ZeroWriter::per_field);
    stored.description.producer = producer;
    stored.tensors["qzeros"] = stored.tensors["qzeros"].clone();
    stored.tensors["qzeros"].data<std::int32_t>()[at] = static_cast<std::int32_t>(word);
    return stored;
  };
  struct Word {
    int bits;
    std::int64_t at;
    std::uint32_t word;
  };
  for (const auto& [bits, at, word] :
       {Word{4, 0, 0xFFFFFFF7}, Word{4, 5, 0xFF777777}, Word{8, 1, 0xFFFF7F7F}, Word{3, 0, 0xFB6DB6DB}, Word{3, 1, 0xF6DB6DB6},
        Word{3, 2, 0xFDB6DB6D}, Word{2, 3, 0xF5555555}}) {
    SCOPED_TRACE(fmt::format("{} bits, word {}: {:x}", bits, at, word));
    for (const char* producer : {"auto_gptq", "", "optimum"}) {
      Stored stored = with_word(bits, at, word, producer);
      test::expect_error<ValueError>([&] { decode(stored); },
                                     "reference: words of qzeros are all ones from one field to their end, as AutoGPTQ leaves "
                                     "them after a zero point of 0: what "
                                     "was there is lost; if all of these are zero points of 0, set zeros to 'z-1 per field' (of "
                                     "Choices, or of Description)");
      stored.description.zeros = "z-1 per field";
      EXPECT_EQ(decode(stored).description.zeros, "z-1 per field");
    }
    EXPECT_NO_THROW(decode(with_word(bits, at, word, "graft"))) << "others mask";
  }
  // The last field alone is what a zero point of 0 is there, and one that is followed by others was masked.
  for (const auto& [bits, at, word] :
       {Word{4, 0, 0xF7777777}, Word{8, 1, 0xFF7F7F7F}, Word{3, 0, 0xDB6DB6DB}, Word{3, 2, 0xEDB6DB6D}, Word{4, 5, 0xFF7777F7}})
    EXPECT_NO_THROW(decode(with_word(bits, at, word))) << bits << " bits, " << std::hex << word;
}

TEST(GptqFormat, AnUnknownProducersBorrowsAreNamed) {
  Integers layer = balanced(96, 64, 4, 32);
  layer.zeros[1] = 0;
  Stored stored = reference::gptq(layer, ZeroWriter::per_field);
  EXPECT_EQ(decode(stored).description.reading.find("would change"), std::string::npos);
  stored.description.producer = "";
  expect_reads(stored, layer, "z-1 per field");
  EXPECT_NE(decode(stored).description.reading.find("('z-1 per word', as GPTQModel has them, would change 1 of 192)"),
            std::string::npos)
      << decode(stored).description.reading;
}

TEST(GptqFormat, ReadsFilesWithoutZerosOrGroups) {
  const Integers layer = reference::draw(64, 32, 4, 32, true, false, 1);
  Stored stored = reference::gptq(layer, ZeroWriter::per_word);
  stored.tensors.erase("qzeros");
  stored.tensors.erase("g_idx");
  expect_reads(stored, layer);
  stored.description.sym = false;
  test::expect_error<ValueError>([&] { decode(stored); }, "reference: has no qzeros, and is not sym");
}

TEST(GptqFormat, AnAllZeroGroupIndexIsNone) {
  const Integers layer = reference::draw(64, 32, 4, 32, false, false, 1);
  Stored stored = reference::gptq(layer, ZeroWriter::as_is);
  stored.tensors["g_idx"] = Tensor::zeros({64}, DType::i32);
  expect_reads(stored, layer);
}

// ---- what must be refused ----

TEST(GptqFormat, RefusesTensorsThatContradictEachOther) {
  Stored good = reference::gptq(reference::draw(64, 32, 4, 32, false, false, 1), ZeroWriter::as_is);
  good.tensors["bias"] = Tensor::zeros({32}, DType::f16);
  const float infinity = std::numeric_limits<float>::infinity();
  expect_refusals(
      good, {{"no weight", [](Stored& s) { s.tensors.erase("qweight"); }, "has no qweight"},
             {"no scales", [](Stored& s) { s.tensors.erase("scales"); }, "has no scales"},
             {"a surplus tensor", [](Stored& s) { s.tensors["weight"] = Tensor::zeros({1}); },
              "has a tensor 'weight', which gptq in layout gptq_v2 does not use"},
             {"no features", [](Stored& s) { s.in = 0; }, "0 in and 32 out features; both must be positive"},
             {"other in", [](Stored& s) { s.in = 128; },
              "qweight has shape [8, 32]; 128 in and 32 out features, 4 bits and groups of 32 need [16, 32]"},
             {"other out", [](Stored& s) { s.out = 64; },
              "qweight has shape [8, 32]; 64 in and 64 out features, 4 bits and groups of 32 need [8, 64]"},
             {"other bits", [](Stored& s) { s.description.bits = 8; },
              "qweight has shape [8, 32]; 64 in and 32 out features, 8 bits and groups of 32 need [16, 32]"},
             {"other groups", [](Stored& s) { s.description.group_size = 64; },
              "scales has shape [2, 32]; 64 in and 32 out features, 4 bits and groups of 64 need [1, 32]"},
             {"group size 0", [](Stored& s) { s.description.group_size = 0; },
              "group_size is 0; it must be positive, or -1 for one group"},
             {"5 bits", [](Stored& s) { s.description.bits = 5; },
              "5 bits in layout gptq_v2; it has 2, 3, 4 and 8 (5, 6 and 7 are in gptq_p)"},
             {"words of another size", [](Stored& s) { s.description.pack_dtype = "int16"; },
              "qweight holds words of int32, but pack_dtype is int16"},
             {"float words", replace("qweight", {8, 32}, DType::f32), "qweight holds f32, not i32, i16 or i8"},
             {"zeros of another size", replace("qzeros", {2, 5}, DType::i32),
              "qzeros has shape [2, 5]; 64 in and 32 out features, 4 bits and groups of 32 need [2, 4]"},
             {"zeros of another type", replace("qzeros", {2, 4}, DType::i16), "qzeros holds i16, not i32"},
             {"integer scales", replace("scales", {2, 32}, DType::i32), "scales holds i32, not f16 or bf16 or f32"},
             {"an infinite scale", poke("scales", 33, f16(infinity)), "scales is inf at element 33; every one must be finite"},
             {"a group too many", poke("g_idx", 7, 2), "g_idx puts input channel 7 into group 2; there are 2"},
             {"a negative group", poke("g_idx", 7, -1), "g_idx puts input channel 7 into group -1; there are 2"},
             {"a short group index", replace("g_idx", {32}, DType::i32),
              "g_idx has shape [32]; 64 in and 32 out features, 4 bits and groups of 32 need [64]"},
             {"a float group index", replace("g_idx", {64}, DType::f32), "g_idx holds f32, not i32 or i64"},
             {"act-order without its groups",
              [](Stored& s) {
                s.description.desc_act = true;
                s.tensors.erase("g_idx");
              },
              "has no g_idx, though desc_act says that its 2 groups are scattered over the input channels"},
             {"act-order with none but zeros for groups",
              [](Stored& s) {
                s.description.desc_act = true;
                s.tensors["g_idx"] = Tensor::zeros({64}, DType::i32);
              },
              "has nothing but 0 in g_idx, though desc_act says that its 2 groups are scattered over the input channels"},
             {"zeros of float", replace("qzeros", {2, 4}, DType::f16), "qzeros holds f16, not i32"},
             {"weight of one dimension", replace("qweight", {256}, DType::i32),
              "qweight has shape [256]; 64 in and 32 out features, 4 bits and groups of 32 need [8, 32]"},
             {"scales of another width", replace("scales", {2, 31}, DType::f16),
              "scales has shape [2, 31]; 64 in and 32 out features, 4 bits and groups of 32 need [2, 32]"},
             {"a bias of integers", replace("bias", {32}, DType::i32), "bias holds i32, not f16 or bf16 or f32"},
             {"a tensor that is none", [](Stored& s) { s.tensors["bias"] = Tensor(); }, "bias is not a tensor on the CPU"},
             {"a bias of another size", replace("bias", {31}, DType::f16),
              "bias has shape [31]; 64 in and 32 out features, 4 bits and groups of 32 need [32]"}});
  EXPECT_THROW(decode([&] {
                 auto s = good;
                 s.description.layout = "gptq_v3";
                 return s;
               }()),
               ValueError);
}

TEST(GptqFormat, RefusesPlanesOfOddSizes) {
  const Stored good = reference::gptq_planar(reference::draw(64, 32, 5, 32, false, false, 1));
  expect_refusals(
      good,
      {{"in", [](Stored& s) { s.in = 40; }, "in_features: the planar layout of 40 integers; it needs a multiple of 32"},
       {"words", replace("qweight", {20, 32}, DType::i16), "in_features: the planar layout in words of 16 bits; it has 32"}});
}

}  // namespace
}  // namespace graft::quant
