// Whole tokens in one dispatch, or a step's layers for one token row: every workgroup stays on the device and takes its
// share of every op.
//
// Workgroups wait for each other without a barrier: what one op hands to the next goes through `wire`, and readers load it
// until it is the one that they wait for. A row's value says so itself: its two lowest bits are those of a number that every
// layer of every token has, its flag. Where not every slot is written in every layer, value and flag stand side by side (the
// idea of NCCL's LL protocol). Flags are never reset. Each product's first weights are loaded before its inputs are waited
// for: weights do not depend on them.
//
// This needs all workgroups to be on the device at once, which no API promises: the host asks the device beforehand,
// every wait is bounded, and whoever gives up sets `status`, upon which all others stop waiting and the host falls back.
//
// Every row of `wire` is written once a layer, the winners once a token. Nobody overwrites what another may still have to
// read: every workgroup has rows of every product, and every product reads all rows of the one before it. So whoever waits
// for a row finds either this layer's or the last one's, whose flags differ by one or two, and never an older one.
//
// A product's shape is known when the pipeline is made: persist_product.wgsl is the text of one product, repeated for each.
//
// A row's bits cost what rounding costs: three units of the last place at most. Residuals are kept whole by their owners.
//
// Tags: LOOP, tokens from the embedding to the likeliest next one, or STEP, the residual stream of one token row through the
// layers; REALS | DIGITS, how inputs are kept; W32 | W16 | W8, format of the token embedding; F16 | F32, of the KV cache and
// of learned positions; LEARNED | ROTATED, how positions come in.

override THREADS: u32 = 512u;
override LANES: u32 = 32u;      // threads of a subgroup
override WARPS: u32 = 16u;      // subgroups in a workgroup
override GROUPS: u32 = 132u;    // workgroups
override LAYERS: u32 = 12u;
override BLOCK_STEP: u32 = 1u;  // vec4s from one block's piece to the next
override QUADS: u32 = 192u;     // the most inputs of a product, in fours
override DIGIT_QUADS: u32 = 144u; // the same as digits //#DIGITS
override SPANS: u32 = 48u;      // the most chunks of such a product //#DIGITS
override X_QUADS: u32 = 192u;   // the residual stream, in fours
override OWNED: u32 = 3u;       // pairs of the residual stream that a workgroup owns at most
override HEAD8: u32 = 8u;       // head_dim / 8, a power of two, at most a subgroup
override FRESH: u32 = 48u;      // 6 * HEAD8
override MERGED: u32 = 256u;    // 2 * HEAD8 * WARPS
override HEADS: u32 = 12u;
override SHARING: u32 = 1u;     // query heads that share a KV head
override KV_HEADS: u32 = 12u;
override SPLITS: u32 = 8u;      // splits of a context at most
override WINDOW: u32 = 0xffffffffu; // positions that a token sees at most
override SCALE: f32 = 1.0;      // of the scores
override SOFTCAP: f32 = 0.0;    // of the scaled scores; 0: none
override ROPE_QUADS: u32 = 0u;  // a quarter of the elements of a head that are rotated
override CONTEXT: u32 = 1024u;  // positions of the KV cache
override KV_LAYER: u32 = 0u;    // elements of `kv` from one layer to the next
override EPS: f32 = 0.00001;    // of the norms
override CENTER: f32 = 1.0;     // 1: layer norm; 0: RMS norm, whose mu is 0
override INVERSE: f32 = 1.0;    // 1 / elements of the residual stream
override ACTIVATION: u32 = 1u;  // 1: GELU; 2: SiLU
override CAP: f32 = 0.0;        // of the logits; 0: none
override AT_PART: u32 = 0u;     // places in `wire`, slots with flags: splits of the attention
override AT_WIN: u32 = 0u;      // each workgroup's likeliest token //#LOOP
override AT_Q: u32 = 0u;        // rows: queries, keys, values
override AT_A: u32 = 0u;        // the attention's output
override AT_X: u32 = 0u;        // the residual stream behind attention
override AT_Y: u32 = 0u;        // the same behind the MLP
override AT_H: u32 = 0u;        // the hidden row
override WARM: u32 = 0u;        // sectors of 32 bytes, from `up` on, that idle workgroups fetch while others attend
override TOKENS: u32 = 0u;      // word of `tables` where the token embedding begins //#LOOP
override TOKEN_ROW: u32 = 0u;   // words of its row //#LOOP
override TOKEN_STRIDE: u32 = 0u; // elements of its row //#LOOP
override POSITIONS: u32 = 0u;   // the same of learned positions //#LOOP
override MODEL_POSITIONS: u32 = 1024u; //#LOOP
override VOCAB: u32 = 0u; //#LOOP
override EMBED_SCALE: f32 = 1.0; //#LOOP
override KEPT: u32 = 16u;       // entries of `chosen` //#LOOP
override PATIENCE: u32 = 0u;    // loads in one wait at most
override LEFT_OUT: u32 = 0u;    // what a measurement leaves out: a sum of WAITS and so on

