#include "graft/quant/formats/eetq.h"

#include "format_checks.h"

namespace graft::quant {
namespace {

// ---- AWQ, Marlin ----

TEST(AwqFormat, ReadsGemmOfEveryWidth) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const auto& [in, group_size] : groupings)
      for (std::int64_t out : {8, 40, 96})
        for (bool sym : {false, true}) {
          if (in > 200 && out > 8) continue;  // enough of them
          const Integers layer = reference::draw(in, out, bits, group_size, sym, false, static_cast<unsigned>(bits));
          expect_reads(reference::awq_gemm(layer), layer);
        }
}

TEST(AwqFormat, ReadsGemvWithItsPadding) {
  for (std::int64_t group_size : {16, 32, 64, 128, 256, -1})
    for (std::int64_t in : {128, 320, 2176}) {
      const Integers layer = reference::draw(in, 12, 4, group_size, false, false, 3);
      expect_reads(reference::awq_gemv(layer), layer);
    }
}

TEST(AwqFormat, KeepsTheArithmeticOfFastLayouts) {
  for (const char* layout : {"gemv_fast", "llm-awq"})
    for (std::int64_t group_size : {32, 64, 128}) {
      const Integers layer = reference::draw(192, 12, 4, group_size, false, false, 3);
      const Stored stored = reference::awq_fast(layer, layout);
      expect_reads(stored, layer);
      std::vector<float> want;
      int differing = 0;
      for (std::int64_t n = 0; n < layer.out; ++n)
        for (std::int64_t k = 0; k < layer.in; ++k) {
          const std::int64_t g = layer.g_idx[static_cast<std::size_t>(k)];
          const float offset = static_cast<float>(f16(-layer.scale(g, n) * layer.zero(g, n)));
          want.push_back(layer.scale(g, n) * layer.code(k, n) + offset);
          differing += want.back() != layer.weight(k, n);
        }
      EXPECT_EQ(dequantize(decode(stored), 0, layer.out).to_vector<float>(), want);
      EXPECT_EQ(make_layer(stored)->dequantize(0, layer.out).to_vector<float>(), want);
      EXPECT_GT(differing, 0);
    }
}

TEST(AwqFormat, GemmTensorsAreReadWhateverKernelIsNamed) {
  for (int bits : {4, 8}) {
    const Integers layer = reference::draw(64, 64, bits, 32, false, false, 1);
    Stored stored = reference::awq_gemm(layer);
    stored.description.layout = "marlin";
    expect_reads(stored, layer);
    const Description d = decode(stored).description;
    EXPECT_EQ(d.layout, "gemm");
    EXPECT_EQ(d.reading.find(
                  "tensors of layout gemm, for which marlin only names the kernel: there are qzeros, and qweight is packed like "
                  "them; "),
              0u)
        << d.reading;
    EXPECT_EQ(format_of(stored.description).features(stored), std::pair(stored.in, stored.out));
  }
  Stored tiles = reference::marlin(reference::draw(64, 64, 4, -1, true, false, 1), "awq");
  tiles.tensors["qzeros"] = Tensor::zeros({1, 8}, DType::i32);
  test::expect_error<ValueError>([&] { decode(tiles); },
                                 "reference: has a tensor 'qzeros', which awq in layout marlin does not use");
}

TEST(AwqFormat, GemvFastWordsAsPublished) {
  Integers layer = reference::draw(64, 4, 4, 64, false, false, 1);
  for (std::int64_t k = 0; k < 64; ++k)
    for (std::int64_t n = 0; n < 4; ++n)
      layer.codes[static_cast<std::size_t>(k * 4 + n)] = static_cast<std::uint8_t>((3 * n + k) % 16);
  const auto words = reference::awq_fast(layer, "gemv_fast").tensors.at("qweight").to_vector<std::int16_t>();
  const std::vector<std::uint16_t> first(words.begin(), words.begin() + 20);
  EXPECT_EQ(first, (std::vector<std::uint16_t>{0x8080, 0x9191, 0xA2A2, 0xB3B3, 0xC4C4, 0xD5D5, 0xE6E6, 0xF7F7, 0x8080, 0x9191,
                                               0xA2A2, 0xB3B3, 0xC4C4, 0xD5D5, 0xE6E6, 0xF7F7, 0xB3B3, 0xC4C4, 0xD5D5, 0xE6E6}));
}

