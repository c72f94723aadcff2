// The row pass: attention by online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) and what is known of a row.
// Lanes are queries. A tile of scores is [key, query], so that no sum ever runs across lanes.
#include <cmath>

#include "online.h"

namespace {

constexpr int64_t TILE = 128;  // keys a tile: its scores fill 32 KiB

struct Wishes {
  bool entropy, largest, squares;
};

struct Room {
  Buffer queries, scores, output, means, near, q, k, v;
  explicit Room(const Job& job)
      : queries(job.d_head * BLOCK), scores(TILE * BLOCK), output(job.d_value * BLOCK),
        means(job.functional_count * BLOCK), near(job.band_count * BLOCK), q(BLOCK * job.d_head),
        k(TILE * job.d_head), v(TILE * job.d_value) {}
};

void change(const Job& job, const Change& changed, const Block& block, float* scores, int32_t from, int32_t count) {
  const float offset = static_cast<float>(block.start + job.keys - job.queries);
  for (int g = 0; g < block.vectors; ++g) {
    const Vec lanes = as_vec(counting()) + (offset + static_cast<float>(g * LANES));
    const Vec shift = load(block.shift + g * LANES);
    for (int32_t j = 0; j < count; ++j) {
      float* at = scores + j * BLOCK + g * LANES;
      store(at, changed(load(at), lanes - static_cast<float>(from + j), shift));
    }
  }
}

void mask(const Block& block, float* scores, int32_t from, int32_t count) {
  for (int g = 0; g < block.vectors; ++g) {
    const Int low = load(block.low + g * LANES), high = load(block.high + g * LANES);
    const Int first = load(block.first + g * LANES), stop = load(block.stop + g * LANES);
    for (int32_t j = 0; j < count; ++j) {
      float* at = scores + j * BLOCK + g * LANES;
      const Int key = all(from + j);
      store(at, (within(key, low, high) | within(key, first, stop)) ? load(at) : all(MASKED));
    }
  }
}

using Absorb = void (*)(Block&, float*, int32_t, int32_t);

Absorb absorb_for(Wishes w) {
  static const Absorb table[8] = {
      absorb<false, false, false>, absorb<false, false, true>, absorb<false, true, false>, absorb<false, true, true>,
      absorb<true, false, false>,  absorb<true, false, true>,  absorb<true, true, false>,  absorb<true, true, true>};
  return table[4 * w.entropy + 2 * w.largest + w.squares];
}

// Sums of the pattern near the diagonal: the table has a margin of zeros, so the lanes read it side by side.
void add_band(const Job& job, const Block& block, const float* scores, float* near, int32_t from, int32_t count) {
  const int64_t diagonal = block.start + job.keys - job.queries;
  const int64_t begin = std::max<int64_t>(from, diagonal - job.distances + 1);
  const int64_t end = std::min<int64_t>(from + count, diagonal + BLOCK);
  for (int64_t w = 0; w < job.band_count; ++w) {
    const float* table = job.band + w * (job.distances + 2 * MARGIN) + MARGIN + diagonal;
    for (int g = 0; g < block.vectors; ++g) {
      float* at = near + w * BLOCK + g * LANES;
      Vec sum = load(at) * load(block.shrink + g * LANES);
      for (int64_t j = begin; j < end; ++j) {
        sum += load(scores + (j - from) * BLOCK + g * LANES) * load(table + g * LANES - j);
      }
      store(at, sum);
    }
  }
}

void take(const Job& job, const Change& changed, Absorb absorbed, bool whole, Block& block, Room& room, int32_t from,
          int32_t count) {
  const int64_t kv_head = block.head / (job.heads / job.kv_heads);
  float* scores = room.scores.data();
  const Matrix k = rows_of(job, job.k, block.batch, kv_head, from, count, job.d_head, room.k);
  multiply(k, count, job.d_head, room.queries.data(), scores, block.vectors, Scaled{changed.scale});
  if (changed.needed()) change(job, changed, block, scores, from, count);
  if (!whole) mask(block, scores, from, count);
  absorbed(block, scores, from, count);
  const Added shrunk{block.shrink};
  if (job.output) {
    const Matrix v = rows_of(job, job.v, block.batch, kv_head, from, count, job.d_value, room.v);
    multiply({v.data, 1, v.row}, job.d_value, count, scores, room.output.data(), block.vectors, shrunk);
  }
  if (job.functional_count) {
    const float* numbers = job.functionals.at<float>(block.batch, block.head, from);
    multiply({numbers, 1, job.functionals.row}, job.functional_count, count, scores, room.means.data(), block.vectors,
             shrunk);
  }
  if (job.band_count) add_band(job, block, scores, room.near.data(), from, count);
}

// [width, BLOCK] back into rows, each times a factor.
void put(const float* lines, int64_t width, int64_t count, const float* factor, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < width; ++d) to[i * width + d] = lines[d * BLOCK + i] * factor[i];
  }
}

