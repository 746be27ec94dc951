// All tokens through all layers in one dispatch of many workgroups, which have to run at the same time. tape.wgsl stands
// in front.
//
// There is no barrier between workgroups. Every activation has a slot of its own for every token and layer; the slots are
// cleared before the dispatch, a producer stores a value, and a consumer loads the slot until it is not empty. A slot is
// its own flag, so nothing has to be ordered, and WGSL's relaxed atomics are enough. What WGSL does not promise is that all
// workgroups make progress: waiting is bounded, and who waits too long tells everybody to give up.

override GROUPS: u32 = 1u;      // workgroups
override SPIN: u32 = 4194304u;  // loads of an empty slot before giving up

@group(0) @binding(3) var<storage, read_write> keys: array<vec4<f32>>;  // [layer][HEAD_QUADS][head][position]
@group(0) @binding(4) var<storage, read_write> values: array<vec4<f32>>; // [layer][head][position / SPLIT][thread]
@group(0) @binding(5) var<storage, read_write> slots: array<atomic<u32>>; // [token][layer][q k v | o | x | h | x][width]
@group(0) @binding(6) var<storage, read_write> gave_up: atomic<u32>;

// act: x | o | h | q k v of a head.
override O: u32 = 8u;           // QUADS
override H: u32 = 16u;          // 2 * QUADS
override Q: u32 = 48u;          // 6 * QUADS

// Cleared memory is empty, so the bits of a value are stored with a pattern that no result has: a NaN.
const EMPTY: u32 = 0x7fc5a5a5u;

fn publish(at: u32, v: vec4<f32>) {
  let bits = bitcast<vec4<u32>>(v) ^ vec4(EMPTY);
  atomicStore(&slots[at], bits.x);
  atomicStore(&slots[at + 1u], bits.y);
  atomicStore(&slots[at + 2u], bits.z);
  atomicStore(&slots[at + 3u], bits.w);
}

fn slot(at: u32) -> vec4<u32> {
  return vec4(atomicLoad(&slots[at]), atomicLoad(&slots[at + 1u]), atomicLoad(&slots[at + 2u]), atomicLoad(&slots[at + 3u]));
}