TEST(MarlinFormat, ReadsTilesUnderBothNames) {
  for (const char* method : {"gptq", "awq"})
    for (std::int64_t group_size : {128, -1}) {
      const Integers layer = reference::draw(256, 128, 4, group_size, true, false, 5);
      expect_reads(reference::marlin(layer, method), layer);
    }
  Integers layer = reference::draw(16, 64, 4, -1, true, false, 5);
  for (std::int64_t k = 0; k < 16; ++k)
    for (std::int64_t n = 0; n < 64; ++n)
      layer.codes[static_cast<std::size_t>(k * 64 + n)] = static_cast<std::uint8_t>((k + 3 * n + n / 16) % 16);
  const auto words = reference::marlin(layer, "gptq").tensors.at("B").to_vector<std::int32_t>();
  EXPECT_EQ(static_cast<std::uint32_t>(words[0]), 0x19910880u);
  EXPECT_EQ(static_cast<std::uint32_t>(words[1]), 0x2AA21991u);
  EXPECT_EQ(static_cast<std::uint32_t>(words[16]), 0x4CC43BB3u);
}

// ---- EETQ ----

TEST(EetqFormat, ReadsAndRecognisesEveryLayout) {
  for (const char* layout : {"plain", "sm70", "sm80"})
    for (std::int64_t in : {64, 192})
      for (std::int64_t out : {32, 64}) {
        const Integers layer = reference::draw_eetq(in, out, static_cast<unsigned>(in + out));
        const Stored stored = reference::eetq(layer, layout);
        expect_reads(stored, layer);
        EXPECT_EQ(plausible_eetq_layouts(stored), std::vector<std::string_view>{layout}) << in << " " << out;
      }
}

TEST(EetqFormat, BytesAsPublished) {
  Integers layer = reference::draw_eetq(64, 4, 1);
  for (std::int64_t k = 0; k < 64; ++k) {
    layer.codes[static_cast<std::size_t>(k * 4)] = static_cast<std::uint8_t>(128 + k);
    layer.codes[static_cast<std::size_t>(k * 4 + 1)] = static_cast<std::uint8_t>(127 - k);
  }
  const auto bytes = reference::eetq(layer, "sm80").tensors.at("weight").to_vector<std::int8_t>();
  const std::vector<std::uint8_t> first(bytes.begin(), bytes.begin() + 20), second(bytes.begin() + 64, bytes.begin() + 72);
  EXPECT_EQ(first, (std::vector<std::uint8_t>{128, 136, 129, 137, 130, 138, 131, 139, 132, 140,
                                              133, 141, 134, 142, 135, 143, 144, 152, 145, 153}));
  EXPECT_EQ(second, (std::vector<std::uint8_t>{127, 119, 126, 118, 125, 117, 124, 116}));
}

TEST(EetqFormat, AnOutputOfZerosIsTakenIntoAccount) {
  for (const char* layout : {"plain", "sm70", "sm80"}) {
    Integers layer = reference::draw_eetq(192, 64, 4);
    layer.scales[5] = 0;  // as of weights that were too small for f16: the codes are ordinary
    EXPECT_EQ(plausible_eetq_layouts(reference::eetq(layer, layout)), std::vector<std::string_view>{layout});
    for (std::int64_t k = 0; k < 192; ++k)
      layer.codes[static_cast<std::size_t>(k * 64 + 5)] = 255;  // as of weights that are all 0
    EXPECT_EQ(plausible_eetq_layouts(reference::eetq(layer, layout)), std::vector<std::string_view>{layout});
  }
}

