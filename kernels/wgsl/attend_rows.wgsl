// a = softmax(score(q k^T)) v over the KV cache for many token rows, causal: attend.wgsl's in tiles.
//
// A workgroup takes 8 * OCTETS token rows of a query head, LANES threads for each eight. It goes over the positions that any
// of its rows sees, 4 * LANES at a time: each thread scores its eight rows with four positions, so that a key or query once read
// serves several products, then adds eight elements of the values of some positions to its eight rows. The
// running maximum is subtracted before every exponential (online softmax, Milakov and Gimelshein 2018).
//
// Tags: F16 | F32 as in gemv.wgsl; FULL | HALF: `a` holds f32, or f16.

override OCTETS: u32 = 2u;      // eights of token rows
override LANES: u32 = 32u;      // threads for eight token rows; a multiple of 8
override THREADS: u32 = 64u;    // OCTETS * LANES
override P_ROOM: u32 = 512u;    // 8 * THREADS
override H_ROOM: u32 = 128u;    // 2 * THREADS
override HEAD8: u32 = 8u;       // head_dim / 8
override TEAMS: u32 = 4u;       // LANES / HEAD8, rounded down: threads with the same 8 elements share the positions

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
@group(0) @binding(1) var<storage, read> kv: array<vec4<u32>>;          // [K|V][kv_head][max_positions][HEAD8], 8 f16 each //#F16
@group(0) @binding(1) var<storage, read> kv: array<vec4<f32>>;          // [K|V][kv_head][max_positions][2 * HEAD8] //#F32
@group(0) @binding(2) var<storage, read_write> a: array<vec4<f32>>;     // [token rows][a_stride] //#FULL
@group(0) @binding(2) var<storage, read_write> a: array<vec2<u32>>;     // [token rows][a_stride], 4 f16 each //#HALF
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;

var<workgroup> probabilities: array<vec4<f32>, P_ROOM>; // [OCTETS][4 * LANES positions][2], of 8 token rows
var<workgroup> partial: array<vec4<f32>, H_ROOM>; // [OCTETS][LANES][2], of 8 token rows
var<workgroup> folded: array<f32, THREADS>; // [OCTETS][LANES / 8][8 token rows]

// The tanh's argument is clamped because some drivers' tanh is NaN for large ones.
fn capped(scores: vec4<f32>) -> vec4<f32> {
  if (shape.cap > 0.0) { return shape.cap * tanh(clamp(scores / shape.cap, vec4(-15.0), vec4(15.0))); }
  return scores;
}

