// Draws a token among those that top-k and top-p leave, from the logits of one row, in five passes. sampling/sieve.rs says
// what a step is, and has the same in plain form.
//
// Tags, one for each pass; each thread has four logits:
//   MAX      each workgroup's largest logit to `winners`
//   UPPER    counts and weighs the tokens by the upper half of their steps
//   TOP_K    finds the upper half of top-k's last step; counts and weighs the tokens in it by the lower half
//   TOP_P    finds top-k's last step and the upper half of top-p's; weighs the tokens in it by the lower half
//   CHOOSE   finds the last step that stays; each workgroup's largest score of the tokens up to it to `winners`
// TOP_K is left out where top_k is 0, TOP_P where top_p is 1. Every workgroup finds for itself, the first one notes what
// later passes need. A tally is left empty for the next token by a pass that no longer reads it.

const THREADS: u32 = 256u;
const BINS: u32 = 2048u;        // half of a step's bits
const EACH: u32 = BINS / THREADS;
const ALL: u32 = 0xffffffffu;   // a last step that leaves out nothing

struct State {
  position: u32,
  rows: u32,
  wanted: u32,
  made: u32,
  ids: array<u32>,
}

struct Shape {
  vocab: u32,
  workgroups: u32,              // of every pass
  winners: u32,                 // entries of `winners` that the token loop's turn reads
  pad: u32,
}

// What is known between passes.
struct Cut {
  top: f32,                     // the largest logit
  k_upper: u32,                 // upper half of top-k's last step; BINS: there is none
  k_before: Sum,                // what is below that half
  k_last: u32,                  // top-k's last step
  p_upper: u32,                 // the same for top-p
  p_before: Sum,
  p_enough: f32,                // weight that top-p asks for
}

