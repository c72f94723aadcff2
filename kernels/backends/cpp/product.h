// The one matrix product: C[r, lane] = sum_k A[r, k] B[k, lane], B and C being BLOCK lanes wide.
// Each C[r, lane] is one chain of multiply-adds over k, whatever
// the shape of the tile: both passes get the same scores.
#pragma once

#include "job.h"
#include "vector.h"

constexpr int GROUP = LANES == 16 ? 4 : 2;   // vectors side by side: with 6 rows, 24 (or 12) sums stay in registers
constexpr int ROWS = 6;

struct Matrix {
  const float* data;
  int64_t row, step;                         // strides of r and of k
};

// Scores are scaled when done; sums continue what stands in C, shrunk by a factor a lane.
struct Scaled {
  float factor;
  template <int WIDE>
  void begin(Vec* sums, const float*) const {
    for (int g = 0; g < WIDE; ++g) sums[g] = Vec{};
  }
  Vec end(Vec x) const { return x * factor; }
  Scaled from(int64_t) const { return *this; }
};

struct Added {
  const float* shrink;
  template <int WIDE>
  void begin(Vec* sums, const float* c) const {
    for (int g = 0; g < WIDE; ++g) sums[g] = load(c + g * LANES) * load(shrink + g * LANES);
  }
  Vec end(Vec x) const { return x; }
  Added from(int64_t lane) const { return {shrink + lane}; }
};

template <int TALL, int WIDE, typename Rule>
inline void patch(Matrix a, int64_t depth, const float* b, float* c, Rule rule) {
  Vec sums[TALL][WIDE];
#pragma GCC unroll 8
  for (int r = 0; r < TALL; ++r) rule.template begin<WIDE>(sums[r], c + r * BLOCK);
  for (int64_t k = 0; k < depth; ++k) {
    Vec line[WIDE];
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g) line[g] = load(b + k * BLOCK + g * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < TALL; ++r) {
      const Vec x = all(a.data[r * a.row + k * a.step]);
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) sums[r][g] += x * line[g];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < TALL; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g) store(c + r * BLOCK + g * LANES, rule.end(sums[r][g]));
  }
}

template <int WIDE, typename Rule>
inline void strip(Matrix a, int64_t rows, int64_t depth, const float* b, float* c, Rule rule) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) {
    patch<ROWS, WIDE>({a.data + r * a.row, a.row, a.step}, depth, b, c + r * BLOCK, rule);
  }
  const Matrix rest{a.data + r * a.row, a.row, a.step};
  switch (rows - r) {
    case 1: return patch<1, WIDE>(rest, depth, b, c + r * BLOCK, rule);
    case 2: return patch<2, WIDE>(rest, depth, b, c + r * BLOCK, rule);
    case 3: return patch<3, WIDE>(rest, depth, b, c + r * BLOCK, rule);
    case 4: return patch<4, WIDE>(rest, depth, b, c + r * BLOCK, rule);
    case 5: return patch<5, WIDE>(rest, depth, b, c + r * BLOCK, rule);
  }
}

// The first `vectors` vectors of lanes.
template <typename Rule>
inline void multiply(Matrix a, int64_t rows, int64_t depth, const float* b, float* c, int vectors, Rule rule) {
  int g = 0;
  for (; g + GROUP <= vectors; g += GROUP) {
    strip<GROUP>(a, rows, depth, b + g * LANES, c + g * LANES, rule.from(g * LANES));
  }
  for (; g < vectors; ++g) strip<1>(a, rows, depth, b + g * LANES, c + g * LANES, rule.from(g * LANES));
}
