// EETQ: 8 bits with one scale per output, stored as the bytes of a GPU kernel's own layout, which the file does not name.
//
//   weight (AutoEETQ: qweight)  [in, out] i8 or u8: nominal shape only, see the layouts
//   weight_scales               [out] floating
//   bias                        [out], optional
//
// Layouts: "plain": signed codes in order. "sm70": byte = code + 128, bytes 1 and 2 of every four exchanged. "sm80" (75 to 89):
// besides, rows permuted within 16, the matrix transposed, and pairs of columns woven together in runs of 64 rows.
#pragma once

#include "graft/quant/format.h"

namespace graft::quant {

extern const Format eetq_format;

/// Where one layout keeps its codes.
struct EetqLayout {
  std::string_view name;
  std::int64_t (*of_channel)(std::int64_t k, std::int64_t out);
  std::int64_t (*of_output)(std::int64_t n, std::int64_t in);
  std::uint8_t flip;                       // makes the stored byte code + 128
  std::int64_t in_multiple, out_multiple;  // sizes that the layout can have

  /// Byte of code (k, n).
  std::int64_t place(std::int64_t k, std::int64_t n, std::int64_t in, std::int64_t out) const {
    return of_channel(k, out) + of_output(n, in);
  }
};

/// The layout of that name; ValueError naming those that exist.
const EetqLayout& eetq_layout(std::string_view name);

/// The layouts in which the bytes of a layer make sense: the quantizer gives every output's largest weight the code −128, −127 or
/// 127, an output with scale 0 the code 127 throughout, and codes are small in the mean. One layout, normally; none for a part of
/// a fused matrix that was cut after permuting. ValueError for tensors that no layout could have.
std::vector<std::string_view> plausible_eetq_layouts(const Stored& stored);

}  // namespace graft::quant
