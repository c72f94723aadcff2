// The column pass: sums of the pattern over queries, from the maxima and sums that the row pass has left.
// Lanes are keys, and each task owns 64 of them: no two write to one place, and the order of a sum is always the same.
#include "scores.h"

namespace {

struct Room {
  Buffer keys, scores, weights, sums, ones, q, k;
  explicit Room(const Job& job)
      : keys(job.d_head * BLOCK), scores(BLOCK * BLOCK), weights(job.column_count * BLOCK),
        sums(job.column_count * BLOCK), ones(BLOCK), q(BLOCK * job.d_head), k(BLOCK * job.d_head) {
    std::fill_n(ones.data(), BLOCK, 1.0f);
  }
};

struct Tile {
  int64_t batch, head, start, count;  // queries
  int32_t from;                       // first key
  int vectors;
};

void change(const Job& job, const Change& changed, const Tile& tile, float* scores) {
  for (int64_t r = 0; r < tile.count; ++r) {
    const int64_t i = tile.start + r;
    const float offset = static_cast<float>(i + job.keys - job.queries - tile.from);
    const Vec shift = all(job.shift.data ? *job.shift.at<float>(tile.batch, tile.head, i) : 0.0f);
    for (int g = 0; g < tile.vectors; ++g) {
      float* at = scores + r * BLOCK + g * LANES;
      store(at, changed(load(at), (offset - static_cast<float>(g * LANES)) - as_vec(counting()), shift));
    }
  }
}

void mask(const Job& job, const Tile& tile, float* scores) {
  for (int64_t r = 0; r < tile.count; ++r) {
    const Range near = seen_by(job, job.low, job.high, tile.batch, tile.head, tile.start + r);
    const Range prefix = seen_by(job, job.first, job.stop, tile.batch, tile.head, tile.start + r);
    for (int g = 0; g < tile.vectors; ++g) {
      float* at = scores + r * BLOCK + g * LANES;
      const Int key = counting() + (tile.from + g * LANES);
      const Int seen = within(key, all(near.begin), all(near.end)) | within(key, all(prefix.begin), all(prefix.end));
      store(at, seen ? load(at) : all(MASKED));
    }
  }
}

// Scores into 2^(score - peak of the row); the row's sum goes into the weights.
void weigh(const Job& job, const Tile& tile, float* scores, float* weights) {
  const int64_t at = (tile.batch * job.heads + tile.head) * job.queries + tile.start;
  for (int64_t r = 0; r < tile.count; ++r) {
    const float peak = job.peak[at + r], total = job.total[at + r];
    for (int g = 0; g < tile.vectors; ++g) {
      float* to = scores + r * BLOCK + g * LANES;
      store(to, exp2(load(to) - peak));
    }
    for (int64_t w = 0; w < job.column_count; ++w) {
      const float weight = job.weights.at<float>(tile.batch, tile.head, w)[tile.start + r];
      weights[w * BLOCK + r] = total != 0 ? weight / total : 0.0f;
    }
  }
}

void add(const Job& job, const Change& changed, const Tile& tile, bool whole, Room& room) {
  float* scores = room.scores.data();
  const Matrix q = rows_of(job, job.q, tile.batch, tile.head, tile.start, tile.count, job.d_head, room.q);
  multiply(q, tile.count, job.d_head, room.keys.data(), scores, tile.vectors, Scaled{changed.scale});
  if (changed.needed()) change(job, changed, tile, scores);
  if (!whole) mask(job, tile, scores);
  weigh(job, tile, scores, room.weights.data());
  multiply({room.weights.data(), BLOCK, 1}, job.column_count, tile.count, scores, room.sums.data(), tile.vectors,
           Added{room.ones.data()});
}

void gather(const Job& job, const std::vector<Span>& spans, int64_t b, int64_t h, int32_t from, Room& room) {
  const int32_t count = static_cast<int32_t>(std::min<int64_t>(BLOCK, job.keys - from));
  const int64_t blocks = (job.queries + BLOCK - 1) / BLOCK;
  const Change changed(job, h);
  const Matrix k = rows_of(job, job.k, b, h / (job.heads / job.kv_heads), from, count, job.d_head, room.k);
  turn(k, count, job.d_head, room.keys.data());
  room.sums.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    const Span& span = spans[(b * job.heads + h) * blocks + block];
    if (!span.meets(from, from + count)) continue;
    const int64_t start = block * BLOCK;
    const Tile tile{b, h, start, std::min(BLOCK, job.queries - start), from, (count + LANES - 1) / LANES};
    add(job, changed, tile, span.covers(from, from + count), room);
  }
  for (int64_t w = 0; w < job.column_count; ++w) {
    float* to = job.columns + ((b * job.heads + h) * job.column_count + w) * job.keys + from;
    std::copy_n(room.sums.data() + w * BLOCK, count, to);
  }
}

}  // namespace

extern "C" void interp_columns(const Job* given) {
  const Job& job = *given;
  const int64_t blocks = (job.keys + BLOCK - 1) / BLOCK, query_blocks = (job.queries + BLOCK - 1) / BLOCK;
  const int64_t pairs = job.batches * job.heads;
  std::vector<Span> spans(pairs * query_blocks);
#pragma omp parallel num_threads(static_cast<int>(job.threads))
  {
    Room room(job);
#pragma omp for schedule(static)
    for (int64_t at = 0; at < pairs * query_blocks; ++at) {
      const int64_t pair = at / query_blocks, start = at % query_blocks * BLOCK;
      spans[at] = span_of(job, pair / job.heads, pair % job.heads, start, std::min(BLOCK, job.queries - start));
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < pairs * blocks; ++task) {  // early keys are seen most: they go first
      const int64_t pair = task / blocks;
      gather(job, spans, pair / job.heads, pair % job.heads, static_cast<int32_t>(task % blocks * BLOCK), room);
    }
  }
}
