// One product of persist.wgsl: KIND is qkv, out, up, down or head, and so is a tag.
//
// Further tags: W32 | W16 | W8 | W4, format of its matrix; GATED | PLAIN, whether its rows are pairs of gate and up;
// NORMED | BARE, whether a norm precedes it; BLOCK for all but the head; OTHER for all but qkv; ADDS for out and down; PAIRED |
// SINGLE, whether a step holds two chunks of the two pairs of a GATED unit, or four of one pair; GATHERED | SPREAD, whether the
// four have their int8 scales in one vec4.

override KIND_ROWS: u32 = 0u;
override KIND_CHUNKS: u32 = 1u; // vec4s of a row, the scales behind them not counted
override KIND_ROW: u32 = 1u;    // vec4s from one row to the next
override KIND_AT: u32 = 0u;     // vec4s from the piece's start: weights
override KIND_AUX: u32 = 0u;    // (c1, c2) of two rows each
override KIND_GAMMA: u32 = 0u;
override KIND_QUADS: u32 = 1u;  // inputs, in fours
override KIND_PARTS: u32 = 2u;  // fours of inputs in a chunk
override KIND_UNITS: u32 = 1u;  // pairs of rows; GATED: pairs of pairs, since these make the two values of a store
override KIND_TEAMS: u32 = 16u; // subgroups or slices: what works on pairs of its own
override KIND_SLICES: u32 = 1u; // subgroups that share a pair; more than one only where a team has one pair at most
override KIND_STEPS: u32 = 1u;  // steps of a pair
override KIND_ROUNDS: u32 = 1u; // inputs of a thread, in fours
override HEAD_AT: u32 = 0u; //#head
override HEAD_EXTRA: u32 = 0u; //#head

const KIND_UNIT: u32 = 1u; //#PLAIN
const KIND_UNIT: u32 = 2u; //#GATED

// A vec4 or word of the matrix's piece.
fn KIND_quad(l: u32, i: u32) -> vec4<u32> {
  return blocks[l * BLOCK_STEP + i]; //#BLOCK
  return tables[HEAD_AT + i]; //#head
}

fn KIND_word(l: u32, i: u32) -> u32 {
  return block_words[4u * l * BLOCK_STEP + i]; //#BLOCK
  return table_words[4u * HEAD_AT + i]; //#head
}

// A vec4 of aux or gamma.
fn KIND_extra(l: u32, i: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(blocks[l * BLOCK_STEP + i]); //#BLOCK
  return bitcast<vec4<f32>>(tables[HEAD_EXTRA + i]); //#head
}

// Units of this subgroup's team.
fn KIND_count() -> u32 {
  let units = (group + 1u) * KIND_UNITS / GROUPS - group * KIND_UNITS / GROUPS;
  let team = warp / KIND_SLICES;
  return (max(units + KIND_TEAMS - 1u, team) - team) / KIND_TEAMS;
}

// The first row of a pair.
fn KIND_pair(unit: u32, half: u32) -> u32 {
  return (group * KIND_UNITS / GROUPS + warp / KIND_SLICES + unit * KIND_TEAMS) * KIND_UNIT + half;
}

fn KIND_chunk_at(step: u32, part: u32) -> u32 {
  // A thread's four chunks have their scales in one vec4.
  return step * 4u * LANES + lane / 4u * 16u + part * 4u + lane % 4u; //#GATHERED
  return ((step * 4u + part) * KIND_SLICES + warp % KIND_SLICES) * LANES + lane; //#SPREAD
}

// Where chunk `c` of the inputs lies among those of its part.
fn KIND_place(c: u32) -> u32 {
  return c; //#SPREAD
  return (c / 16u / (LANES / 4u)) * 4u * LANES + c / 4u % 4u * LANES + c / 16u % (LANES / 4u) * 4u + c % 4u; //#GATHERED
}

// Chunk `c` of two rows.
fn KIND_fetch(l: u32, row: u32, other: u32, c: u32) -> Chunk {
  var chunk: Chunk;
  if (c < KIND_CHUNKS) {
    chunk.a = KIND_quad(l, row + c);
    chunk.b = KIND_quad(l, other + c);
    chunk.sa = KIND_word(l, 4u * (row + KIND_CHUNKS) + c / 4u); //#W8 SPREAD
    chunk.sb = KIND_word(l, 4u * (other + KIND_CHUNKS) + c / 4u); //#W8 SPREAD
    chunk.sa = KIND_word(l, 4u * (row + KIND_CHUNKS) + c); //#W4
    chunk.sb = KIND_word(l, 4u * (other + KIND_CHUNKS) + c); //#W4
  }
  return chunk;
}

