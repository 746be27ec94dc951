// One workgroup in a single dispatch the way it was published: 64 threads, one weight a load, attention by one thread a
// head. (The published kernel orders its writes to storage by workgroupBarrier alone, which WGSL does not promise to do.)

override WIDTH: u32 = 32u;
override HEADS: u32 = 2u;
override HEAD: u32 = 16u;
override LAYERS: u32 = 1u;
override HIDDEN: u32 = 128u;    // 4 * WIDTH
override SCORES: u32 = 128u;    // HEADS * TOKENS

const THREADS: u32 = 64u;
const TOKENS: u32 = 64u;
const EPS: f32 = 1e-5;

struct Span {
  first: u32,                   // token
  tokens: u32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;                 // [layer](qkv, out, up, down), each [inputs][outputs]
@group(0) @binding(1) var<storage, read> rows: array<f32>;              // [TOKENS][WIDTH]
@group(0) @binding(2) var<storage, read_write> results: array<f32>;     // [TOKENS][WIDTH]
@group(0) @binding(3) var<storage, read_write> kv: array<f32>;          // [layer][K|V][TOKENS][WIDTH]
@group(0) @binding(7) var<uniform> span: Span;

var<workgroup> x: array<f32, WIDTH>;
var<workgroup> normed: array<f32, WIDTH>;       // later the result of attention
var<workgroup> q: array<f32, WIDTH>;
var<workgroup> h: array<f32, HIDDEN>;
var<workgroup> scores: array<f32, SCORES>;
var<workgroup> tree: array<f32, THREADS>;
var<private> thread: u32;

fn gelu(v: f32) -> f32 {
  return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), -15.0, 15.0)));
}

fn total(v: f32) -> f32 {
  tree[thread] = v;
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (thread < half) { tree[thread] += tree[thread + half]; }
  }
  workgroupBarrier();
  let sum = tree[0];
  workgroupBarrier();
  return sum;
}

fn norm() {
  var sum = 0.0;
  for (var i = thread; i < WIDTH; i += THREADS) { sum += x[i]; }
  let mean = total(sum) / f32(WIDTH);
  sum = 0.0;
  for (var i = thread; i < WIDTH; i += THREADS) { sum += (x[i] - mean) * (x[i] - mean); }
  let factor = inverseSqrt(total(sum) / f32(WIDTH) + EPS);
  for (var i = thread; i < WIDTH; i += THREADS) { normed[i] = (x[i] - mean) * factor; }
  workgroupBarrier();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) index: u32) {
  thread = index;
  for (var token = span.first; token < span.first + span.tokens; token++) {
    for (var i = thread; i < WIDTH; i += THREADS) { x[i] = rows[token * WIDTH + i]; }
    workgroupBarrier();
    for (var layer = 0u; layer < LAYERS; layer++) {
      let qkv_at = layer * 12u * WIDTH * WIDTH;
      let out_at = qkv_at + 3u * WIDTH * WIDTH;
      let up_at = qkv_at + 4u * WIDTH * WIDTH;
      let down_at = qkv_at + 8u * WIDTH * WIDTH;
      let keys = 2u * layer * TOKENS * WIDTH;
      let values = keys + TOKENS * WIDTH;
      norm();
      for (var column = thread; column < 3u * WIDTH; column += THREADS) {
        var sum = 0.0;
        for (var i = 0u; i < WIDTH; i++) { sum += normed[i] * w[qkv_at + i * 3u * WIDTH + column]; }
        if (column < WIDTH) {
          q[column] = sum;
        } else if (column < 2u * WIDTH) {
          kv[keys + token * WIDTH + column - WIDTH] = sum;
        } else {
          kv[values + token * WIDTH + column - 2u * WIDTH] = sum;
        }
      }
      storageBarrier();
      workgroupBarrier();
      if (thread < HEADS) {
        let first = thread * HEAD;
        var top = -3.4e38;
        for (var p = 0u; p <= token; p++) {
          var score = 0.0;
          for (var i = 0u; i < HEAD; i++) { score += q[first + i] * kv[keys + p * WIDTH + first + i]; }
          score *= inverseSqrt(f32(HEAD));
          scores[thread * TOKENS + p] = score;
          top = max(top, score);
        }
        var sum = 0.0;
        for (var p = 0u; p <= token; p++) {
          let share = exp(scores[thread * TOKENS + p] - top);
          scores[thread * TOKENS + p] = share;
          sum += share;
        }
        for (var i = 0u; i < HEAD; i++) {
          var value = 0.0;
          for (var p = 0u; p <= token; p++) {
            value += scores[thread * TOKENS + p] * kv[values + p * WIDTH + first + i];
          }
          normed[first + i] = value / sum;
        }
      }
      workgroupBarrier();
      for (var column = thread; column < WIDTH; column += THREADS) {
        var sum = x[column];
        for (var i = 0u; i < WIDTH; i++) { sum += normed[i] * w[out_at + i * WIDTH + column]; }
        x[column] = sum;
      }
      workgroupBarrier();
      norm();
      for (var column = thread; column < HIDDEN; column += THREADS) {
        var sum = 0.0;
        for (var i = 0u; i < WIDTH; i++) { sum += normed[i] * w[up_at + i * HIDDEN + column]; }
        h[column] = gelu(sum);
      }
      workgroupBarrier();
      for (var column = thread; column < WIDTH; column += THREADS) {
        var sum = x[column];
        for (var i = 0u; i < HIDDEN; i++) { sum += h[i] * w[down_at + i * WIDTH + column]; }
        x[column] = sum;
      }
      workgroupBarrier();
    }
    for (var i = thread; i < WIDTH; i += THREADS) { results[token * WIDTH + i] = x[i]; }
  }
}