const WAITS: u32 = 1u;          // flags are not looked at
const ATTENTION: u32 = 4u;      // keys and values are not read
const UP: u32 = 16u;            // nothing is fetched ahead for `up`; see KIND_LEFT for the products

const NONE: u32 = 0xffffffffu;
const LOWER: u32 = 0x0f0f0f0fu;  // half bytes //#DIGITS
const UPPER: u32 = 0xf0f0f0f0u; //#DIGITS
const SIGNS: u32 = 0x80808080u; //#DIGITS
// A whole number of less than 2^22 is the last bits of a float from 3 * 2^22 on, where floats are one apart: a sum in place //#DIGITS
// of a conversion, of which a device does an eighth as many. //#DIGITS
const WHOLE: f32 = 12582912.0; //#DIGITS
const WHOLE_BITS: i32 = 0x4b400000; //#DIGITS
// Takes these bits away and adds 128 in each digit's place: none is negative then. //#DIGITS
const UNSIGNED: u32 = 0xb5408080u; //#DIGITS
const REACH: f32 = 4194000.0;   // of inputs as whole numbers; what is left is for rounding //#DIGITS
const MARK: u32 = 3u;           // a row's bits that are its flag's

// Eight elements of the KV cache as they are stored.
alias Eight = vec4<u32>; //#F16
alias Eight = mat2x4<f32>; //#F32

struct Control {
  turns: u32,                   // tokens of this dispatch: one in a step
  flag: u32,                    // its first flag; steps count on by themselves
}

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

@group(0) @binding(0) var<storage, read> rotations: array<vec4<f32>>;             // [CONTEXT][ROPE_QUADS] (cos, sin) of 2 pairs
@group(0) @binding(1) var<storage, read> blocks: array<vec4<u32>>;                // the pieces of the blocks
@group(0) @binding(9) var<storage, read> block_words: array<u32>;                 // the same, by words
@group(0) @binding(11) var<storage, read> tables: array<vec4<u32>>;               // the other pieces //#LOOP
@group(0) @binding(12) var<storage, read> table_words: array<u32>;                // the same, by words //#LOOP
@group(0) @binding(2) @coherent @volatile var<storage, read_write> wire: array<vec4<u32>>; // (value, flag, value, flag) or 4 of a row
@group(0) @binding(13) @coherent @volatile var<storage, read_write> wire_pairs: array<vec2<u32>>; // the same, by halves
@group(0) @binding(3) @coherent var<storage, read_write> kv: array<u32>;          // 2 f16 each //#F16
@group(0) @binding(3) @coherent var<storage, read_write> kv: array<vec2<f32>>;    //#F32
@group(0) @binding(10) @coherent var<storage, read_write> cache: array<vec4<u32>>; // the same buffer, 8 f16 each //#F16
@group(0) @binding(10) @coherent var<storage, read_write> cache: array<vec4<f32>>; //#F32
@group(0) @binding(4) var<storage, read_write> x: array<vec2<f32>>;               // the residual stream, before and behind
@group(0) @binding(5) var<storage, read_write> state: State;
@group(0) @binding(6) var<storage, read> control: Control; //#LOOP
@group(0) @binding(6) var<storage, read_write> control: Control; //#STEP
@group(0) @binding(7) var<storage, read_write> status: atomic<u32>;               // 1: gave up
@group(0) @binding(8) var<storage, read_write> chosen: array<u32>;                // [KEPT] //#LOOP

