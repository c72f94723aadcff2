// What a block of queries knows of the keys seen so far, and how a tile of scores adds to it (online softmax).
#pragma once

#include "scores.h"

// Sums are over 2^(score - peak).
struct Block {
  int64_t batch, head, start, count;
  int vectors;
  alignas(64) int32_t low[BLOCK], high[BLOCK], first[BLOCK], stop[BLOCK], best[BLOCK];
  alignas(64) float shift[BLOCK], peak[BLOCK], total[BLOCK], spread[BLOCK], squares[BLOCK], shrink[BLOCK];

  Block(const Job& job, int64_t b, int64_t h, int64_t from) : batch(b), head(h), start(from) {
    count = std::min(BLOCK, job.queries - from);
    vectors = static_cast<int>((count + LANES - 1) / LANES);
    for (int64_t i = 0; i < BLOCK; ++i) {
      const bool there = i < count;
      const Range near = there ? seen_by(job, job.low, job.high, b, h, from + i) : Range{0, 0};
      const Range prefix = there ? seen_by(job, job.first, job.stop, b, h, from + i) : Range{0, 0};
      low[i] = near.begin, high[i] = near.end, first[i] = prefix.begin, stop[i] = prefix.end;
      shift[i] = there && job.shift.data ? *job.shift.at<float>(b, h, from + i) : 0.0f;
      peak[i] = LOWEST, total[i] = spread[i] = squares[i] = 0.0f, best[i] = -1;
    }
  }
};

// Raises the peaks of WIDE vectors of queries to those of the tile; the first of equal keys stays the best.
template <int WIDE, bool LARGEST>
inline void raise(Block& block, const float* scores, int lane, int32_t from, int32_t count) {
  Vec peak[WIDE];
  Int best[WIDE];
  for (int g = 0; g < WIDE; ++g) {
    peak[g] = load(block.peak + lane + g * LANES);
    best[g] = load(block.best + lane + g * LANES);
  }
  for (int32_t j = 0; j < count; ++j) {
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g) {
      const Vec s = load(scores + j * BLOCK + lane + g * LANES);
      if (LARGEST) best[g] = s > peak[g] ? all(from + j) : best[g];
      peak[g] = larger(s, peak[g]);
    }
  }
  for (int g = 0; g < WIDE; ++g) {
    const int at = lane + g * LANES;
    const Vec fall = load(block.peak + at) - peak[g], shrink = exp2(fall);
    // sum P z under the new peak; total is 0 while the old one is LOWEST
    store(block.spread + at, shrink * (load(block.spread + at) + fall * load(block.total + at)));
    store(block.shrink + at, shrink);
    store(block.peak + at, peak[g]);
    store(block.best + at, best[g]);
  }
}

// Turns scores into 2^(score - peak) and adds them up.
template <bool ENTROPY, bool SQUARES>
inline void weigh(Block& block, float* scores, int lane, int32_t count) {
  const Vec peak = load(block.peak + lane), shrink = load(block.shrink + lane);
  Vec total{}, spread{}, squares{};
  for (int32_t j = 0; j < count; ++j) {
    const Vec z = load(scores + j * BLOCK + lane) - peak;
    const Vec p = exp2(z);
    store(scores + j * BLOCK + lane, p);
    total += p;
    if (ENTROPY) spread += p * z;
    if (SQUARES) squares += p * p;
  }
  store(block.total + lane, load(block.total + lane) * shrink + total);
  if (ENTROPY) store(block.spread + lane, load(block.spread + lane) + spread);
  if (SQUARES) store(block.squares + lane, load(block.squares + lane) * shrink * shrink + squares);
}

template <bool ENTROPY, bool LARGEST, bool SQUARES>
void absorb(Block& block, float* scores, int32_t from, int32_t count) {
  int g = 0;
  for (; g + GROUP <= block.vectors; g += GROUP) raise<GROUP, LARGEST>(block, scores, g * LANES, from, count);
  for (; g < block.vectors; ++g) raise<1, LARGEST>(block, scores, g * LANES, from, count);
  for (g = 0; g < block.vectors; ++g) weigh<ENTROPY, SQUARES>(block, scores, g * LANES, count);
}