// Elements 8i to 8i+7 of the cache.
fn eight(i: u32) -> mat2x4<f32> {
  let h = kv[i]; //#F16
  return mat2x4<f32>(vec4(unpack2x16float(h.x), unpack2x16float(h.y)), vec4(unpack2x16float(h.z), unpack2x16float(h.w))); //#F16
  return mat2x4<f32>(kv[2u * i], kv[2u * i + 1u]); //#F32
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let octet = thread / LANES;
  let lane = thread % LANES;
  let first = workgroup.y * 8u * OCTETS;
  let mine = first + 8u * octet;
  let keys = (head / shape.sharing) * shape.max_positions * HEAD8;
  let values = (shape.kv_heads + head / shape.sharing) * shape.max_positions * HEAD8;
  // Positions that the first row sees begin lowest, those of the last one end highest.
  let seen = state.position + first + 1u;
  let begin = seen - min(seen, shape.window);
  let end = state.position + min(first + 8u * OCTETS, state.rows);
  let team = lane / HEAD8;
  let part = lane % HEAD8;

  // Rows behind the last repeat it; they are not stored.
  var query: array<u32, 8>;
  for (var i = 0u; i < 8u; i++) { query[i] = min(mine + i, state.rows - 1u) * shape.q_stride + head * HEAD8 * 2u; }
  var highest: array<f32, 8>;
  for (var i = 0u; i < 8u; i++) { highest[i] = -1.0e30; }
  var total: array<f32, 8>;
  var lower: array<vec4<f32>, 8>;
  var upper: array<vec4<f32>, 8>;
  for (var base = begin; base < end; base += 4u * LANES) {
    let position = vec4(base + lane) + vec4(0u, 1u, 2u, 3u) * LANES;
    let key = vec4(keys) + min(position, vec4(end - 1u)) * HEAD8;
    var score: array<vec4<f32>, 8>;
    for (var part = 0u; part < HEAD8; part++) {
      let k0 = eight(key.x + part);
      let k1 = eight(key.y + part);
      let k2 = eight(key.z + part);
      let k3 = eight(key.w + part);
      let l = transpose(mat4x4<f32>(k0[0], k1[0], k2[0], k3[0]));
      let u = transpose(mat4x4<f32>(k0[1], k1[1], k2[1], k3[1]));
      for (var i = 0u; i < 8u; i++) {
        let a = q[query[i] + 2u * part];
        let b = q[query[i] + 2u * part + 1u];
        var s = score[i];
        s = fma(vec4(a.x), l[0], s);
        s = fma(vec4(a.y), l[1], s);
        s = fma(vec4(a.z), l[2], s);
        s = fma(vec4(a.w), l[3], s);
        s = fma(vec4(b.x), u[0], s);
        s = fma(vec4(b.y), u[1], s);
        s = fma(vec4(b.z), u[2], s);
        s = fma(vec4(b.w), u[3], s);
        score[i] = s;
      }
    }

    // The tile's largest score of each row: of four positions, of eight lanes, of all lanes.
    for (var i = 0u; i < 8u; i++) {
      let count = state.position + mine + i + 1u;
      let sees = (position < vec4(count)) & (position >= vec4(count - min(count, shape.window)));
      score[i] = select(vec4(HIDDEN), max(capped(score[i] * shape.scale), vec4(-1.0e30)), sees);
    }
    partial[2u * thread] = vec4(top(score[0]), top(score[1]), top(score[2]), top(score[3]));
    partial[2u * thread + 1u] = vec4(top(score[4]), top(score[5]), top(score[6]), top(score[7]));
    workgroupBarrier();
    var high = -1.0e30;
    for (var i = 0u; i < 8u; i++) {
      high = max(high, partial[2u * (thread - thread % 8u + i) + thread % 8u / 4u][thread % 4u]);
    }
    folded[thread] = high;
    workgroupBarrier();

    var p: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
      var higher = highest[i];
      for (var l = octet * LANES; l < octet * LANES + LANES; l += 8u) { higher = max(higher, folded[l + i]); }
      let fade = exp(highest[i] - higher);
      highest[i] = higher;
      // A hidden position is below every score, and gives 0 also where the row has seen none yet.
      p[i] = select(vec4(0.0), exp(score[i] - higher), score[i] > vec4(HIDDEN));
      total[i] = total[i] * fade + dot(p[i], vec4(1.0));
      lower[i] *= fade;
      upper[i] *= fade;
    }
    for (var i = 0u; i < 4u; i++) {
      let to = 2u * (4u * octet * LANES + i * LANES + lane);
      probabilities[to] = vec4(p[0][i], p[1][i], p[2][i], p[3][i]);
      probabilities[to + 1u] = vec4(p[4][i], p[5][i], p[6][i], p[7][i]);
    }
    workgroupBarrier();
    if (team < TEAMS) {
      let tile = min(4u * LANES, end - base);
      for (var i = team; i < tile; i += TEAMS) {
        let v = eight(values + (base + i) * HEAD8 + part);
        let a = probabilities[2u * (4u * octet * LANES + i)];
        let b = probabilities[2u * (4u * octet * LANES + i) + 1u];
        lower[0] = fma(vec4(a.x), v[0], lower[0]);
        upper[0] = fma(vec4(a.x), v[1], upper[0]);
        lower[1] = fma(vec4(a.y), v[0], lower[1]);
        upper[1] = fma(vec4(a.y), v[1], upper[1]);
        lower[2] = fma(vec4(a.z), v[0], lower[2]);
        upper[2] = fma(vec4(a.z), v[1], upper[2]);
        lower[3] = fma(vec4(a.w), v[0], lower[3]);
        upper[3] = fma(vec4(a.w), v[1], upper[3]);
        lower[4] = fma(vec4(b.x), v[0], lower[4]);
        upper[4] = fma(vec4(b.x), v[1], upper[4]);
        lower[5] = fma(vec4(b.y), v[0], lower[5]);
        upper[5] = fma(vec4(b.y), v[1], upper[5]);
        lower[6] = fma(vec4(b.z), v[0], lower[6]);
        upper[6] = fma(vec4(b.z), v[1], upper[6]);
        lower[7] = fma(vec4(b.w), v[0], lower[7]);
        upper[7] = fma(vec4(b.w), v[1], upper[7]);
      }
    }
  }

  // The lanes' sums of probabilities, then the teams' sums of values, half of the elements at a time.
  partial[2u * thread] = vec4(total[0], total[1], total[2], total[3]);
  partial[2u * thread + 1u] = vec4(total[4], total[5], total[6], total[7]);
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < 8u; i++) { sum += partial[2u * (thread - thread % 8u + i) + thread % 8u / 4u][thread % 4u]; }
  folded[thread] = sum;
  for (var half = 0u; half < 2u; half++) {
    workgroupBarrier();
    for (var i = 0u; i < 8u; i++) {
      probabilities[8u * octet * LANES + i * LANES + lane] = select(lower[i], upper[i], half == 1u);
    }
    workgroupBarrier();
    for (var i = lane; i < 8u * HEAD8; i += LANES) {
      let row = i / HEAD8;
      let start = 8u * octet * LANES + row * LANES + i % HEAD8;
      var value = vec4(0.0);
      for (var t = 0u; t < TEAMS; t++) { value += probabilities[start + t * HEAD8]; }
      var sum = 0.0;
      for (var l = octet * LANES; l < octet * LANES + LANES; l += 8u) { sum += folded[l + row]; }
      value /= sum;
      let to = (mine + row) * shape.a_stride + head * HEAD8 * 2u + 2u * (i % HEAD8) + half;
      if (mine + row < state.rows) { a[to] = value; } //#FULL
      if (mine + row < state.rows) { a[to] = vec2(pack2x16float(value.xy), pack2x16float(value.zw)); } //#HALF
    }
  }
}

// The largest of four.
fn top(v: vec4<f32>) -> f32 {
  return max(max(v.x, v.y), max(v.z, v.w));
}

// The score of a position that a row does not see.
const HIDDEN: f32 = -2.0e30;