// A product's inputs, normed but for the statistics.
var<workgroup> inputs: array<vec4<f32>, QUADS>;         // [part of a chunk][chunk] //#REALS
// Inputs as whole numbers of three digits to the base 256, -128 to 127 each, so that four products of a byte and a digit
// are one instruction. A chunk's inputs share the size of a step, which is 2^-22 of the largest; that of inputs of upper half
// bytes is 16 times as large, since these are multiplied where they are in their byte.
var<workgroup> digits: array<vec4<u32>, DIGIT_QUADS>;   // [digit, highest first][even, odd parts for 4 bits][chunk], 4 digits a word //#DIGITS
var<workgroup> spans: array<vec2<f32>, SPANS>;          // (step, sum of the inputs) of each chunk //#DIGITS
var<workgroup> uppers: array<f32, SPANS>;               // 8 times the sum of those of upper half bytes //#DIGITS
var<workgroup> stats: array<vec2<f32>, WARPS>;
var<workgroup> partial: array<vec2<f32>, WARPS>;
var<workgroup> residual: array<vec2<f32>, OWNED>;
var<workgroup> fresh: array<vec4<f32>, FRESH>;          // query, key and value of this position
var<workgroup> merged: array<vec4<f32>, MERGED>;
var<workgroup> merged_stat: array<vec2<f32>, WARPS>;    // (maximum, sum)
var<workgroup> winner: array<vec2<u32>, WARPS>;         // (bits of the logit, id) //#LOOP

// What this thread is; set once.
var<private> thread: u32;
var<private> lane: u32;
var<private> warp: u32;
var<private> group: u32;
var<private> gave_up: bool;
// This turn.
var<private> position: u32;
var<private> best: vec2<u32>; //#LOOP
var<private> fetched: u32;      // what was fetched for nobody
// This thread's first key and value of the next attention, on their way.
var<private> early_key: Eight;
var<private> early_value: Eight;

// A step of a product: chunks of two rows, and what its epilogue needs. The line with SLOT is there for each chunk.
struct Load {
  aSLOT: vec4<u32>, bSLOT: vec4<u32>, saSLOT: u32, sbSLOT: u32,
  aux: vec4<f32>,
  turn: vec4<f32>,
}

// The next step's, on its way.
var<private> next: Load;

// A vec4 of the tables: embedding, positions, head.
fn table_quad(i: u32) -> vec4<u32> { return tables[i]; } //#LOOP

fn f16s(q: vec2<u32>) -> vec4<f32> { return vec4(unpack2x16float(q.x), unpack2x16float(q.y)); }

fn bytes(word: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(word)); }

// `sum` and four bytes times four digits, four times.
fn dots(sum: i32, w: vec4<u32>, d: vec4<u32>) -> i32 { //#DIGITS
  return sum + dot4I8Packed(w.x, d.x) + dot4I8Packed(w.y, d.y) + dot4I8Packed(w.z, d.z) + dot4I8Packed(w.w, d.w); //#DIGITS
} //#DIGITS

fn real(sum: i32) -> f32 { return bitcast<f32>(sum) - WHOLE; } //#DIGITS

// What the sums of three digits' products, which began with WHOLE_BITS, are together.
fn joined(high: i32, middle: i32, low: i32) -> f32 { //#DIGITS
  return fma(real(high), 65536.0, fma(real(middle), 256.0, real(low))); //#DIGITS
} //#DIGITS

fn total(v: vec4<f32>) -> f32 { return dot(v, vec4(1.0)); }

