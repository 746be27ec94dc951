// The number of the largest logit; the first of several. One workgroup.

override LOGITS: u32 = 50257u;

const THREADS: u32 = 256u;

struct Token {
  position: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;            // [LOGITS and padding]
@group(0) @binding(2) var<uniform> token: Token;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;         // [TOKENS + 1]

var<workgroup> values: array<f32, THREADS>;
var<workgroup> places: array<u32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var value = -3.4e38;
  var place = 0u;
  for (var i = thread; i < LOGITS; i += THREADS) {
    if (logits[i] > value) {
      value = logits[i];
      place = i;
    }
  }
  values[thread] = value;
  places[thread] = place;
  for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (thread < half) {
      let other = thread + half;
      let higher = values[other] > values[thread];
      if (higher || (values[other] == values[thread] && places[other] < places[thread])) {
        values[thread] = values[other];
        places[thread] = places[other];
      }
    }
  }
  if (thread == 0u) { ids[token.position + 1u] = places[0]; }
}
