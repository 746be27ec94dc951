// One product of persist.wgsl: KIND is qkv, out, up, down or head, and so is a tag.
//
// Further tags: W32 | W16 | W8 | W4, format of its matrix; GATED | PLAIN, whether its rows are pairs of gate and up;
// NORMED | BARE, whether a norm precedes it; BLOCK for all but the head; OTHER for all but qkv; ADDS for out and down.

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
  return ((step * 4u + part) * KIND_SLICES + warp % KIND_SLICES) * LANES + lane;
}

fn KIND_load(l: u32, pair: u32, step: u32, at: u32) {
  let row = KIND_AT + 2u * pair * KIND_ROW;
  let other = select(row, row + KIND_ROW, 2u * pair + 1u < KIND_ROWS);
  let c0 = KIND_chunk_at(step, 0u);
  let c1 = KIND_chunk_at(step, 1u);
  let c2 = KIND_chunk_at(step, 2u);
  let c3 = KIND_chunk_at(step, 3u);
  if (c0 < KIND_CHUNKS) {
    next.a0 = KIND_quad(l, row + c0);
    next.b0 = KIND_quad(l, other + c0);
    next.sa0 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c0 / 4u); //#W8
    next.sb0 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c0 / 4u); //#W8
    next.sa0 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c0); //#W4
    next.sb0 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c0); //#W4
  }
  if (c1 < KIND_CHUNKS) {
    next.a1 = KIND_quad(l, row + c1);
    next.b1 = KIND_quad(l, other + c1);
    next.sa1 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c1 / 4u); //#W8
    next.sb1 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c1 / 4u); //#W8
    next.sa1 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c1); //#W4
    next.sb1 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c1); //#W4
  }
  if (c2 < KIND_CHUNKS) {
    next.a2 = KIND_quad(l, row + c2);
    next.b2 = KIND_quad(l, other + c2);
    next.sa2 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c2 / 4u); //#W8
    next.sb2 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c2 / 4u); //#W8
    next.sa2 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c2); //#W4
    next.sb2 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c2); //#W4
  }
  if (c3 < KIND_CHUNKS) {
    next.a3 = KIND_quad(l, row + c3);
    next.b3 = KIND_quad(l, other + c3);
    next.sa3 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c3 / 4u); //#W8
    next.sb3 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c3 / 4u); //#W8
    next.sa3 = KIND_word(l, 4u * (row + KIND_CHUNKS) + c3); //#W4
    next.sb3 = KIND_word(l, 4u * (other + KIND_CHUNKS) + c3); //#W4
  }
  next.aux = KIND_extra(l, KIND_AUX + pair);
  let at_head = 2u * pair % (8u * HEAD8) / 4u; //#qkv
  if (at_head < ROPE_QUADS) { next.turn = rotations[at * ROPE_QUADS + at_head]; } //#qkv
}

// The first step, which waits for nobody.
fn KIND_ahead(l: u32, at: u32) {
  if (KIND_count() > 0u) { KIND_load(l, KIND_pair(0u, 0u), 0u, at); }
}

