// Where each thread of a workgroup finds itself: gemv.wgsl takes subgroup_id * subgroup_size + lane for its number, which
// holds where subgroups are full and follow each other. The host compares.

@group(0) @binding(0) var<storage, read_write> found: array<u32>;       // [workgroups][128] number by that formula

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) subgroup_lane: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  found[workgroup.x * 128u + thread] = subgroup * subgroup_size + subgroup_lane;
}
