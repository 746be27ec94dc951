// Reads a whole buffer: what the device's memory can deliver.

override THREADS: u32 = 256u;

struct Shape {
  quads: u32,                   // vec4s in the buffer, a multiple of 4 * threads of the grid
  pad0: u32,
  pad1: u32,
  pad2: u32,
}

@group(0) @binding(0) var<storage, read> memory: array<vec4<u32>>;      // [quads]
@group(0) @binding(1) var<storage, read_write> sink: array<vec4<u32>>;  // [1]
@group(0) @binding(2) var<uniform> shape: Shape;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>) {
  let step = grid.x * THREADS;
  var a = vec4(0u);
  var b = vec4(0u);
  var c = vec4(0u);
  var d = vec4(0u);
  for (var i = thread.x; i < shape.quads; i += 4u * step) {
    a |= memory[i];
    b |= memory[i + step];
    c |= memory[i + 2u * step];
    d |= memory[i + 3u * step];
  }
  // The buffer holds zeros, so nothing is ever written; the compiler cannot know.
  let all = a | b | c | d;
  if (any(all != vec4(0u))) { sink[0] = all; }
}