TEST(EetqFormat, RefusesAnUnknownLayout) {
  Stored stored = reference::eetq(reference::draw_eetq(64, 4, 1), "plain");
  stored.description.layout = "";
  test::expect_error<ValueError>([&] { decode(stored); },
                                 "no format 'eetq '; known are gptq gptq, gptq gptq_v2, gptq gptq_p, gptq marlin, awq gemm, awq "
                                 "gemv, awq gemv_fast, awq llm-awq, awq marlin, eetq "
                                 "plain, eetq sm70, eetq sm80");
}

// ---- what must be refused ----

TEST(AwqFormat, RefusesTensorsThatContradictEachOther) {
  expect_refusals(reference::awq_gemm(reference::draw(64, 32, 4, 32, false, false, 1)),
                  {{"odd out", [](Stored& s) { s.out = 36; },
                    "out_features: the interleaved layout of 36 integers; it needs a multiple of 8"},
                   {"transposed", replace("qweight", {8, 32}, DType::i32),
                    "qweight has shape [8, 32]; 64 in and 32 out features, 4 bits and groups of 32 need [64, 4]"},
                   {"no zeros", [](Stored& s) { s.tensors.erase("qzeros"); }, "has no qzeros"},
                   {"zeros of another size", replace("qzeros", {2, 5}, DType::i32),
                    "qzeros has shape [2, 5]; 64 in and 32 out features, 4 bits and groups of 32 need [2, 4]"},
                   {"words of another size", replace("qweight", {64, 8}, DType::i16), "qweight holds i16, not i32"},
                   {"other groups", [](Stored& s) { s.description.group_size = 64; },
                    "qzeros has shape [2, 4]; 64 in and 32 out features, 4 bits and groups of 64 need [1, 4]"},
                   {"scales of another size", replace("scales", {2, 4}, DType::f16),
                    "scales has shape [2, 4]; 64 in and 32 out features, 4 bits and groups of 32 need [2, 32]"},
                   {"act-order", [](Stored& s) { s.tensors["g_idx"] = Tensor::zeros({64}, DType::i32); },
                    "has a tensor 'g_idx', which awq in layout gemm does not use"}});
  expect_refusals(reference::awq_gemv(reference::draw(64, 32, 4, 32, false, false, 1)),
                  {{"8 bits", [](Stored& s) { s.description.bits = 8; }, "8 bits in layout gemv; it has 4"},
                   {"odd in", [](Stored& s) { s.in = 60; }, "layout gemv with in_features = 60; it needs a multiple of 8"},
                   {"scales without padding", replace("scales", {32, 8}, DType::f16),
                    "scales has shape [32, 8]; 64 in and 32 out features, 4 bits and groups of 32 need [32, 32]"},
                   {"groups of 48", [](Stored& s) { s.description.group_size = 48; },
                    "layout gemv with groups of 48; it has 16, 32, 64, and 128 or more"},
                   {"too little padding", replace("qzeros", {32, 1}, DType::i32),
                    "qzeros has shape [32, 1]; 64 in and 32 out features, 4 bits and groups of 32 need [32, 4]"}});
  expect_refusals(
      reference::awq_fast(reference::draw(64, 32, 4, 32, false, false, 1), "gemv_fast"),
      {{"odd in", [](Stored& s) { s.in = 32; }, "layout gemv_fast with in_features = 32; it needs a multiple of 64"},
       {"odd out", [](Stored& s) { s.out = 30; }, "layout gemv_fast with out_features = 30; it needs a multiple of 4"},
       {"8 bits", [](Stored& s) { s.description.bits = 8; }, "8 bits in layout gemv_fast; it has 4"},
       {"words of another size", replace("qweight", {8, 64}, DType::i32), "qweight holds i32, not i16"},
       {"no zeros", [](Stored& s) { s.tensors.erase("qzeros"); }, "layout gemv_fast needs one of qzeros and scaled_zeros"},
       {"packed zeros", replace("qzeros", {32, 32}, DType::i32), "qzeros holds i32, not f16 or bf16 or f32"},
       {"scales without padding", replace("scales", {2, 32}, DType::f16),
        "scales has shape [2, 32]; 64 in and 32 out features, 4 bits and groups of 32 need [32, 32]"},
       {"two kinds of zeros", [](Stored& s) { s.tensors["scaled_zeros"] = s.tensors["qzeros"]; },
        "layout gemv_fast needs one of qzeros and scaled_zeros"},
       {"a NaN", poke("qzeros", 3, f16(std::nanf(""))), "qzeros is nan at element 3; every one must be finite"}});
}

