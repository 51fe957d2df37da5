// The loops of vector.h. Included by one source per instruction set, inside an unnamed namespace: nothing here may have external
// linkage, and no standard-library template may be used, or the linker could keep a wide copy and run it on a narrow machine.
// The including source defines `register_bytes`, `multiply_add(c, a, b)` for registers and `tile_rows`.

#define GRAFT_INLINE inline __attribute__((always_inline))
#define GRAFT_FLAT __attribute__((flatten))  // all that it calls is inlined, or it would not be vectorised

template <class T>
struct RegisterOf {
  typedef T type __attribute__((vector_size(register_bytes)));
};
template <class T>
using Register = typename RegisterOf<T>::type;
template <class T>
constexpr int register_lanes = register_bytes / sizeof(T);

template <class V>
GRAFT_INLINE void load_as(V& value, const void* from) {
  __builtin_memcpy(&value, from, sizeof value);
}
template <class V>
GRAFT_INLINE void store_as(const V& value, void* to) {
  __builtin_memcpy(to, &value, sizeof value);
}

// ---- functions of one float that the compiler can vectorise: no branches, no calls ----

/// condition ? a : b, in bits: where one is a constant, the compiler would make a branch of it, and compute all that follows for each.
GRAFT_INLINE float chosen(bool condition, float a, float b) {
  const int mask = -static_cast<int>(condition);
  return __builtin_bit_cast(float, (__builtin_bit_cast(int, a) & mask) | (__builtin_bit_cast(int, b) & ~mask));
}

GRAFT_INLINE float power_of_two(int n) { return __builtin_bit_cast(float, (n + 127) << 23); }

/// eʳ for |r| ≤ ln 2 / 2: a minimax polynomial with a relative error of 3e-9.
GRAFT_INLINE float exp_near_zero(float r) {
  float p = 1.381401010e-3f;
  p = p * r + 8.369000817e-3f;
  p = p * r + 4.166841569e-2f;
  p = p * r + 1.666651828e-1f;
  p = p * r + 4.999999329e-1f;
  return (p * (r * r) + r) + 1.0f;
}

/// eˣ = 2ⁿ eʳ. Within 1 ulp; subnormal results,
/// overflow to ∞ and NaN come out as they should.
GRAFT_INLINE float vector_exp(float x) {
  x = chosen(x < -104.0f, -104.0f, x);
  x = chosen(x > 89.0f, 89.0f, x);
  constexpr float round = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504f + round;
  const float n = shifted - round;
  const int integer = __builtin_bit_cast(int, shifted) - __builtin_bit_cast(int, round);
  // ln 2 in two parts, the first short enough that its product with n is exact.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float p = exp_near_zero(r);
  // In two steps, because 2ⁿ itself may not be a float.
  const int half = integer >> 1;
  return p * power_of_two(half) * power_of_two(integer - half);
}

/// Within 2 ulp: an odd polynomial near zero, 1 − 2 / (e²ˣ + 1) elsewhere.
GRAFT_INLINE float vector_tanh(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float z = x * x;
  float p = -5.591017060e-3f;
  p = p * z + 2.053882100e-2f;
  p = p * z - 5.370965789e-2f;
  p = p * z + 1.333109226e-1f;
  p = p * z - 3.333326952e-1f;
  const float small = x + x * z * p;
  const float large = 1.0f - 2.0f / (vector_exp(magnitude + magnitude) + 1.0f);
  return magnitude < 0.625f ? small : (x < 0 ? -large : large);
}

