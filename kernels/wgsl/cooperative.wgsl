enable f16;
enable wgpu_cooperative_matrix;

// y = epilogue(W x + c2) for many token rows by cooperative matrices: matmul.wgsl's product on a GPU's matrix units, which
// multiply tiles of 16 x 16 of f16 and add in f32. x comes normed and in f16 (norm.wgsl, or the op in front of it).
//
// A workgroup makes a tile of TOKENS token rows and OUTPUTS rows of W, a subgroup of it 32 token rows and 32
// outputs. The inputs come DEPTH * 8 at a time: fetched two rounds before they are multiplied, for memory is far and few
// workgroups fit a multiprocessor, and stored in one of two halves of workgroup memory, so that one barrier is enough.
//
// Tags: W16 | W8 | W4, F16 | F32, ROWS | GATE | KV, ROPE as in gemv.wgsl. finish.wgsl follows.

override CHUNKS: u32 = 12u;     // groups of 8 inputs in a row of W
override ROW: u32 = 12u;        // elements of w in a row of W
override TOKENS: u32 = 64u;     // token rows of a tile
override OUTPUTS: u32 = 64u;    // rows of W of a tile
override DEPTH: u32 = 4u;       // groups of 8 inputs at a time: 2, 4 or 8; divides CHUNKS
override THREADS: u32 = 128u;   // subgroups, TOKENS / 32 * OUTPUTS / 32, times their size
override X_PARTS: u32 = 2u;     // TOKENS * DEPTH / THREADS, 4 at most
override W_PARTS: u32 = 2u;     // OUTPUTS * DEPTH / THREADS, 4 at most
override X_ROOM: u32 = 1280u;   // 2 * TOKENS * (2 * DEPTH + 2)
override W_ROOM: u32 = 1280u;   // 2 * OUTPUTS * (2 * DEPTH + 2)
override S_ROOM: u32 = 256u;    // 64 * subgroups

@group(0) @binding(0) var<storage, read> w: array<vec4<f16>>;           // [rows][2 * CHUNKS] //#W16
@group(0) @binding(0) var<storage, read> w: array<u32>;                 // [rows][2 * CHUNKS: 4 i8; CHUNKS / 8: 2 f16 scales] //#W8
@group(0) @binding(0) var<storage, read> w: array<u32>;                 // [rows][CHUNKS: 8 u4; CHUNKS / 4: f16 scale, low] //#W4
@group(0) @binding(2) var<storage, read> x: array<vec4<f16>>;           // [token rows][x_stride], zero behind the inputs

// Two vec4s behind each row keep rows of a column in different banks.
var<workgroup> xs: array<vec4<f16>, X_ROOM>; // [2][TOKENS][2 * DEPTH + 2]
var<workgroup> ws: array<vec4<f16>, W_ROOM>; // [2][OUTPUTS][2 * DEPTH + 2]
var<workgroup> sums: array<vec4<f32>, S_ROOM>; // [subgroups][16 token rows][16 / 4 outputs]

// Weights 8k to 8k + 7 of row `row` of this window, rounded to f16.
fn weights(row: u32, k: u32) -> mat2x4<f16> {
  let at = 2u * (row * (ROW / 2u) + k); //#W16
  return mat2x4<f16>(w[at], w[at + 1u]); //#W16
  let at = row * ROW + 2u * k; //#W8
  let pair = unpack2x16float(w[row * ROW + 2u * CHUNKS + k / 8u]); //#W8
  let scale = select(pair.x, pair.y, k / 4u % 2u == 1u); //#W8
  return mat2x4<f16>(vec4<f16>(scale * bytes(w[at])), vec4<f16>(scale * bytes(w[at + 1u]))); //#W8
  let q = w[row * ROW + k]; //#W4
  let line = unpack2x16float(w[row * ROW + CHUNKS + k / 4u]); //#W4
  return mat2x4<f16>(vec4<f16>(line.x * halves(q) + line.y), vec4<f16>(line.x * halves(q >> 4u) + line.y)); //#W4
}

// Inputs 8k to 8k + 7 of a token row.
fn inputs(row: u32, k: u32) -> mat2x4<f16> {
  let at = 2u * (row * (shape.x_stride / 2u) + k);
  return mat2x4<f16>(x[at], x[at + 1u]);
}

// Stores eight inputs of a row.
fn keep_x(row: u32, column: u32, v: mat2x4<f16>) {
  let at = 2u * (row * (DEPTH + 1u) + column);
  xs[at] = v[0];
  xs[at + 1u] = v[1];
}

