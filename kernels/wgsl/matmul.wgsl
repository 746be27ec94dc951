// y = epilogue(rs * (W (gamma x) - mu c1) + c2) for many token rows: gemv.wgsl's product in tiles.
//
// A workgroup makes a tile of TOKENS token rows and OUTPUTS rows of W, a thread of it 8 token rows and 4 outputs in
// registers. The inputs come DEPTH * 8 at a time: each thread fetches a part of x or of W while the one before is
// multiplied, and stores it into workgroup memory, the input first, so that both sides are read as vectors. Threads that
// fetch x sum up the norm's statistics, so it costs no pass.
//
// Tags: W32 | W16 | W8 | W4, F16 | F32, NORM | PLAIN, ROWS | GATE | KV, ROPE as in gemv.wgsl. finish.wgsl follows.

override CHUNKS: u32 = 12u;     // groups of 8 inputs in a row of W
override ROW: u32 = 12u;        // elements of w in a row of W
override TOKENS: u32 = 64u;     // token rows of a tile
override OUTPUTS: u32 = 64u;    // rows of W of a tile
override DEPTH: u32 = 2u;       // groups of 8 inputs at a time: 1, 2 or 4 (rows have whole groups of 32)
override THREADS: u32 = 128u;   // TOKENS / 8 * OUTPUTS / 4, and not less than (TOKENS + OUTPUTS) / 4 * DEPTH
override X_ROOM: u32 = 264u;    // 2 * DEPTH * TOKENS + 8
override W_ROOM: u32 = 264u;    // 2 * DEPTH * OUTPUTS + 8
override CENTER: f32 = 1.0;     // 1: layer norm; 0: RMS norm, whose mu is 0

@group(0) @binding(0) var<storage, read> w: array<vec4<f32>>;           // [rows][2 * CHUNKS] //#W32
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;           // [rows][CHUNKS], 8 f16 each //#W16
@group(0) @binding(0) var<storage, read> w: array<vec2<u32>>;           // [rows][CHUNKS: 8 i8; CHUNKS / 16: 4 f16 scales] //#W8
@group(0) @binding(0) var<storage, read> w: array<u32>;                 // [rows][CHUNKS: 8 u4; CHUNKS / 4: f16 scale, low] //#W4
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;           // [token rows][x_stride], zero behind the inputs
@group(0) @binding(5) var<storage, read> gamma: array<vec4<f32>>;       // [2 * CHUNKS] //#NORM

// The padding behind each group of 8 inputs lets threads with different groups store to different banks.
var<workgroup> xs: array<vec4<f32>, X_ROOM>; // [DEPTH][8 inputs][TOKENS / 4], padded
var<workgroup> ws: array<vec4<f32>, W_ROOM>; // [DEPTH][8 inputs][OUTPUTS / 4], padded

// Eight weights as they are stored, with their scale: group k of the row that begins at element `row` of w.
fn stored(row: u32, k: u32) -> vec4<u32> {
  return bitcast<vec4<u32>>(w[row + 2u * k]); //#W32
  return w[row + k]; //#W16
  return vec4(w[row + k], w[row + CHUNKS + k / 16u][k / 8u % 2u] >> (k / 4u % 2u * 16u), 0u); //#W8
  return vec4(w[row + k], w[row + CHUNKS + k / 4u], 0u, 0u); //#W4
}

// The same as numbers. f32 has its last four in `rest`.
fn numbers(q: vec4<u32>, rest: vec4<u32>) -> mat2x4<f32> {
  return mat2x4<f32>(bitcast<vec4<f32>>(q), bitcast<vec4<f32>>(rest)); //#W32
  return mat2x4<f32>(vec4(unpack2x16float(q.x), unpack2x16float(q.y)), vec4(unpack2x16float(q.z), unpack2x16float(q.w))); //#W16
  return unpack2x16float(q.z).x * mat2x4<f32>(bytes(q.x), bytes(q.y)); //#W8
  let line = unpack2x16float(q.y); //#W4
  return mat2x4<f32>(line.x * halves(q.x) + line.y, line.x * halves(q.x >> 4u) + line.y); //#W4
}

// Four inputs of four token rows, a column for each input.
fn turned(a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>) -> mat4x4<f32> {
  return transpose(mat4x4<f32>(bitcast<vec4<f32>>(a), bitcast<vec4<f32>>(b), bitcast<vec4<f32>>(c), bitcast<vec4<f32>>(d)));
}