// Whether a wait goes on: it gives up after `patience` loads, and when another has given up.
fn patient(tries: u32) -> bool {
  if (gave_up || (LEFT_OUT & WAITS) != 0u) { return false; }
  if (tries % 256u == 255u) {
    if (tries >= PATIENCE || atomicLoad(&status) != 0u) {
      atomicStore(&status, 1u);
      gave_up = true;
      return false;
    }
  }
  return true;
}

// The values of four of a row, and of twice four.
fn take(at: u32, flag: u32) -> vec4<f32> {
  var a = wire[at];
  var tries = 0u;
  while (any((a & vec4(MARK)) != vec4(flag & MARK)) && patient(tries)) {
    tries++;
    a = wire[at];
  }
  return bitcast<vec4<f32>>(a & vec4(~MARK));
}

fn take_two(at: u32, other: u32, flag: u32) -> mat2x4<f32> {
  var a = wire[at];
  var b = wire[other];
  var tries = 0u;
  while (any((((a ^ vec4(flag)) | (b ^ vec4(flag))) & vec4(MARK)) != vec4(0u)) && patient(tries)) {
    tries++;
    a = wire[at];
    b = wire[other];
  }
  return mat2x4<f32>(bitcast<vec4<f32>>(a & vec4(~MARK)), bitcast<vec4<f32>>(b & vec4(~MARK)));
}

// Four times four of a row, THREADS fours apart.
fn take_four(at: u32, flag: u32) -> mat4x4<f32> {
  var a = wire[at];
  var b = wire[at + THREADS];
  var c = wire[at + 2u * THREADS];
  var d = wire[at + 3u * THREADS];
  let mark = vec4(flag);
  var tries = 0u;
  while (any((((a ^ mark) | (b ^ mark) | (c ^ mark) | (d ^ mark)) & vec4(MARK)) != vec4(0u)) && patient(tries)) {
    tries++;
    a = wire[at];
    b = wire[at + THREADS];
    c = wire[at + 2u * THREADS];
    d = wire[at + 3u * THREADS];
  }
  let values = vec4(~MARK);
  return mat4x4<f32>(bitcast<vec4<f32>>(a & values), bitcast<vec4<f32>>(b & values),
    bitcast<vec4<f32>>(c & values), bitcast<vec4<f32>>(d & values));
}

// The four values of two slots.
fn take_slots(at: u32, flag: u32) -> vec4<f32> {
  var a = wire[at];
  var b = wire[at + 1u];
  var tries = 0u;
  while (any(vec4(a.yw, b.yw) != vec4(flag)) && patient(tries)) {
    tries++;
    a = wire[at];
    b = wire[at + 1u];
  }
  return bitcast<vec4<f32>>(vec4(a.xz, b.xz));
}

// The two words of one slot.
fn take_pair(at: u32, flag: u32) -> vec2<u32> {
  var a = wire[at];
  var tries = 0u;
  while (any(a.yw != vec2(flag)) && patient(tries)) {
    tries++;
    a = wire[at];
  }
  return a.xz;
}

fn give_slot(at: u32, v: vec2<u32>, flag: u32) {
  wire[at] = vec4(v.x, flag, v.y, flag);
}

// Pair `i` of the row at `at`; four of it.
fn give(at: u32, i: u32, v: vec2<f32>, flag: u32) {
  wire_pairs[2u * at + i] = (bitcast<vec2<u32>>(v) & vec2(~MARK)) | vec2(flag & MARK);
}

fn give_four(at: u32, v: vec4<f32>, flag: u32) {
  wire[at] = (bitcast<vec4<u32>>(v) & vec4(~MARK)) | vec4(flag & MARK);
}

