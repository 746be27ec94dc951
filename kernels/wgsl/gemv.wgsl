// y = epilogue(rs * (W (gamma x) - mu c1) + c2): a matrix times one token row (or several, each for itself), the norm in front
// folded in. What decoding does most; gemv_rows.wgsl is the same for several token rows that share what is read of W.
//
// A group of LANES threads takes 4 * QUADS consecutive rows of W (outputs). A thread loads 16 bytes of each at a time, and
// those of the next round before it multiplies. Nothing that can be loaded early waits: the first weights, and what the
// epilogue needs beside the sums, are on their way before the inputs are looked at. The norm's statistics (sum and sum of
// squares of x) come from the same inputs, so the norm costs no pass.
//
// How a workgroup is divided is tuned (tuning.rs). Lines that end in a comment of '#' and tags are kept only in variants
// that have all of these tags:
//   SG | NOSG      sums by subgroup operations, or by a tree in workgroup memory
//   W32 | W16 | W8 | W4       format of the weights: f32, f16, int8, int4
//   F16 | F32      format of the KV cache
//   Q1 | Q2        fours of rows per group
//   STAGED | DIRECT           inputs come through workgroup memory, where they lie as the threads need them; or from x
//   NORM | PLAIN   a norm is folded in, or not
//   ROWS | GATE | KV | BEST   the result goes to y; to y as the activated even rows times the odd ones; to y and the
//                  KV cache; or only each workgroup's largest logit is kept, with noise where tokens are drawn
//   ROPE           with KV: queries and keys are rotated; the two elements of a pair are neighbours

override CHUNKS: u32 = 12u;     // vec4s of weights in a row
override ROW: u32 = 12u;        // vec4s from one row to the next; in groups of 32 inputs, the scales stand behind the inputs
override INPUTS: u32 = 24u;     // inputs in fours, CHUNKS * PARTS
override LANES: u32 = 32u;      // threads of a group; a multiple of the subgroup's size, or a power of two
override GROUPS: u32 = 2u;      // groups in a workgroup
override FINISHERS: u32 = 2u;   // GROUPS * QUADS
override THREADS: u32 = 64u;    // LANES * GROUPS
override ROUNDS: u32 = 1u;      // CHUNKS over LANES, rounded up
override SUMS: u32 = 64u;       // SG: QUADS * subgroups in a workgroup; NOSG: QUADS * THREADS
override CENTER: f32 = 1.0;     // 1: layer norm; 0: RMS norm, whose mu is 0
override ADD: u32 = 0u;         // ROWS: 1: add to y
override ACTIVATION: u32 = 0u;  // ROWS, GATE: 1: GELU; 2: SiLU
override CAP: f32 = 0.0;        // keeps results within it, as CAP * tanh(v / CAP); 0: none

const QUADS: u32 = 1u; //#Q1
const QUADS: u32 = 2u; //#Q2

// Fours of inputs in a chunk.
const PARTS: u32 = 1u; //#W32
const PARTS: u32 = 2u; //#W16
const PARTS: u32 = 4u; //#W8
const PARTS: u32 = 8u; //#W4

struct State {
  position: u32,                // of the step's first row
  rows: u32,
  wanted: u32,                  // first token row whose logits are wanted
  made: u32,                    // tokens chosen since the loop began
  ids: array<u32>,
}

struct Shape {
  row_base: u32,                // first row of W in this window of the matrix
  rows: u32,                    // rows of W in this window
  x_stride: u32,                // vec4s from one token row of x to the next
  y_stride: u32,                // vec4s from one token row of y to the next
  from_wanted: u32,             // 1: the first token row is state.wanted (head), 0: it is 0
  token_base: u32,              // token rows in front of this window of y
  inverse_cols: f32,            // 1 / inputs
  eps: f32,
  q_rows: u32,                  // KV: rows that are queries
  head_dim: u32,                // KV
  max_positions: u32,           // KV
  blocks: u32,                  // workgroups that have rows; the grid may be larger
  block_base: u32,              // BEST: workgroups of the windows before this one
  token_limit: u32,
  rotated_rows: u32,            // ROPE: rows that are queries or keys
  rope_quads: u32,              // ROPE: a quarter of the elements of a head that are rotated
}