/// Within 2 ulp: an odd polynomial up to 1, then 1 − e^(−x²) times a polynomial in 1 / (1 + x/2).
GRAFT_INLINE float vector_erf(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float z = x * x;
  float p = 7.898695779e-5f;
  p = p * z - 8.024818908e-4f;
  p = p * z + 5.190162520e-3f;
  p = p * z - 2.685491608e-2f;
  p = p * z + 1.128361737e-1f;
  p = p * z - 3.761262982e-1f;
  p = p * z + 1.28379167e-1f;  // 2/√π − 1, so that the sum below rounds once
  const float small = x + x * p;
  const float t = 1.0f / (1.0f + 0.5f * magnitude);
  float q = -5.044631926e-2f;
  q = q * t - 5.536007200e-2f;
  q = q * t + 3.832339568e-1f;
  q = q * t + 1.301874085e-1f;
  q = q * t + 3.129913451e-1f;
  q = q * t + 2.788810540e-1f;
  const float large = 1.0f - vector_exp(-z) * (q * t);
  return magnitude < 1.0f ? small : (x < 0 ? -large : large);
}

/// The functions that elementwise.h asks for.
struct Math {
  static GRAFT_INLINE float exp(float x) { return vector_exp(x); }
  static GRAFT_INLINE float tanh(float x) { return vector_tanh(x); }
  static GRAFT_INLINE float erf(float x) { return vector_erf(x); }
  static GRAFT_INLINE float log(float x) { return __builtin_logf(x); }
  static GRAFT_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
  static GRAFT_INLINE float sin(float x) { return __builtin_sinf(x); }
  static GRAFT_INLINE float cos(float x) { return __builtin_cosf(x); }
  static GRAFT_INLINE float pow(float x, float y) { return __builtin_powf(x, y); }
  static GRAFT_INLINE double exp(double x) { return __builtin_exp(x); }
  static GRAFT_INLINE double tanh(double x) { return __builtin_tanh(x); }
  static GRAFT_INLINE double erf(double x) { return __builtin_erf(x); }
  static GRAFT_INLINE double log(double x) { return __builtin_log(x); }
  static GRAFT_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
  static GRAFT_INLINE double sin(double x) { return __builtin_sin(x); }
  static GRAFT_INLINE double cos(double x) { return __builtin_cos(x); }
  static GRAFT_INLINE double pow(double x, double y) { return __builtin_pow(x, y); }
};

// ---- elementwise ----

template <class T, class Op>
constexpr bool applies = !__is_same(T, std::int64_t) || takes_integers<Op>;

template <class T>
void unary_loop(UnaryOp op, const T* x, T* y, std::int64_t n, T p0, T p1) {
  with_unary(op, [=]<class Op>() GRAFT_FLAT {
    if constexpr (applies<T, Op>)
      for (std::int64_t i = 0; i < n; ++i) y[i] = Op::template apply<Math>(x[i], p0, p1);
  });
}

template <class T>
void binary_loop(BinaryOp op, const T* a, const T* b, T* y, std::int64_t n) {
  with_binary(op, [=]<class Op>() GRAFT_FLAT {
    if constexpr (applies<T, Op>)
      for (std::int64_t i = 0; i < n; ++i) y[i] = Op::template apply<Math>(a[i], b[i]);
  });
}

template <class T>
void compare_loop(BinaryOp op, const T* a, const T* b, bool* y, std::int64_t n) {
  with_comparison(op, [=]<class Op>() {
    for (std::int64_t i = 0; i < n; ++i) y[i] = Op::apply(a[i], b[i]);
  });
}

template <class T>
void select_loop(const bool* condition, const T* a, const T* b, T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = condition[i] ? a[i] : b[i];
}

// ---- reductions: four times tile_lanes sums, folded in a fixed order, then what is left over one by one ----
// `combine` takes (total, index, a value whose type says how many elements to load) or (total, other total).

