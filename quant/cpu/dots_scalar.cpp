#include "graft/quant/cpu/codes_scalar.h"
#include "graft/quant/cpu/dots.inl"

namespace graft::quant {
namespace {

template <int bits>
struct Bytes {
  using V = scalar::F32;
  using Words = std::uint32_t;
  using Item = std::uint32_t;
  using Sum = std::int32_t;
  static constexpr Dot dot = Dot::int8;
  static constexpr int origin = 0;
  static constexpr bool takes_digits = false;

  static Words load(const std::uint8_t* p) { return scalar::Codes<bits>::load(p); }
  template <int j>
  static Item item(Words words) {
    Item item = 0;
    for (int part = 0; part < 4; ++part)
      item |= (words >> (bits * row_in_word(Packed::rows_per_word(bits), dot, j, part)) & ((1u << bits) - 1)) << (8 * part);
    return item;
  }
  static Item load_items(const std::uint32_t* p) { return *p; }
  static void store(std::uint32_t* p, Item item) { *p = item; }
  static Item set(std::uint32_t item) { return item; }
  static Sum zero() { return 0; }
  static Sum sum(Sum sum, Item codes, Item x) {
    for (int part = 0; part < 4; ++part)
      sum += static_cast<std::uint8_t>(codes >> (8 * part)) * static_cast<std::int8_t>(x >> (8 * part));
    return sum;
  }
  static float value(Sum sum) { return static_cast<float>(sum); }
};

}  // namespace

const DotUnit* int8_dots_scalar() {
  static constexpr DotUnit unit = dot_unit_of<Bytes>();
  return &unit;
}

}  // namespace graft::quant