// Elements 4i to 4i+3 of a token's embedding at `position`. //#LOOP
fn embedding(id: u32, i: u32) -> vec4<f32> { //#LOOP
  var v = vec4(0.0); //#LOOP
  v = bitcast<vec4<f32>>(table_quad(TOKENS / 4u + id * (TOKEN_ROW / 4u) + i)); //#LOOP W32
  let at = id * TOKEN_ROW + 2u * i; //#LOOP W16
  v = f16s(vec2(table_words[TOKENS + at], table_words[TOKENS + at + 1u])); //#LOOP W16
  let pair = unpack2x16float(table_words[TOKENS + id * TOKEN_ROW + TOKEN_STRIDE / 4u + i / 16u]); //#LOOP W8
  v = select(pair.x, pair.y, i / 8u % 2u == 1u) * bytes(table_words[TOKENS + id * TOKEN_ROW + i]); //#LOOP W8
  v *= EMBED_SCALE; //#LOOP
  let row = min(position, MODEL_POSITIONS - 1u) * TOKEN_STRIDE; //#LOOP LEARNED
  let learned = vec2(table_words[POSITIONS + (row + 4u * i) / 2u], table_words[POSITIONS + (row + 4u * i) / 2u + 1u]); //#LOOP LEARNED F16
  v += f16s(learned); //#LOOP LEARNED F16
  v += bitcast<vec4<f32>>(table_quad(POSITIONS / 4u + row / 4u + i)); //#LOOP LEARNED F32
  return v; //#LOOP
} //#LOOP

fn safe_tanh(v: vec2<f32>) -> vec2<f32> { return tanh(clamp(v, vec2(-15.0), vec2(15.0))); }

fn activated(v: vec2<f32>) -> vec2<f32> {
  if (ACTIVATION == 1u) { return 0.5 * v * (1.0 + safe_tanh(0.7978845608028654 * (v + 0.044715 * v * v * v))); }
  return v / (1.0 + exp(clamp(-v, vec2(-30.0), vec2(30.0))));
}

// The pairs of the residual stream that this workgroup owns begin here; so do its rows of what adds to it.
fn own_first() -> u32 { return group * (X_QUADS * 2u) / GROUPS; }

// Remembers elements 4i to 4i+3 of the residual stream where they are this workgroup's.
fn own(i: u32, v: vec4<f32>) {
  let first = own_first();
  let end = (group + 1u) * (X_QUADS * 2u) / GROUPS;
  let pair = 2u * i;
  if (pair >= first && pair < end) { residual[pair - first] = v.xy; }
  if (pair + 1u >= first && pair + 1u < end) { residual[pair + 1u - first] = v.zw; }
}

// Sets the first keys and values of a layer's attention on their way, which wait for no other workgroup: they lie in the cache.
fn attend_ahead(l: u32) {
  let count = position + 1u;
  let seen = min(count, WINDOW);
  let splits = split_count(seen);
  early_key = Eight();
  early_value = Eight();
  if (group >= HEADS * splits || (LEFT_OUT & ATTENTION) != 0u) { return; }
  let share = (seen + splits - 1u) / splits;
  let first = count - seen + group % splits * share;
  let early = first + thread / HEAD8;
  if (early < min(first + share, position)) {
    let at = l * KV_LAYER / 4u + group / splits / SHARING * CONTEXT * HEAD8 + early * HEAD8 + thread % HEAD8;
    early_key = stored(at);
    early_value = stored(at + KV_HEADS * CONTEXT * HEAD8);
  }
}

