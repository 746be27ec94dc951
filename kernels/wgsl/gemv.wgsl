// y = epilogue(rs * (W (gamma x) - mu c1) + c2): a matrix times every token row of a step, the norm in front folded in.
//
// A group of LANES threads takes four consecutive rows of W (outputs) for TILE token rows, so a weight is read once per
// tile. Each thread reads 8 inputs at a time (16 bytes of f16, 8 of int8, 4 of int4); sums are added over the group at the end. The norm's
// statistics (sum and sum of squares of x) come from the same loop, so it costs neither a pass nor a barrier.
//
// Lines that end in a comment of '#' and tags are kept only in variants that have all of these tags:
//   SG | NOSG      sums by subgroup operations, or by a tree in workgroup memory
//   W32 | W16 | W8 | W4       format of the weights: f32, f16, int8, int4
//   F16 | F32      format of the KV cache
//   T1 | T8        token rows per tile
//   NORM | PLAIN   a norm is folded in, or not
//   ROWS | GATE | KV | BEST   the result goes to y; to y as the activated even rows times the odd ones; to y and the
//                  KV cache; or only each workgroup's largest logit is kept, with noise where tokens are drawn
//   ROPE           with KV: queries and keys are rotated; the two elements of a pair are neighbours

override CHUNKS: u32 = 12u;     // groups of 8 inputs in a row of W
override ROW: u32 = 12u;        // elements of w in a row of W; in groups of 32 inputs, the scales stand behind the inputs
override LANES: u32 = 32u;      // threads per group of four rows; a multiple of the subgroup's size, or a power of two
override GROUPS: u32 = 2u;      // groups in a workgroup
override THREADS: u32 = 64u;    // LANES * GROUPS
override SUMS: u32 = 64u;       // SG: TILE * subgroups in a workgroup; NOSG: TILE * THREADS
override CENTER: f32 = 1.0;     // 1: layer norm; 0: RMS norm, whose mu is 0
override ADD: u32 = 0u;         // ROWS: 1: add to y
override ACTIVATION: u32 = 0u;  // ROWS, GATE: 1: GELU; 2: SiLU
override CAP: f32 = 0.0;        // keeps results within it, as CAP * tanh(v / CAP); 0: none

const TILE: u32 = 1u; //#T1
const TILE: u32 = 8u; //#T8

struct State {
  position: u32,                // of the step's first row
  rows: u32,                    // token rows of the step
  wanted: u32,                  // first token row whose logits are wanted
  made: u32,                    // tokens chosen since the loop began
  ids: array<u32>,
}

struct Shape {
  row_base: u32,                // first row of W in this window of the matrix
  rows: u32,                    // rows of W in this window
  x_stride: u32,                // vec4s from one token row of x to the next
  y_stride: u32,                // the same of y
  from_wanted: u32,             // 1: the first token row is state.wanted (head), 0: it is 0
  token_base: u32,              // token rows in front of this window of y
  inverse_cols: f32,            // 1 / inputs
  eps: f32,
  q_rows: u32,                  // KV: rows that are queries
  head_dim: u32,                // KV
  max_positions: u32,           // KV
  blocks: u32,                  // workgroups that have rows; the grid may be larger
  block_base: u32,              // BEST: workgroups of the windows before this one
  token_limit: u32,             // token rows for which this window of y has room
  rotated_rows: u32,            // ROPE: rows that are queries or keys
  rope_quads: u32,              // ROPE: a quarter of the elements of a head that are rotated
}

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // [rows][2 * CHUNKS] //#W32
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;           // [rows][CHUNKS], 8 f16 each //#W16
@group(0) @binding(0) var<storage, read> w: array<vec2<u32>>;           // [rows][CHUNKS: 8 i8; CHUNKS / 16: 4 f16 scales] //#W8
@group(0) @binding(0) var<storage, read> w: array<u32>;                 // [rows][CHUNKS: 8 u4; CHUNKS / 4: f16 scale, low] //#W4
@group(0) @binding(1) var<storage, read> aux: array<vec2<f32>>;         // [all rows] (c1, c2)
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;           // [token rows][x_stride], zero behind the inputs
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> gamma: array<vec4<f32>>;       // [2 * CHUNKS] //#NORM
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;     // [token rows][y_stride] //#ROWS
@group(0) @binding(6) var<storage, read_write> y: array<vec2<f32>>;     // [token rows][2 * y_stride] //#GATE
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;     // queries, [token rows][y_stride] //#KV
@group(0) @binding(7) var<storage, read_write> kv: array<vec2<u32>>;    // [K|V][kv_head][max_positions][head_dim / 4] //#KV F16
@group(0) @binding(7) var<storage, read_write> kv: array<vec4<f32>>;    // [K|V][kv_head][max_positions][head_dim / 4] //#KV F32
@group(0) @binding(8) var<storage, read> rotations: array<vec4<f32>>;   // [max_positions][rope_quads] (cos, sin) of 2 pairs //#ROPE
@group(0) @binding(6) var<storage, read_write> winners: array<vec2<u32>>; // [all workgroups] (bits of the logit, id) //#BEST

