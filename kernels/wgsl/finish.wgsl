// The end of every product of several token rows, behind gemv_rows.wgsl, matmul.wgsl and cooperative.wgsl: what it reads
// beside x and W, and what happens to its sums. Tags and shapes are those of gemv.wgsl, and
//   FULL | HALF    y holds f32, or f16

override ADD: u32 = 0u;         // ROWS: 1: add to y
override ACTIVATION: u32 = 0u;  // ROWS, GATE: 1: GELU; 2: SiLU
override CAP: f32 = 0.0;        // keeps results within it, as CAP * tanh(v / CAP); 0: none

struct State {
  position: u32,                // of the step's first row
  rows: u32,                    // token rows of the step
  wanted: u32,                  // first token row whose logits are wanted
  made: u32,
  ids: array<u32>,
}

struct Shape {
  row_base: u32,                // first row of W in this window of the matrix
  rows: u32,                    // rows of W in this window
  x_stride: u32,                // vec4s from one token row of x to the next
  y_stride: u32,                // groups of 4 elements from one token row of y to the next
  from_wanted: u32,             // 1: the first token row is state.wanted (head), 0: it is 0
  token_base: u32,              // token rows in front of this window of y
  inverse_cols: f32,            // 1 / inputs
  eps: f32,
  q_rows: u32,                  // KV: rows that are queries
  head_dim: u32,                // KV
  max_positions: u32,           // KV
  blocks: u32,
  block_base: u32,
  token_limit: u32,             // token rows for which this window of y has room
  rotated_rows: u32,            // ROPE: rows that are queries or keys
  rope_quads: u32,              // ROPE: a quarter of the elements of a head that are rotated
}

@group(0) @binding(1) var<storage, read> aux: array<vec2<f32>>;         // [all rows] (c1, c2)
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;     // [token rows][y_stride] //#ROWS FULL
@group(0) @binding(6) var<storage, read_write> y: array<vec2<u32>>;     // [token rows][y_stride], 4 f16 each //#ROWS HALF
@group(0) @binding(6) var<storage, read_write> y: array<vec2<f32>>;     // [token rows][2 * y_stride] //#GATE FULL
@group(0) @binding(6) var<storage, read_write> y: array<u32>;           // [token rows][2 * y_stride], 2 f16 each //#GATE HALF
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;     // queries, [token rows][y_stride] //#KV
@group(0) @binding(7) var<storage, read_write> kv: array<vec2<u32>>;    // [K|V][kv_head][max_positions][head_dim / 4] //#KV F16
@group(0) @binding(7) var<storage, read_write> kv: array<vec4<f32>>;    // [K|V][kv_head][max_positions][head_dim / 4] //#KV F32
@group(0) @binding(8) var<storage, read> rotations: array<vec4<f32>>;   // [max_positions][rope_quads] (cos, sin) of 2 pairs //#ROPE

// Token rows of the step in front of the first that this dispatch computes.
fn skipped() -> u32 {
  return shape.from_wanted * state.wanted + shape.token_base;
}

// Token rows that this dispatch computes.
fn tokens() -> u32 {
  return min(state.rows - skipped(), shape.token_limit);
}

// The four signed bytes of a word.
fn bytes(word: u32) -> vec4<f32> { //#W8
  return vec4<f32>((vec4(bitcast<i32>(word)) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u)); //#W8
} //#W8

// The lower halves of the four bytes of a word.
fn halves(word: u32) -> vec4<f32> { //#W4
  return vec4<f32>((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(15u)); //#W4
} //#W4

// c1 and c2 of the outputs `out` to `out + 3` of this window.
fn constants(out: u32) -> mat2x4<f32> {
  let last = shape.row_base + shape.rows - 1u;
  let c0 = aux[min(shape.row_base + out, last)];
  let c1 = aux[min(shape.row_base + out + 1u, last)];
  let c2 = aux[min(shape.row_base + out + 2u, last)];
  let c3 = aux[min(shape.row_base + out + 3u, last)];
  return mat2x4<f32>(vec4(c0.x, c1.x, c2.x, c3.x), vec4(c0.y, c1.y, c2.y, c3.y));
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

// Stores the outputs `out` to `out + 3` of a token row, some of which may be behind the last.
fn finish(token: u32, out: u32, sum: vec4<f32>) {
  var v = sum;
  if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); }
  let left = vec4(out) + vec4(0u, 1u, 2u, 3u) < vec4(shape.rows);
  let index = shape.row_base + out;
  let to = token * shape.y_stride + index / 4u; //#ROWS
  v = select(vec4(0.0), activated(v), left); //#ROWS
  if (ADD == 1u) { v += y[to]; } //#ROWS FULL
  y[to] = v; //#ROWS FULL
  v = clamp(v, vec4(-65504.0), vec4(65504.0)); //#ROWS HALF
  y[to] = vec2(pack2x16float(v.xy), pack2x16float(v.zw)); //#ROWS HALF
  v = select(vec4(0.0), v, left); //#GATE
  let gated = activated(v).xz * v.yw; //#GATE
  let to = token * 2u * shape.y_stride + index / 4u; //#GATE
  y[to] = gated; //#GATE FULL
  y[to] = pack2x16float(clamp(gated, vec2(-65504.0), vec2(65504.0))); //#GATE HALF
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
    v = clamp(v, vec4(-65504.0), vec4(65504.0)); //#KV F16
    kv[to] = vec2(pack2x16float(v.xy), pack2x16float(v.zw)); //#KV F16
    kv[to] = v; //#KV F32
  } //#KV
}
