// Which keys a query sees, and what is done to a score before the softmax. Scores are in base 2: s * log2(e).
#pragma once

#include <algorithm>
#include <vector>

#include "job.h"
#include "product.h"
#include "vector.h"

// Masked scores lie below the lowest maximum, so that 2^(score - maximum) is 0 in rows that saw no key yet.
constexpr float MASKED = -1e30f;
constexpr float LOWEST = -5e29f;

struct Range {
  int32_t begin, end;
  bool meets(int32_t from, int32_t to) const { return begin < to && from < end && begin < end; }
  bool covers(int32_t from, int32_t to) const { return begin <= from && to <= end; }
};

// What the queries of a block see between them (any) and all of them (every), of interval and prefix.
struct Span {
  Range any[2], every[2];
  bool meets(int32_t from, int32_t to) const { return any[0].meets(from, to) || any[1].meets(from, to); }
  bool covers(int32_t from, int32_t to) const { return every[0].covers(from, to) || every[1].covers(from, to); }
};

inline Range seen_by(const Job& job, const View& low, const View& high, int64_t b, int64_t h, int64_t i) {
  const int32_t keys = static_cast<int32_t>(job.keys);
  Range range{std::max(*low.at<int32_t>(b, h, i), 0), std::min(*high.at<int32_t>(b, h, i), keys)};
  return range.begin < range.end ? range : Range{0, 0};
}

inline void widen(Range row, Range& any, Range& every) {
  every = {std::max(every.begin, row.begin), std::min(every.end, row.end)};
  if (row.begin == row.end) return;
  any = {std::min(any.begin, row.begin), std::max(any.end, row.end)};
}

inline Span span_of(const Job& job, int64_t b, int64_t h, int64_t start, int64_t count) {
  const Range nothing{INT32_MAX, 0}, everything{0, INT32_MAX};
  Span span{{nothing, nothing}, {everything, everything}};
  for (int64_t i = start; i < start + count; ++i) {
    widen(seen_by(job, job.low, job.high, b, h, i), span.any[0], span.every[0]);
    widen(seen_by(job, job.first, job.stop, b, h, i), span.any[1], span.every[1]);
  }
  return span;
}

inline Int within(Int j, Int low, Int high) { return (j >= low) & (j < high); }

// What every score of a head undergoes.
struct Change {
  float scale, softcap, slope;
  bool sigmoid, shifted;

  Change(const Job& job, int64_t head)
      : scale(static_cast<float>(job.softcap > 0 ? job.scale / job.softcap : job.scale * LOG2_E)),
        softcap(static_cast<float>(job.softcap) * LOG2_E),
        slope(job.slopes ? job.slopes[head] * LOG2_E : 0.0f),
        sigmoid(job.sigmoid != 0),
        shifted(job.shift.data != nullptr) {}

  bool needed() const { return softcap != 0 || slope != 0 || sigmoid || shifted; }

  // `distance` = i + keys - queries - j. The sigmoid rule is the softmax of log sigmoid(s), whose sum is kept.
  Vec operator()(Vec s, Vec distance, Vec shift) const {
    if (softcap != 0) s = softcap * tanh(s);
    if (slope != 0) s -= slope * magnitude(distance);
    if (shifted) s += LOG2_E * shift;
    if (sigmoid) s = smaller(s, Vec{}) - log2_of_one_more(exp2(-magnitude(s)));
    return s;
  }
};

// Rows of a tensor of any kind as float32: in place where they are, else converted into `room`.
inline float widened(const uint16_t* from, int64_t kind) {
  uint32_t bits;
  if (kind == BFLOAT16) {
    bits = static_cast<uint32_t>(*from) << 16;
  } else {  // shifting the exponent field and then correcting its bias by a product takes subnormals along
    float value;
    bits = static_cast<uint32_t>(*from & 0x7fff) << 13;
    std::memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f;  // 2^112
    std::memcpy(&bits, &value, 4);
    bits |= (bits >= 0x47800000u ? 0x7f800000u : 0u) | static_cast<uint32_t>(*from & 0x8000) << 16;
  }
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline Matrix rows_of(const Job& job, const View& view, int64_t b, int64_t h, int64_t start, int64_t count,
                      int64_t width, Buffer& room) {
  if (job.kind == FLOAT32) return {view.at<const float>(b, h, start), view.row, 1};
  for (int64_t r = 0; r < count; ++r) {
    const uint16_t* from = view.at<const uint16_t>(b, h, start + r);
    float* to = room.data() + r * width;
    if (job.kind == BFLOAT16) {
      for (int64_t d = 0; d < width; ++d) to[d] = widened(from + d, BFLOAT16);
    } else {
      for (int64_t d = 0; d < width; ++d) to[d] = widened(from + d, FLOAT16);
    }
  }
  return {room.data(), width, 1};
}

// Up to BLOCK rows turned: lane r of line d is element d of row r; lanes beyond `count` are 0.
inline void turn(Matrix rows, int64_t count, int64_t width, float* to) {
  if (count < BLOCK) std::fill(to, to + width * BLOCK, 0.0f);
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t r = 0; r < count; ++r) to[d * BLOCK + r] = rows.data[r * rows.row + d];
  }
}