// Takes `quads` fours of values from slot `at` on to the activations from `first` on.
fn take(at: u32, quads: u32, first: u32) {
  for (var i = thread; i < quads; i += THREADS) {
    var bits = slot(at + 4u * i);
    for (var spins = 1u; any(bits == vec4(0u)); spins++) {
      if (spins % 64u == 0u && (spins >= SPIN || atomicLoad(&gave_up) != 0u)) {
        atomicStore(&gave_up, 1u);
        break;
      }
      bits = slot(at + 4u * i);
    }
    act[first + i] = bitcast<vec4<f32>>(bits ^ vec4(EMPTY));
  }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(local_invocation_index) index: u32, //#NOSG
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
  @builtin(subgroup_size) subgroup_size: u32, //#SG
) {
  thread = index; //#NOSG
  thread = subgroup * subgroup_size + subgroup_lane; //#SG
  let number = workgroup.x * THREADS + thread;
  let width = 4u * QUADS;
  for (var token = span.first; token < span.first + span.tokens; token++) {
    cursor = number;
    load();
    for (var i = thread; i < QUADS; i += THREADS) { act[i] = rows[token * QUADS + i]; }
    workgroupBarrier();
    for (var layer = 0u; layer < LAYERS; layer++) {
      let qkv_at = (token * LAYERS + layer) * 10u * width;
      let o_at = qkv_at + 3u * width;
      let x_at = qkv_at + 4u * width;
      let h_at = qkv_at + 5u * width;
      let next_at = qkv_at + 9u * width;

      let qkv_norm = norm(QKV_PARTS, QKV_STEPS);
      for (var round = 0u; round < QKV_ROUNDS; round++) {
        let sum = together(product(0u, QKV_PARTS, QKV_STEPS), QKV_PARTS);
        let four = round * (STRIDE / QKV_PARTS) + number / QKV_PARTS;
        if (thread % QKV_PARTS == 0u && four < 3u * QUADS) { publish(qkv_at + 4u * four, qkv_norm * sum); }
      }

      for (var head = workgroup.x; head < HEADS; head += GROUPS) {
        workgroupBarrier();
        for (var i = 0u; i < 3u; i++) {
          take(qkv_at + i * width + 4u * head * HEAD_QUADS, HEAD_QUADS, Q + i * HEAD_QUADS);
        }
        workgroupBarrier();
        if (thread <= token) {
          var score = 0.0;
          for (var i = 0u; i < HEAD_QUADS; i++) {
            let at = ((layer * HEAD_QUADS + i) * HEADS + head) * TOKENS + thread;
            var key: vec4<f32>;
            if (thread == token) {
              key = act[Q + HEAD_QUADS + i];
              keys[at] = key;
            } else {
              key = keys[at];
            }
            score += dot(act[Q + i], key);
          }
          scores[thread] = score;
        }
        workgroupBarrier();
        let four = min(thread / SPLIT, HEAD_QUADS - 1u);
        let begin = thread % SPLIT;
        var top = LOWEST;
        for (var p = begin; p <= token; p += SPLIT) { top = max(top, scores[p]); }
        top = highest(top, SPLIT);
        var sum = vec4(0.0);
        var total = 0.0;
        for (var p = begin; p <= token; p += SPLIT) {
          let at = ((layer * HEADS + head) * (TOKENS / SPLIT) + p / SPLIT) * THREADS + thread;
          var value: vec4<f32>;
          if (p == token) {
            value = act[Q + 2u * HEAD_QUADS + four];
            values[at] = value;
          } else {
            value = values[at];
          }
          let share = exp(scores[p] - top);
          sum += share * value;
          total += share;
        }
        sum = together(sum, SPLIT);
        total = together(vec4(total, 0.0, 0.0, 0.0), SPLIT).x;
        if (begin == 0u && thread / SPLIT == four) { publish(o_at + 4u * (head * HEAD_QUADS + four), sum / total); }
      }

      // Before every wait: a device may run the parts of a workgroup one after the other, up to the next barrier.
      workgroupBarrier();
      take(o_at, QUADS, O);
      workgroupBarrier();
      for (var round = 0u; round < OUT_ROUNDS; round++) {
        let sum = together(product(O, OUT_PARTS, OUT_STEPS), OUT_PARTS);
        let four = round * (STRIDE / OUT_PARTS) + number / OUT_PARTS;
        if (thread % OUT_PARTS == 0u && four < QUADS) { publish(x_at + 4u * four, act[four] + sum); }
      }
      workgroupBarrier();

      take(x_at, QUADS, 0u);
      workgroupBarrier();
      let up_norm = norm(UP_PARTS, UP_STEPS);
      for (var round = 0u; round < UP_ROUNDS; round++) {
        let sum = together(product(0u, UP_PARTS, UP_STEPS), UP_PARTS);
        let four = round * (STRIDE / UP_PARTS) + number / UP_PARTS;
        if (thread % UP_PARTS == 0u && four < 4u * QUADS) { publish(h_at + 4u * four, gelu(up_norm * sum)); }
      }

      workgroupBarrier();
      take(h_at, 4u * QUADS, H);
      workgroupBarrier();
      for (var round = 0u; round < DOWN_ROUNDS; round++) {
        let sum = together(product(H, DOWN_PARTS, DOWN_STEPS), DOWN_PARTS);
        let four = round * (STRIDE / DOWN_PARTS) + number / DOWN_PARTS;
        if (thread % DOWN_PARTS == 0u && four < QUADS) { publish(next_at + 4u * four, act[four] + sum); }
      }
      workgroupBarrier();

      // Everybody takes the last layer's result as well: a token that was sampled would depend on it.
      take(next_at, QUADS, 0u);
      workgroupBarrier();
    }
    if (workgroup.x == 0u) {
      for (var i = thread; i < QUADS; i += THREADS) { results[token * QUADS + i] = act[i]; }
    }
  }
}
