// The primitive operations of a block, each a kernel. Products are gemv.wgsl's.
//
//   ROW        y = a's row of the token
//   RESULT     y's row of the token = a
//   EMBED      y = the chosen id's row of a, f16, and the token's of b
//   NORM       y = layer norm of a; GAIN: times the first row of b, plus the second
//   APPEND     keys and values of a (q k v) go to the KV cache y
//   SCORES     y = a's queries times the keys of b
//   SOFTMAX    y = softmax of each head of a
//   VALUES     y = a's shares of the values of b
//   ADD        y += a
//   GELU       y = gelu(a)

override QUADS: u32 = 8u;       // of y; of the width for APPEND and SCORES
override HEADS: u32 = 2u;
override HEAD_QUADS: u32 = 4u;
override SCALE: f32 = 1.0;      // SCORES

const THREADS: u32 = 64u;
const TOKENS: u32 = 64u;
const EPS: f32 = 1e-5;

struct Token {
  position: u32,
}

@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>; //#FOURS
@group(0) @binding(0) var<storage, read> a: array<f32>; //#ONES
@group(0) @binding(0) var<storage, read> a: array<vec2<u32>>;           // [ids][QUADS], 4 f16 each //#HALVES
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;           // [K|V][TOKENS][QUADS] //#CACHE
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;           // [rows][QUADS] //#ROWS
@group(0) @binding(2) var<uniform> token: Token;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>; //#TO4
@group(0) @binding(3) var<storage, read_write> y: array<f32>;           // [HEADS][TOKENS] //#TO1
@group(0) @binding(4) var<storage, read> ids: array<u32>;               // [TOKENS + 1] //#EMBED

var<workgroup> sums: array<vec2<f32>, THREADS>; //#NORM
var<workgroup> sums: array<f32, THREADS>; //#SOFTMAX

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = workgroup.x * THREADS + thread;
  if (i < QUADS) { y[i] = a[token.position * QUADS + i]; } //#ROW
  if (i < QUADS) { //#EMBED
    let q = a[ids[token.position] * QUADS + i]; //#EMBED
    y[i] = vec4(unpack2x16float(q.x), unpack2x16float(q.y)) + b[token.position * QUADS + i]; //#EMBED
  } //#EMBED
  if (i < QUADS) { y[token.position * QUADS + i] = a[i]; } //#RESULT
  if (i < QUADS) { y[i] += a[i]; } //#ADD
  if (i < QUADS) { //#GELU
    let v = a[i]; //#GELU
    y[i] = 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), vec4(-15.0), vec4(15.0)))); //#GELU
  } //#GELU
  if (i < QUADS) { //#APPEND
    y[token.position * QUADS + i] = a[QUADS + i]; //#APPEND
    y[(TOKENS + token.position) * QUADS + i] = a[2u * QUADS + i]; //#APPEND
  } //#APPEND
  if (i < HEADS * TOKENS && i % TOKENS <= token.position) { //#SCORES
    let first = i / TOKENS * HEAD_QUADS; //#SCORES
    var score = 0.0; //#SCORES
    for (var k = 0u; k < HEAD_QUADS; k++) { score += dot(a[first + k], b[i % TOKENS * QUADS + first + k]); } //#SCORES
    y[i] = SCALE * score; //#SCORES
  } //#SCORES
  if (i < QUADS) { //#VALUES
    let head = i / HEAD_QUADS * TOKENS; //#VALUES
    var sum = vec4(0.0); //#VALUES
    for (var p = 0u; p <= token.position; p++) { sum += a[head + p] * b[(TOKENS + p) * QUADS + i]; } //#VALUES
    y[i] = sum; //#VALUES
  } //#VALUES
  var score = -3.4e38; //#SOFTMAX
  if (thread <= token.position) { score = a[i]; } //#SOFTMAX
  sums[thread] = score; //#SOFTMAX
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#SOFTMAX
    workgroupBarrier(); //#SOFTMAX
    if (thread < half) { sums[thread] = max(sums[thread], sums[thread + half]); } //#SOFTMAX
  } //#SOFTMAX
  workgroupBarrier(); //#SOFTMAX
  let share = exp(score - sums[0]); //#SOFTMAX
  workgroupBarrier(); //#SOFTMAX
  sums[thread] = select(0.0, share, thread <= token.position); //#SOFTMAX
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#SOFTMAX
    workgroupBarrier(); //#SOFTMAX
    if (thread < half) { sums[thread] += sums[thread + half]; } //#SOFTMAX
  } //#SOFTMAX
  workgroupBarrier(); //#SOFTMAX
  y[i] = share / sums[0]; //#SOFTMAX
  var part = vec2(0.0); //#NORM
  for (var k = thread; k < QUADS; k += THREADS) { part += vec2(dot(a[k], vec4(1.0)), dot(a[k], a[k])); } //#NORM
  sums[thread] = part; //#NORM
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#NORM
    workgroupBarrier(); //#NORM
    if (thread < half) { sums[thread] += sums[thread + half]; } //#NORM
  } //#NORM
  workgroupBarrier(); //#NORM
  let mean = sums[0].x / f32(4u * QUADS); //#NORM
  let factor = inverseSqrt(max(sums[0].y / f32(4u * QUADS) - mean * mean, 0.0) + EPS); //#NORM
  for (var k = thread; k < QUADS; k += THREADS) { y[k] = (a[k] - mean) * factor; } //#NORM
  for (var k = thread; k < QUADS; k += THREADS) { y[k] = y[k] * b[k] + b[QUADS + k]; } //#GAIN
}
