// How many workgroups the device keeps at a time: each says that it is there and waits for all others.

struct State {
  here: atomic<u32>,
  gave_up: atomic<u32>,
}

@group(0) @binding(0) var<storage, read_write> state: State;

@compute @workgroup_size(1024)
fn main(@builtin(num_workgroups) grid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) {
    atomicAdd(&state.here, 1u);
    var tries = 0u;
    while (atomicLoad(&state.here) < grid.x && atomicLoad(&state.gave_up) == 0u) {
      tries++;
      if (tries > 20000u) { atomicStore(&state.gave_up, 1u); }
    }
  }
  workgroupBarrier();
}