TEST(MarlinFormat, RefusesWhatItCannotHold) {
  expect_refusals(
      reference::marlin(reference::draw(64, 64, 4, -1, true, false, 1), "gptq"),
      {{"asymmetric", [](Stored& s) { s.description.sym = false; },
        "layout marlin with 4 bits and sym false; it has symmetric 4 bits"},
       {"other words", replace("B", {4, 64}, DType::i32),
        "B has shape [4, 64]; 64 in and 64 out features, 4 bits and groups of -1 need [4, 128]"},
       {"other groups", [](Stored& s) { s.description.group_size = 32; },
        "s has shape [1, 64]; 64 in and 64 out features, 4 bits and groups of 32 need [2, 64]"},
       {"zeros", replace("qzeros", {1, 8}, DType::i32), "has a tensor 'qzeros', which gptq in layout marlin does not use"},
       {"act-order", replace("g_idx", {64}, DType::i32), "has a tensor 'g_idx', which gptq in layout marlin does not use"},
       {"odd out", [](Stored& s) { s.out = 32; },
        "layout marlin with 64 in and 32 out features; it needs multiples of 16 and 64"}});
}

TEST(EetqFormat, RefusesWhatItCannotHold) {
  expect_refusals(
      reference::eetq(reference::draw_eetq(64, 4, 1), "sm80"),
      {{"4 bits", [](Stored& s) { s.description.bits = 4; }, "EETQ with 4 bits; it has 8"},
       {"odd in", [](Stored& s) { s.in = 32; }, "32 in and 4 out features in layout sm80; it needs multiples of 64 and 2"},
       {"no weight", [](Stored& s) { s.tensors.erase("weight"); }, "needs one of weight and qweight"},
       {"two weights", [](Stored& s) { s.tensors["qweight"] = s.tensors["weight"]; }, "needs one of weight and qweight"},
       {"no scales", [](Stored& s) { s.tensors.erase("weight_scales"); }, "has no weight_scales"},
       {"transposed", replace("weight", {4, 64}, DType::i8),
        "weight has shape [4, 64]; 64 in and 4 out features, 8 bits and groups of -1 need [64, 4]"},
       {"a NaN", poke("weight_scales", 2, f16(std::nanf(""))), "weight_scales is nan at element 2; every one must be finite"},
       {"float weight", replace("weight", {64, 4}, DType::f16), "weight holds f16, not i8 or u8"},
       {"other scales", replace("weight_scales", {5}, DType::f16),
        "weight_scales has shape [5]; 64 in and 4 out features, 8 bits and groups of -1 need [4]"}});
}

TEST(Formats, EveryOneIsListedOnceAndRead) {
  std::vector<std::string> listed, read;
  for (const Format* format : formats())
    for (std::string_view layout : format->layouts) listed.push_back(fmt::format("{} {}", format->method, layout));
  for (const Stored& stored : reference::one_of_each(256, 128)) {
    const Decoded decoded = decode(stored);
    EXPECT_FALSE(decoded.description.reading.empty());
    EXPECT_EQ(format_of(stored.description).features(stored), std::pair(stored.in, stored.out));
    EXPECT_LT(std::abs(mean_distance(decoded)), 256);
    read.push_back(fmt::format("{} {}", stored.description.method, stored.description.layout));
  }
  for (const std::string& name : listed) EXPECT_EQ(std::count(listed.begin(), listed.end(), name), 1) << name;
  for (const std::string& name : listed)
    EXPECT_GE(std::count(read.begin(), read.end(), name), 1) << name << " is tested by no layer";
}

}  // namespace
}  // namespace graft::quant
