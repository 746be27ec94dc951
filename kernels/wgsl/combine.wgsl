// a from the parts that the splits of attend.wgsl left, for a single token row: one workgroup per query head.

override HEAD8: u32 = 8u;       // head_dim / 8

struct Shape {
  splits: u32,                  // at most; a step may have fewer
  pad0: u32,
  pad1: u32,
  pad2: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;       // [head][split] 2 * HEAD8 vec4s, (maximum, sum, -, -)
@group(0) @binding(1) var<storage, read_write> a: array<vec4<f32>>;     // [1][head][2 * HEAD8]

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
}