fn KIND_load(l: u32, pair: u32, step: u32, at: u32) {
  let row = KIND_AT + 2u * pair * KIND_ROW;
  let other = select(row, row + KIND_ROW, 2u * pair + 1u < KIND_ROWS);
  next.c0 = KIND_fetch(l, row, other, KIND_chunk_at(step, 0u));
  next.c1 = KIND_fetch(l, row, other, KIND_chunk_at(step, 1u));
  next.c2 = KIND_fetch(l, row, other, KIND_chunk_at(step, 2u)); //#SINGLE
  next.c3 = KIND_fetch(l, row, other, KIND_chunk_at(step, 3u)); //#SINGLE
  // The rows of the second pair.
  next.c2 = KIND_fetch(l, row + 2u * KIND_ROW, row + 3u * KIND_ROW, KIND_chunk_at(step, 0u)); //#PAIRED
  next.c3 = KIND_fetch(l, row + 2u * KIND_ROW, row + 3u * KIND_ROW, KIND_chunk_at(step, 1u)); //#PAIRED
  next.turn = KIND_extra(l, KIND_AUX + pair + 1u); //#PAIRED
  let scales = KIND_CHUNKS + KIND_chunk_at(step, 0u) / 16u; //#GATHERED
  let sa = KIND_quad(l, row + scales); //#GATHERED
  let sb = KIND_quad(l, other + scales); //#GATHERED
  next.c0.sa = sa.x; //#GATHERED
  next.c1.sa = sa.y; //#GATHERED
  next.c2.sa = sa.z; //#GATHERED
  next.c3.sa = sa.w; //#GATHERED
  next.c0.sb = sb.x; //#GATHERED
  next.c1.sb = sb.y; //#GATHERED
  next.c2.sb = sb.z; //#GATHERED
  next.c3.sb = sb.w; //#GATHERED
  next.aux = KIND_extra(l, KIND_AUX + pair);
  let at_head = 2u * pair % (8u * HEAD8) / 4u; //#qkv
  if (at_head < ROPE_QUADS) { next.turn = rotations[at * ROPE_QUADS + at_head]; } //#qkv
}

// Has what comes behind the first step fetched into the device's cache, 32 bytes a load: memory would be idle until the
// inputs are there.
fn KIND_warm(l: u32) {
  let begin = 4u * (KIND_AT + 2u * (group * KIND_UNITS / GROUPS) * KIND_UNIT * KIND_ROW);
  let end = 4u * (KIND_AT + min(2u * ((group + 1u) * KIND_UNITS / GROUPS) * KIND_UNIT, KIND_ROWS) * KIND_ROW);
  let first = begin + 8u * KIND_TEAMS * KIND_ROW + 8u * thread;
  if (first < end) { warmed.x = KIND_word(l, first); }
  if (first + 8u * THREADS < end) { warmed.y = KIND_word(l, first + 8u * THREADS); }
}

// The first step, which waits for nobody.
fn KIND_ahead(l: u32, at: u32) {
  if (KIND_count() > 0u) { KIND_load(l, KIND_pair(0u, 0u), 0u, at); }
}

