// One product of persist.wgsl: KIND is qkv, out, up, down or head, and so is a tag. A line that says SLOT is there for each
// chunk of a step, with its number.
//
// Further tags: W32 | W16 | W8 | W4, format of its matrix; REALS | DIGITS, how its inputs are kept; GATED | PLAIN, whether
// its rows are pairs of gate and up; NORMED | BARE, whether a norm precedes it; BLOCK for all but the head; OTHER for all but
// qkv; ADDS for out and down; LOOP as in persist.wgsl.

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
override KIND_PIECES: u32 = 4u;  // chunks of a row in a step
override KIND_ROUNDS: u32 = 1u; // inputs of a thread, in fours
override HEAD_AT: u32 = 0u; //#head
override HEAD_EXTRA: u32 = 0u; //#head

const KIND_LEFT: u32 = 2u; //#qkv
const KIND_LEFT: u32 = 8u; //#out
const KIND_LEFT: u32 = 16u; //#up
const KIND_LEFT: u32 = 32u; //#down
const KIND_LEFT: u32 = 64u; //#head

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

// The pair with number `i` of this team.
fn KIND_pair(i: u32) -> u32 {
  let unit = group * KIND_UNITS / GROUPS + warp / KIND_SLICES + i / KIND_UNIT * KIND_TEAMS;
  return unit * KIND_UNIT + i % KIND_UNIT;
}

// The chunk of a slot in a step of a pair.
fn KIND_chunk_at(step: u32, slot: u32) -> u32 {
  return ((step * KIND_PIECES + slot) * KIND_SLICES + warp % KIND_SLICES) * LANES + lane;
}

// Sets the step with number `i`, over all pairs of this team, on its way.
fn KIND_load(l: u32, i: u32, at: u32) {
  if ((LEFT_OUT & KIND_LEFT) != 0u) { return; }
  let pair = KIND_pair(i / KIND_STEPS);
  let step = i % KIND_STEPS;
  let row = KIND_AT + 2u * pair * KIND_ROW;
  let other = select(row, row + KIND_ROW, 2u * pair + 1u < KIND_ROWS);
  let cSLOT = KIND_chunk_at(step, SLOTu);
  if (cSLOT < KIND_CHUNKS) { next.aSLOT = KIND_quad(l, row + cSLOT); next.bSLOT = KIND_quad(l, other + cSLOT); }
  let scales = 4u * (row + KIND_CHUNKS); //#W8
  let rivals = 4u * (other + KIND_CHUNKS); //#W8
  if (cSLOT < KIND_CHUNKS) { next.saSLOT = KIND_word(l, scales + cSLOT / 4u); next.sbSLOT = KIND_word(l, rivals + cSLOT / 4u); } //#W8
  let scales = 4u * (row + KIND_CHUNKS); //#W4
  let rivals = 4u * (other + KIND_CHUNKS); //#W4
  if (cSLOT < KIND_CHUNKS) { next.saSLOT = KIND_word(l, scales + cSLOT); next.sbSLOT = KIND_word(l, rivals + cSLOT); } //#W4
  next.aux = KIND_extra(l, KIND_AUX + pair);
  let at_head = 2u * pair % (8u * HEAD8) / 4u; //#qkv
  if (at_head < ROPE_QUADS) { next.turn = rotations[at * ROPE_QUADS + at_head]; } //#qkv
}

// The first step, which waits for nobody.
fn KIND_ahead(l: u32, at: u32) {
  if (KIND_count() > 0u) { KIND_load(l, 0u, at); }
}