// Attention of this workgroup's heads and splits, from `wire` and the KV cache into `wire`.
fn attend(l: u32, flag: u32) {
  let count = position + 1u;
  let seen = min(count, WINDOW);
  let begin = count - seen;
  let splits = split_count(seen);
  let head_quads = 2u * HEAD8;
  let part = thread % HEAD8;
  let team = thread / HEAD8;
  let teams = THREADS / HEAD8;
  let layer = l * KV_LAYER;
  for (var item = group; item < HEADS * splits; item += GROUPS) {
    let head = item / splits;
    let share = (seen + splits - 1u) / splits;
    let first = begin + item % splits * share;
    let end = select(min(first + share, count), first, (LEFT_OUT & ATTENTION) != 0u);
    let kv_head = head / SHARING;
    let keys = layer / 4u + kv_head * CONTEXT * HEAD8;
    let values = keys + KV_HEADS * CONTEXT * HEAD8;

    // What is in the cache already does not depend on this token.
    let early = first + team;
    var k = eight(early_key);
    var v = eight(early_value);
    if (item != group && early < min(end, position)) {
      k = eight(stored(keys + early * HEAD8 + part));
      v = eight(stored(values + early * HEAD8 + part));
    }
    workgroupBarrier();
    if (thread < 3u * head_quads) {
      let which = thread / head_quads;
      let heads_before = select(head, HEADS + (which - 1u) * KV_HEADS + kv_head, which > 0u);
      fresh[thread] = take(AT_Q + heads_before * head_quads + thread % head_quads, flag);
    }
    workgroupBarrier();
    let q0 = fresh[2u * part];
    let q1 = fresh[2u * part + 1u];
    var highest = -1.0e30;
    var total = 0.0;
    var acc = mat2x4<f32>();
    for (var base = first; base < end; base += teams) {
      let at = base + team;
      if (at < end) {
        if (at == position) {
          k = mat2x4<f32>(fresh[head_quads + 2u * part], fresh[head_quads + 2u * part + 1u]);
          v = mat2x4<f32>(fresh[2u * head_quads + 2u * part], fresh[2u * head_quads + 2u * part + 1u]);
        } else if (base != first) {
          k = eight(stored(keys + at * HEAD8 + part));
          v = eight(stored(values + at * HEAD8 + part));
        }
      }
      var score = dot(k[0], q0) + dot(k[1], q1);
      for (var apart = 1u; apart < HEAD8; apart *= 2u) { score += subgroupShuffleXor(score, apart); }
      score *= SCALE;
      if (SOFTCAP > 0.0) { score = SOFTCAP * tanh(clamp(score / SOFTCAP, -15.0, 15.0)); }
      score = select(-1.0e30, max(score, -1.0e30), at < end);
      let higher = max(highest, score);
      let fade = exp(highest - higher);
      let p = select(0.0, exp(score - higher), at < end);
      highest = higher;
      total = total * fade + p;
      acc = acc * fade + v * p;
    }
    // Teams of a subgroup, then subgroups.
    for (var apart = HEAD8; apart < LANES; apart *= 2u) {
      let rival = subgroupShuffleXor(highest, apart);
      let higher = max(highest, rival);
      let fade = exp(highest - higher);
      let other = exp(rival - higher);
      total = total * fade + subgroupShuffleXor(total, apart) * other;
      acc[0] = acc[0] * fade + subgroupShuffleXor(acc[0], apart) * other;
      acc[1] = acc[1] * fade + subgroupShuffleXor(acc[1], apart) * other;
      highest = higher;
    }
    if (lane < HEAD8) {
      merged[warp * head_quads + 2u * part] = acc[0];
      merged[warp * head_quads + 2u * part + 1u] = acc[1];
    }
    if (lane == 0u) { merged_stat[warp] = vec2(highest, total); }
    workgroupBarrier();
    if (thread < head_quads) {
      var most = -1.0e30;
      for (var i = 0u; i < WARPS; i++) { most = max(most, merged_stat[i].x); }
      var sum = 0.0;
      var value = vec4(0.0);
      for (var i = 0u; i < WARPS; i++) {
        let fade = exp(merged_stat[i].x - most);
        sum += merged_stat[i].y * fade;
        value += merged[i * head_quads + thread] * fade;
      }
      if (splits == 1u) {
        give_four(AT_A + head * head_quads + thread, value / sum, flag);
      } else {
        let to = AT_PART + item * (2u * head_quads + 1u);
        give_slot(to + 2u * thread, bitcast<vec2<u32>>(value.xy), flag);
        give_slot(to + 2u * thread + 1u, bitcast<vec2<u32>>(value.zw), flag);
        if (thread == 0u) { give_slot(to + 2u * head_quads, bitcast<vec2<u32>>(vec2(most, sum)), flag); }
      }
    }
  }
  if (group >= HEADS * splits && (LEFT_OUT & UP) == 0u) { fetch(l, group - HEADS * splits, GROUPS - HEADS * splits); }
  if (splits > 1u) { combine(splits, flag); }
}