// Two rows' products with the inputs of chunk `c`.
fn KIND_chunk(a: vec4<u32>, b: vec4<u32>, sa: u32, sb: u32, c: u32) -> vec2<f32> {
  if (c >= KIND_CHUNKS) { return vec2(0.0); }
  let x0 = inputs[c]; //#W32
  return vec2(dot(bitcast<vec4<f32>>(a), x0), dot(bitcast<vec4<f32>>(b), x0)); //#W32
  let x0 = inputs[c]; //#W16
  let x1 = inputs[KIND_CHUNKS + c]; //#W16
  return vec2(dot(f16s(a.xy), x0) + dot(f16s(a.zw), x1), dot(f16s(b.xy), x0) + dot(f16s(b.zw), x1)); //#W16
  let ga = unpack2x16float(sa); //#W8
  let gb = unpack2x16float(sb); //#W8
  let scale = select(vec2(ga.x, gb.x), vec2(ga.y, gb.y), c / 2u % 2u == 1u); //#W8
  let x0 = inputs[c]; //#W8
  let x1 = inputs[KIND_CHUNKS + c]; //#W8
  let x2 = inputs[2u * KIND_CHUNKS + c]; //#W8
  let x3 = inputs[3u * KIND_CHUNKS + c]; //#W8
  let all = 1152.0 * total(x0 + x1 + x2 + x3); //#W8
  var da = dot(raised_bytes(a.x), x0) + dot(raised_bytes(a.y), x1); //#W8
  var db = dot(raised_bytes(b.x), x0) + dot(raised_bytes(b.y), x1); //#W8
  da += dot(raised_bytes(a.z), x2) + dot(raised_bytes(a.w), x3); //#W8
  db += dot(raised_bytes(b.z), x2) + dot(raised_bytes(b.w), x3); //#W8
  return scale * (vec2(da, db) - all); //#W8
  let la = unpack2x16float(sa); //#W4
  let lb = unpack2x16float(sb); //#W4
  var sum = vec2(0.0); //#W4
  var rest = vec4(0.0); //#W4
  for (var i = 0u; i < 4u; i++) { //#W4
    let x0 = inputs[2u * i * KIND_CHUNKS + c]; //#W4
    let x1 = inputs[(2u * i + 1u) * KIND_CHUNKS + c]; //#W4
    rest += x0 + x1; //#W4
    sum.x += dot(raised_halves(a[i]), x0) + dot(raised_halves(a[i] >> 4u), x1); //#W4
    sum.y += dot(raised_halves(b[i]), x0) + dot(raised_halves(b[i] >> 4u), x1); //#W4
  } //#W4
  let all = total(rest); //#W4
  return vec2(la.x, lb.x) * (sum - 1024.0 * all) + vec2(la.y, lb.y) * all; //#W4
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
      inputs[i % KIND_PARTS * KIND_CHUNKS + i / KIND_PARTS] = v[0];
    }
    if (j < KIND_QUADS) {
      stat += vec2(dot(v[1], vec4(1.0)), dot(v[1], v[1])); //#NORMED
      if (source >= HERE) { own(j, v[1]); } //#qkv
      v[1] *= g1; //#NORMED
      inputs[j % KIND_PARTS * KIND_CHUNKS + j / KIND_PARTS] = v[1];
    }
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
  for (var unit = 0u; unit < count; unit++) {
    var held = 0.0; //#GATED
    for (var half = 0u; half < KIND_UNIT; half++) {
      let pair = KIND_pair(unit, half);
      var acc = vec2(0.0);
      for (var step = 0u; step < KIND_STEPS; step++) {
        let now = next;
        if (step + 1u < KIND_STEPS) {
          KIND_load(l, pair, step + 1u, position);
        } else if (half + 1u < KIND_UNIT) {
          KIND_load(l, KIND_pair(unit, half + 1u), 0u, position);
        } else if (unit + 1u < count) {
          KIND_load(l, KIND_pair(unit + 1u, 0u), 0u, position);
        } else {
          KIND_follow(l);
        }
        acc += KIND_chunk(now.a0, now.b0, now.sa0, now.sb0, KIND_chunk_at(step, 0u));
        acc += KIND_chunk(now.a1, now.b1, now.sa1, now.sb1, KIND_chunk_at(step, 1u));
        acc += KIND_chunk(now.a2, now.b2, now.sa2, now.sb2, KIND_chunk_at(step, 2u));
        acc += KIND_chunk(now.a3, now.b3, now.sa3, now.sb3, KIND_chunk_at(step, 3u));
        aux = now.aux;
        turn = now.turn;
      }
      var v = subgroupAdd(acc);
      if (KIND_SLICES == 1u) {
        v = rs * (v - mu * aux.xz) + aux.yw; //#NORMED
        v += aux.yw; //#BARE
        let h = activated(v).x * v.y; //#GATED
        if (half == 1u && lane == 0u) { give(AT_H + pair / 2u, bitcast<vec2<u32>>(vec2(held, h)), flag); } //#GATED
        held = h; //#GATED
        if (CAP > 0.0) { v = CAP * safe_tanh(v / CAP); } //#head
        if (v.x > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.x), 2u * pair); } //#head
        if (2u * pair + 1u < VOCAB && v.y > bitcast<f32>(best.x)) { best = vec2(bitcast<u32>(v.y), 2u * pair + 1u); } //#head
        if (lane == 0u) { KIND_finish(l, pair, v, turn, flag); }
      } else if (lane == 0u) {
        partial[warp] = v;
      }
    }
  }
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
