// Integer instructions against the host's arithmetic.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <ostream>

#include "support/probe.h"

namespace graft::ptx::integers_test {
namespace {

using U = std::uint64_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using i16 = std::int16_t;
using u16 = std::uint16_t;
using i64 = std::int64_t;

struct Row {
  const char* code;
  Widths widths;
  U (*wanted)(U a, U b, U c);
};
void PrintTo(const Row& row, std::ostream* out) { *out << row.code; }

u32 permute(u32 a, u32 b, u32 selector) {
  u32 d = 0;
  for (int at = 0; at < 4; ++at) {
    const u32 nibble = selector >> (4 * at);
    u32 byte = ((nibble & 4 ? b : a) >> (8 * (nibble & 3))) & 255;
    if (nibble & 8) byte = byte >= 128 ? 255 : 0;
    d |= byte << (8 * at);
  }
  return d;
}

const Row rows[] = {
    {"add.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(a + b); }},
    {"add.sat.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(std::clamp<i64>(i64(i32(a)) + i32(b), INT32_MIN, INT32_MAX)); }},
    {"add.s16 %d, %a, %b;", {16, 16, 16}, [](U a, U b, U) -> U { return u16(a + b); }},
    {"add.u64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return a + b; }},
    {"sub.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(a - b); }},
    {"sub.s32 %d, %a, -7;", {32, 32}, [](U a, U, U) -> U { return u32(a + 7); }},
    {"mul.lo.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(a) * u32(b); }},
    {"mul.lo.s64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return a * b; }},
    {"mul.lo.s16 %d, %a, %b;", {16, 16, 16}, [](U a, U b, U) -> U { return u16(u32(u16(a)) * u16(b)); }},
    {"mul.hi.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(U(i64(i32(a)) * i32(b)) >> 32); }},
    {"mul.hi.u32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return U(u32(a)) * u32(b) >> 32; }},
    {"mul.hi.u64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return U(static_cast<unsigned __int128>(a) * b >> 64); }},
    {"mul.hi.s64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return U(static_cast<__int128>(i64(a)) * i64(b) >> 64); }},
    {"mul.wide.s32 %d, %a, %b;", {64, 32, 32}, [](U a, U b, U) -> U { return U(i64(i32(a)) * i32(b)); }},
    {"mul.wide.u32 %d, %a, %b;", {64, 32, 32}, [](U a, U b, U) -> U { return U(u32(a)) * u32(b); }},
    {"mul.wide.s16 %d, %a, %b;", {32, 16, 16}, [](U a, U b, U) -> U { return u32(i32(i16(a)) * i16(b)); }},
    {"mad.lo.s32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32(u32(a) * u32(b) + u32(c)); }},
    {"mad.hi.u32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32((U(u32(a)) * u32(b) >> 32) + c); }},
    {"mad.wide.u32 %d, %a, %b, %c;", {64, 32, 32, 64}, [](U a, U b, U c) -> U { return U(u32(a)) * u32(b) + c; }},
    {"mad.wide.s32 %d, %a, %b, %c;", {64, 32, 32, 64}, [](U a, U b, U c) -> U { return U(i64(i32(a)) * i32(b)) + c; }},
    {"or.b32 %t0, %b, 1;\ndiv.u32 %d, %a, %t0;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(a) / (u32(b) | 1); }},
    {"or.b32 %t0, %b, 1;\ndiv.s32 %d, %a, %t0;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(i64(i32(a)) / i32(u32(b) | 1)); }},
    {"or.b32 %t0, %b, 1;\nrem.s32 %d, %a, %t0;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(i64(i32(a)) % i32(u32(b) | 1)); }},
    {"or.b64 %x, %b, 1;\nrem.u64 %d, %a, %x;", {64, 64, 64}, [](U a, U b, U) -> U { return a % (b | 1); }},
    {"min.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(std::min(i32(a), i32(b))); }},
    {"max.u64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return std::max(a, b); }},
    {"max.s16 %d, %a, %b;", {16, 16, 16}, [](U a, U b, U) -> U { return u16(std::max(i16(a), i16(b))); }},
    {"abs.s32 %d, %a;", {32, 32}, [](U a, U, U) -> U { return i32(a) < 0 ? u32(0 - a) : u32(a); }},
    {"neg.s64 %d, %a;", {64, 64}, [](U a, U, U) -> U { return 0 - a; }},
    {"and.b32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(a & b); }},
    {"or.b64 %d, %a, %b;", {64, 64, 64}, [](U a, U b, U) -> U { return a | b; }},
    {"xor.b16 %d, %a, %b;", {16, 16, 16}, [](U a, U b, U) -> U { return u16(a ^ b); }},
    {"not.b32 %d, %a;", {32, 32}, [](U a, U, U) -> U { return u32(~a); }},
    {"shl.b32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(b) > 31 ? 0 : u32(a) << u32(b); }},
    {"shr.u32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(b) > 31 ? 0 : u32(a) >> u32(b); }},
    {"shr.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return u32(i32(a) >> std::min(u32(b), 31u)); }},
    {"shr.s64 %d, %a, %b;", {64, 64, 32}, [](U a, U b, U) -> U { return U(i64(a) >> std::min(u32(b), 63u)); }},
    {"shl.b16 %d, %a, %b;", {16, 16, 32}, [](U a, U b, U) -> U { return u32(b) > 15 ? 0 : u16(a << u32(b)); }},
    {"shf.l.wrap.b32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return (b << 32 | u32(a)) << (c & 31) >> 32; }},
    {"shf.r.wrap.b32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32((b << 32 | u32(a)) >> (c & 31)); }},
    {"shf.r.clamp.b32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32((b << 32 | u32(a)) >> std::min(u32(c), 32u)); }},
    {"bfe.u32 %d, %a, 5, 11;", {32, 32}, [](U a, U, U) -> U { return u32(a) >> 5 & 2047; }},
    {"bfe.s32 %d, %a, 28, 11;", {32, 32}, [](U a, U, U) -> U { return u32(i32(a) >> 28); }},
    {"bfe.s64 %d, %a, 8, 8;", {64, 64}, [](U a, U, U) -> U { return U(i64(std::int8_t(a >> 8))); }},
    {"bfi.b32 %d, %a, %b, 7, 9;", {32, 32, 32}, [](U a, U b, U) -> U { return (u32(b) & ~(511u << 7)) | (u32(a) & 511) << 7; }},
    {"bfind.u32 %d, %a;", {32, 32}, [](U a, U, U) -> U { return u32(31 - std::countl_zero(u32(a))); }},
    {"popc.b64 %d, %a;", {32, 64}, [](U a, U, U) -> U { return U(std::popcount(a)); }},
    {"clz.b32 %d, %a;", {32, 32}, [](U a, U, U) -> U { return U(std::countl_zero(u32(a))); }},
    {"brev.b32 %d, %a;", {32, 32}, [](U a, U, U) -> U { u32 d = 0; for (int bit = 0; bit < 32; ++bit) d |= u32(a >> bit & 1) << (31 - bit); return d; }},
    {"prmt.b32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return permute(u32(a), u32(b), u32(c)); }},
    {"lop3.b32 %d, %a, %b, %c, 0xEA;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32((a & b) | c); }},
    {"lop3.b32 %d, %a, %b, %c, 0x96;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32(a ^ b ^ c); }},
    {"dp4a.u32.s32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U {
       for (int at = 0; at < 32; at += 8) c += U(i64(std::uint8_t(a >> at)) * std::int8_t(b >> at));
       return u32(c);
     }},
    {"add.cc.u32 %t0, %a, %b;\naddc.u32 %d, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32(b + c + ((U(u32(a)) + u32(b)) >> 32)); }},
    {"sub.cc.u32 %t0, %a, %b;\nsubc.u32 %d, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32(b - c - (u32(a) < u32(b))); }},
    {"mad.lo.cc.u32 %t0, %a, %b, %c;\nmadc.hi.u32 %d, %a, %b, 5;", {32, 32, 32, 32}, [](U a, U b, U c) -> U {
       const U product = U(u32(a)) * u32(b);
       return u32((product >> 32) + 5 + ((U(u32(product)) + u32(c)) >> 32));
     }},
    {"setp.lt.s32 %d, %a, %b;", {1, 32, 32}, [](U a, U b, U) -> U { return i32(a) < i32(b); }},
    {"setp.hi.u32 %d, %a, %b;", {1, 32, 32}, [](U a, U b, U) -> U { return u32(a) > u32(b); }},
    {"setp.ne.b64 %d, %a, %b;", {1, 64, 64}, [](U a, U b, U) -> U { return a != b; }},
    {"setp.lt.and.s16 %d, %a, %b, !%c;", {1, 16, 16, 1}, [](U a, U b, U c) -> U { return i16(a) < i16(b) && c == 0; }},
    {"setp.ge.xor.u32 %q0|%d, %a, %b, %c;", {1, 32, 32, 1}, [](U a, U b, U c) -> U { return (u32(a) < u32(b)) != (c != 0); }},
    {"selp.b32 %d, %a, %b, %c;", {32, 32, 32, 1}, [](U a, U b, U c) -> U { return u32(c ? a : b); }},
    {"set.gt.u32.s32 %d, %a, %b;", {32, 32, 32}, [](U a, U b, U) -> U { return i32(a) > i32(b) ? 0xffffffff : 0; }},
    {"slct.b32.s32 %d, %a, %b, %c;", {32, 32, 32, 32}, [](U a, U b, U c) -> U { return u32(i32(c) >= 0 ? a : b); }},
    {"mov.b64 %d, {%a, %b};", {64, 32, 32}, [](U a, U b, U) -> U { return b << 32 | u32(a); }},
    {"mov.b64 {%t0, %d}, %a;", {32, 64}, [](U a, U, U) -> U { return a >> 32; }},
    {"mov.b64 {_, %d}, %a;", {32, 64}, [](U a, U, U) -> U { return a >> 32; }},
    {"cvt.s64.s32 %d, %a;", {64, 32}, [](U a, U, U) -> U { return U(i64(i32(a))); }},
    {"cvt.u32.s16 %d, %a;", {32, 16}, [](U a, U, U) -> U { return u32(i32(i16(a))); }},
    {"cvt.s32.s8 %d, %a;", {32, 32}, [](U a, U, U) -> U { return u32(i32(std::int8_t(a))); }},
    {"cvt.sat.u8.s32 %d, %a;", {32, 32}, [](U a, U, U) -> U { return U(std::clamp(i32(a), 0, 255)); }},
    {"cvt.sat.s16.s64 %d, %a;", {16, 64}, [](U a, U, U) -> U { return u16(std::clamp<i64>(i64(a), -32768, 32767)); }},
};

class Integers : public testing::TestWithParam<Row> {};

TEST_P(Integers, AreTheHosts) {
  const auto values = integer_values();
  const auto got = probe(GetParam().code, GetParam().widths, values);
  for (std::size_t at = 0; at < values.size(); ++at) {
    const auto [a, b, c] = values[at];
    ASSERT_EQ(got[at], GetParam().wanted(a, b, c)) << GetParam().code << " of " << std::hex << a << ", " << b << ", " << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Ptx, Integers, testing::ValuesIn(rows), [](const auto& info) {
  std::string name =
      std::string(info.param.code).substr(0, std::string(info.param.code).find(' ')) + "_" + std::to_string(info.index);
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
});

}  // namespace
}  // namespace graft::ptx::integers_test
