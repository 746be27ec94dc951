// What workgroup.wgsl and grid.wgsl have in common: products of weights that lie in the order in which threads read them.
//
// The tape holds steps. In a step a thread multiplies four rows by four inputs: four vec4s, each with the weights of four
// rows for one input. PARTS threads next to each other share four rows and add up what they have (`together`).
// The tape's next step is loaded before the sums and the barrier behind them, for weights depend on no activation.
//
//   SG | NOSG      sums by shuffles, or by workgroup memory

override THREADS: u32 = 256u;
override STRIDE: u32 = 256u;    // threads of all workgroups
override LANES: u32 = 32u;      // SG: threads of a subgroup
override LAYERS: u32 = 1u;
override QUADS: u32 = 8u;       // a quarter of the width
override HEADS: u32 = 2u;
override HEAD_QUADS: u32 = 4u;
override QKV_PARTS: u32 = 8u;   // threads that share four rows
override QKV_ROUNDS: u32 = 1u;  // times that all threads take rows
override QKV_STEPS: u32 = 1u;   // of a round
override OUT_PARTS: u32 = 8u;
override OUT_ROUNDS: u32 = 1u;
override OUT_STEPS: u32 = 1u;
override UP_PARTS: u32 = 8u;
override UP_ROUNDS: u32 = 1u;
override UP_STEPS: u32 = 1u;
override DOWN_PARTS: u32 = 32u;
override DOWN_ROUNDS: u32 = 1u;
override DOWN_STEPS: u32 = 1u;
override SPLIT: u32 = 32u;      // threads that share four elements of attention's result
override ACTIVATIONS: u32 = 40u;
override SCORES: u32 = 128u;
override SUMS: u32 = 256u;

const TOKENS: u32 = 64u;
const EPS: f32 = 1e-5;
const LOWEST: f32 = -3.4e38;

struct Span {
  first: u32,                   // token
  tokens: u32,
}

@group(0) @binding(0) var<storage, read> tape: array<vec4<f32>>;        // [layer][step][4 inputs][thread] 4 rows; a step of padding
@group(0) @binding(1) var<storage, read> rows: array<vec4<f32>>;        // [TOKENS][QUADS] the tokens' embeddings
@group(0) @binding(2) var<storage, read_write> results: array<vec4<f32>>; // [TOKENS][QUADS] behind the last layer
@group(0) @binding(7) var<uniform> span: Span;

var<workgroup> act: array<vec4<f32>, ACTIVATIONS>;
var<workgroup> scores: array<f32, SCORES>;      // [head][position]
var<workgroup> sums: array<vec4<f32>, SUMS>;

var<private> thread: u32;       // in the workgroup
var<private> cursor: u32;       // the step behind `ahead`
var<private> ahead: mat4x4<f32>;

fn load() {
  ahead = mat4x4<f32>(tape[cursor], tape[cursor + STRIDE], tape[cursor + 2u * STRIDE], tape[cursor + 3u * STRIDE]);
  cursor += 4u * STRIDE;
}

// This thread's part of four rows times the activations from `first` on.
fn product(first: u32, parts: u32, steps: u32) -> vec4<f32> {
  var sum = vec4(0.0);
  for (var step = 0u; step < steps; step++) {
    sum += ahead * act[first + thread % parts + step * parts];
    load();
  }
  return sum;
}

// Sum and sum of squares of this thread's part of the activations from 0 on.
fn moments(parts: u32, steps: u32) -> vec4<f32> {
  var sum = vec2(0.0);
  for (var step = 0u; step < steps; step++) {
    let a = act[thread % parts + step * parts];
    sum += vec2(dot(a, vec4(1.0)), dot(a, a));
  }
  return vec4(sum, 0.0, 0.0);
}

// The factor of a layer norm; its mean is taken out of the weights.
fn norm(parts: u32, steps: u32) -> f32 {
  let sum = together(moments(parts, steps), parts).xy / f32(4u * QUADS);
  return inverseSqrt(max(sum.y - sum.x * sum.x, 0.0) + EPS);
}

// The sum over `parts` threads next to each other.
fn together(v: vec4<f32>, parts: u32) -> vec4<f32> {
  var sum = v;
  for (var far = 1u; far < min(parts, LANES); far <<= 1u) { sum += subgroupShuffleXor(sum, far); } //#SG
  if (parts > LANES) { //#SG
    if (thread % LANES == 0u) { sums[thread / LANES] = sum; } //#SG
    workgroupBarrier(); //#SG
    let first = (thread - thread % parts) / LANES; //#SG
    sum = sums[first]; //#SG
    for (var other = 1u; other < parts / LANES; other++) { sum += sums[first + other]; } //#SG
    workgroupBarrier(); //#SG
  } //#SG
  if (parts > 1u) { //#NOSG
    sums[thread] = v; //#NOSG
    workgroupBarrier(); //#NOSG
    let first = thread - thread % parts; //#NOSG
    sum = sums[first]; //#NOSG
    for (var other = 1u; other < parts; other++) { sum += sums[first + other]; } //#NOSG
    workgroupBarrier(); //#NOSG
  } //#NOSG
  return sum;
}

// The largest of `parts` threads next to each other; `parts` is not above LANES.
fn highest(v: f32, parts: u32) -> f32 {
  var top = v;
  for (var far = 1u; far < parts; far <<= 1u) { top = max(top, subgroupShuffleXor(top, far)); } //#SG
  if (parts > 1u) { //#NOSG
    sums[thread].x = v; //#NOSG
    workgroupBarrier(); //#NOSG
    let first = thread - thread % parts; //#NOSG
    for (var other = 0u; other < parts; other++) { top = max(top, sums[first + other].x); } //#NOSG
    workgroupBarrier(); //#NOSG
  } //#NOSG
  return top;
}

// GELU in its tanh form; the argument is clamped because some drivers' tanh is NaN for large ones.
fn gelu(v: vec4<f32>) -> vec4<f32> {
  return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), vec4(-15.0), vec4(15.0))));
}
