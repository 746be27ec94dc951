// Rows between memory that the CPU sees and memory of the device: one thread for 4 values, each moved once.

override QUADS: u32 = 24u;      // groups of 4 elements in a row, padding included

@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;      // a step's state (ARRIVE only), [token rows][QUADS]
@group(0) @binding(1) var<storage, read_write> rows: array<vec4<u32>>;  // [token rows][QUADS]
@group(0) @binding(2) var<storage, read_write> state: array<vec4<u32>>; // [1], and what is not touched //#ARRIVE

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quad = workgroup.x * 64u + thread;
  let at = workgroup.y * QUADS + quad;
  if (at == 0u) { state[0] = source[0]; } //#ARRIVE
  if (quad < QUADS) { rows[at] = source[1u + at]; } //#ARRIVE
  if (quad < QUADS) { rows[at] = source[at]; } //#DEPART
}
