// Queries to q, keys and values to the KV cache, where the projection's own epilogue cannot do that: in models that norm
// every query and key head, and for token rows of several requests. One workgroup per head and token row. Queries and keys
// are normed, multiplied with gamma and rotated; values are only stored.
//
// Every thread sums the whole head: a head is short, its elements are in the cache, and no thread waits for another.
//
// Tags: F16 | F32, as in gemv.wgsl; NORM where heads are normed; ROPE where they are rotated; TOGETHER where each token row
// has a position and a KV cache of its own.

override HEAD4: u32 = 16u;      // head_dim / 4
override CENTER: f32 = 0.0;     // 1: layer norm; 0: RMS norm, whose mu is 0

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {
  stride: u32,                  // vec4s from one token row of qkv to the next
  q_stride: u32,                // the same of q
  heads: u32,                   // query heads
  kv_heads: u32,
  max_positions: u32,
  rope_quads: u32,              // ROPE: a quarter of the elements of a head that are rotated
  eps: f32,
  pad0: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;         // [token rows][stride], heads of q, k, v
@group(0) @binding(1) var<storage, read> q_gamma: array<vec4<f32>>;     // [HEAD4] //#NORM
@group(0) @binding(2) var<storage, read> k_gamma: array<vec4<f32>>;     // [HEAD4] //#NORM
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> rotations: array<vec4<f32>>;   // [max_positions][rope_quads] (cos, sin) of 2 pairs //#ROPE
@group(0) @binding(6) var<storage, read_write> q: array<vec4<f32>>;     // [token rows][q_stride]
@group(0) @binding(7) var<storage, read_write> kv: array<vec2<u32>>;    // [K|V][kv_head][max_positions][HEAD4], 4 f16 each //#F16
@group(0) @binding(7) var<storage, read_write> kv: array<vec4<f32>>;    // [K|V][kv_head][max_positions][HEAD4] //#F32
@group(0) @binding(9) var<storage, read> places: array<vec2<u32>>;      // [token rows] (position, eights in front of the cache) //#TOGETHER

@compute @workgroup_size(32)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = workgroup.x;
  let token = workgroup.y;
  var position = state.position + token;
  position = places[token].x; //#TOGETHER
  let first = token * shape.stride + head * HEAD4;
  let is_query = head < shape.heads;
  let is_value = head >= shape.heads + shape.kv_heads;

  var stat = vec2(0.0); //#NORM
  for (var i = 0u; i < HEAD4; i++) { //#NORM
    let v = qkv[first + i]; //#NORM
    stat += vec2(dot(v, vec4(1.0)), dot(v, v)); //#NORM
  } //#NORM
  stat /= 4.0 * f32(HEAD4); //#NORM
  let mu = CENTER * stat.x; //#NORM
  let rs = inverseSqrt(max(stat.y - mu * mu, 0.0) + shape.eps); //#NORM

  for (var i = thread; i < HEAD4; i += 32u) {
    var v = qkv[first + i];
    if (!is_value) {
      v = (v - mu) * rs * select(k_gamma[i], q_gamma[i], is_query); //#NORM
      if (i < shape.rope_quads) { //#ROPE
        let turn = rotations[position * shape.rope_quads + i]; //#ROPE
        v = v * turn.xxzz + v.yxwz * turn.yyww * vec4(-1.0, 1.0, -1.0, 1.0); //#ROPE
      } //#ROPE
    }
    if (is_query) {
      q[token * shape.q_stride + head * HEAD4 + i] = v;
    } else {
      var to = ((head - shape.heads) * shape.max_positions + position) * HEAD4 + i;
      to += 2u * places[token].y; //#TOGETHER
      let fits = clamp(v, vec4(-65504.0), vec4(65504.0)); //#F16
      kv[to] = vec2(pack2x16float(fits.xy), pack2x16float(fits.zw)); //#F16
      kv[to] = v; //#F32
    }
  }
}
