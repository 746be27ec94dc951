enable f16;
enable wgpu_cooperative_matrix;

// a = softmax(score(q k^T)) v over the KV cache for many token rows, causal: attend_rows.wgsl's on a GPU's matrix units.
//
// A workgroup of four subgroups takes 32 token rows of a query head. It goes over the positions that any of its rows sees,
// 64 at a time, and does so twice: for each row's largest score first, then for the values. An online softmax would have to
// scale rows of a cooperative matrix, which cannot be done; scores cost little. Keys and values are read from the cache as
// matrices of 16 positions, so up to 15 positions behind the last are read and weighed with 0: the cache has room for them.
//
// Tags: FULL | HALF: `a` holds f32, or f16; LONG: heads of more than 64 elements, 128 at most.

override THREADS: u32 = 128u;   // four subgroups
override HEAD8: u32 = 8u;       // head_dim / 8, even
override Q_ROOM: u32 = 576u;    // 32 * (2 * HEAD8 + 2)

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {                  // as in attend.wgsl
  q_stride: u32,
  a_stride: u32,
  kv_heads: u32,
  sharing: u32,
  max_positions: u32,
  scale: f32,
  cap: f32,
  window: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;           // [token rows][q_stride]
@group(0) @binding(1) var<storage, read> kv: array<vec4<f16>>;          // [K|V][kv_head][max_positions][2 * HEAD8]
@group(0) @binding(2) var<storage, read_write> a: array<vec4<f32>>;     // [token rows][a_stride] //#FULL
@group(0) @binding(2) var<storage, read_write> a: array<vec2<u32>>;     // [token rows][a_stride], 4 f16 each //#HALF
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;

var<workgroup> queries: array<vec4<f16>, Q_ROOM>;                       // [32][2 * HEAD8 + 2]
var<workgroup> scores: array<vec4<f32>, 544>;                           // [32][16 + 1]
var<workgroup> probabilities: array<vec4<f16>, 576>;                    // [32][16 + 2]
var<workgroup> partial: array<f32, THREADS>;                            // [32][THREADS / 32]

// The tanh's argument is clamped because some drivers' tanh is NaN for large ones.
fn capped(scores: vec4<f32>) -> vec4<f32> {
  if (shape.cap > 0.0) { return shape.cap * tanh(clamp(scores / shape.cap, vec4(-15.0), vec4(15.0))); }
  return scores;
}

// Multiplies 32 rows with the keys of 64 positions, 16 for a subgroup. Where fewer are left, some subgroups repeat the last
// matrix; its scores are not seen.
fn multiply(keys: u32, base: u32, end: u32, subgroup: u32) {
  let stride = 2u * HEAD8;
  let wide = stride + 2u;
  let at = (keys + base + min(16u * subgroup, (end - 1u - base) / 16u * 16u)) * stride;
  var s0: coop_mat16x16<f32, C>;
  var s1: coop_mat16x16<f32, C>;
  for (var i = 0u; i < stride; i += 4u) {
    let k = coopLoad<coop_mat16x16<f16, B>>(&kv[at + i], stride);
    let q0 = coopLoadT<coop_mat16x16<f16, A>>(&queries[i], wide);
    let q1 = coopLoadT<coop_mat16x16<f16, A>>(&queries[16u * wide + i], wide);
    s0 = coopMultiplyAdd(q0, k, s0);
    s1 = coopMultiplyAdd(q1, k, s1);
  }
  coopStoreT(s0, &scores[4u * subgroup], 17u);
  coopStoreT(s1, &scores[272u + 4u * subgroup], 17u);
}

// Four finished scores of a row, HIDDEN where it does not see the position.
fn seen(at: u32, position: u32, lowest: u32, count: u32) -> vec4<f32> {
  let near = vec4(position) + vec4(0u, 1u, 2u, 3u);
  let score = max(capped(scores[at] * shape.scale), vec4(-1.0e30));
  return select(vec4(HIDDEN), score, (near < vec4(count)) & (near >= vec4(lowest)));
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
) {
  let head = workgroup.x;
  let first = workgroup.y * 32u;
  let stride = 2u * HEAD8;
  let wide = stride + 2u;
  let keys = (head / shape.sharing) * shape.max_positions;
  let values = (shape.kv_heads + head / shape.sharing) * shape.max_positions;
  let least = state.position + first + 1u;
  let begin = least - min(least, shape.window);
  let end = state.position + min(first + 32u, state.rows);

  // Some threads share a row. Rows behind the last repeat it; they are not stored.
  let shares = THREADS / 32u;
  let row = thread / shares;
  let share = thread % shares;
  let count = least + row;
  let lowest = count - min(count, shape.window);
  let query = min(first + row, state.rows - 1u) * shape.q_stride + head * stride;
  for (var i = share; i < stride; i += shares) {
    queries[row * wide + i] = vec4<f16>(clamp(q[query + i], vec4(-65504.0), vec4(65504.0)));
  }

  var highest = HIDDEN;
  for (var base = begin; base < end; base += 64u) {
    workgroupBarrier();
    multiply(keys, base, end, subgroup);
    workgroupBarrier();
    for (var i = share; i < 16u; i += shares) {
      let s = seen(17u * row + i, base + 4u * i, lowest, count);
      highest = max(highest, max(max(s.x, s.y), max(s.z, s.w)));
    }
  }
  partial[thread] = highest;
  workgroupBarrier();
  for (var i = shares * row; i < shares * row + shares; i++) { highest = max(highest, partial[i]); }

  var total = 0.0;
  let column = values * stride + min(4u * subgroup, stride - 4u);
  let other = values * stride + min(4u * subgroup + 16u, stride - 4u); //#LONG
  var o00: coop_mat16x16<f32, C>;
  var o10: coop_mat16x16<f32, C>;
  var o01: coop_mat16x16<f32, C>; //#LONG
  var o11: coop_mat16x16<f32, C>; //#LONG
  for (var base = begin; base < end; base += 64u) {
    workgroupBarrier();
    multiply(keys, base, end, subgroup);
    workgroupBarrier();
    for (var i = share; i < 16u; i += shares) {
      let s = seen(17u * row + i, base + 4u * i, lowest, count);
      let p = select(vec4(0.0), exp(s - highest), s > vec4(HIDDEN));
      total += dot(p, vec4(1.0));
      probabilities[18u * row + i] = vec4<f16>(p);
    }
    workgroupBarrier();
    let left = min(end - base, 64u);
    for (var i = 0u; i < left; i += 16u) {
      let p0 = coopLoadT<coop_mat16x16<f16, A>>(&probabilities[i / 4u], 18u);
      let p1 = coopLoadT<coop_mat16x16<f16, A>>(&probabilities[288u + i / 4u], 18u);
      let v = coopLoadT<coop_mat16x16<f16, B>>(&kv[column + (base + i) * stride], stride);
      o00 = coopMultiplyAdd(p0, v, o00);
      o10 = coopMultiplyAdd(p1, v, o10);
      let u = coopLoadT<coop_mat16x16<f16, B>>(&kv[other + (base + i) * stride], stride); //#LONG
      o01 = coopMultiplyAdd(p0, u, o01); //#LONG
      o11 = coopMultiplyAdd(p1, u, o11); //#LONG
    }
  }
  partial[thread] = total;
  workgroupBarrier();
  total = 0.0;
  for (var i = shares * row; i < shares * row + shares; i++) { total += partial[i]; }

  coopStoreT(o00, &scores[4u * subgroup], 17u);
  coopStoreT(o10, &scores[272u + 4u * subgroup], 17u);
  workgroupBarrier();
  let to = (first + row) * shape.a_stride + head * stride;
  for (var i = share; i < min(stride, 16u); i += shares) {
    let v = scores[17u * row + i] / total;
    if (first + row < state.rows) { a[to + i] = v; } //#FULL
    if (first + row < state.rows) { a[to + i] = vec2(pack2x16float(v.xy), pack2x16float(v.zw)); } //#HALF
  }
  workgroupBarrier(); //#LONG
  coopStoreT(o01, &scores[4u * subgroup], 17u); //#LONG
  coopStoreT(o11, &scores[272u + 4u * subgroup], 17u); //#LONG
  workgroupBarrier(); //#LONG
  for (var i = share; i + 16u < stride; i += shares) { //#LONG
    let v = scores[17u * row + i] / total; //#LONG
    if (first + row < state.rows) { a[to + 16u + i] = v; } //#LONG FULL
    if (first + row < state.rows) { a[to + 16u + i] = vec2(pack2x16float(v.xy), pack2x16float(v.zw)); } //#LONG HALF
  } //#LONG
}

// The score of a position that a row does not see.
const HIDDEN: f32 = -2.0e30;