template <class T, class Combine>
GRAFT_INLINE T reduce_lanes(std::int64_t n, T start, Combine&& combine) {
  constexpr int lanes = register_lanes<T>, parts = tile_lanes / lanes;
  constexpr std::int64_t wide = 4 * tile_lanes;
  T folded = start;
  std::int64_t i = 0;
  if (n >= tile_lanes) {
    Register<T> sums[4 * parts];
    for (auto& each : sums) each = start - Register<T>{};
    for (; i + wide <= n; i += wide)
#pragma GCC unroll 16
      for (int j = 0; j < 4 * parts; ++j) combine(sums[j], i + j * lanes, Register<T>{});
    for (; i + tile_lanes <= n; i += tile_lanes)
#pragma GCC unroll 16
      for (int j = 0; j < parts; ++j) combine(sums[j], i + j * lanes, Register<T>{});
#pragma GCC unroll 16
    for (int j = 0; j < parts; ++j) {
      combine(sums[j], sums[j + parts]);
      combine(sums[j + 2 * parts], sums[j + 3 * parts]);
      combine(sums[j], sums[j + 2 * parts]);
    }
#pragma GCC unroll 16
    for (int j = 0; j < tile_lanes; ++j) combine(folded, T(sums[j / lanes][j % lanes]));
  }
  for (; i < n; ++i) combine(folded, i, T{});
  return folded;
}

template <class T>
struct SumOf {
  const T* x;
  template <class V>
  GRAFT_INLINE void operator()(V& total, std::int64_t i, const V&) const {
    V value;
    load_as(value, x + i);
    total += value;
  }
  template <class V>
  GRAFT_INLINE void operator()(V& total, const V& other) const {
    total += other;
  }
};

template <class T>
struct DotOf {
  const T *x, *y;
  template <class V>
  GRAFT_INLINE void operator()(V& total, std::int64_t i, const V&) const {
    V value, other;
    load_as(value, x + i);
    load_as(other, y + i);
    total += value * other;
  }
  template <class V>
  GRAFT_INLINE void operator()(V& total, const V& other) const {
    total += other;
  }
};

// A NaN, once met, stays.
template <class T, bool largest>
struct ExtremeOf {
  const T* x;
  template <class V>
  GRAFT_INLINE void operator()(V& extreme, std::int64_t i, const V&) const {
    V value;
    load_as(value, x + i);
    (*this)(extreme, value);
  }
  template <class V>
  GRAFT_INLINE void operator()(V& extreme, const V& value) const {
    if constexpr (largest) {
      extreme = (value > extreme) | (value != value) ? value : extreme;
    } else {
      extreme = (value < extreme) | (value != value) ? value : extreme;
    }
  }
};

template <class T>
T sum_loop(const T* x, std::int64_t n) {
  return reduce_lanes(n, T(0), SumOf<T>{x});
}
template <class T>
T dot_loop(const T* x, const T* y, std::int64_t n) {
  return reduce_lanes(n, T(0), DotOf<T>{x, y});
}
template <class T>
T max_loop(const T* x, std::int64_t n) {
  return reduce_lanes(n, x[0], ExtremeOf<T, true>{x});
}
template <class T>
T min_loop(const T* x, std::int64_t n) {
  return reduce_lanes(n, x[0], ExtremeOf<T, false>{x});
}

// ---- rows ----

template <class T>
void exp_minus_loop(const T* x, T shift, T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = Math::exp(x[i] - shift);
}
template <class T>
void add_scaled_loop(const T* x, T scale, const T* y, T* z, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) z[i] = x[i] + scale * y[i];
}
template <class T>
void add_product_loop(const T* x, const T* y, T* z, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) z[i] += x[i] * y[i];
}
template <class T>
void mul_shifted_loop(const T* x, const T* y, T shift, T* z, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) z[i] = x[i] * (y[i] - shift);
}
template <class V, class T>
GRAFT_INLINE void rotate_at(const T* x, const T* cos, const T* sin, T sign, T* y, std::int64_t half, std::int64_t i) {
  V a, b, c, s;
  load_as(a, x + i);
  load_as(b, x + i + half);
  load_as(c, cos + i);
  load_as(s, sin + i);
  s *= sign;
  const V first = a * c - b * s, second = b * c + a * s;
  store_as(first, y + i);
  store_as(second, y + i + half);
}
template <class T>
void rotate_loop(const T* x, const T* cos, const T* sin, T sign, T* y, std::int64_t half) {
  std::int64_t i = 0;
  for (; i + register_lanes<T> <= half; i += register_lanes<T>) rotate_at<Register<T>>(x, cos, sin, sign, y, half, i);
  for (; i < half; ++i) rotate_at<T>(x, cos, sin, sign, y, half, i);
}