@group(0) @binding(9) var<uniform> draw: Draw; //#BEST

// noise.wgsl //#BEST

var<workgroup> sums: array<vec4<f32>, SUMS>;
var<workgroup> stats: array<vec2<f32>, SUMS>; //#NORM
var<workgroup> best: array<vec2<u32>, GROUPS>; //#BEST

// Inputs 8k to 8k+7 of the row that begins at element `row` of w.
fn eight(row: u32, k: u32) -> mat2x4<f32> {
  return mat2x4<f32>(w[row + 2u * k], w[row + 2u * k + 1u]); //#W32
  let q = w[row + k]; //#W16
  return mat2x4<f32>(vec4(unpack2x16float(q.x), unpack2x16float(q.y)), vec4(unpack2x16float(q.z), unpack2x16float(q.w))); //#W16
  let q = bitcast<vec2<i32>>(w[row + k]); //#W8
  let pair = unpack2x16float(w[row + CHUNKS + k / 16u][k / 8u % 2u]); //#W8
  let scale = select(pair.x, pair.y, k / 4u % 2u == 1u); //#W8
  return scale * mat2x4<f32>(bytes(q.x), bytes(q.y)); //#W8
  let q = w[row + k]; //#W4
  let line = unpack2x16float(w[row + CHUNKS + k / 4u]); //#W4
  return mat2x4<f32>(line.x * halves(q) + line.y, line.x * halves(q >> 4u) + line.y); //#W4
}

// The four signed bytes of a word.
fn bytes(word: i32) -> vec4<f32> { //#W8
  return vec4<f32>((vec4(word) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u)); //#W8
} //#W8