// Two rows' products with the inputs of chunk `c`.
fn KIND_chunk(chunk: Chunk, c: u32) -> vec2<f32> {
  if (c >= KIND_CHUNKS) { return vec2(0.0); }
  let a = chunk.a;
  let b = chunk.b;
  let at = KIND_place(c);
  let x0 = inputs[at]; //#W32
  return vec2(dot(bitcast<vec4<f32>>(a), x0), dot(bitcast<vec4<f32>>(b), x0)); //#W32
  let x0 = inputs[at]; //#W16
  let x1 = inputs[KIND_CHUNKS + at]; //#W16
  return vec2(dot(f16s(a.xy), x0) + dot(f16s(a.zw), x1), dot(f16s(b.xy), x0) + dot(f16s(b.zw), x1)); //#W16
  let ga = unpack2x16float(chunk.sa); //#W8
  let gb = unpack2x16float(chunk.sb); //#W8
  let scale = select(vec2(ga.x, gb.x), vec2(ga.y, gb.y), c / 2u % 2u == 1u); //#W8
  let x0 = inputs[at]; //#W8
  let x1 = inputs[KIND_CHUNKS + at]; //#W8
  let x2 = inputs[2u * KIND_CHUNKS + at]; //#W8
  let x3 = inputs[3u * KIND_CHUNKS + at]; //#W8
  let all = totals[c].x; //#W8
  var da = dot(raised_bytes(a.x), x0) + dot(raised_bytes(a.y), x1); //#W8
  var db = dot(raised_bytes(b.x), x0) + dot(raised_bytes(b.y), x1); //#W8
  da += dot(raised_bytes(a.z), x2) + dot(raised_bytes(a.w), x3); //#W8
  db += dot(raised_bytes(b.z), x2) + dot(raised_bytes(b.w), x3); //#W8
  return scale * (vec2(da, db) - all); //#W8
  let la = unpack2x16float(chunk.sa); //#W4
  let lb = unpack2x16float(chunk.sb); //#W4
  var sum = vec2(0.0); //#W4
  for (var i = 0u; i < 4u; i++) { //#W4
    let x0 = inputs[2u * i * KIND_CHUNKS + at]; //#W4
    let x1 = inputs[(2u * i + 1u) * KIND_CHUNKS + at]; //#W4
    sum.x += dot(raised_lows(a[i]), x0) + dot(raised_highs(a[i]), x1); //#W4
    sum.y += dot(raised_lows(b[i]), x0) + dot(raised_highs(b[i]), x1); //#W4
  } //#W4
  let all = totals[c]; //#W4
  return vec2(la.x, lb.x) * (sum - all.x) + vec2(la.y, lb.y) * all.y; //#W4
}

// Puts inputs 4i to 4i+3 where the products look for them, and what raised weights add to a chunk's sum beside it. All threads
// of a subgroup come here.
fn KIND_put(i: u32, v: vec4<f32>) {
  var kept = v;
  var sum = 1152.0 * total(v); //#W8
  sum += subgroupShuffleXor(sum, 1u); //#W8
  sum += subgroupShuffleXor(sum, 2u); //#W8
  var sums = total(v) * vec2(1024.0, 1.0); //#W4
  if (i % 2u == 1u) { //#W4
    // They meet weights times 16.
    kept = v / 16.0; //#W4
    sums.x /= 16.0; //#W4
  } //#W4
  for (var apart = 1u; apart < 8u; apart *= 2u) { sums += subgroupShuffleXor(sums, apart); } //#W4
  if (i < KIND_QUADS) {
    inputs[i % KIND_PARTS * KIND_CHUNKS + KIND_place(i / KIND_PARTS)] = kept;
    if (i % KIND_PARTS == 0u) { totals[i / KIND_PARTS] = vec2(sum, 0.0); } //#W8
    if (i % KIND_PARTS == 0u) { totals[i / KIND_PARTS] = sums; } //#W4
  }
}

// Brings the inputs into workgroup memory: from `source` in `wire`, `x` (NONE) or the embedding of `id` (HERE).
fn KIND_stage(l: u32, source: u32, flag: u32, id: u32) {
  // Everybody here has done the product before, so that nobody waits for a neighbour who could wait for him.
  workgroupBarrier();
  var stat = vec2(0.0); //#NORMED
  for (var round = 0u; round < KIND_ROUNDS; round += 2u) {
    let i = round * THREADS + thread;
    let j = i + THREADS;
    var v = mat2x4<f32>();
    var g0 = vec4(1.0); //#NORMED
    var g1 = vec4(1.0); //#NORMED
    if (i < KIND_QUADS) { g0 = KIND_extra(l, KIND_GAMMA + i); } //#NORMED
    if (j < KIND_QUADS) { g1 = KIND_extra(l, KIND_GAMMA + j); } //#NORMED
    if (source == NONE) { //#qkv
      if (i < KIND_QUADS) { v[0] = vec4(x[2u * i], x[2u * i + 1u]); } //#qkv
      if (j < KIND_QUADS) { v[1] = vec4(x[2u * j], x[2u * j + 1u]); } //#qkv
    } else if (source == HERE) { //#qkv
      if (i < KIND_QUADS) { v[0] = embedding(id, i); } //#qkv
      if (j < KIND_QUADS) { v[1] = embedding(id, j); } //#qkv
    } else { //#qkv
      if (j < KIND_QUADS) { //#qkv
        v = take_two(source + 2u * i, source + 2u * j, flag); //#qkv
      } else if (i < KIND_QUADS) { //#qkv
        v[0] = take(source + 2u * i, flag); //#qkv
      } //#qkv
    } //#qkv
    if (j < KIND_QUADS) { //#OTHER
      v = take_two(source + 2u * i, source + 2u * j, flag); //#OTHER
    } else if (i < KIND_QUADS) { //#OTHER
      v[0] = take(source + 2u * i, flag); //#OTHER
    } //#OTHER
    if (i < KIND_QUADS) {
      stat += vec2(dot(v[0], vec4(1.0)), dot(v[0], v[0])); //#NORMED
      if (source >= HERE) { own(i, v[0]); } //#qkv
      v[0] *= g0; //#NORMED
    }
    if (j < KIND_QUADS) {
      stat += vec2(dot(v[1], vec4(1.0)), dot(v[1], v[1])); //#NORMED
      if (source >= HERE) { own(j, v[1]); } //#qkv
      v[1] *= g1; //#NORMED
    }
    KIND_put(i, v[0]);
    KIND_put(j, v[1]);
  }
  warm |= warmed;
  let total = subgroupAdd(stat); //#NORMED
  if (lane == 0u) { stats[warp] = total; } //#NORMED
  workgroupBarrier();
}

