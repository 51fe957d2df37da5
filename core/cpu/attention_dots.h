// What attention in bf16 takes from a set that multiplies pairs: the loops between its products, which are tiles of gemm.h.
#pragma once

#include "graft/core/dtype.h"
#include "graft/core/cpu/gemm.h"

namespace graft::cpu {

/// Scores become s = scale · score + bias; bias may be null. Rows that are written may be longer than what is asked for, up to
/// `room`, a multiple of 32.
struct AttentionDots {
  /// weights[j] = e^(s[j] − largest) for j < n, else 0, with `largest` raised to that of the row, and `sum`, of unrounded weights, following
  /// it. Returns what was summed before has to be multiplied by.
  float (*fold)(const float* scores, const float* bias, float scale, std::int64_t n, std::int64_t room, float& largest, float& sum,
                bf16* weights);

  /// One of two neighbouring queries in backward.
  struct Query {
    const float *scores, *dweights;
    float shift, delta;
    std::int64_t n;  // keys that it sees
    bf16* dscores;
  };
  /// p[j] = e^(s[j] − shift) and ds[j] = p[j] (dweights[j] − delta) for j < n, else 0: those of both queries in pairs, and ds in rows, too.
  void (*weigh)(const Query& first, const Query& second, const float* bias, float scale, std::int64_t room, Pair* weights,
                Pair* dscores);

  float (*dot)(const bf16* x, const bf16* y, std::int64_t n);
  /// y = scale · x
  void (*narrow)(const float* x, float scale, std::int64_t n, bf16* y);
  /// y[j][i] = scale · x[i][j]
  void (*narrow_columns)(const float* x, std::int64_t ldx, float scale, std::int64_t rows, std::int64_t columns, bf16* y,
                         std::int64_t ldy);
};

/// Null where the build lacks the set.
const AttentionDots* attention_avx512_dot();

}  // namespace graft::cpu