// Fetches a share of what `WARM` says into the device's cache, which is idle while some workgroups attend and the others
// have to wait for them.
fn fetch(l: u32, share: u32, shares: u32) {
  let first = WARM * share / shares;
  let end = WARM * (share + 1u) / shares;
  var word = 0u;
  for (var i = first + thread; i < end; i += 4u * THREADS) {
    let last = end - 1u;
    let base = 4u * (l * BLOCK_STEP + up_AT);
    word ^= block_words[base + 8u * i] ^ block_words[base + 8u * min(i + THREADS, last)]
      ^ block_words[base + 8u * min(i + 2u * THREADS, last)] ^ block_words[base + 8u * min(i + 3u * THREADS, last)];
  }
  fetched |= word;
}

// The splits of a head, by one workgroup.
fn combine(splits: u32, flag: u32) {
  let head_quads = 2u * HEAD8;
  // The last workgroups: the first ones have splits of their own to finish.
  for (var head = GROUPS - 1u - group; head < HEADS; head += GROUPS) {
    if (thread < head_quads) {
      var most = -1.0e30;
      var sum = 0.0;
      var value = vec4(0.0);
      for (var i = 0u; i < splits; i++) {
        let source = AT_PART + (head * splits + i) * (2u * head_quads + 1u);
        let v = take_slots(source + 2u * thread, flag);
        let stat = bitcast<vec2<f32>>(take_pair(source + 2u * head_quads, flag));
        let higher = max(most, stat.x);
        let fade = exp(most - higher);
        let other = exp(stat.x - higher);
        sum = sum * fade + stat.y * other;
        value = value * fade + v * other;
        most = higher;
      }
      give_four(AT_A + head * head_quads + thread, value / sum, flag);
    }
  }
}

// Splits of a context: as many as there are workgroups for, of 64 positions at least.
fn split_count(seen: u32) -> u32 {
  return clamp(min(GROUPS / HEADS, (seen + 127u) / 128u - 1u), 1u, SPLITS);
}

// Elements 8i to 8i+7 of the cache.
fn stored(i: u32) -> Eight {
  return cache[i]; //#F16
  return mat2x4<f32>(cache[2u * i], cache[2u * i + 1u]); //#F32
}