// Two rows' products with the inputs of chunk `c`.
fn KIND_chunk(a: vec4<u32>, b: vec4<u32>, sa: u32, sb: u32, c: u32) -> vec2<f32> {
  if (c >= KIND_CHUNKS || (LEFT_OUT & KIND_LEFT) != 0u) { return vec2(0.0); }
  let x0 = inputs[c]; //#W32
  return vec2(dot(bitcast<vec4<f32>>(a), x0), dot(bitcast<vec4<f32>>(b), x0)); //#W32
  let x0 = inputs[c]; //#W16
  let x1 = inputs[KIND_CHUNKS + c]; //#W16
  return vec2(dot(f16s(a.xy), x0) + dot(f16s(a.zw), x1), dot(f16s(b.xy), x0) + dot(f16s(b.zw), x1)); //#W16
  let span = spans[c]; //#DIGITS
  let ga = unpack2x16float(sa); //#DIGITS
  let gb = unpack2x16float(sb); //#DIGITS
  let d2 = digits[c]; //#W8
  let d1 = digits[KIND_CHUNKS + c]; //#W8
  let d0 = digits[2u * KIND_CHUNKS + c]; //#W8
  let scale = select(vec2(ga.x, gb.x), vec2(ga.y, gb.y), c / 2u % 2u == 1u); //#W8
  let x = joined(dots(WHOLE_BITS, a, d2), dots(WHOLE_BITS, a, d1), dots(WHOLE_BITS, a, d0)); //#W8
  let y = joined(dots(WHOLE_BITS, b, d2), dots(WHOLE_BITS, b, d1), dots(WHOLE_BITS, b, d0)); //#W8
  return span.x * scale * vec2(x, y); //#W8
  var sums: array<vec2<i32>, 3>; //#W4
  // An upper half byte n with its highest bit changed is, as a signed byte, 16 (n - 8). //#W4
  let a_upper = (a & vec4(UPPER)) ^ vec4(SIGNS); //#W4
  let b_upper = (b & vec4(UPPER)) ^ vec4(SIGNS); //#W4
  for (var i = 0u; i < 3u; i++) { //#W4
    let even = digits[2u * i * KIND_CHUNKS + c]; //#W4
    let odd = digits[(2u * i + 1u) * KIND_CHUNKS + c]; //#W4
    sums[i].x = dots(dots(WHOLE_BITS, a & vec4(LOWER), even), a_upper, odd); //#W4
    sums[i].y = dots(dots(WHOLE_BITS, b & vec4(LOWER), even), b_upper, odd); //#W4
  } //#W4
  let joint = vec2(joined(sums[0].x, sums[1].x, sums[2].x), joined(sums[0].y, sums[1].y, sums[2].y)); //#W4
  return vec2(ga.x, gb.x) * (span.x * joint + uppers[c]) + vec2(ga.y, gb.y) * span.y; //#W4
}

// Keeps inputs 4i to 4i+3. All threads call it, whether they have some or not.
fn KIND_keep(i: u32, v: vec4<f32>) {
  if (i < KIND_QUADS) { inputs[i % KIND_PARTS * KIND_CHUNKS + i / KIND_PARTS] = v; } //#REALS
  let part = i % KIND_PARTS; //#DIGITS
  let c = i / KIND_PARTS; //#DIGITS
  let sizes = abs(v); //#DIGITS
  var largest = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)); //#DIGITS
  var sum = total(v); //#W8
  for (var apart = 1u; apart < KIND_PARTS; apart *= 2u) { //#W8
    largest = max(largest, subgroupShuffleXor(largest, apart)); //#W8
    sum += subgroupShuffleXor(sum, apart); //#W8
  } //#W8
  let own = total(v); //#W4
  largest = max(largest, subgroupShuffleXor(largest, 1u)); //#W4
  var upper = subgroupShuffleXor(own, 1u);  // Of odd parts, where this one is even. //#W4
  var sum = own + upper; //#W4
  for (var apart = 2u; apart < KIND_PARTS; apart *= 2u) { //#W4
    largest = max(largest, subgroupShuffleXor(largest, apart)); //#W4
    sum += subgroupShuffleXor(sum, apart); //#W4
    upper += subgroupShuffleXor(upper, apart); //#W4
  } //#W4
  if (i >= KIND_QUADS) { return; } //#DIGITS
  largest = max(largest, 1.0e-30); //#DIGITS
  let steps = REACH / largest; //#W8
  let steps = REACH / largest * select(1.0, 0.0625, part % 2u == 1u); //#W4
  // Four inputs' digits side by side, then in words of their own. //#DIGITS
  let whole = bitcast<vec4<u32>>(fma(v, vec4(steps), vec4(WHOLE))) + vec4(UNSIGNED); //#DIGITS
  let outer = (whole.xz & vec2(0x00ff00ffu)) | ((whole.yw & vec2(0x00ff00ffu)) << vec2(8u)); //#DIGITS
  let high = ((outer.x >> 16u) | (outer.y & 0xffff0000u)) ^ SIGNS; //#DIGITS
  let middle = ((whole.x >> 8u & 0xffu) | (whole.y & 0xff00u) | (whole.z << 8u & 0xff0000u) | (whole.w << 16u & 0xff000000u)) ^ SIGNS; //#DIGITS
  let low = ((outer.x & 0xffffu) | (outer.y << 16u)) ^ SIGNS; //#DIGITS
  digits[c][part] = high; //#W8
  digits[KIND_CHUNKS + c][part] = middle; //#W8
  digits[2u * KIND_CHUNKS + c][part] = low; //#W8
  let at = part % 2u * KIND_CHUNKS + c; //#W4
  digits[at][part / 2u] = high; //#W4
  digits[2u * KIND_CHUNKS + at][part / 2u] = middle; //#W4
  digits[4u * KIND_CHUNKS + at][part / 2u] = low; //#W4
  if (part == 0u) { spans[c] = vec2(largest / REACH, sum); } //#DIGITS
  if (part == 0u) { uppers[c] = 8.0 * upper; } //#W4
}