// The same of a row of W.
fn keep_w(row: u32, column: u32, v: mat2x4<f16>) {
  let at = 2u * (row * (DEPTH + 1u) + column);
  ws[at] = v[0];
  ws[at + 1u] = v[1];
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) lanes: u32,
) {
  let first_out = (workgroup.y * grid.x + workgroup.x) * OUTPUTS;
  let first_token = workgroup.z * TOKENS;
  let last_token = tokens() - 1u;
  let stride = 2u * DEPTH + 2u;

  // This thread's parts: eight inputs of several rows. Rows behind the last repeat it; they are not stored.
  let column = thread % DEPTH;
  let near = thread / DEPTH;
  let apart = THREADS / DEPTH;
  var x_row: array<u32, 4>;
  var w_row: array<u32, 4>;
  for (var i = 0u; i < X_PARTS; i++) { x_row[i] = skipped() + min(first_token + near + i * apart, last_token); }
  for (var i = 0u; i < W_PARTS; i++) { w_row[i] = min(first_out + near + i * apart, shape.rows - 1u); }
  // Those of an even and of an odd round.
  var x_even: array<mat2x4<f16>, 4>;
  var w_even: array<mat2x4<f16>, 4>;
  var x_odd: array<mat2x4<f16>, 4>;
  var w_odd: array<mat2x4<f16>, 4>;

  let across = OUTPUTS / 32u;
  let my_out = subgroup % across * 32u;
  let my_token = subgroup / across * 32u;
  var c00: coop_mat16x16<f32, C>;
  var c01: coop_mat16x16<f32, C>;
  var c10: coop_mat16x16<f32, C>;
  var c11: coop_mat16x16<f32, C>;

  for (var i = 0u; i < X_PARTS; i++) { x_even[i] = inputs(x_row[i], column); }
  for (var i = 0u; i < W_PARTS; i++) { w_even[i] = weights(w_row[i], column); }
  if (DEPTH < CHUNKS) {
    for (var i = 0u; i < X_PARTS; i++) { x_odd[i] = inputs(x_row[i], DEPTH + column); }
    for (var i = 0u; i < W_PARTS; i++) { w_odd[i] = weights(w_row[i], DEPTH + column); }
  }
  for (var base = 0u; base < CHUNKS; base += DEPTH) {
    let half = base / DEPTH % 2u;
    let next = base + 2u * DEPTH;
    if (half == 0u) {
      for (var i = 0u; i < X_PARTS; i++) { keep_x(near + i * apart, column, x_even[i]); }
      for (var i = 0u; i < W_PARTS; i++) { keep_w(near + i * apart, column, w_even[i]); }
    } else {
      for (var i = 0u; i < X_PARTS; i++) { keep_x(TOKENS + near + i * apart, column, x_odd[i]); }
      for (var i = 0u; i < W_PARTS; i++) { keep_w(OUTPUTS + near + i * apart, column, w_odd[i]); }
    }
    workgroupBarrier();
    if (next < CHUNKS && half == 0u) {
      for (var i = 0u; i < X_PARTS; i++) { x_even[i] = inputs(x_row[i], next + column); }
      for (var i = 0u; i < W_PARTS; i++) { w_even[i] = weights(w_row[i], next + column); }
    }
    if (next < CHUNKS && half == 1u) {
      for (var i = 0u; i < X_PARTS; i++) { x_odd[i] = inputs(x_row[i], next + column); }
      for (var i = 0u; i < W_PARTS; i++) { w_odd[i] = weights(w_row[i], next + column); }
    }
    for (var k = 0u; k < 2u * DEPTH; k += 4u) {
      let a = (half * TOKENS + my_token) * stride + k;
      let b = (half * OUTPUTS + my_out) * stride + k;
      let b0 = coopLoad<coop_mat16x16<f16, B>>(&ws[b], stride);
      let b1 = coopLoad<coop_mat16x16<f16, B>>(&ws[b + 16u * stride], stride);
      let a0 = coopLoadT<coop_mat16x16<f16, A>>(&xs[a], stride);
      c00 = coopMultiplyAdd(a0, b0, c00);
      c01 = coopMultiplyAdd(a0, b1, c01);
      let a1 = coopLoadT<coop_mat16x16<f16, A>>(&xs[a + 16u * stride], stride);
      c10 = coopMultiplyAdd(a1, b0, c10);
      c11 = coopMultiplyAdd(a1, b1, c11);
    }
  }

  // A thread cannot know which elements of a cooperative matrix it holds, so each goes through workgroup memory.
  let mine = 64u * subgroup;
  for (var block = 0u; block < 4u; block++) {
    workgroupBarrier();
    if (block == 0u) { coopStoreT(c00, &sums[mine], 4u); }
    if (block == 1u) { coopStoreT(c01, &sums[mine], 4u); }
    if (block == 2u) { coopStoreT(c10, &sums[mine], 4u); }
    if (block == 3u) { coopStoreT(c11, &sums[mine], 4u); }
    workgroupBarrier();
    let out = first_out + my_out + block % 2u * 16u + lane % 4u * 4u;
    let c2 = constants(out)[1];
    for (var row = lane / 4u; row < 16u; row += lanes / 4u) {
      let token = first_token + my_token + block / 2u * 16u + row;
      if (token <= last_token && out < shape.rows) { finish(token, out, sums[mine + 4u * row + lane % 4u] + c2); }
    }
  }
}