// [rows][ROW]: W32 4 f32 a vec4; W16 8 f16; W8 16 i8, behind them [CHUNKS / 2] f16 scales; W4 32 u4, behind them [CHUNKS]
// pairs of f16 scale and low.
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> aux: array<vec2<f32>>;         // [all rows] (c1, c2)
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;           // [token rows][x_stride], zero behind the inputs
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> gamma: array<vec4<f32>>;       // [INPUTS] //#NORM
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
var<workgroup> inputs: array<vec4<f32>, INPUTS>;        // [PARTS][CHUNKS], times gamma //#STAGED
var<workgroup> best: array<vec2<u32>, FINISHERS>; //#BEST

// A chunk of each of four rows.
struct Chunk {
  a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>,
  scales: vec4<u32>, //#W8
  lines: vec4<u32>, //#W4
}

// Chunk k of the rows that begin at the vec4s `row`.
fn fetch(row: vec4<u32>, wanted: u32) -> Chunk {
  let k = min(wanted, CHUNKS - 1u);
  var chunk: Chunk;
  chunk.a = w[row.x + k];
  chunk.b = w[row.y + k];
  chunk.c = w[row.z + k];
  chunk.d = w[row.w + k];
  let at = row + CHUNKS + k / 16u; //#W8
  let part = k / 4u % 4u; //#W8
  chunk.scales = vec4(w[at.x][part], w[at.y][part], w[at.z][part], w[at.w][part]); //#W8
  let at = row + CHUNKS + k / 4u; //#W4
  let part = k % 4u; //#W4
  chunk.lines = vec4(w[at.x][part], w[at.y][part], w[at.z][part], w[at.w][part]); //#W4
  return chunk;
}

fn f16s(q: vec2<u32>) -> vec4<f32> { return vec4(unpack2x16float(q.x), unpack2x16float(q.y)); } //#W16

fn total(v: vec4<f32>) -> f32 { return dot(v, vec4(1.0)); }

// 1152 and the four signed bytes of a word: f16s from 1024 on are whole numbers, so a byte beside their exponent is one,
// and converting f16s is several times as fast as converting integers.
fn raised_bytes(word: u32) -> vec4<f32> { //#W8
  let even = unpack2x16float((word & 0x00ff00ffu) ^ 0x64806480u); //#W8
  let odd = unpack2x16float(((word >> 8u) & 0x00ff00ffu) ^ 0x64806480u); //#W8
  return vec4(even.x, odd.x, even.y, odd.y); //#W8
} //#W8

// 1024 and the lower halves of the four bytes of a word.
fn raised_halves(word: u32) -> vec4<f32> { //#W4
  let even = unpack2x16float((word & 0x000f000fu) | 0x64006400u); //#W4
  let odd = unpack2x16float(((word >> 8u) & 0x000f000fu) | 0x64006400u); //#W4
  return vec4(even.x, odd.x, even.y, odd.y); //#W4
} //#W4

// The sums of one row's chunk, weights raised.
fn product(q: vec4<u32>, v: array<vec4<f32>, PARTS>) -> f32 {
  return dot(bitcast<vec4<f32>>(q), v[0]); //#W32
  return dot(f16s(q.xy), v[0]) + dot(f16s(q.zw), v[1]); //#W16
  let front = dot(raised_bytes(q.x), v[0]) + dot(raised_bytes(q.y), v[1]); //#W8
  return front + dot(raised_bytes(q.z), v[2]) + dot(raised_bytes(q.w), v[3]); //#W8
  var sum = dot(raised_halves(q.x), v[0]) + dot(raised_halves(q.x >> 4u), v[1]); //#W4
  sum += dot(raised_halves(q.y), v[2]) + dot(raised_halves(q.y >> 4u), v[3]); //#W4
  sum += dot(raised_halves(q.z), v[4]) + dot(raised_halves(q.z >> 4u), v[5]); //#W4
  return sum + dot(raised_halves(q.w), v[6]) + dot(raised_halves(q.w >> 4u), v[7]); //#W4
}