void finish(const Job& job, const Block& block, const Room& room) {
  const int64_t at = (block.batch * job.heads + block.head) * job.queries + block.start;
  float inverse[BLOCK], mass[BLOCK];
  for (int64_t i = 0; i < block.count; ++i) {
    const float total = block.total[i], log_total = std::log2(total);
    const bool empty = total == 0.0f;  // any other row has its peak's 2^0 in it
    inverse[i] = empty ? 0.0f : 1.0f / total;
    mass[i] = job.sigmoid ? std::exp2(block.peak[i]) : inverse[i];
    job.lse[at + i] = empty ? -INFINITY : LN_2 * (block.peak[i] + log_total);
    job.peak[at + i] = block.peak[i];
    job.total[at + i] = total;
    const float entropy = std::max(LN_2 * (log_total - block.spread[i] * inverse[i]), 0.0f);
    if (job.entropy) job.entropy[at + i] = empty ? 0.0f : entropy;
    if (job.largest) job.largest[at + i] = inverse[i], job.argmax[at + i] = block.best[i];
    if (job.squares) job.squares[at + i] = block.squares[i] * inverse[i] * inverse[i];
  }
  if (job.output) put(room.output.data(), job.d_value, block.count, mass, job.output + at * job.d_value);
  const int64_t means = job.functional_count, near = job.band_count;
  if (means) put(room.means.data(), means, block.count, inverse, job.means + at * means);
  if (near) put(room.near.data(), near, block.count, inverse, job.near + at * near);
}

// The stretches of keys that some query of the block sees, in ascending order.
int stretches(const Span& span, Range* found) {
  Range a = span.any[0], b = span.any[1];
  if (a.begin >= a.end) std::swap(a, b);
  if (a.begin >= a.end) return 0;
  if (b.begin >= b.end) return found[0] = a, 1;
  if (b.begin < a.begin) std::swap(a, b);
  if (b.begin > a.end) return found[0] = a, found[1] = b, 2;
  return found[0] = {a.begin, std::max(a.end, b.end)}, 1;
}

void attend(const Job& job, Absorb absorbed, int64_t b, int64_t h, int64_t start, Room& room) {
  Block block(job, b, h, start);
  const Change changed(job, h);
  const Span span = span_of(job, b, h, start, block.count);
  turn(rows_of(job, job.q, b, h, start, block.count, job.d_head, room.q), block.count, job.d_head, room.queries.data());
  for (Buffer* sums : {&room.output, &room.means, &room.near}) sums->clear();
  Range found[2];
  const int many = stretches(span, found);
  for (int s = 0; s < many; ++s) {
    for (int32_t from = found[s].begin; from < found[s].end; from += TILE) {
      const int32_t to = std::min<int32_t>(from + TILE, found[s].end);
      take(job, changed, absorbed, span.covers(from, to), block, room, from, to - from);
    }
  }
  finish(job, block, room);
}

}  // namespace

extern "C" int64_t interp_job_size() { return sizeof(Job); }

extern "C" void interp_rows(const Job* given) {
  const Job& job = *given;
  const int64_t blocks = (job.queries + BLOCK - 1) / BLOCK;
  const Absorb absorbed = absorb_for({job.entropy != nullptr, job.largest != nullptr, job.squares != nullptr});
#pragma omp parallel num_threads(static_cast<int>(job.threads))
  {
    Room room(job);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < job.batches * job.heads * blocks; ++task) {
      const int64_t pair = task / blocks, block = blocks - 1 - task % blocks;  // late queries see most: they go first
      attend(job, absorbed, pair / job.heads, pair % job.heads, block * BLOCK, room);
    }
  }
}
