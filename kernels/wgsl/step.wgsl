// The token loop's turn, in one workgroup: id = argmax of the logits (the lowest id among equals), position + 1, and
// x = scale * tokens[id] (+ positions[position]) for the next token.
//
// The head leaves the largest logit of each of its workgroups in `winners`. The token matrix's first window is gathered
// here; where it has more windows, embed.wgsl follows for each of them.
//
// Tags: SG | NOSG, as in gemv.wgsl; W32 | W16 | W8, LEARNED, F16 | F32 as in embed.wgsl.

override THREADS: u32 = 256u;   // a power of two
override QUADS: u32 = 24u;      // groups of 4 elements in a row
override ROW: u32 = 24u;        // elements of `tokens` in a row
override KEPT: u32 = 16u;       // entries of `chosen`

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {
  winners: u32,                 // entries of `winners`
  rows: u32,                    // tokens in the first window
  max_positions: u32,           // positions of the model
  vocab: u32,
  scale: f32,                   // of the embedding
  pad0: u32,
  pad1: u32,
  pad2: u32,
}

@group(0) @binding(0) var<storage, read> tokens: array<vec4<f32>>;      // [rows][QUADS] //#W32
@group(0) @binding(0) var<storage, read> tokens: array<vec2<u32>>;      // [rows][QUADS], 4 f16 each //#W16
@group(0) @binding(0) var<storage, read> tokens: array<u32>;            // [rows][QUADS: 4 i8; QUADS / 16: 2 f16 scales] //#W8
@group(0) @binding(1) var<storage, read> positions: array<vec2<u32>>;   // [max_positions][QUADS] //#F16 LEARNED
@group(0) @binding(1) var<storage, read> positions: array<vec4<f32>>;   // [max_positions][QUADS] //#F32 LEARNED
@group(0) @binding(2) var<storage, read> winners: array<vec2<u32>>;     // (bits of the logit, id)
@group(0) @binding(3) var<storage, read_write> state: State;
@group(0) @binding(4) var<storage, read_write> chosen: array<u32>;      // [KEPT], a ring
@group(0) @binding(5) var<storage, read_write> x: array<vec4<f32>>;     // [1][QUADS]
@group(0) @binding(6) var<uniform> shape: Shape;

var<workgroup> values: array<f32, THREADS>;
var<workgroup> ids: array<u32, THREADS>;

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

@compute @workgroup_size(THREADS)
fn main(
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(num_subgroups) subgroups: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
) {
  let next = min(state.position + 1u, shape.max_positions - 1u);
  var value = bitcast<f32>(0xff7fffffu);
  var id = 0xffffffffu;
  for (var i = thread; i < shape.winners; i += THREADS) {
    let rival = winners[i];
    let rival_value = bitcast<f32>(rival.x);
    if (rival_value > value || (rival_value == value && rival.y < id)) {
      value = rival_value;
      id = rival.y;
    }
  }

  let high = subgroupMax(value); //#SG
  let low = subgroupMin(select(0xffffffffu, id, value == high)); //#SG
  if (subgroup_lane == 0u) { //#SG
    values[subgroup] = high; //#SG
    ids[subgroup] = low; //#SG
  } //#SG
  workgroupBarrier(); //#SG
  value = values[0]; //#SG
  id = ids[0]; //#SG
  for (var i = 1u; i < subgroups; i++) { //#SG
    if (values[i] > value || (values[i] == value && ids[i] < id)) { //#SG
      value = values[i]; //#SG
      id = ids[i]; //#SG
    } //#SG
  } //#SG
  values[thread] = value; //#NOSG
  ids[thread] = id; //#NOSG
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) { //#NOSG
    workgroupBarrier(); //#NOSG
    if (thread < half) { //#NOSG
      let rival_value = values[thread + half]; //#NOSG
      let rival_id = ids[thread + half]; //#NOSG
      if (rival_value > values[thread] || (rival_value == values[thread] && rival_id < ids[thread])) { //#NOSG
        values[thread] = rival_value; //#NOSG
        ids[thread] = rival_id; //#NOSG
      } //#NOSG
    } //#NOSG
  } //#NOSG
  workgroupBarrier(); //#NOSG
  id = ids[0]; //#NOSG

  // Every thread has read the position before one of them writes it.
  storageBarrier();

  // No logit was a number: any id will do, but it must be one of the vocabulary.
  if (id >= shape.vocab) { id = 0u; }
  if (id < shape.rows) {
    for (var i = thread; i < QUADS; i += THREADS) {
      var v = shape.scale * embedding(id, i);
      v += learned(next, i); //#LEARNED
      x[i] = v;
    }
  }
  if (thread == 0u) {
    state.ids[0] = id;
    chosen[state.made % KEPT] = id;
    state.made += 1u;
    state.position = next;
  }
}