// Four rows' products with the inputs `v` of chunk k.
fn products(chunk: Chunk, v: array<vec4<f32>, PARTS>, k: u32) -> vec4<f32> {
  let sum = vec4(product(chunk.a, v), product(chunk.b, v), product(chunk.c, v), product(chunk.d, v));
  return sum; //#W32
  return sum; //#W16
  let all = 1152.0 * total(v[0] + v[1] + v[2] + v[3]); //#W8
  let ab = vec4(unpack2x16float(chunk.scales.x), unpack2x16float(chunk.scales.y)); //#W8
  let cd = vec4(unpack2x16float(chunk.scales.z), unpack2x16float(chunk.scales.w)); //#W8
  let scale = select(vec4(ab.xz, cd.xz), vec4(ab.yw, cd.yw), k / 2u % 2u == 1u); //#W8
  return scale * (sum - all); //#W8
  let all = total(v[0] + v[1] + v[2] + v[3] + v[4] + v[5] + v[6] + v[7]); //#W4
  let ab = vec4(unpack2x16float(chunk.lines.x), unpack2x16float(chunk.lines.y)); //#W4
  let cd = vec4(unpack2x16float(chunk.lines.z), unpack2x16float(chunk.lines.w)); //#W4
  return vec4(ab.xz, cd.xz) * (sum - 1024.0 * all) + vec4(ab.yw, cd.yw) * all; //#W4
}

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
  let first_row = (block * GROUPS + thread / LANES) * 4u * QUADS;
  // Groups behind the last row repeat it; they write nothing.
  let row = min(vec4(first_row) + vec4(0u, 1u, 2u, 3u), vec4(shape.rows - 1u)) * ROW;
  let row4 = min(vec4(first_row) + vec4(4u, 5u, 6u, 7u), vec4(shape.rows - 1u)) * ROW; //#Q2
  var next = fetch(row, lane);
  var next4 = fetch(row4, lane); //#Q2

  // One thread for every four rows finishes them.
  let out = (block * FINISHERS + thread) * 4u;
  let index = shape.row_base + out;
  let finishes = thread < FINISHERS && out < shape.rows;
  let position = state.position + workgroup.z; //#KV
  let position = state.position; //#BEST
  var c01 = vec4(0.0);
  var c23 = vec4(0.0);
  var before = vec4(0.0); //#ROWS
  var turn = vec4(1.0, 0.0, 1.0, 0.0); //#ROPE
  if (finishes) {
    let last = shape.row_base + shape.rows - 1u;
    c01 = vec4(aux[index], aux[min(index + 1u, last)]);
    c23 = vec4(aux[min(index + 2u, last)], aux[min(index + 3u, last)]);
    if (ADD == 1u) { before = y[workgroup.z * shape.y_stride + index / 4u]; } //#ROWS
    let at = index % shape.head_dim / 4u; //#ROPE
    if (index < shape.rotated_rows && at < shape.rope_quads) { //#ROPE
      turn = rotations[position * shape.rope_quads + at]; //#ROPE
    } //#ROPE
  }

  var token = shape.token_base + workgroup.z;
  if (shape.from_wanted == 1u) { token += state.wanted; }
  let origin = token * shape.x_stride;
  var stat = vec2(0.0); //#NORM
  for (var i = thread; i < INPUTS; i += THREADS) { //#STAGED
    var v = x[origin + i]; //#STAGED
    stat += vec2(total(v), dot(v, v)); //#STAGED NORM
    v *= gamma[i]; //#STAGED NORM
    inputs[i % PARTS * CHUNKS + i / PARTS] = v; //#STAGED
  } //#STAGED
  workgroupBarrier(); //#STAGED

  var acc = vec4(0.0);
  var acc4 = vec4(0.0); //#Q2
  for (var round = 0u; round < ROUNDS; round++) {
    let k = round * LANES + lane;
    let now = next;
    let now4 = next4; //#Q2
    if (round + 1u < ROUNDS) {
      next = fetch(row, k + LANES);
      next4 = fetch(row4, k + LANES); //#Q2
    }
    if (CHUNKS % LANES == 0u || k < CHUNKS) {
      var v: array<vec4<f32>, PARTS>;
      for (var part = 0u; part < PARTS; part++) {
        v[part] = inputs[part * CHUNKS + k]; //#STAGED
        v[part] = x[origin + k * PARTS + part]; //#DIRECT
        stat += vec2(total(v[part]), dot(v[part], v[part])); //#DIRECT NORM
        v[part] *= gamma[k * PARTS + part]; //#DIRECT NORM
      }
      acc += products(now, v, k);
      acc4 += products(now4, v, k); //#Q2
    }
  }

  let sum = subgroupAdd(acc); //#SG
  let sum4 = subgroupAdd(acc4); //#SG Q2
  let stat_sum = subgroupAdd(stat); //#SG NORM
  if (subgroup_lane == 0u) { //#SG
    sums[subgroup * QUADS] = sum; //#SG
    sums[subgroup * QUADS + 1u] = sum4; //#SG Q2
    stats[subgroup] = stat_sum; //#SG NORM
  } //#SG
  sums[thread] = acc; //#NOSG
  sums[THREADS + thread] = acc4; //#NOSG Q2
  stats[thread] = stat; //#NOSG NORM
  for (var half = LANES / 2u; half > 0u; half >>= 1u) { //#NOSG
    workgroupBarrier(); //#NOSG
    if (lane < half) { //#NOSG
      sums[thread] += sums[thread + half]; //#NOSG
      sums[THREADS + thread] += sums[THREADS + thread + half]; //#NOSG Q2
      stats[thread] += stats[thread + half]; //#NOSG NORM
    } //#NOSG
  } //#NOSG
  workgroupBarrier();

  if (finishes) {
    let group = thread / QUADS;
    let quad = thread % QUADS;
    let parts = LANES / subgroup_size; //#SG
    var v = vec4(0.0);
    for (var part = 0u; part < parts; part++) { v += sums[(group * parts + part) * QUADS + quad]; } //#SG
    v = sums[quad * THREADS + group * LANES]; //#NOSG
    var of_row = vec2(0.0); //#NORM
    for (var part = 0u; part < parts; part++) { of_row += stats[group * parts + part]; } //#SG NORM DIRECT
    for (var part = 0u; part < GROUPS * parts; part++) { of_row += stats[part]; } //#SG NORM STAGED
    of_row = stats[group * LANES]; //#NOSG NORM DIRECT
    for (var each = 0u; each < GROUPS; each++) { of_row += stats[each * LANES]; } //#NOSG NORM STAGED
    let mu = CENTER * of_row.x * shape.inverse_cols; //#NORM
    let rs = inverseSqrt(max(of_row.y * shape.inverse_cols - mu * mu, 0.0) + shape.eps); //#NORM
    v = rs * (v - mu * vec4(c01.xz, c23.xz)); //#NORM
    v += vec4(c01.yw, c23.yw);
    if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); }

    let left = vec4(out) + vec4(0u, 1u, 2u, 3u) < vec4(shape.rows);
    y[workgroup.z * shape.y_stride + index / 4u] = before + select(vec4(0.0), activated(v), left); //#ROWS
    v = select(vec4(0.0), v, left); //#GATE
    y[workgroup.z * 2u * shape.y_stride + index / 4u] = activated(v).xz * v.yw; //#GATE
    v = v * turn.xxzz + v.yxwz * turn.yyww * vec4(-1.0, 1.0, -1.0, 1.0); //#ROPE
    if (index < shape.q_rows) { //#KV
      y[workgroup.z * shape.y_stride + index / 4u] = v; //#KV
    } else { //#KV
      let head = (index - shape.q_rows) / shape.head_dim; //#KV
      let inner = (index - shape.q_rows) % shape.head_dim; //#KV
      let to = ((head * shape.max_positions + position) * shape.head_dim + inner) / 4u; //#KV
      let fits = clamp(v, vec4(-65504.0), vec4(65504.0)); //#KV F16
      kv[to] = vec2(pack2x16float(fits.xy), pack2x16float(fits.zw)); //#KV F16
      kv[to] = v; //#KV F32
    } //#KV
    if (draw.noisy_head == 1u) { v = noised(v, position, index); } //#BEST
    var value = bitcast<f32>(0xff7fffffu); //#BEST
    var id = 0xffffffffu; //#BEST
    for (var i = 0u; i < 4u; i++) { //#BEST
      if (left[i] && v[i] > value) { value = v[i]; id = index + i; } //#BEST
    } //#BEST
    best[thread] = vec2(bitcast<u32>(value), id); //#BEST
  } else if (thread < FINISHERS) { //#BEST
    best[thread] = vec2(0xff7fffffu, 0xffffffffu); //#BEST
  }
  workgroupBarrier(); //#BEST
  if (thread == 0u && block < shape.blocks) { //#BEST
    var winner = best[0]; //#BEST
    for (var rival = 1u; rival < FINISHERS; rival++) { //#BEST
      if (bitcast<f32>(best[rival].x) > bitcast<f32>(winner.x)) { winner = best[rival]; } //#BEST
    } //#BEST
    winners[shape.block_base + block] = winner; //#BEST
  } //#BEST
}