fn eight(h: Eight) -> mat2x4<f32> {
  return mat2x4<f32>(f16s(h.xy), f16s(h.zw)); //#F16
  return h; //#F32
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup_id: vec3<u32>,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_invocation_id) subgroup_lane: u32,
) {
  lane = subgroup_lane;
  warp = subgroup;
  thread = warp * LANES + lane;
  group = workgroup_id.x;
  position = state.position;
  let made = state.made; //#LOOP
  let turns = control.turns; //#LOOP
  let turns = 1u; //#STEP
  var id = 0u;
  var flag = control.flag;
  qkv_ahead(0u, position);
  for (var turn = 0u; turn < turns; turn++) {
    for (var l = 0u; l < LAYERS; l++) {
      var source = AT_Y;
      if (l == 0u) { source = select(HERE, NONE, turn == 0u); } //#LOOP
      if (l == 0u) { source = NONE; } //#STEP
      attend_ahead(l);
      qkv_run(l, source, flag + l - 1u, flag + l, id);
      attend(l, flag + l);
      out_run(l, AT_A, flag + l, flag + l, id);
      up_run(l, AT_X, flag + l, flag + l, id);
      down_run(l, AT_H, flag + l, flag + l, id);
    }
    best = vec2(0xff7fffffu, NONE); //#LOOP
    head_run(0u, AT_Y, flag + LAYERS - 1u, flag + LAYERS, id); //#LOOP
    id = pick(flag + LAYERS); //#LOOP
    // What this workgroup put into the KV cache is there before anything of the next token.
    storageBarrier();
    workgroupBarrier(); //#STEP
    position += 1u; //#LOOP
    if (group == 0u && thread == 0u) { chosen[(made + turn) % KEPT] = id; } //#LOOP
    flag += LAYERS + 1u;
  }
  // Nothing depends on it, but a compiler must not know.
  if (fetched == NONE && control.turns == 0u) { atomicStore(&status, 1u); }
  // Who is here has had rows of all others, which have read where the flags begin. //#STEP
  if (group == 0u && thread == 0u) { control.flag = flag; } //#STEP
  if (group == 0u) { //#LOOP
    for (var i = thread; i < X_QUADS; i += THREADS) { //#LOOP
      let v = embedding(id, i); //#LOOP
      x[2u * i] = v.xy; //#LOOP
      x[2u * i + 1u] = v.zw; //#LOOP
    } //#LOOP
    if (thread == 0u) { //#LOOP
      state.ids[0] = id; //#LOOP
      state.made = made + turns; //#LOOP
      state.position = min(position, MODEL_POSITIONS - 1u); //#LOOP
    } //#LOOP
  } //#LOOP
  // A step has no result but its row, so that says it where somebody gave up: it is no number then. //#STEP
  let failed = atomicLoad(&status) != 0u; //#STEP
  // Made of what is known on the device only: WGSL has no constant for it. //#STEP
  let nothing = vec2(bitcast<f32>(0x7fc00000u | group)); //#STEP
  let owned = (group + 1u) * (X_QUADS * 2u) / GROUPS - own_first(); //#STEP
  for (var i = thread; i < owned; i += THREADS) { x[own_first() + i] = select(residual[i], nothing, failed); } //#STEP
}

// The inputs come from the embedding of the last token; NONE: from `x`.
const HERE: u32 = 0xfffffffeu; //#LOOP

// What is on its way while a product ends: the first weights of the one behind it.
fn qkv_follow(l: u32) { out_ahead(l, position); }
fn out_follow(l: u32) { up_ahead(l, position); }
fn up_follow(l: u32) { down_ahead(l, position); }
fn down_follow(l: u32) {
  if (l + 1u < LAYERS) {
    qkv_ahead(l + 1u, position);
  } else { //#LOOP
    head_ahead(0u, position); //#LOOP
  }
}
fn head_follow(l: u32) { qkv_ahead(0u, position + 1u); } //#LOOP

// The likeliest token of all workgroups, the lowest id among equals. //#LOOP
fn pick(flag: u32) -> u32 { //#LOOP
  var value = bitcast<f32>(0xff7fffffu); //#LOOP
  var id = NONE; //#LOOP
  for (var i = thread; i < GROUPS; i += THREADS) { //#LOOP
    let rival = take_pair(AT_WIN + i, flag); //#LOOP
    let rival_value = bitcast<f32>(rival.x); //#LOOP
    if (rival_value > value || (rival_value == value && rival.y < id)) { //#LOOP
      value = rival_value; //#LOOP
      id = rival.y; //#LOOP
    } //#LOOP
  } //#LOOP
  let high = subgroupMax(value); //#LOOP
  let low = subgroupMin(select(NONE, id, value == high)); //#LOOP
  workgroupBarrier(); //#LOOP
  if (lane == 0u) { winner[warp] = vec2(bitcast<u32>(high), low); } //#LOOP
  workgroupBarrier(); //#LOOP
  value = bitcast<f32>(winner[0].x); //#LOOP
  id = winner[0].y; //#LOOP
  for (var i = 1u; i < WARPS; i++) { //#LOOP
    let rival_value = bitcast<f32>(winner[i].x); //#LOOP
    if (rival_value > value || (rival_value == value && winner[i].y < id)) { //#LOOP
      value = rival_value; //#LOOP
      id = winner[i].y; //#LOOP
    } //#LOOP
  } //#LOOP
  // No logit was a number: any id will do, but it must be one of the vocabulary. //#LOOP
  return select(0u, id, id < VOCAB); //#LOOP
} //#LOOP
