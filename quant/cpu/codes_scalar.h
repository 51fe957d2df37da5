// Codes out of packed words, one word at a time.
#pragma once

#include "graft/core/cpu/simd_scalar.h"

namespace graft::scalar {

template <int bits>
struct Codes {
  using Words = std::uint32_t;

  /// The words of V::width neighbouring columns.
  static Words load(const std::uint8_t* p) {
    if constexpr (bits == 3) return p[0] | p[1] << 8 | p[2] << 16;
    else return p[0] | p[1] << 8 | p[2] << 16 | static_cast<Words>(p[3]) << 24;
  }
  /// Code j of each word, less `origin`.
  template <int j, int origin>
  struct Field {
    float operator()(Words words) const {
      return static_cast<float>(static_cast<int>(words >> (bits * j) & ((1u << bits) - 1)) - origin);
    }
  };
  /// Code of row `first` of one column, whose words, of in_word codes each, word(line) gives.
  template <int first, int in_word, class Word>
  static float rows(Word word) {
    return Field<first % in_word, 0>()(word(first / in_word));
  }

  static constexpr int sum_origin = 1 << (bits - 1);
  static constexpr int power(int) { return 0; }
  template <int j>
  using SumField = Field<j, sum_origin>;
};

}  // namespace graft::scalar
