// Vectors of float32 as wide as the target has them, and the three functions the kernels need on them.
// Polynomials are minimax fits of relative error: 9.1e-8 (2^f), 4.7e-9 (log2), 2.5e-9 (tanh), before rounding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef float LooseVec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t LooseInt __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline Vec load(const float* from) { return *reinterpret_cast<const LooseVec*>(from); }
inline Int load(const int32_t* from) { return *reinterpret_cast<const LooseInt*>(from); }
inline void store(float* to, Vec x) { *reinterpret_cast<LooseVec*>(to) = x; }
inline void store(int32_t* to, Int x) { *reinterpret_cast<LooseInt*>(to) = x; }
inline Vec all(float x) { return x - Vec{}; }
inline Int all(int32_t x) { return x - Int{}; }
// The second of the two where either is NaN.
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
inline Vec magnitude(Vec a) { return larger(a, -a); }
inline Vec as_vec(Int x) { return __builtin_convertvector(x, Vec); }

// 0, 1, 2, ... in the lanes.
inline Int counting() {
  Int x;
  for (int i = 0; i < LANES; ++i) x[i] = i;
  return x;
}

// 2^x for x <= 127; exactly 0 from -127 down, exactly 1 at 0. The magic number rounds x to an integer n and leaves
// n + 127, the exponent field, in the lowest bits of the sum. NaN stays NaN.
inline Vec exp2(Vec x) {
  const float magic = 12582912.0f + 127.0f;
  x = larger(all(-127.0f), x);
  Vec shifted = x + magic;
  Vec f = x - (shifted - magic);
  Vec p = 1.326472707e-03f * f + 9.671512649e-03f;
  p = p * f + 5.550733744e-02f;
  p = p * f + 2.402224209e-01f;
  p = p * f + 6.931469776e-01f;
  p = p * f + 1.0f;
  return p * reinterpret_cast<Vec>(reinterpret_cast<Int>(shifted) << 23);
}

// log2(1 + y) for 0 <= y <= 1.
inline Vec log2_of_one_more(Vec y) {
  Vec p = -4.683026893e-03f * y + 2.865334348e-02f;
  p = p * y - 8.220275668e-02f;
  p = p * y + 1.530085576e-01f;
  p = p * y - 2.208326667e-01f;
  p = p * y + 2.838715350e-01f;
  p = p * y - 3.600138388e-01f;
  p = p * y + 4.808499394e-01f;
  p = p * y - 7.213461255e-01f;
  p = p * y + 1.442695034e+00f;
  return p * y;
}

// tanh: a polynomial up to 0.6, where 1 - 2 / (1 + e^2x) would cancel.
inline Vec tanh(Vec x) {
  Vec u = x * x;
  Vec p = -5.852168289e-03f * u + 2.075362855e-02f;
  p = p * u - 5.376870460e-02f;
  p = p * u + 1.333168896e-01f;
  p = p * u - 3.333328326e-01f;
  p = p * u + 9.999999975e-01f;
  Vec size = magnitude(x);
  Vec far = 1.0f - 2.0f / (1.0f + exp2(smaller(2.885390082f * size, all(60.0f))));
  return size < 0.6f ? p * x : (x < 0.0f ? -far : far);
}

// Float32 that begins at a cache line: a vector across two lines costs twice.
class Buffer {
 public:
  explicit Buffer(int64_t size) : lines_((size + 15) / 16) {}
  float* data() { return reinterpret_cast<float*>(lines_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(lines_.data()); }
  void clear() { std::fill(data(), data() + 16 * lines_.size(), 0.0f); }

 private:
  struct alignas(64) Line {
    float x[16];
  };
  std::vector<Line> lines_;
};
