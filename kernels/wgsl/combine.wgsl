// a from the parts that the splits of attend.wgsl left, for a single token row.
//
// The grid is [heads][splits]: the splits' workgroups share a head's elements.

override HEAD8: u32 = 8u;       // head_dim / 8

@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;       // [head][split] 2 * HEAD8 vec4s, (maximum, sum, -, -)
@group(0) @binding(1) var<storage, read_write> a: array<vec4<f32>>;     // [1][head][2 * HEAD8]

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) grid: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let splits = grid.y;
  let size = 2u * HEAD8 + 1u;
  let first = workgroup.x * splits * size;
  var highest = -1.0e30;
  for (var i = 0u; i < splits; i++) { highest = max(highest, parts[first + i * size + 2u * HEAD8].x); }
  for (var element = workgroup.y * 32u + thread; element < 2u * HEAD8; element += 32u * splits) {
    var value = vec4(0.0);
    var sum = 0.0;
    for (var i = 0u; i < splits; i++) {
      let part = first + i * size;
      let fade = exp(parts[part + 2u * HEAD8].x - highest);
      value += fade * parts[part + element];
      sum += fade * parts[part + 2u * HEAD8].y;
    }
    a[workgroup.x * 2u * HEAD8 + element] = value / sum;
  }
}