// Stores four inputs of four token rows.
fn keep_x(at: u32, t: mat4x4<f32>, g: vec4<f32>) {
  xs[at] = t[0] * g.x;
  xs[at + TOKENS / 4u] = t[1] * g.y;
  xs[at + TOKENS / 2u] = t[2] * g.z;
  xs[at + TOKENS / 4u * 3u] = t[3] * g.w;
}

// Stores four inputs of four rows of W.
fn keep_w(at: u32, t: mat4x4<f32>) {
  ws[at] = t[0];
  ws[at + OUTPUTS / 4u] = t[1];
  ws[at + OUTPUTS / 2u] = t[2];
  ws[at + OUTPUTS / 4u * 3u] = t[3];
}

// The sum of each token row's squares. //#NORM
fn squared(t: mat4x4<f32>) -> vec4<f32> { //#NORM
  return t[0] * t[0] + t[1] * t[1] + t[2] * t[2] + t[3] * t[3]; //#NORM
} //#NORM

// Mean and inverse deviation of four token rows, from the sums in xs. //#NORM
fn norms(quad: u32) -> mat2x4<f32> { //#NORM
  var mu = vec4(0.0); //#NORM
  var mean = vec4(0.0); //#NORM
  for (var i = 0u; i < DEPTH; i++) { //#NORM
    mu += xs[i * (TOKENS / 4u) + quad]; //#NORM
    mean += xs[(DEPTH + i) * (TOKENS / 4u) + quad]; //#NORM
  } //#NORM
  mu *= CENTER * shape.inverse_cols; //#NORM
  return mat2x4<f32>(mu, inverseSqrt(max(mean * shape.inverse_cols - mu * mu, vec4(0.0)) + shape.eps)); //#NORM
} //#NORM

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let first_out = (workgroup.y * grid.x + workgroup.x) * OUTPUTS;
  let first_token = workgroup.z * TOKENS;
  let last_token = tokens() - 1u;

  // This thread's part: a group of 8 inputs of four neighbouring rows. Rows behind the last repeat it; they are not stored.
  let is_x = thread < TOKENS / 4u * DEPTH;
  let part = select(thread - TOKENS / 4u * DEPTH, thread, is_x);
  let quads = select(OUTPUTS, TOKENS, is_x) / 4u;
  let slot = part / DEPTH;
  let chunk = part % DEPTH;
  let near = vec4(4u * slot) + vec4(0u, 1u, 2u, 3u);
  let x_row = (vec4(skipped()) + min(vec4(first_token) + near, vec4(last_token))) * shape.x_stride;
  let w_row = min(vec4(first_out) + near, vec4(shape.rows - 1u)) * ROW;
  let fetches = slot < quads;
  let to = chunk * (8u * quads + 8u / DEPTH) + slot;
  var raw: array<vec4<u32>, 8>;
  var total = vec4(0.0); //#NORM
  var squares = vec4(0.0); //#NORM

  let across = OUTPUTS / 4u;
  let quad = thread % across;
  let octet = thread / across;
  var acc: array<vec4<f32>, 8>;

  // One round more than there are parts: the first only fetches, the last only multiplies.
  for (var base = 0u; base <= CHUNKS; base += DEPTH) {
    if (base > 0u) {
      workgroupBarrier();
      if (is_x) {
        let gone = 2u * (base - DEPTH + chunk); //#NORM
        let lower = turned(raw[0], raw[2], raw[4], raw[6]);
        let upper = turned(raw[1], raw[3], raw[5], raw[7]);
        total += lower * vec4(1.0) + upper * vec4(1.0); //#NORM
        squares += squared(lower) + squared(upper); //#NORM
        keep_x(to, lower, gamma[gone]); //#NORM
        keep_x(to + TOKENS, upper, gamma[gone + 1u]); //#NORM
        keep_x(to, lower, vec4(1.0)); //#PLAIN
        keep_x(to + TOKENS, upper, vec4(1.0)); //#PLAIN
      } else if (fetches) {
        let r0 = numbers(raw[0], raw[1]);
        let r1 = numbers(raw[2], raw[3]);
        let r2 = numbers(raw[4], raw[5]);
        let r3 = numbers(raw[6], raw[7]);
        keep_w(to, transpose(mat4x4<f32>(r0[0], r1[0], r2[0], r3[0])));
        keep_w(to + OUTPUTS, transpose(mat4x4<f32>(r0[1], r1[1], r2[1], r3[1])));
      }
      workgroupBarrier();
    }
    if (base < CHUNKS && fetches) {
      let k = base + chunk;
      if (is_x) {
        raw[0] = bitcast<vec4<u32>>(x[x_row.x + 2u * k]);
        raw[1] = bitcast<vec4<u32>>(x[x_row.x + 2u * k + 1u]);
        raw[2] = bitcast<vec4<u32>>(x[x_row.y + 2u * k]);
        raw[3] = bitcast<vec4<u32>>(x[x_row.y + 2u * k + 1u]);
        raw[4] = bitcast<vec4<u32>>(x[x_row.z + 2u * k]);
        raw[5] = bitcast<vec4<u32>>(x[x_row.z + 2u * k + 1u]);
        raw[6] = bitcast<vec4<u32>>(x[x_row.w + 2u * k]);
        raw[7] = bitcast<vec4<u32>>(x[x_row.w + 2u * k + 1u]);
      } else {
        raw[0] = stored(w_row.x, k);
        raw[2] = stored(w_row.y, k);
        raw[4] = stored(w_row.z, k);
        raw[6] = stored(w_row.w, k);
        raw[1] = bitcast<vec4<u32>>(w[w_row.x + 2u * k + 1u]); //#W32
        raw[3] = bitcast<vec4<u32>>(w[w_row.y + 2u * k + 1u]); //#W32
        raw[5] = bitcast<vec4<u32>>(w[w_row.z + 2u * k + 1u]); //#W32
        raw[7] = bitcast<vec4<u32>>(w[w_row.w + 2u * k + 1u]); //#W32
      }
    }
    if (base > 0u) {
      for (var group = 0u; group < DEPTH; group++) {
        var at = group * (2u * TOKENS + 8u / DEPTH) + 2u * octet;
        var start = group * (2u * OUTPUTS + 8u / DEPTH) + quad;
        for (var k = 0u; k < 8u; k++) {
          let a = xs[at];
          let b = xs[at + 1u];
          let v = ws[start];
          at += TOKENS / 4u;
          start += OUTPUTS / 4u;
          acc[0] = fma(vec4(a.x), v, acc[0]);
          acc[1] = fma(vec4(a.y), v, acc[1]);
          acc[2] = fma(vec4(a.z), v, acc[2]);
          acc[3] = fma(vec4(a.w), v, acc[3]);
          acc[4] = fma(vec4(b.x), v, acc[4]);
          acc[5] = fma(vec4(b.y), v, acc[5]);
          acc[6] = fma(vec4(b.z), v, acc[6]);
          acc[7] = fma(vec4(b.w), v, acc[7]);
        }
      }
    }
  }

  // The statistics of four token rows lie with the threads that fetched them; xs has room for them. //#NORM
  workgroupBarrier(); //#NORM
  if (is_x) { //#NORM
    xs[chunk * quads + slot] = total; //#NORM
    xs[(DEPTH + chunk) * quads + slot] = squares; //#NORM
  } //#NORM
  workgroupBarrier(); //#NORM
  let n0 = norms(2u * octet); //#NORM
  let n1 = norms(2u * octet + 1u); //#NORM

  let token = first_token + 8u * octet;
  let left = min(last_token + 1u - min(token, last_token + 1u), 8u);
  let out = first_out + 4u * quad;
  let c = constants(out);
  acc[0] = n0[1].x * (acc[0] - n0[0].x * c[0]); //#NORM
  acc[1] = n0[1].y * (acc[1] - n0[0].y * c[0]); //#NORM
  acc[2] = n0[1].z * (acc[2] - n0[0].z * c[0]); //#NORM
  acc[3] = n0[1].w * (acc[3] - n0[0].w * c[0]); //#NORM
  acc[4] = n1[1].x * (acc[4] - n1[0].x * c[0]); //#NORM
  acc[5] = n1[1].y * (acc[5] - n1[0].y * c[0]); //#NORM
  acc[6] = n1[1].z * (acc[6] - n1[0].z * c[0]); //#NORM
  acc[7] = n1[1].w * (acc[7] - n1[0].w * c[0]); //#NORM
  for (var i = 0u; i < 8u; i++) {
    if (i < left && out < shape.rows) { finish(token + i, out, acc[i] + c[1]); }
  }
}