// What becomes of a pair's sums; one thread does it.
fn KIND_finish(l: u32, pair: u32, v: vec2<f32>, turn: vec4<f32>, flag: u32) {
  var r = v; //#qkv
  let row = 2u * pair; //#qkv
  let within = row % (8u * HEAD8); //#qkv
  if (row < (HEADS + KV_HEADS) * 8u * HEAD8 && within / 4u < ROPE_QUADS) { //#qkv
    let t = select(turn.xy, turn.zw, within % 4u == 2u); //#qkv
    r = vec2(v.x * t.x - v.y * t.y, v.y * t.x + v.x * t.y); //#qkv
  } //#qkv
  if (row >= HEADS * 8u * HEAD8) { //#qkv
    let head = (row - HEADS * 8u * HEAD8) / (8u * HEAD8); //#qkv
    let to = ((head * CONTEXT + position) * 8u * HEAD8 + within) / 2u + l * KV_LAYER; //#qkv
    let packed = pack2x16float(clamp(r, vec2(-65504.0), vec2(65504.0))); //#qkv F16
    r = unpack2x16float(packed); //#qkv F16
    kv[to] = packed; //#qkv F16
    kv[to] = r; //#qkv F32
  } //#qkv
  give(AT_Q + pair, bitcast<vec2<u32>>(r), flag); //#qkv
  give(AT_H + pair, bitcast<vec2<u32>>(activated(v)), flag); //#up PLAIN
  let own = pair - own_first(); //#ADDS
  let sum = residual[own] + v; //#ADDS
  residual[own] = sum; //#ADDS
  give(AT_X + pair, bitcast<vec2<u32>>(sum), flag); //#out
  give(AT_Y + pair, bitcast<vec2<u32>>(sum), flag); //#down
}

