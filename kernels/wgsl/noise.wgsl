// Gumbel noise from a counter, so that the largest noisy logit is a draw from the softmax. sampling/noise.rs has the same
// operation by operation and explains them.

struct Draw {
  seed: vec2<u32>,              // low word first
  inverse_temperature: f32,
  steps: f32,                   // steps for each unit of a logit
  top_k: u32,                   // 0: all
  top_p: f32,                   // 1: all
  noisy_head: u32,              // 1: the head adds noise to its logits
  pad: u32,
}

// The logits of four tokens over the temperature, and their noise; `first` is the first token's id, a multiple of 4.
fn noised(logits: vec4<f32>, position: u32, first: u32) -> vec4<f32> {
  let pair = vec2(first / 2u, first / 2u + 1u);
  let keys = array<u32, 3>(draw.seed.x, draw.seed.y, 0x1bd11bdau ^ draw.seed.x ^ draw.seed.y);
  var a = vec2(position + keys[0]);
  var b = pair + keys[1];
  turns(&a, &b, vec4(13u, 15u, 26u, 6u), vec2(keys[1], keys[2] + 1u));
  turns(&a, &b, vec4(17u, 29u, 16u, 24u), vec2(keys[2], keys[0] + 2u));
  turns(&a, &b, vec4(13u, 15u, 26u, 6u), vec2(keys[0], keys[1] + 3u));
  turns(&a, &b, vec4(17u, 29u, 16u, 24u), vec2(keys[1], keys[2] + 4u));
  turns(&a, &b, vec4(13u, 15u, 26u, 6u), vec2(keys[2], keys[0] + 5u));
  return logits * draw.inverse_temperature + gumbel(vec4(a.x, b.x, a.y, b.y));
}

// Four rounds of Threefry-2x32 and the key behind them.
fn turns(a: ptr<function, vec2<u32>>, b: ptr<function, vec2<u32>>, by: vec4<u32>, key: vec2<u32>) {
  for (var i = 0u; i < 4u; i++) {
    *a += *b;
    *b = ((*b << vec2(by[i])) | (*b >> vec2(32u - by[i]))) ^ *a;
  }
  *a += vec2(key.x);
  *b += vec2(key.y);
}

// -ln(-ln(u)) for the numbers u that the words stand for.
fn gumbel(words: vec4<u32>) -> vec4<f32> {
  let rest = fraction(words);   // 1 - u
  let u = fraction(~words);
  let near_one = u > vec4(0.70710677);
  let parts = split(u);
  let below = select(parts.m - 1.0, -rest, near_one);
  let above = select(parts.m + 1.0, 2.0 - rest, near_one);
  let exponent = select(parts.exponent, vec4(0.0), near_one);
  let again = split(-logarithm(exponent, below, above));
  return -logarithm(again.exponent, again.m - 1.0, again.m + 1.0);
}

// The middle of the cell of 24 leading bits; of the cell of 32 bits where the first eight are zero.
fn fraction(words: vec4<u32>) -> vec4<f32> {
  let fine = words < vec4(1u << 24u);
  let cell = select(vec4(1.0 / 16777216.0), vec4(1.0 / 4294967296.0), fine);
  return (vec4<f32>(select(words >> vec4(8u), words, fine)) + 0.5) * cell;
}

// x as 2^exponent m, with m between the roots of 1/2 and 2.
struct Split {
  exponent: vec4<f32>,
  m: vec4<f32>,
}

fn split(x: vec4<f32>) -> Split {
  let bits = bitcast<vec4<u32>>(x);
  let exponent = bitcast<vec4<i32>>(bits - vec4(0x3f3504f3u)) >> vec4(23u);
  return Split(vec4<f32>(exponent), bitcast<vec4<f32>>(bits - (bitcast<vec4<u32>>(exponent) << vec4(23u))));
}

// Some drivers' log is wrong by 2^-21 near 1, where the largest noises are made.
fn logarithm(exponent: vec4<f32>, below: vec4<f32>, above: vec4<f32>) -> vec4<f32> {
  let s = below / above;
  let z = s * s;
  let series = 1.0 + z * (0.33333333 + z * (0.2 + z * (0.14285715 + z * 0.11111111)));
  return exponent * 0.6931472 + 2.0 * s * series;
}
