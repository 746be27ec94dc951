// y = epilogue(W x) or epilogue(rs * W x), with the factor rs of the layer norm in front (its mean is taken out of W).
// A group of LANES threads takes four rows of W.
//
//   SG | NOSG                  sums by shuffles, or by a tree in workgroup memory
//   W32 | W16                  format of the weights: f32, f16
//   NORM | PLAIN               the factor of the norm, or none
//   STORE | GELU | ADD | KV    the result goes to y; activated; added to `rest`; or queries to y, keys and values to kv

override QUADS: u32 = 8u;       // a quarter of the inputs
override FOURS: u32 = 24u;      // a quarter of the rows
override LANES: u32 = 8u;       // a power of two, not above the subgroup's size
override X_ROW: u32 = 0u;       // 1: x is the token's row of a matrix
override REST_ROW: u32 = 0u;    // ADD: the same of rest
override Y_ROW: u32 = 0u;       // the same of y

const THREADS: u32 = 64u;
const TOKENS: u32 = 64u;
const EPS: f32 = 1e-5;

struct Token {
  position: u32,
}

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // [4 * FOURS][QUADS] //#W32
@group(0) @binding(0) var<storage, read> w: array<vec2<u32>>;           // [4 * FOURS][QUADS], 4 f16 each //#W16
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // [QUADS]
@group(0) @binding(2) var<uniform> token: Token;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;     // [FOURS]; KV: [QUADS]
@group(0) @binding(4) var<storage, read> rest: array<vec4<f32>>;        // [FOURS] //#ADD
@group(0) @binding(4) var<storage, read_write> kv: array<vec4<f32>>;    // [K|V][TOKENS][QUADS] //#KV

var<workgroup> sums: array<vec4<f32>, THREADS>; //#NOSG
var<workgroup> stats: array<vec2<f32>, THREADS>; //#NOSG NORM

// Four weights of a row.
fn four_of(at: u32) -> vec4<f32> {
  return w[at]; //#W32
  return vec4(unpack2x16float(w[at].x), unpack2x16float(w[at].y)); //#W16
}

// GELU in its tanh form; the argument is clamped because some drivers' tanh is NaN for large ones.
fn gelu(v: vec4<f32>) -> vec4<f32> {
  return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), vec4(-15.0), vec4(15.0))));
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) index: u32, //#NOSG
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
  @builtin(subgroup_size) subgroup_size: u32, //#SG
) {
  let thread = index; //#NOSG
  let thread = subgroup * subgroup_size + subgroup_lane; //#SG
  let lane = thread % LANES;
  let four = workgroup.x * (THREADS / LANES) + thread / LANES;
  // Groups behind the last row repeat it; they write nothing.
  let row = min(four, FOURS - 1u) * 4u * QUADS;
  let origin = X_ROW * token.position * QUADS;
  var sum = vec4(0.0);
  var stat = vec2(0.0); //#NORM
  for (var k = lane; k < QUADS; k += LANES) {
    let a = x[origin + k];
    let at = row + k;
    sum += vec4(
      dot(four_of(at), a),
      dot(four_of(at + QUADS), a),
      dot(four_of(at + 2u * QUADS), a),
      dot(four_of(at + 3u * QUADS), a),
    );
    stat += vec2(dot(a, vec4(1.0)), dot(a, a)); //#NORM
  }
  for (var far = 1u; far < LANES; far <<= 1u) { //#SG
    sum += subgroupShuffleXor(sum, far); //#SG
    stat += subgroupShuffleXor(stat, far); //#SG NORM
  } //#SG
  sums[thread] = sum; //#NOSG
  stats[thread] = stat; //#NOSG NORM
  for (var half = LANES / 2u; half > 0u; half >>= 1u) { //#NOSG
    workgroupBarrier(); //#NOSG
    if (lane < half) { //#NOSG
      sums[thread] += sums[thread + half]; //#NOSG
      stats[thread] += stats[thread + half]; //#NOSG NORM
    } //#NOSG
  } //#NOSG
  sum = sums[thread]; //#NOSG
  stat = stats[thread]; //#NOSG NORM
  if (lane == 0u && four < FOURS) {
    let mean = stat.x / f32(4u * QUADS); //#NORM
    sum *= inverseSqrt(max(stat.y / f32(4u * QUADS) - mean * mean, 0.0) + EPS); //#NORM
    let to = Y_ROW * token.position * FOURS + four;
    y[to] = sum; //#STORE
    y[to] = gelu(sum); //#GELU
    y[to] = rest[REST_ROW * token.position * FOURS + four] + sum; //#ADD
    let at = token.position * QUADS + four % QUADS; //#KV
    if (four < QUADS) { y[four] = sum; } //#KV
    if (four >= QUADS && four < 2u * QUADS) { kv[at] = sum; } //#KV
    if (four >= 2u * QUADS) { kv[TOKENS * QUADS + at] = sum; } //#KV
  }
}
