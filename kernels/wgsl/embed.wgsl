// x = scale * tokens[id] (+ positions[position]): one workgroup per token row.
//
// A token matrix larger than one binding comes in windows of rows, one dispatch each; a dispatch leaves the rows of
// other windows alone.
//
// Tags: W32 | W16 | W8, format of the token matrix; LEARNED where positions have rows of their own, in F16 | F32; TOGETHER
// where each token row has a position of its own.

override QUADS: u32 = 24u;      // groups of 4 elements in a row
override ROW: u32 = 24u;        // elements of `tokens` in a row

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

@group(0) @binding(0) var<storage, read> tokens: array<vec4<f32>>;      // [rows][QUADS] //#W32
@group(0) @binding(0) var<storage, read> tokens: array<vec2<u32>>;      // [rows][QUADS], 4 f16 each //#W16
@group(0) @binding(0) var<storage, read> tokens: array<u32>;            // [rows][QUADS: 4 i8; QUADS / 16: 2 f16 scales] //#W8
@group(0) @binding(1) var<storage, read> positions: array<vec2<u32>>;   // [max_positions][QUADS] //#F16 LEARNED
@group(0) @binding(1) var<storage, read> positions: array<vec4<f32>>;   // [max_positions][QUADS] //#F32 LEARNED
@group(0) @binding(2) var<storage, read> state: State;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;     // [token rows][QUADS]
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> places: array<vec2<u32>>;      // [token rows] (position, -) //#LEARNED TOGETHER

// Elements 4i to 4i+3 of the row of a token of this window.
fn embedding(row: u32, i: u32) -> vec4<f32> {
  return tokens[row * ROW + i]; //#W32
  let h = tokens[row * ROW + i]; //#W16
  return vec4(unpack2x16float(h.x), unpack2x16float(h.y)); //#W16
  let pair = unpack2x16float(tokens[row * ROW + QUADS + i / 16u]); //#W8
  let word = vec4(bitcast<i32>(tokens[row * ROW + i])) << vec4(24u, 16u, 8u, 0u); //#W8
  return select(pair.x, pair.y, i / 8u % 2u == 1u) * vec4<f32>(word >> vec4(24u)); //#W8
}

fn learned(position: u32, i: u32) -> vec4<f32> { //#LEARNED
  let h = positions[position * QUADS + i]; //#LEARNED F16
  return vec4(unpack2x16float(h.x), unpack2x16float(h.y)); //#LEARNED F16
  return positions[position * QUADS + i]; //#LEARNED F32
} //#LEARNED

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let token = workgroup.y;
  let id = state.ids[token];
  if (id >= shape.row_base && id < shape.row_base + shape.rows) {
    var position = state.position + token; //#LEARNED
    position = places[token].x; //#LEARNED TOGETHER
    position = min(position, shape.max_positions - 1u); //#LEARNED
    for (var i = thread; i < QUADS; i += 64u) {
      var v = shape.scale * embedding(id - shape.row_base, i);
      v += learned(position, i); //#LEARNED
      x[token * QUADS + i] = v;
    }
  }
}
