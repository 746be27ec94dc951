// x = scale * tokens[id] (+ positions[position]): one workgroup per token row.
//
// A token matrix larger than one binding comes in windows of rows, one dispatch each; a dispatch leaves the rows of
// other windows alone.
//
// Tags: F16 | F32, as in gemv.wgsl; LEARNED where positions have rows of their own.

override QUADS: u32 = 24u;      // groups of 4 elements in a row

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {
  row_base: u32,                // first token of this window
  rows: u32,                    // tokens in this window
  max_positions: u32,           // LEARNED: rows of the position matrix
  scale: f32,                   // of the embedding
}

@group(0) @binding(0) var<storage, read> tokens: array<vec2<u32>>;      // [rows][QUADS], 4 f16 each //#F16
@group(0) @binding(0) var<storage, read> tokens: array<vec4<f32>>;      // [rows][QUADS] //#F32
@group(0) @binding(1) var<storage, read> positions: array<vec2<u32>>;   // [max_positions][QUADS] //#F16 LEARNED
@group(0) @binding(1) var<storage, read> positions: array<vec4<f32>>;   // [max_positions][QUADS] //#F32 LEARNED
@group(0) @binding(2) var<storage, read> state: State;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;     // [token rows][QUADS]
@group(0) @binding(4) var<uniform> shape: Shape;

fn widen(h: vec2<u32>) -> vec4<f32> { //#F16
  return vec4(unpack2x16float(h.x), unpack2x16float(h.y)); //#F16
} //#F16
fn widen(v: vec4<f32>) -> vec4<f32> { //#F32
  return v; //#F32
} //#F32

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = workgroup.y;
  let id = state.ids[token];
  if (id >= shape.row_base && id < shape.row_base + shape.rows) {
    let position = min(state.position + token, shape.max_positions - 1u); //#LEARNED
    for (var i = thread; i < QUADS; i += 64u) {
      var v = shape.scale * widen(tokens[(id - shape.row_base) * QUADS + i]);
      v += widen(positions[position * QUADS + i]); //#LEARNED
      x[token * QUADS + i] = v;
    }
  }
}
