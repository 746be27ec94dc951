// y = epilogue(rs * (W (gamma x) - mu c1) + c2): gemv.wgsl for several token rows, which share what is read of W.
//
// A group of LANES threads takes four consecutive rows of W (outputs) for TILE token rows. A thread takes 8 inputs at a time
// (16 bytes of f16, 8 of int8, 4 of int4), and loads the weights of the next round before it multiplies; sums are added over
// the group at the end. Weights are converted once for all token rows. The norm's statistics (sum and sum of squares of x)
// come from the same loop, so it costs neither a pass nor a barrier.
//
// Tags: SG | NOSG, W32 | W16 | W8 | W4, F16 | F32, NORM | PLAIN, ROWS | GATE | KV, ROPE as in gemv.wgsl; FULL. finish.wgsl
// follows.
//   T2 | T4 | T8   token rows of a tile: no more are multiplied than there most likely are. Eight go four by four, in two
//                  thirds of the time of eight at once: the weights lie in a cache the second time, and sums in registers.

override CHUNKS: u32 = 12u;     // groups of 8 inputs in a row of W
override ROW: u32 = 12u;        // elements of w in a row of W; in groups of 32 inputs, the scales stand behind the inputs
override LANES: u32 = 32u;      // threads per group of four rows; a multiple of the subgroup's size, or a power of two
override GROUPS: u32 = 2u;      // groups in a workgroup
override THREADS: u32 = 64u;    // LANES * GROUPS
override ROUNDS: u32 = 1u;      // CHUNKS over LANES, rounded up
override SUMS: u32 = 64u;       // SG: rows of a tile * subgroups in a workgroup; NOSG: rows of a tile * THREADS
override CENTER: f32 = 1.0;     // 1: layer norm; 0: RMS norm, whose mu is 0

const TILE: u32 = 2u;   // token rows that are multiplied at a time //#T2
const TILE: u32 = 4u; //#T4
const TILE: u32 = 4u; //#T8
const TURNS: u32 = 1u;  // how often //#T2
const TURNS: u32 = 1u; //#T4
const TURNS: u32 = 2u; //#T8

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // [rows][2 * CHUNKS] //#W32
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;           // [rows][CHUNKS], 8 f16 each //#W16
@group(0) @binding(0) var<storage, read> w: array<vec2<u32>>;           // [rows][CHUNKS: 8 i8; CHUNKS / 16: 4 f16 scales] //#W8
@group(0) @binding(0) var<storage, read> w: array<u32>;                 // [rows][CHUNKS: 8 u4; CHUNKS / 4: f16 scale, low] //#W4
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;           // [token rows][x_stride], zero behind the inputs
@group(0) @binding(5) var<storage, read> gamma: array<vec4<f32>>;       // [2 * CHUNKS] //#NORM

var<workgroup> sums: array<vec4<f32>, SUMS>;
var<workgroup> stats: array<vec2<f32>, SUMS>; //#NORM

// Weights of 8 inputs as they are stored.
struct Chunk {
  q: mat2x4<f32>, //#W32
  q: vec4<u32>, //#W16
  q: vec2<u32>, scale: f32, //#W8
  q: u32, line: u32, //#W4
}

// Inputs 8k to 8k+7 of the row that begins at element `row` of w.
fn fetch(row: u32, wanted: u32) -> Chunk {
  let k = min(wanted, CHUNKS - 1u);
  return Chunk(mat2x4<f32>(w[row + 2u * k], w[row + 2u * k + 1u])); //#W32
  return Chunk(w[row + k]); //#W16
  let pair = unpack2x16float(w[row + CHUNKS + k / 16u][k / 8u % 2u]); //#W8
  return Chunk(w[row + k], select(pair.x, pair.y, k / 4u % 2u == 1u)); //#W8
  return Chunk(w[row + k], w[row + CHUNKS + k / 4u]); //#W4
}

// The weights of a chunk.
fn eight(chunk: Chunk) -> mat2x4<f32> {
  let q = chunk.q;
  return q; //#W32
  return mat2x4<f32>(vec4(unpack2x16float(q.x), unpack2x16float(q.y)), vec4(unpack2x16float(q.z), unpack2x16float(q.w))); //#W16
  return chunk.scale * mat2x4<f32>(bytes(q.x), bytes(q.y)); //#W8
  let line = unpack2x16float(chunk.line); //#W4
  return mat2x4<f32>(line.x * halves(q) + line.y, line.x * halves(q >> 4u) + line.y); //#W4
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
  let count = tokens();
  var origin: array<u32, TILE>;
  var acc: array<vec4<f32>, TILE>;
  var stat: array<vec2<f32>, TILE>; //#NORM

  for (var turn = 0u; turn < TURNS; turn++) {
    // The last turn's sums have been read.
    if (turn > 0u) { workgroupBarrier(); }
    var n0 = fetch(row.x, lane);
    var n1 = fetch(row.y, lane);
    var n2 = fetch(row.z, lane);
    var n3 = fetch(row.w, lane);
    let first_token = (workgroup.z * TURNS + turn) * TILE;
    for (var t = 0u; t < TILE; t++) {
      origin[t] = (skipped() + min(first_token + t, count - 1u)) * shape.x_stride;
      acc[t] = vec4(0.0);
      stat[t] = vec2(0.0); //#NORM
    }
    for (var round = 0u; round < ROUNDS; round++) {
      let k = round * LANES + lane;
      let w0 = eight(n0);
      let w1 = eight(n1);
      let w2 = eight(n2);
      let w3 = eight(n3);
      if (round + 1u < ROUNDS) {
        n0 = fetch(row.x, k + LANES);
        n1 = fetch(row.y, k + LANES);
        n2 = fetch(row.z, k + LANES);
        n3 = fetch(row.w, k + LANES);
      }
      if (CHUNKS % LANES == 0u || k < CHUNKS) {
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
      let c = constants(out);
      let mu = CENTER * stat_sum.x * shape.inverse_cols; //#NORM
      let rs = inverseSqrt(max(stat_sum.y * shape.inverse_cols - mu * mu, 0.0) + shape.eps); //#NORM
      sum = rs * (sum - mu * c[0]); //#NORM
      let token = first_token + t;
      if (token < count && out < shape.rows) { finish(token, out, sum + c[1]); }
    }
  }
}