fn KIND_run(l: u32, source: u32, wanted: u32, flag: u32, id: u32) {
  KIND_stage(l, source, wanted, id);
  let count = KIND_count();
  var mu = 0.0; //#NORMED
  var rs = 1.0; //#NORMED
  { //#NORMED
    var stat = vec2(0.0); //#NORMED
    for (var i = lane; i < WARPS; i += LANES) { stat += stats[i]; } //#NORMED
    stat = subgroupAdd(stat) * INVERSE; //#NORMED
    mu = CENTER * stat.x; //#NORMED
    rs = inverseSqrt(max(stat.y - mu * mu, 0.0) + EPS); //#NORMED
  } //#NORMED
  var aux = vec4(0.0);
  var turn = vec4(0.0);
  for (var unit = 0u; unit < count; unit++) { //#PAIRED
    let now = next; //#PAIRED
    if (unit + 1u < count) { //#PAIRED
      KIND_load(l, KIND_pair(unit + 1u, 0u), 0u, position); //#PAIRED
    } else { //#PAIRED
      KIND_follow(l); //#PAIRED
    } //#PAIRED
    let first = KIND_chunk(now.c0, KIND_chunk_at(0u, 0u)) + KIND_chunk(now.c1, KIND_chunk_at(0u, 1u)); //#PAIRED
    let second = KIND_chunk(now.c2, KIND_chunk_at(0u, 0u)) + KIND_chunk(now.c3, KIND_chunk_at(0u, 1u)); //#PAIRED
    var v = subgroupAdd(vec4(first, second)); //#PAIRED
    v = rs * (v - mu * vec4(now.aux.xz, now.turn.xz)); //#PAIRED NORMED
    v += vec4(now.aux.yw, now.turn.yw); //#PAIRED
    let h = activated(v.xz) * v.yw; //#PAIRED
    if (lane == 0u) { give(AT_H + KIND_pair(unit, 0u) / 2u, bitcast<vec2<u32>>(h), flag); } //#PAIRED
  } //#PAIRED
  for (var unit = 0u; unit < count; unit++) { //#SINGLE
    var held = 0.0; //#GATED SINGLE
    for (var half = 0u; half < KIND_UNIT; half++) { //#SINGLE
      let pair = KIND_pair(unit, half); //#SINGLE
      var acc = vec2(0.0); //#SINGLE
      for (var step = 0u; step < KIND_STEPS; step++) { //#SINGLE
        let now = next; //#SINGLE
        if (step + 1u < KIND_STEPS) { //#SINGLE
          KIND_load(l, pair, step + 1u, position); //#SINGLE
        } else if (half + 1u < KIND_UNIT) { //#SINGLE
          KIND_load(l, KIND_pair(unit, half + 1u), 0u, position); //#SINGLE
        } else if (unit + 1u < count) { //#SINGLE
          KIND_load(l, KIND_pair(unit + 1u, 0u), 0u, position); //#SINGLE
        } else { //#SINGLE
          KIND_follow(l); //#SINGLE
        } //#SINGLE
        acc += KIND_chunk(now.c0, KIND_chunk_at(step, 0u)); //#SINGLE
        acc += KIND_chunk(now.c1, KIND_chunk_at(step, 1u)); //#SINGLE
        acc += KIND_chunk(now.c2, KIND_chunk_at(step, 2u)); //#SINGLE
        acc += KIND_chunk(now.c3, KIND_chunk_at(step, 3u)); //#SINGLE
        aux = now.aux; //#SINGLE
        turn = now.turn; //#SINGLE
      } //#SINGLE
      var v = subgroupAdd(acc); //#SINGLE
      if (KIND_SLICES == 1u) { //#SINGLE
        v = rs * (v - mu * aux.xz) + aux.yw; //#NORMED SINGLE
        v += aux.yw; //#BARE SINGLE
        let h = activated(v).x * v.y; //#GATED SINGLE
        if (half == 1u && lane == 0u) { give(AT_H + pair / 2u, bitcast<vec2<u32>>(vec2(held, h)), flag); } //#GATED SINGLE
        held = h; //#GATED SINGLE
        if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); } //#head SINGLE
        if (v.x > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.x), 2u * pair); } //#head SINGLE
        if (2u * pair + 1u < VOCAB && v.y > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.y), 2u * pair + 1u); } //#head SINGLE
        if (lane == 0u) { KIND_finish(l, pair, v, turn, flag); } //#SINGLE
      } else if (lane == 0u) { //#SINGLE
        partial[warp] = v; //#SINGLE
      } //#SINGLE
    } //#SINGLE
  } //#SINGLE
  if (count == 0u) { KIND_follow(l); }
  if (KIND_SLICES > 1u) {
    workgroupBarrier();
    if (count > 0u && warp % KIND_SLICES == 0u && lane == 0u) {
      var v = vec2(0.0);
      for (var i = 0u; i < KIND_SLICES; i++) { v += partial[warp + i]; }
      v = rs * (v - mu * aux.xz) + aux.yw; //#NORMED
      v += aux.yw; //#BARE
      KIND_finish(l, KIND_pair(0u, 0u), v, turn, flag);
    }
  }
  if (lane == 0u) { winner[warp] = best; } //#head
  workgroupBarrier(); //#head
  if (thread == 0u) { //#head
    for (var i = 1u; i < WARPS; i++) { //#head
      let rival = winner[i]; //#head
      let higher = bitcast<f32>(rival.x) > bitcast<f32>(best.x); //#head
      if (higher || (rival.x == best.x && rival.y < best.y)) { best = rival; } //#head
    } //#head
    give(AT_WIN + group, best, flag); //#head
  } //#head
}
