// One layer of the public baseline, which has no KV cache: for every new token, a thread for each token so far, and each
// thread computes the keys and values of all tokens before its own anew, head by head.

override WIDTH: u32 = 32u;
override HEADS: u32 = 2u;
override HEAD: u32 = 16u;       // elements of a head

const THREADS: u32 = 64u;
const MOST_HEAD: u32 = 64u;
const EPS: f32 = 1e-5;

struct Token {
  position: u32,                // the newest
}

@group(0) @binding(0) var<storage, read> x: array<f32>;                 // [TOKENS][WIDTH]
@group(0) @binding(1) var<storage, read> qkv: array<f32>;               // [WIDTH][3 * WIDTH]
@group(0) @binding(2) var<uniform> token: Token;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;           // [TOKENS][WIDTH]
@group(0) @binding(4) var<storage, read> out: array<f32>;               // [WIDTH][WIDTH]
@group(0) @binding(5) var<storage, read> up: array<f32>;                // [WIDTH][4 * WIDTH]
@group(0) @binding(6) var<storage, read> down: array<f32>;              // [4 * WIDTH][WIDTH]
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;     // [TOKENS][5 * WIDTH] attention's result, h

fn gelu(v: f32) -> f32 {
  return 0.5 * v * (1.0 + tanh(clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), -15.0, 15.0)));
}

// Mean and factor of the layer norm of token t.
fn norm(t: u32) -> vec2<f32> {
  var sum = 0.0;
  for (var i = 0u; i < WIDTH; i++) { sum += x[t * WIDTH + i]; }
  let mean = sum / f32(WIDTH);
  var squares = 0.0;
  for (var i = 0u; i < WIDTH; i++) {
    let v = x[t * WIDTH + i] - mean;
    squares += v * v;
  }
  return vec2(mean, inverseSqrt(squares / f32(WIDTH) + EPS));
}

// Element `column` of token t's queries, keys and values.
fn project(t: u32, by: vec2<f32>, column: u32) -> f32 {
  var sum = 0.0;
  for (var i = 0u; i < WIDTH; i++) { sum += (x[t * WIDTH + i] - by.x) * by.y * qkv[i * 3u * WIDTH + column]; }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) t: u32) {
  if (t > token.position) { return; }
  let own = norm(t);
  let at = t * 5u * WIDTH;
  for (var head = 0u; head < HEADS; head++) {
    var q: array<f32, MOST_HEAD>;
    var sum: array<f32, MOST_HEAD>;
    for (var i = 0u; i < HEAD; i++) {
      q[i] = project(t, own, head * HEAD + i) * inverseSqrt(f32(HEAD));
      sum[i] = 0.0;
    }
    var top = -3.4e38;
    var total = 0.0;
    for (var past = 0u; past <= t; past++) {
      let by = norm(past);
      var score = 0.0;
      for (var i = 0u; i < HEAD; i++) { score += q[i] * project(past, by, WIDTH + head * HEAD + i); }
      let higher = max(top, score);
      let keep = exp(top - higher);
      let share = exp(score - higher);
      top = higher;
      total = total * keep + share;
      for (var i = 0u; i < HEAD; i++) {
        sum[i] = sum[i] * keep + share * project(past, by, 2u * WIDTH + head * HEAD + i);
      }
    }
    for (var i = 0u; i < HEAD; i++) { scratch[at + head * HEAD + i] = sum[i] / total; }
  }
  for (var column = 0u; column < WIDTH; column++) {
    var sum = x[t * WIDTH + column];
    for (var i = 0u; i < WIDTH; i++) { sum += scratch[at + i] * out[i * WIDTH + column]; }
    y[t * WIDTH + column] = sum;
  }
  var sum = 0.0;
  for (var i = 0u; i < WIDTH; i++) { sum += y[t * WIDTH + i]; }
  let mean = sum / f32(WIDTH);
  var squares = 0.0;
  for (var i = 0u; i < WIDTH; i++) {
    let v = y[t * WIDTH + i] - mean;
    squares += v * v;
  }
  let factor = inverseSqrt(squares / f32(WIDTH) + EPS);
  for (var column = 0u; column < 4u * WIDTH; column++) {
    var sum = 0.0;
    for (var i = 0u; i < WIDTH; i++) { sum += (y[t * WIDTH + i] - mean) * factor * up[i * 4u * WIDTH + column]; }
    scratch[at + WIDTH + column] = gelu(sum);
  }
  for (var column = 0u; column < WIDTH; column++) {
    var sum = y[t * WIDTH + column];
    for (var i = 0u; i < 4u * WIDTH; i++) { sum += scratch[at + WIDTH + i] * down[i * WIDTH + column]; }
    y[t * WIDTH + column] = sum;
  }
}
