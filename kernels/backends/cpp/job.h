// One call of the kernels: sizes, wishes and addresses. `job.py` holds the same fields in the same order.
#pragma once

#include <cstdint>

// A tensor by its first three strides, counted in elements; the last axis is contiguous.
struct View {
  void* data;
  int64_t batch, head, row;

  template <typename T>
  T* at(int64_t b, int64_t h, int64_t r = 0) const {
    return static_cast<T*>(data) + b * batch + h * head + r * row;
  }
};

enum Kind : int64_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

struct Job {
  int64_t batches, heads, kv_heads, queries, keys, d_head, d_value;
  int64_t functional_count, band_count, distances, column_count;
  int64_t kind, sigmoid, threads;
  double scale, softcap;                     // softcap 0: none
  View q, k, v;                              // of `kind`
  View low, high, first, stop;               // int32, row = 1 query
  View shift, functionals, weights;          // float32; null where there are none; weights: row = 1 weighting
  const float *slopes, *band;                // band [weighting, MARGIN + distances + MARGIN], zeros in the margins
  float *output, *lse, *entropy, *largest;   // contiguous; null where not wanted
  int64_t* argmax;
  float *squares, *means, *near, *columns;
  float *peak, *total;                       // base-2 maximum of a row, and its sum over 2^(score - maximum)
};

constexpr int64_t BLOCK = 64;    // lanes of a tile: queries in the row pass, keys in the column pass
constexpr int64_t MARGIN = BLOCK;
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;
