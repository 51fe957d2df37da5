#include "probe.h"

#include <random>

namespace graft::ptx {
namespace {

std::string declare(char name, int bits) {
  if (bits == 0) return "";
  return bits == 1 ? fmt::format(".reg .pred %{};\n", name) : fmt::format(".reg .b{} %{};\n", bits, name);
}

std::string take(char name, int bits, int at) {
  switch (bits) {
    case 0: return "";
    case 1: return fmt::format("ld.global.b64 %x, [%rows+{}];\nsetp.ne.u64 %{}, %x, 0;\n", 8 * at, name);
    case 64: return fmt::format("ld.global.b64 %{}, [%rows+{}];\n", name, 8 * at);
    default: return fmt::format("ld.global.b{} %{}, [%rows+{}];\n", bits, name, 8 * at);
  }
}

std::string give(int bits) {
  switch (bits) {
    case 1: return "selp.b64 %x, 1, 0, %d;\nst.global.b64 [%results], %x;\n";
    case 64: return "st.global.b64 [%results], %d;\n";
    default: return fmt::format("cvt.u64.u{} %x, %d;\nst.global.b64 [%results], %x;\n", bits);
  }
}

}  // namespace

std::vector<std::uint64_t> probe(const std::string& code, Widths widths, const std::vector<Values>& values,
                                 const std::string& target) {
  const std::string text =
      fmt::format(R"(
.version 9.0
.target {}
.address_size 64
.visible .entry probe(.param .u64 rows, .param .u64 results, .param .u32 count)
{{
  .reg .b64 %rows, %results, %x, %at;
  .reg .b32 %index, %count, %block, %size, %t<8>;
  .reg .pred %out, %q<4>;
  {}{}{}{}
  mov.u32 %index, %tid.x;
  mov.u32 %block, %ctaid.x;
  mov.u32 %size, %ntid.x;
  mad.lo.s32 %index, %block, %size, %index;
  ld.param.u32 %count, [count];
  setp.ge.u32 %out, %index, %count;
  @%out exit;
  ld.param.u64 %rows, [rows];
  mul.wide.u32 %at, %index, 24;
  add.u64 %rows, %rows, %at;
  ld.param.u64 %results, [results];
  mul.wide.u32 %at, %index, 8;
  add.u64 %results, %results, %at;
  {}{}{}
  {}
  {}
  ret;
}}
)",
                  target, declare('d', widths.d), declare('a', widths.a), declare('b', widths.b), declare('c', widths.c),
                  take('a', widths.a, 0), take('b', widths.b, 1), take('c', widths.c, 2), code, give(widths.d));
  std::vector<std::uint64_t> results(values.size());
  Memory memory;
  const auto* rows = memory.global(std::span(values), "rows");
  auto* out = memory.undefined(std::span(results), "results");
  run(Module::parse(text), "probe", {.grid = {unsigned(values.size() + 127) / 128}, .block = {128}}, memory, rows, out,
      std::uint32_t(values.size()));
  return results;
}

std::vector<Values> integer_values() {
  std::vector<std::uint64_t> edges = {0,
                                      1,
                                      2,
                                      3,
                                      7,
                                      31,
                                      32,
                                      33,
                                      63,
                                      64,
                                      100,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      ~std::uint64_t(0),
                                      0xfffffffffffffffe,
                                      0x5555555555555555,
                                      0x00010203040506f7};
  std::vector<Values> rows;
  std::mt19937_64 random(1);
  for (const auto a : edges)
    for (const auto b : edges) rows.push_back({a, b, edges[random() % edges.size()]});
  for (int at = 0; at < 400; ++at) rows.push_back({random(), random() >> (random() % 64), random() >> (random() % 64)});
  return rows;
}

std::vector<Values> float_values(int width, int exponent_bits) {
  std::mt19937_64 random(2);
  const int stored = width - 1 - exponent_bits;
  const std::uint64_t mask = width == 64 ? ~std::uint64_t(0) : (std::uint64_t(1) << width) - 1,
                      mantissa = (std::uint64_t(1) << stored) - 1;
  const std::uint64_t bias = (std::uint64_t(1) << (exponent_bits - 1)) - 1, infinity = (2 * bias + 1) << stored,
                      sign = std::uint64_t(1) << (width - 1);
  const std::uint64_t edges[] = {0,
                                 sign,
                                 1,
                                 mantissa,
                                 mantissa + 1,
                                 bias << stored,
                                 (bias << stored) + 1,
                                 sign | bias << stored,
                                 infinity - 1,
                                 infinity,
                                 sign | infinity,
                                 infinity | 1};
  std::vector<Values> rows;
  for (const auto a : edges)
    for (const auto b : edges) rows.push_back({a, b, edges[random() % std::size(edges)]});
  for (int at = 0; at < 600; ++at) rows.push_back({random() & mask, random() & mask, random() & mask});
  // Exponents near each other, so that sums round.
  const auto near = [&] { return (random() & (sign | mantissa)) | (bias - 14 + random() % 28) << stored; };
  for (int at = 0; at < 1500; ++at) rows.push_back({near(), near(), near()});
  return rows;
}

}  // namespace graft::ptx