// Brings the inputs into workgroup memory: from `source` in `wire`, `x` (NONE) or the embedding of `id` (HERE).
fn KIND_stage(l: u32, source: u32, flag: u32, id: u32) {
  // Everybody here has done the product before, so that nobody waits for a neighbour who could wait for him.
  workgroupBarrier();
  var stat = vec2(0.0); //#NORMED
  var round = 0u;
  for (; (round + 4u) * THREADS <= KIND_QUADS; round += 4u) { //#BARE
    let i = round * THREADS + thread; //#BARE
    let v = take_four(source + i, flag); //#BARE
    KIND_keep(i, v[0]); //#BARE
    KIND_keep(i + THREADS, v[1]); //#BARE
    KIND_keep(i + 2u * THREADS, v[2]); //#BARE
    KIND_keep(i + 3u * THREADS, v[3]); //#BARE
  } //#BARE
  for (; round < KIND_ROUNDS; round += 2u) {
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
    } else if (source == HERE) { //#qkv LOOP
      if (i < KIND_QUADS) { v[0] = embedding(id, i); } //#qkv LOOP
      if (j < KIND_QUADS) { v[1] = embedding(id, j); } //#qkv LOOP
    } else { //#qkv
      if (j < KIND_QUADS) { //#qkv
        v = take_two(source + i, source + j, flag); //#qkv
      } else if (i < KIND_QUADS) { //#qkv
        v[0] = take(source + i, flag); //#qkv
      } //#qkv
    } //#qkv
    if (j < KIND_QUADS) { //#OTHER
      v = take_two(source + i, source + j, flag); //#OTHER
    } else if (i < KIND_QUADS) { //#OTHER
      v[0] = take(source + i, flag); //#OTHER
    } //#OTHER
    stat += vec2(dot(v[0], vec4(1.0)), dot(v[0], v[0])); //#NORMED
    stat += vec2(dot(v[1], vec4(1.0)), dot(v[1], v[1])); //#NORMED
    if (source == NONE || source == HERE) { //#qkv LOOP
    if (source == NONE) { //#qkv STEP
      if (i < KIND_QUADS) { own(i, v[0]); } //#qkv
      if (j < KIND_QUADS) { own(j, v[1]); } //#qkv
    } //#qkv
    v[0] *= g0; //#NORMED
    v[1] *= g1; //#NORMED
    KIND_keep(i, v[0]);
    if (round + 1u < KIND_ROUNDS) { KIND_keep(j, v[1]); }
  }
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
  give(AT_Q, pair, r, flag); //#qkv
  give(AT_H, pair, activated(v), flag); //#up PLAIN
  let own = pair - own_first(); //#ADDS
  let sum = residual[own] + v; //#ADDS
  residual[own] = sum; //#ADDS
  give(AT_X, pair, sum, flag); //#out
  give(AT_Y, pair, sum, flag); //#down
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
  var acc = vec2(0.0);
  var held = 0.0; //#GATED
  // Who has no pair sets the next product on its way, too.
  let steps = max(count * KIND_UNIT, 1u) * KIND_STEPS;
  for (var i = 0u; i < steps; i++) {
    let now = next;
    if (i + 1u < steps && count > 0u) {
      KIND_load(l, i + 1u, position);
    } else if (i + 1u == steps) {
      KIND_follow(l);
    }
    let step = i % KIND_STEPS;
    acc += KIND_chunk(now.aSLOT, now.bSLOT, now.saSLOT, now.sbSLOT, KIND_chunk_at(step, SLOTu));
    aux = now.aux;
    turn = now.turn;
    if (step + 1u < KIND_STEPS || count == 0u) { continue; }
    var v = subgroupAdd(acc);
    acc = vec2(0.0);
    if (KIND_SLICES == 1u) {
      let pair = KIND_pair(i / KIND_STEPS);
      v = rs * (v - mu * aux.xz) + aux.yw; //#NORMED
      v += aux.yw; //#BARE
      let h = activated(v).x * v.y; //#GATED
      if (pair % 2u == 1u && lane == 0u) { give(AT_H, pair / 2u, vec2(held, h), flag); } //#GATED
      held = h; //#GATED
      if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); } //#head
      if (v.x > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.x), 2u * pair); } //#head
      if (2u * pair + 1u < VOCAB && v.y > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.y), 2u * pair + 1u); } //#head
      if (lane == 0u) { KIND_finish(l, pair, v, turn, flag); }
    } else if (lane == 0u) {
      partial[warp] = v;
    }
  }
  if (KIND_SLICES > 1u) {
    workgroupBarrier();
    if (count > 0u && warp % KIND_SLICES == 0u && lane == 0u) {
      var v = vec2(0.0);
      for (var i = 0u; i < KIND_SLICES; i++) { v += partial[warp + i]; }
      v = rs * (v - mu * aux.xz) + aux.yw; //#NORMED
      v += aux.yw; //#BARE
      KIND_finish(l, KIND_pair(0u), v, turn, flag);
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
    give_slot(AT_WIN + group, best, flag); //#head
  } //#head
}
