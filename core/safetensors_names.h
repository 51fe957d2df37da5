// What reader and writer of the safetensors format share: the frame of a file, and the names of element types.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "graft/core/dtype.h"

namespace graft::safetensors {

inline constexpr std::int64_t prefix_bytes = 8;  // the length of the header
inline constexpr std::int64_t max_header_bytes = 100'000'000;

// From last to first, this is the order in which the format's own writer sorts tensors; save() follows it, so that equal tensors
// make equal files.
inline constexpr std::array<std::pair<std::string_view, DType>, 10> dtype_names = {{{"BOOL", DType::boolean},
                                                                                    {"U8", DType::u8},
                                                                                    {"I8", DType::i8},
                                                                                    {"I16", DType::i16},
                                                                                    {"F16", DType::f16},
                                                                                    {"BF16", DType::bf16},
                                                                                    {"I32", DType::i32},
                                                                                    {"F32", DType::f32},
                                                                                    {"F64", DType::f64},
                                                                                    {"I64", DType::i64}}};

}  // namespace graft::safetensors
