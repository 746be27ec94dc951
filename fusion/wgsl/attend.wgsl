// Attention of one token: a workgroup takes a head, first a thread a position, then SPLIT threads four elements.

override QUADS: u32 = 8u;
override HEAD_QUADS: u32 = 4u;

const THREADS: u32 = 64u;
const TOKENS: u32 = 64u;

struct Token {
  position: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;           // [QUADS], scaled
@group(0) @binding(1) var<storage, read> kv: array<vec4<f32>>;          // [K|V][TOKENS][QUADS]
@group(0) @binding(2) var<uniform> token: Token;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;     // [QUADS]

var<workgroup> scores: array<f32, TOKENS>;
var<workgroup> sums: array<vec4<f32>, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = workgroup.x * HEAD_QUADS;
  var score = -3.4e38;
  if (thread <= token.position) {
    score = 0.0;
    for (var i = 0u; i < HEAD_QUADS; i++) { score += dot(q[first + i], kv[thread * QUADS + first + i]); }
  }
  scores[thread] = score;
  workgroupBarrier();
  var top = scores[0];
  for (var p = 1u; p <= token.position; p++) { top = max(top, scores[p]); }
  workgroupBarrier();
  scores[thread] = exp(score - top);
  workgroupBarrier();
  let split = THREADS / HEAD_QUADS;
  let four = thread / split;
  var sum = vec4(0.0);
  for (var p = thread % split; p <= token.position; p += split) {
    sum += scores[p] * kv[(TOKENS + p) * QUADS + first + four];
  }
  sums[thread] = sum;
  workgroupBarrier();
  if (thread < HEAD_QUADS) {
    var all = vec4(0.0);
    for (var other = 0u; other < split; other++) { all += sums[thread * split + other]; }
    var total = 0.0;
    for (var p = 0u; p <= token.position; p++) { total += scores[p]; }
    y[first + thread] = all / total;
  }
}