// ---- f16, where the set converts it; other units bring their own ----

#if defined(GRAFT_F16C)
void widen(const f16* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i))));
  for (; i < n; ++i) y[i] = _cvtsh_ss(x[i].bits);
}

void narrow(const float* x, f16* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) y[i].bits = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

void round(float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT)));
  for (; i < n; ++i) x[i] = _cvtsh_ss(_cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT));
}
#endif

// ---- bf16: integer arithmetic of dtype.h's conversions, without a branch ----

GRAFT_INLINE float widened(bf16 x) { return __builtin_bit_cast(float, std::uint32_t{x.bits} << 16); }
GRAFT_INLINE bf16 narrowed(float x) {
  const auto bits = __builtin_bit_cast(std::uint32_t, x);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u), quiet = bits | 0x400000u;
  bf16 y;
  y.bits = static_cast<std::uint16_t>((x != x ? quiet : rounded) >> 16);
  return y;
}

// Operands are apart or the same, as those of the loops above.
inline void widen_bf16_loop(const bf16* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = widened(x[i]);
}
inline void narrow_bf16_loop(const float* x, bf16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = narrowed(x[i]);
}
inline void round_bf16_loop(float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = widened(narrowed(x[i]));
}
inline void unary_bf16_loop(UnaryOp op, const bf16* x, bf16* y, std::int64_t n, float p0, float p1) {
  with_unary(op, [=]<class Op>() GRAFT_FLAT {
    for (std::int64_t i = 0; i < n; ++i) y[i] = narrowed(Op::template apply<Math>(widened(x[i]), p0, p1));
  });
}
inline void binary_bf16_loop(BinaryOp op, const bf16* a, const bf16* b, bf16* y, std::int64_t n) {
  with_binary(op, [=]<class Op>() GRAFT_FLAT {
    for (std::int64_t i = 0; i < n; ++i) y[i] = narrowed(Op::template apply<Math>(widened(a[i]), widened(b[i])));
  });
}
/// 1 / (1 + e⁻ˣ) for what is rounded to bf16: relative error 5e-6, and 0 where it is below 1e-38.
GRAFT_INLINE float short_sigmoid(float x) {
  x = chosen(x > 87.0f, 87.0f, x);
  x = chosen(x < -89.0f, -89.0f, x);
  constexpr float round = 0x1.8p23f;
  const float shifted = x * -1.44269504f + round;
  const int n = __builtin_bit_cast(int, shifted) - __builtin_bit_cast(int, round);
  const float r = (shifted - round) * -0.693147182f - x;
  return 1.0f / (1.0f + exp_near_zero(r) * power_of_two(n));
}
inline void silu_mul_bf16_loop(const bf16* gate, const bf16* x, bf16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = widened(gate[i]);
    y[i] = narrowed(g * short_sigmoid(g) * widened(x[i]));
  }
}
inline void silu_mul_backward_bf16_loop(const bf16* gate, const bf16* x, const bf16* dy, bf16* dgate, bf16* dx, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = widened(gate[i]), d = widened(dy[i]), s = short_sigmoid(g), silu = g * s;
    dgate[i] = narrowed(d * widened(x[i]) * (s + silu * (1.0f - s)));
    dx[i] = narrowed(d * silu);
  }
}
inline void rotate_bf16_loop(const bf16* x, std::int64_t ldx, const float* cos, const float* sin, float sign, bf16* y,
                             std::int64_t ldy, std::int64_t rows, std::int64_t half) {
  for (; rows > 0; --rows, x += ldx, y += ldy)
    for (std::int64_t i = 0; i < half; ++i) {
      const float a = widened(x[i]), b = widened(x[i + half]), c = cos[i], s = sin[i] * sign;
      y[i] = narrowed(a * c - b * s);
      y[i + half] = narrowed(b * c + a * s);
    }
}

