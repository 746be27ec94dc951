// All tokens through all layers in one dispatch of one workgroup. tape.wgsl stands in front.
//
// Six barriers a layer. Only workgroup memory passes between threads: a thread reads from the KV cache what it has written
// itself, so no barrier needs to order storage, and weights stay in the cache next to the threads.

override SPLIT_ROUNDS: u32 = 1u;

@group(0) @binding(3) var<storage, read_write> keys: array<vec4<f32>>;  // [layer][HEAD_QUADS][head][position]
@group(0) @binding(4) var<storage, read_write> values: array<vec4<f32>>; // [layer][SPLIT_ROUNDS][position / SPLIT][thread]

// act: x | q k v o, and in their place h.
override K: u32 = 16u;          // 2 * QUADS
override V: u32 = 24u;          // 3 * QUADS
override O: u32 = 32u;          // 4 * QUADS

@compute @workgroup_size(THREADS)
fn main(
  @builtin(local_invocation_index) index: u32, //#NOSG
  @builtin(subgroup_id) subgroup: u32, //#SG
  @builtin(subgroup_invocation_id) subgroup_lane: u32, //#SG
  @builtin(subgroup_size) subgroup_size: u32, //#SG
) {
  thread = index; //#NOSG
  thread = subgroup * subgroup_size + subgroup_lane; //#SG
  for (var token = span.first; token < span.first + span.tokens; token++) {
    cursor = thread;
    load();
    for (var i = thread; i < QUADS; i += THREADS) { act[i] = rows[token * QUADS + i]; }
    workgroupBarrier();
    for (var layer = 0u; layer < LAYERS; layer++) {
      let qkv_norm = norm(QKV_PARTS, QKV_STEPS);
      for (var round = 0u; round < QKV_ROUNDS; round++) {
        let sum = together(product(0u, QKV_PARTS, QKV_STEPS), QKV_PARTS);
        let four = round * (THREADS / QKV_PARTS) + thread / QKV_PARTS;
        if (thread % QKV_PARTS == 0u && four < 3u * QUADS) { act[QUADS + four] = qkv_norm * sum; }
      }
      workgroupBarrier();

      for (var u = thread; u < HEADS * TOKENS; u += THREADS) {
        let position = u % TOKENS;
        if (position <= token) {
          let first = u / TOKENS * HEAD_QUADS;
          var score = 0.0;
          for (var i = 0u; i < HEAD_QUADS; i++) {
            let at = (layer * HEAD_QUADS + i) * HEADS * TOKENS + u;
            var key: vec4<f32>;
            if (position == token) {
              key = act[K + first + i];
              keys[at] = key;
            } else {
              key = keys[at];
            }
            score += dot(act[QUADS + first + i], key);
          }
          scores[u] = score;
        }
      }
      workgroupBarrier();

      for (var round = 0u; round < SPLIT_ROUNDS; round++) {
        let four = min(round * (THREADS / SPLIT) + thread / SPLIT, QUADS - 1u);
        let first = four / HEAD_QUADS * TOKENS;
        let begin = thread % SPLIT;
        var top = LOWEST;
        for (var p = begin; p <= token; p += SPLIT) { top = max(top, scores[first + p]); }
        top = highest(top, SPLIT);
        var sum = vec4(0.0);
        var total = 0.0;
        for (var p = begin; p <= token; p += SPLIT) {
          let at = ((layer * SPLIT_ROUNDS + round) * (TOKENS / SPLIT) + p / SPLIT) * THREADS + thread;
          var value: vec4<f32>;
          if (p == token) {
            value = act[V + four];
            values[at] = value;
          } else {
            value = values[at];
          }
          let share = exp(scores[first + p] - top);
          sum += share * value;
          total += share;
        }
        sum = together(sum, SPLIT);
        total = together(vec4(total, 0.0, 0.0, 0.0), SPLIT).x;
        // Threads behind the last row repeat it, with the same result.
        if (begin == 0u) { act[O + four] = sum / total; }
      }
      workgroupBarrier();

      for (var round = 0u; round < OUT_ROUNDS; round++) {
        let sum = together(product(O, OUT_PARTS, OUT_STEPS), OUT_PARTS);
        let four = round * (THREADS / OUT_PARTS) + thread / OUT_PARTS;
        if (thread % OUT_PARTS == 0u && four < QUADS) { act[four] += sum; }
      }
      workgroupBarrier();

      let up_norm = norm(UP_PARTS, UP_STEPS);
      for (var round = 0u; round < UP_ROUNDS; round++) {
        let sum = together(product(0u, UP_PARTS, UP_STEPS), UP_PARTS);
        let four = round * (THREADS / UP_PARTS) + thread / UP_PARTS;
        if (thread % UP_PARTS == 0u && four < 4u * QUADS) { act[QUADS + four] = gelu(up_norm * sum); }
      }
      workgroupBarrier();

      for (var round = 0u; round < DOWN_ROUNDS; round++) {
        let sum = together(product(QUADS, DOWN_PARTS, DOWN_STEPS), DOWN_PARTS);
        let four = round * (THREADS / DOWN_PARTS) + thread / DOWN_PARTS;
        if (thread % DOWN_PARTS == 0u && four < QUADS) { act[four] += sum; }
      }
      workgroupBarrier();
    }
    for (var i = thread; i < QUADS; i += THREADS) { results[token * QUADS + i] = act[i]; }
  }
}
