// y = norm(x) * gamma in f16, one workgroup per token row: what cooperative.wgsl multiplies. Beta is in its constants.

override QUADS: u32 = 24u;      // groups of 4 elements in a row, padding included
override CENTER: f32 = 0.0;     // 1: layer norm; 0: RMS norm, whose mu is 0

struct Shape {
  inverse_cols: f32,            // 1 / elements of a row
  eps: f32,
  pad0: u32,
  pad1: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;           // [token rows][QUADS], zero in the padding
@group(0) @binding(1) var<storage, read> gamma: array<vec4<f32>>;       // [QUADS], zero in the padding
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;     // [token rows][QUADS], 4 f16 each
@group(0) @binding(3) var<uniform> shape: Shape;

var<workgroup> stats: array<vec2<f32>, 128>;

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = workgroup.y * QUADS;
  var stat = vec2(0.0);
  for (var i = thread; i < QUADS; i += 128u) {
    let v = x[first + i];
    stat += vec2(dot(v, vec4(1.0)), dot(v, v));
  }
  stats[thread] = stat;
  for (var half = 64u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (thread < half) { stats[thread] += stats[thread + half]; }
  }
  workgroupBarrier();
  let mu = CENTER * stats[0].x * shape.inverse_cols;
  let rs = inverseSqrt(max(stats[0].y * shape.inverse_cols - mu * mu, 0.0) + shape.eps);
  for (var i = thread; i < QUADS; i += 128u) {
    let v = clamp((x[first + i] - mu) * rs * gamma[i], vec4(-65504.0), vec4(65504.0));
    y[first + i] = vec2(pack2x16float(v.xy), pack2x16float(v.zw));
  }
}