// The lower halves of the four bytes of a word.
fn halves(word: u32) -> vec4<f32> { //#W4
  return vec4<f32>((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(15u)); //#W4
} //#W4

// The argument is clamped because some drivers' tanh is NaN for large ones.
fn safe_tanh(v: vec4<f32>) -> vec4<f32> {
  return tanh(clamp(v, vec4(-15.0), vec4(15.0)));
}

// GELU in its tanh form, or SiLU with an exponent that stays finite.
fn activated(v: vec4<f32>) -> vec4<f32> {
  if (ACTIVATION == 1u) { return 0.5 * v * (1.0 + safe_tanh(0.7978845608028654 * (v + 0.044715 * v * v * v))); }
  if (ACTIVATION == 2u) { return v / (1.0 + exp(clamp(-v, vec4(-30.0), vec4(30.0)))); }
  return v;
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32, //#NOSG
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
  @builtin(subgroup_size) subgroup_size: u32, //#SG
) {
  let thread = subgroup * subgroup_size + subgroup_lane; //#SG
  let lane = thread % LANES;
  let block = workgroup.y * grid.x + workgroup.x;
  let first_row = (block * GROUPS + thread / LANES) * 4u;
  // Groups behind the last row repeat it; they write nothing.
  let row = min(vec4(first_row) + vec4(0u, 1u, 2u, 3u), vec4(shape.rows - 1u)) * ROW;
  let skipped = shape.from_wanted * state.wanted + shape.token_base;
  let tokens = min(state.rows - skipped, shape.token_limit);
  let first_token = workgroup.z * TILE;

  var origin: array<u32, TILE>;
  for (var t = 0u; t < TILE; t++) { origin[t] = (skipped + min(first_token + t, tokens - 1u)) * shape.x_stride; }
  var acc: array<vec4<f32>, TILE>;
  var stat: array<vec2<f32>, TILE>; //#NORM
  for (var k = lane; k < CHUNKS; k += LANES) {
    let w0 = eight(row.x, k);
    let w1 = eight(row.y, k);
    let w2 = eight(row.z, k);
    let w3 = eight(row.w, k);
    let g0 = gamma[2u * k]; //#NORM
    let g1 = gamma[2u * k + 1u]; //#NORM
    for (var t = 0u; t < TILE; t++) {
      var a = x[origin[t] + 2u * k];
      var b = x[origin[t] + 2u * k + 1u];
      stat[t] += vec2(dot(a, vec4(1.0)) + dot(b, vec4(1.0)), dot(a, a) + dot(b, b)); //#NORM
      a *= g0; //#NORM
      b *= g1; //#NORM
      acc[t] += vec4(dot(w0[0], a), dot(w1[0], a), dot(w2[0], a), dot(w3[0], a));
      acc[t] += vec4(dot(w0[1], b), dot(w1[1], b), dot(w2[1], b), dot(w3[1], b));
    }
  }

  for (var t = 0u; t < TILE; t++) { //#SG
    let sum = subgroupAdd(acc[t]); //#SG
    let stat_sum = subgroupAdd(stat[t]); //#SG NORM
    if (subgroup_lane == 0u) { //#SG
      sums[subgroup * TILE + t] = sum; //#SG
      stats[subgroup * TILE + t] = stat_sum; //#SG NORM
    } //#SG
  } //#SG
  for (var t = 0u; t < TILE; t++) { //#NOSG
    sums[t * THREADS + thread] = acc[t]; //#NOSG
    stats[t * THREADS + thread] = stat[t]; //#NOSG NORM
  } //#NOSG
  for (var half = LANES / 2u; half > 0u; half >>= 1u) { //#NOSG
    workgroupBarrier(); //#NOSG
    if (lane < half) { //#NOSG
      for (var t = 0u; t < TILE; t++) { //#NOSG
        sums[t * THREADS + thread] += sums[t * THREADS + thread + half]; //#NOSG
        stats[t * THREADS + thread] += stats[t * THREADS + thread + half]; //#NOSG NORM
      } //#NOSG
    } //#NOSG
  } //#NOSG
  workgroupBarrier();

  // One thread per group and token row finishes its four outputs.
  if (thread < GROUPS * TILE) {
    let group = thread / TILE;
    let t = thread % TILE;
    let parts = LANES / subgroup_size; //#SG
    let at = group * parts * TILE + t; //#SG
    let at = t * THREADS + group * LANES; //#NOSG
    var sum = sums[at];
    var stat_sum = stats[at]; //#NORM
    for (var part = 1u; part < parts; part++) { //#SG
      sum += sums[at + part * TILE]; //#SG
      stat_sum += stats[at + part * TILE]; //#SG NORM
    } //#SG

    let out = (block * GROUPS + group) * 4u;
    let last = shape.row_base + shape.rows - 1u;
    let index = shape.row_base + out;
    let c0 = aux[min(index, last)];
    let c1 = aux[min(index + 1u, last)];
    let c2 = aux[min(index + 2u, last)];
    let c3 = aux[min(index + 3u, last)];
    var v = sum;
    let mu = CENTER * stat_sum.x * shape.inverse_cols; //#NORM
    let rs = inverseSqrt(max(stat_sum.y * shape.inverse_cols - mu * mu, 0.0) + shape.eps); //#NORM
    v = rs * (v - mu * vec4(c0.x, c1.x, c2.x, c3.x)); //#NORM
    v += vec4(c0.y, c1.y, c2.y, c3.y);
    if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); }

    let left = vec4(out) + vec4(0u, 1u, 2u, 3u) < vec4(shape.rows);
    let token = first_token + t;
    if (token < tokens && out < shape.rows) { //#ROWS
      let to = token * shape.y_stride + index / 4u; //#ROWS
      v = select(vec4(0.0), activated(v), left); //#ROWS
      if (ADD == 1u) { v += y[to]; } //#ROWS
      y[to] = v; //#ROWS
    } //#ROWS
    if (token < tokens && out < shape.rows) { //#GATE
      v = select(vec4(0.0), v, left); //#GATE
      y[token * 2u * shape.y_stride + index / 4u] = activated(v).xz * v.yw; //#GATE
    } //#GATE
    if (token < tokens && out < shape.rows) { //#KV
      let at = index % shape.head_dim / 4u; //#ROPE
      if (index < shape.rotated_rows && at < shape.rope_quads) { //#ROPE
        let turn = rotations[(state.position + token) * shape.rope_quads + at]; //#ROPE
        v = v * turn.xxzz + v.yxwz * turn.yyww * vec4(-1.0, 1.0, -1.0, 1.0); //#ROPE
      } //#ROPE
      if (index < shape.q_rows) { //#KV
        y[token * shape.y_stride + index / 4u] = v; //#KV
      } else { //#KV
        let head = (index - shape.q_rows) / shape.head_dim; //#KV
        let inner = (index - shape.q_rows) % shape.head_dim; //#KV
        let to = ((head * shape.max_positions + state.position + token) * shape.head_dim + inner) / 4u; //#KV
        let fits = clamp(v, vec4(-65504.0), vec4(65504.0)); //#KV F16
        kv[to] = vec2(pack2x16float(fits.xy), pack2x16float(fits.zw)); //#KV F16
        kv[to] = v; //#KV F32
      } //#KV
    } //#KV
    if (draw.noisy_head == 1u) { v = noised(v, state.position, index); } //#BEST
    var value = bitcast<f32>(0xff7fffffu); //#BEST
    var id = 0xffffffffu; //#BEST
    for (var i = 0u; i < 4u; i++) { //#BEST
      if (left[i] && v[i] > value) { value = v[i]; id = index + i; } //#BEST
    } //#BEST
    best[group] = vec2(bitcast<u32>(value), id); //#BEST
  }
  workgroupBarrier(); //#BEST
  if (thread == 0u && block < shape.blocks) { //#BEST
    var winner = best[0]; //#BEST
    for (var group = 1u; group < GROUPS; group++) { //#BEST
      let rival = best[group]; //#BEST
      if (bitcast<f32>(rival.x) > bitcast<f32>(winner.x)) { winner = rival; } //#BEST
    } //#BEST
    winners[shape.block_base + block] = winner; //#BEST
  } //#BEST
}