// How many tokens, and their weight in units of 2^-31 of the most likely one's, as two words.
struct Sum {
  count: u32,
  low: u32,
  high: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<vec4<f32>>;      // [vocab / 4]
@group(0) @binding(1) var<storage, read_write> winners: array<vec2<u32>>; // (bits of the logit or score, id)
@group(0) @binding(3) var<storage, read_write> cut: Cut;
@group(0) @binding(4) var<uniform> shape: Shape;
@group(0) @binding(5) var<storage, read> state: State;
@group(0) @binding(6) var<uniform> draw: Draw;
// The tallies: a pass fills one with atomics and reads others, which is much faster without.
@group(0) @binding(2) var<storage, read_write> tally: array<atomic<u32>>;   // by the upper half: [count|low|high][BINS] //#MAX
@group(0) @binding(2) var<storage, read_write> tally: array<atomic<u32>>;   // by the upper half: [count|low|high][BINS] //#UPPER
@group(0) @binding(2) var<storage, read_write> tally: array<atomic<u32>>;   // by the upper half: [count|low|high][BINS] //#CHOOSE
@group(0) @binding(2) var<storage, read> upper: array<vec4<u32>>;        // the same //#TOP_K
@group(0) @binding(2) var<storage, read> upper: array<vec4<u32>>;        // the same //#TOP_P
@group(0) @binding(7) var<storage, read_write> tally: array<atomic<u32>>;   // top-k's, by the lower half //#TOP_K
@group(0) @binding(7) var<storage, read_write> lower_k: array<vec4<u32>>; //#UPPER
@group(0) @binding(7) var<storage, read> lower_k: array<vec4<u32>>; //#MAX
@group(0) @binding(7) var<storage, read> lower_k: array<vec4<u32>>; //#TOP_P
@group(0) @binding(7) var<storage, read> lower_k: array<vec4<u32>>; //#CHOOSE
@group(0) @binding(8) var<storage, read_write> tally: array<atomic<u32>>;   // top-p's, by the lower half //#TOP_P
@group(0) @binding(8) var<storage, read_write> lower_p: array<vec4<u32>>; //#UPPER
@group(0) @binding(8) var<storage, read> lower_p: array<vec4<u32>>; //#MAX
@group(0) @binding(8) var<storage, read> lower_p: array<vec4<u32>>; //#TOP_K
@group(0) @binding(8) var<storage, read> lower_p: array<vec4<u32>>; //#CHOOSE

// noise.wgsl

var<workgroup> values: array<f32, THREADS>;
var<workgroup> ids: array<u32, THREADS>;
var<workgroup> sums: array<Sum, THREADS>;
var<workgroup> found_bin: u32;
var<workgroup> found_before: Sum;
var<workgroup> found_upto: Sum;

fn added(a: Sum, b: Sum) -> Sum {
  let low = a.low + b.low;
  return Sum(a.count + b.count, low, a.high + b.high + select(0u, 1u, low < b.low));
}

// A weight as one number, rounded as in sampling/sieve.rs.
fn wide(sum: Sum) -> f32 {
  return f32(sum.high) * 4294967296.0 + f32(sum.low);
}

fn enough(sum: Sum, count: u32, weight: f32, by_weight: bool) -> bool {
  return select(sum.count >= count, wide(sum) >= weight, by_weight);
}

// Four words of the tally by the upper half (0), of top-k's (1) or of top-p's (2).
fn four_of(which: u32, at: u32) -> vec4<u32> {
  if (which == 0u) { return upper[at]; } //#TOP_K
  if (which == 0u) { return upper[at]; } //#TOP_P
  if (which == 1u) { return lower_k[at]; } //#TOP_P
  if (which == 1u) { return lower_k[at]; } //#CHOOSE
  if (which == 2u) { return lower_p[at]; } //#CHOOSE
  return vec4(0u);
}

// Finds the first bin of a tally with which there is enough, given what is `before` all of them: `found_bin` (BINS where
// there never is), and what is in front of it and up to it. Gives the sum of all. To be called by all threads.
fn find(thread: u32, which: u32, before: Sum, count: u32, weight: f32, by_weight: bool) -> Sum {
  workgroupBarrier();
  var own = Sum(0u, 0u, 0u);
  var bins: array<Sum, EACH>;
  for (var four = 0u; four < EACH / 4u; four++) {
    let at = thread * EACH / 4u + four;
    let count = four_of(which, at);
    let low = four_of(which, at + BINS / 4u);
    let high = four_of(which, at + BINS / 2u);
    for (var i = 0u; i < 4u; i++) {
      bins[4u * four + i] = Sum(count[i], low[i], high[i]);
      own = added(own, bins[4u * four + i]);
    }
  }
  sums[thread] = own;
  if (thread == 0u) { found_bin = BINS; }
  for (var distance = 1u; distance < THREADS; distance <<= 1u) {
    workgroupBarrier();
    var sum = sums[thread];
    if (thread >= distance) { sum = added(sum, sums[thread - distance]); }
    workgroupBarrier();
    sums[thread] = sum;
  }
  workgroupBarrier();
  var sum = before;
  if (thread > 0u) { sum = added(before, sums[thread - 1u]); }
  if (!enough(sum, count, weight, by_weight)) {
    for (var i = 0u; i < EACH; i++) {
      let next = added(sum, bins[i]);
      if (enough(next, count, weight, by_weight)) {
        found_bin = thread * EACH + i;
        found_before = sum;
        found_upto = next;
        break;
      }
      sum = next;
    }
  }
  workgroupBarrier();
  return added(before, sums[THREADS - 1u]);
}

// The number of steps to a logit; it has a step only where this is below BINS * BINS.
fn steps_to(logit: f32, top: f32) -> f32 {
  return (top - logit) * draw.steps;
}

fn has_step(steps: f32) -> bool {
  return steps < f32(BINS * BINS);
}

// e^(-step / 2^17) in units of 2^-31: Cody and Waite's reduction and the polynomial of Cephes, as in cpu/math.rs.
fn weight(step: u32) -> u32 {
  let x = f32(step) * (-1.0 / 131072.0);
  let n = round(x * 1.442695);
  let r = (x - n * 0.6933594) + n * 2.1219444e-4;
  let p = ((((1.9875691e-4 * r + 1.3981999e-3) * r + 8.333452e-3) * r + 4.1665796e-2) * r + 1.6666665e-1) * r + 0.5;
  let power = bitcast<f32>(u32(i32(n) + 127) << 23u);
  return u32((p * r * r + r + 1.0) * power * 2147483648.0);
}

fn add(bin: u32, step: u32) {
  let more = weight(step);
  atomicAdd(&tally[bin], 1u);
  let low = atomicAdd(&tally[bin + BINS], more);
  if (low + more < more) { atomicAdd(&tally[bin + 2u * BINS], 1u); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = (workgroup.x * THREADS + thread) * 4u;
  let have = first < shape.vocab;
  let four = logits[min(first, shape.vocab - 1u) / 4u];
  let nothing = bitcast<f32>(0xff7fffffu);
  let notes = workgroup.x == 0u && thread == 0u;

  ids[thread] = 0u;
  var value = nothing; //#MAX
  for (var i = 0u; i < 4u; i++) { //#MAX
    if (first + i < shape.vocab && four[i] > value) { value = four[i]; } //#MAX
  } //#MAX
  values[thread] = value; //#MAX
  values[thread] = nothing; //#UPPER
  for (var i = thread; i < shape.workgroups; i += THREADS) { //#UPPER
    values[thread] = max(values[thread], bitcast<f32>(winners[i].x)); //#UPPER
  } //#UPPER
  let top = largest(thread); //#MAX
  let top = largest(thread); //#UPPER
  if (thread == 0u) { winners[workgroup.x] = vec2(bitcast<u32>(top), 0u); } //#MAX
  if (notes) { cut.top = top; } //#UPPER
  for (var i = workgroup.x * THREADS + thread; i < 3u * BINS / 4u; i += shape.workgroups * THREADS) { //#UPPER
    lower_k[i] = vec4(0u); //#UPPER
    lower_p[i] = vec4(0u); //#UPPER
  } //#UPPER

  let top = cut.top; //#TOP_K
  _ = find(thread, 0u, Sum(0u, 0u, 0u), draw.top_k, 0.0, false); //#TOP_K
  if (notes) { //#TOP_K
    cut.k_upper = found_bin; //#TOP_K
    cut.k_before = found_before; //#TOP_K
  } //#TOP_K

  let top = cut.top; //#TOP_P
  var last = ALL; //#TOP_P
  var left = Sum(0u, 0u, 0u); //#TOP_P
  if (draw.top_k > 0u) { //#TOP_P
    let upper = cut.k_upper; //#TOP_P
    _ = find(thread, 1u, cut.k_before, draw.top_k, 0.0, false); //#TOP_P
    if (upper < BINS) { //#TOP_P
      last = upper * BINS + found_bin; //#TOP_P
      left = found_upto; //#TOP_P
    } //#TOP_P
  } //#TOP_P
  let all = find(thread, 0u, Sum(0u, 0u, 0u), ALL, 0.0, false); //#TOP_P
  if (last == ALL) { left = all; } //#TOP_P
  let wanted = draw.top_p * wide(left); //#TOP_P
  _ = find(thread, 0u, Sum(0u, 0u, 0u), 0u, wanted, true); //#TOP_P
  if (notes) { //#TOP_P
    cut.k_last = last; //#TOP_P
    cut.p_upper = found_bin; //#TOP_P
    cut.p_before = found_before; //#TOP_P
    cut.p_enough = wanted; //#TOP_P
  } //#TOP_P

  for (var i = 0u; i < 4u; i++) { //#UPPER
    let steps = steps_to(four[i], top); //#UPPER
    if (first + i < shape.vocab && has_step(steps)) { add(u32(steps) / BINS, u32(steps)); } //#UPPER
  } //#UPPER
  for (var i = 0u; i < 4u; i++) { //#TOP_K
    let steps = steps_to(four[i], top); //#TOP_K
    if (first + i < shape.vocab && has_step(steps) && u32(steps) / BINS == found_bin) { //#TOP_K
      add(u32(steps) % BINS, u32(steps)); //#TOP_K
    } //#TOP_K
  } //#TOP_K
  for (var i = 0u; i < 4u; i++) { //#TOP_P
    let steps = steps_to(four[i], top); //#TOP_P
    if (first + i < shape.vocab && has_step(steps) && u32(steps) / BINS == found_bin && u32(steps) <= last) { //#TOP_P
      add(u32(steps) % BINS, u32(steps)); //#TOP_P
    } //#TOP_P
  } //#TOP_P

  let top = cut.top; //#CHOOSE
  var last = ALL; //#CHOOSE
  if (draw.top_p < 1.0) { //#CHOOSE
    let upper = cut.p_upper; //#CHOOSE
    _ = find(thread, 2u, cut.p_before, 0u, cut.p_enough, true); //#CHOOSE
    if (upper < BINS) { last = upper * BINS + found_bin; } //#CHOOSE
  } else { //#CHOOSE
    let upper = cut.k_upper; //#CHOOSE
    _ = find(thread, 1u, cut.k_before, draw.top_k, 0.0, false); //#CHOOSE
    if (upper < BINS) { last = upper * BINS + found_bin; } //#CHOOSE
  } //#CHOOSE
  for (var i = workgroup.x * THREADS + thread; i < 3u * BINS; i += shape.workgroups * THREADS) { //#CHOOSE
    atomicStore(&tally[i], 0u); //#CHOOSE
  } //#CHOOSE
  let scores = noised(four, state.position, first); //#CHOOSE
  var value = nothing; //#CHOOSE
  var id = ALL; //#CHOOSE
  for (var i = 0u; i < 4u; i++) { //#CHOOSE
    let steps = steps_to(four[i], top); //#CHOOSE
    let stays = first + i < shape.vocab && has_step(steps) && u32(steps) <= last; //#CHOOSE
    if (stays && scores[i] > value) { value = scores[i]; id = first + i; } //#CHOOSE
  } //#CHOOSE
  values[thread] = value; //#CHOOSE
  ids[thread] = id; //#CHOOSE
  let best = largest(thread); //#CHOOSE
  if (thread == 0u) { winners[workgroup.x] = vec2(bitcast<u32>(best), ids[0]); } //#CHOOSE
  // The rest of what the turn reads.
  for (var i = first / 4u + shape.workgroups; i < shape.winners; i += shape.workgroups * THREADS) { //#CHOOSE
    winners[i] = vec2(bitcast<u32>(nothing), ALL); //#CHOOSE
  } //#CHOOSE
}

// The largest of `values` and its id, the lowest among equals. To be called by all threads.
fn largest(thread: u32) -> f32 {
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (thread < half) {
      let rival = values[thread + half];
      let rival_id = ids[thread + half];
      if (rival > values[thread] || (rival == values[thread] && rival_id < ids[thread])) {
        values[thread] = rival;
        ids[thread] = rival_id;
      }
    }
  }
  workgroupBarrier();
  return values[0];
}
