// a = softmax(score(q k^T)) v over the KV cache: one workgroup per query head, token row and split, causal.
//
// A score is scaled and, with a cap, kept within it: cap * tanh(s / cap). With a window, a token sees only that many
// positions, its own included.
//
// One split writes `a`. Several (for a single row over a long context, which would otherwise keep few multiprocessors
// busy) share the positions and leave unnormalised sums in `parts`; combine.wgsl adds them up.
//
// Positions are taken THREADS at a time. For the scores each thread takes one position; for the values, HEAD8 threads
// take the 8-element parts of a position and TEAMS such teams share the positions, so both read whole cache lines. The
// running maximum is subtracted before every exponential (online softmax, Milakov and Gimelshein 2018).
//
// Tags: SG | NOSG, F16 | F32, as in gemv.wgsl; TOGETHER where each token row has a position and a KV cache of its own.

override THREADS: u32 = 128u;   // a power of two, at least HEAD8
override HEAD8: u32 = 8u;       // head_dim / 8
override TEAMS: u32 = 16u;      // THREADS / HEAD8, rounded down

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {
  q_stride: u32,                // vec4s from one token row of q to the next
  a_stride: u32,                // the same of a
  kv_heads: u32,
  sharing: u32,                 // query heads that share a KV head
  max_positions: u32,
  scale: f32,                   // of q k^T
  cap: f32,                     // of the scaled scores; 0: none
  window: u32,                  // positions that a token sees at most
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;           // [token rows][q_stride]
@group(0) @binding(1) var<storage, read> kv: array<vec4<u32>>;          // [K|V][kv_head][max_positions][HEAD8], 8 f16 each //#F16
@group(0) @binding(1) var<storage, read> kv: array<vec4<f32>>;          // [K|V][kv_head][max_positions][2 * HEAD8] //#F32
@group(0) @binding(2) var<storage, read_write> a: array<vec4<f32>>;     // [token rows][a_stride]
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read_write> parts: array<vec4<f32>>; // [head][split] 2 * HEAD8 vec4s, (maximum, sum, -, -)
@group(0) @binding(6) var<storage, read> places: array<vec2<u32>>;      // [token rows] (position, eights in front of the cache) //#TOGETHER

var<workgroup> scratch: array<f32, THREADS>;
var<workgroup> probability: array<f32, THREADS>;
var<workgroup> partial: array<mat2x4<f32>, THREADS>;

// The tanh's argument is clamped because some drivers' tanh is NaN for large ones.
fn capped(score: f32) -> f32 {
  if (shape.cap > 0.0) { return shape.cap * tanh(clamp(score / shape.cap, -15.0, 15.0)); }
  return score;
}

// Elements 8i to 8i+7 of the cache.
fn eight(i: u32) -> mat2x4<f32> {
  let h = kv[i]; //#F16
  return mat2x4<f32>(vec4(unpack2x16float(h.x), unpack2x16float(h.y)), vec4(unpack2x16float(h.z), unpack2x16float(h.w))); //#F16
  return mat2x4<f32>(kv[2u * i], kv[2u * i + 1u]); //#F32
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(num_subgroups) subgroups: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
) {
  let head = workgroup.x;
  let token = workgroup.y;
  var count = state.position + token + 1u;
  count = places[token].x + 1u; //#TOGETHER
  let seen = min(count, shape.window);
  let query = token * shape.q_stride + head * HEAD8 * 2u;
  var keys = (head / shape.sharing) * shape.max_positions * HEAD8;
  keys += places[token].y; //#TOGETHER
  let values = keys + shape.kv_heads * shape.max_positions * HEAD8;
  // Whole tiles for every split; the last ones may have none.
  let share = (seen + THREADS * grid.z - 1u) / (THREADS * grid.z) * THREADS;
  let begin = count - seen + workgroup.z * share;
  let end = min(begin + share, count);
  let team = thread / HEAD8;
  let part = thread % HEAD8;

  var highest = -1.0e30;
  var total = 0.0;
  var acc = mat2x4<f32>();
  for (var base = begin; base < end; base += THREADS) {
    let position = base + thread;
    var score = -1.0e30;
    if (position < end) {
      var sum = 0.0;
      for (var i = 0u; i < HEAD8; i++) {
        let k = eight(keys + position * HEAD8 + i);
        sum += dot(k[0], q[query + 2u * i]) + dot(k[1], q[query + 2u * i + 1u]);
      }
      score = max(capped(sum * shape.scale), -1.0e30);
    }

    let subgroup_high = subgroupMax(score); //#SG
    if (subgroup_lane == 0u) { scratch[subgroup] = subgroup_high; } //#SG
    workgroupBarrier(); //#SG
    var tile_high = scratch[0]; //#SG
    for (var i = 1u; i < subgroups; i++) { tile_high = max(tile_high, scratch[i]); } //#SG
    scratch[thread] = score; //#NOSG
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#NOSG
      workgroupBarrier(); //#NOSG
      if (thread < half) { scratch[thread] = max(scratch[thread], scratch[thread + half]); } //#NOSG
    } //#NOSG
    workgroupBarrier(); //#NOSG
    let tile_high = scratch[0]; //#NOSG

    let higher = max(highest, tile_high);
    let fade = exp(highest - higher);
    let p = select(0.0, exp(score - higher), position < end);
    highest = higher;
    total = total * fade + p;
    acc *= fade;
    probability[thread] = p;
    workgroupBarrier();
    if (team < TEAMS) {
      let tile = min(THREADS, end - base);
      for (var i = team; i < tile; i += TEAMS) {
        acc += eight(values + (base + i) * HEAD8 + part) * probability[i];
      }
    }
    workgroupBarrier();
  }

  let subgroup_total = subgroupAdd(total); //#SG
  if (subgroup_lane == 0u) { scratch[subgroup] = subgroup_total; } //#SG
  scratch[thread] = total; //#NOSG
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#NOSG
    workgroupBarrier(); //#NOSG
    if (thread < half) { scratch[thread] += scratch[thread + half]; } //#NOSG
  } //#NOSG
  partial[thread] = acc;
  workgroupBarrier();
  if (thread < HEAD8) {
    var sum = scratch[0];
    for (var i = 1u; i < subgroups; i++) { sum += scratch[i]; } //#SG
    var value = partial[thread];
    for (var i = 1u; i < TEAMS; i++) { value += partial[i * HEAD8 + thread]; }
    if (grid.z == 1u) {
      let to = token * shape.a_stride + head * HEAD8 * 2u + 2u * thread;
      a[to] = value[0] / sum;
      a[to + 1u] = value[1] / sum;
    } else {
      let to = (head * grid.z + workgroup.z) * (2u * HEAD8 + 1u);
      parts[to + 2u * thread] = value[0];
      parts[to + 2u * thread + 1u] = value[1];
      if (thread == 0u) { parts[to + 2u * HEAD8] = vec4(highest, sum, 0.0, 0.0); }
    }
  }
}