// ---- tiles ----

template <int rows, int registers, class T>
GRAFT_INLINE void tile(const T* a, std::int64_t a_row, std::int64_t a_column, const T* b, std::int64_t b_row, T* c,
                       std::int64_t c_row, std::int64_t k, bool accumulate) {
  constexpr int lanes = register_lanes<T>;
  Register<T> sums[rows][registers] = {};
  if (accumulate)
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < registers; ++j) load_as(sums[i][j], c + i * c_row + j * lanes);
  for (std::int64_t p = 0; p < k; ++p) {
    Register<T> right[registers];
#pragma GCC unroll 8
    for (int j = 0; j < registers; ++j) load_as(right[j], b + p * b_row + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Register<T> left = a[i * a_row + p * a_column] - Register<T>{};
#pragma GCC unroll 8
      for (int j = 0; j < registers; ++j) multiply_add(sums[i][j], left, right[j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < registers; ++j) store_as(sums[i][j], c + i * c_row + j * lanes);
}

template <int registers, class T>
GRAFT_INLINE void tile_column(const T* a, std::int64_t a_row, std::int64_t a_column, const T* b, std::int64_t b_row, T* c,
                              std::int64_t c_row, std::int64_t m, std::int64_t k, bool accumulate) {
  std::int64_t i = 0;
  for (; i + tile_rows <= m; i += tile_rows)
    tile<tile_rows, registers>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, k, accumulate);
  for (; i < m; ++i) tile<1, registers>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, k, accumulate);
}

template <class T>
void tile_product_loop(const T* a, std::int64_t a_row, std::int64_t a_column, const T* b, std::int64_t b_row, T* c,
                       std::int64_t c_row, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) {
  constexpr int narrow = tile_lanes / register_lanes<T>, wide = sizeof(T) == 4 ? 2 * narrow : narrow;
  constexpr std::int64_t step = wide * register_lanes<T>;
  std::int64_t j = 0;
  for (; j + step <= n; j += step) tile_column<wide>(a, a_row, a_column, b + j, b_row, c + j, c_row, m, k, accumulate);
  for (; j < n; j += tile_lanes) tile_column<narrow>(a, a_row, a_column, b + j, b_row, c + j, c_row, m, k, accumulate);
}

// ---- the table ----

template <class T>
constexpr VectorLoops<T> make_loops() {
  VectorLoops<T> loops{};
  loops.unary = unary_loop<T>;
  loops.binary = binary_loop<T>;
  loops.compare = compare_loop<T>;
  loops.select = select_loop<T>;
  loops.sum = sum_loop<T>;
  loops.max = max_loop<T>;
  loops.min = min_loop<T>;
  if constexpr (!__is_same(T, std::int64_t)) {
    loops.dot = dot_loop<T>;
    loops.exp_minus = exp_minus_loop<T>;
    loops.add_scaled = add_scaled_loop<T>;
    loops.add_product = add_product_loop<T>;
    loops.mul_shifted = mul_shifted_loop<T>;
    loops.rotate = rotate_loop<T>;
    loops.tile_product = tile_product_loop<T>;
  }
  return loops;
}

constexpr HalfLoops make_half_loops() { return {widen, narrow, widen_bf16_loop, narrow_bf16_loop, round, round_bf16_loop}; }

constexpr Bf16Loops make_bf16_loops() {
  return {unary_bf16_loop, binary_bf16_loop, rotate_bf16_loop, silu_mul_bf16_loop, silu_mul_backward_bf16_loop};
}

#undef GRAFT_INLINE
#undef GRAFT_FLAT
