//! GPT-2 the naive way: every primitive operation a dispatch, greedy, f16 weights, no fusion.

use serde::Serialize;
use wgpu::{Buffer, BufferUsages};

use crate::fused::{Gemv, Launch};
use crate::gpu::{Command, FusionError, Gpu, Program};
use crate::model::{Random, SEED};
use crate::ops::Submits;
use crate::reference;
use crate::shader::{File, Kernel};
use crate::shape::{Shape, TOKENS};

/// GPT-2's shape with random weights, computed by unfused operations from the first token on.
pub struct Naive {
    shape: Shape,
    vocab: usize,
    layers: Vec<NaiveLayer>,
    /// `[vocab and padding][width]`
    tokens: Vec<f32>,
    /// `[TOKENS][width]`
    positions: Vec<f32>,
    norm: Norm,
}

struct NaiveLayer {
    norms: [Norm; 2],
    qkv: Linear,
    out: Linear,
    up: Linear,
    down: Linear,
}

/// Gain and offset.
struct Norm([Vec<f32>; 2]);

/// `[outputs][inputs]`, rounded to f16, and a bias.
struct Linear {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// The figures of one way to submit.
#[derive(Clone, Debug, Serialize)]
pub struct NaiveReport {
    /// Dispatches of a token.
    pub dispatches_per_token: usize,
    /// Submits of a token.
    pub submits_per_token: f64,
    /// Tokens of a run.
    pub tokens: usize,
    /// Timed runs.
    pub runs: usize,
    /// Tokens a second, from the median of the runs.
    pub tokens_per_second: f64,
    /// Greedy ids that were equal to those of an f64 forward pass before anything was timed.
    pub verified_ids: usize,
}

impl Naive {
    /// GPT-2 124M: 12 layers, width 768, 12 heads, vocabulary 50,257.
    pub fn gpt2_124m() -> Self {
        Self::random(Shape { width: 768, heads: 12, layers: 12 }, 50_257)
    }

    /// Weights from -0.035 to 0.035, as deviating as GPT-2's first ones; `shape.width` is a multiple of 32.
    fn random(shape: Shape, vocab: usize) -> Self {
        let (mut random, width) = (Random(SEED), shape.width);
        let mut some = |count: usize, middle: f64, off: f64| -> Vec<f32> {
            let value = |_| half::f16::from_f64(middle + off * (2.0 * random.uniform() - 1.0)).to_f32();
            (0..count).map(value).collect()
        };
        let tokens = some(vocab.next_multiple_of(4) * width, 0.0, 0.035);
        let positions = some(TOKENS * width, 0.0, 0.017);
        let mut layers = Vec::new();
        for _ in 0..shape.layers {
            let mut linear = |outputs: usize, inputs: usize| Linear {
                weights: some(outputs * inputs, 0.0, 0.035),
                bias: some(outputs, 0.0, 0.035),
            };
            let (qkv, out) = (linear(3 * width, width), linear(width, width));
            let (up, down) = (linear(4 * width, width), linear(width, 4 * width));
            let norms = [(); 2].map(|()| Norm([some(width, 1.0, 0.1), some(width, 0.0, 0.1)]));
            layers.push(NaiveLayer { norms, qkv, out, up, down });
        }
        let norm = Norm([some(width, 1.0, 0.1), some(width, 0.0, 0.1)]);
        Self { shape, vocab, layers, tokens, positions, norm }
    }

    /// Times [`TOKENS`] greedy tokens in up to `runs` runs, or as many as `seconds` allow: with `per_op`, every operation is
    /// submitted by itself and waited for, as a simple WebGPU program does; without, a token's operations are one submit.
    ///
    /// # Errors
    /// [`FusionError::Device`], and [`FusionError::Wrong`] if the ids are not those of the f64 forward pass.
    pub async fn run(
        &self,
        gpu: Gpu<'_>,
        per_op: bool,
        runs: usize,
        seconds: f64,
        clock: &dyn Fn() -> f64,
    ) -> Result<NaiveReport, FusionError> {
        let submits = if per_op { Submits::PerOp } else { Submits::Once };
        let (program, ids) = gpu.guarded(async || self.program(&gpu, submits)).await?;
        gpu.run(&program).await;
        let (found, wanted) = (gpu.read(&ids).await?, self.greedy(VERIFIED));
        if found.get(1..=VERIFIED) != Some(&wanted[..]) {
            return Err(FusionError::Wrong(format!("{:?} for the ids {wanted:?}", found.get(1..=VERIFIED))));
        }
        let mut times = Vec::new();
        let first = clock();
        while times.len() < runs.max(1) && (times.is_empty() || clock() - first < seconds) {
            let begun = clock();
            gpu.run(&program).await;
            times.push(clock() - begun);
        }
        times.sort_by(f64::total_cmp);
        Ok(NaiveReport {
            dispatches_per_token: program.dispatches() / TOKENS,
            submits_per_token: program.submits.len() as f64 / TOKENS as f64,
            tokens: TOKENS,
            runs: times.len(),
            tokens_per_second: TOKENS as f64 / times[(times.len() - 1) / 2],
            verified_ids: VERIFIED,
        })
    }

    /// All tokens, and the buffer of their ids, the first of which is 0.
    fn program(&self, gpu: &Gpu<'_>, submits: Submits) -> (Program, Buffer) {
        let (shape, width, quads) = (self.shape, self.shape.width, self.shape.quads());
        let storage = |values: &[f32]| gpu.filled(values, BufferUsages::STORAGE);
        let halves = |values: &[f32]| {
            let halves: Vec<u16> = values.iter().map(|&value| half::f16::from_f32(value).to_bits()).collect();
            gpu.filled(&halves, BufferUsages::STORAGE)
        };
        let (tokens, ids) = (gpu.tokens(), gpu.room(4 * (TOKENS + 1)));
        let [x, normed, qkv, o, branch, hidden, h] = [1, 1, 3, 1, 1, 4, 4].map(|times| gpu.room(4 * times * width));
        let [scores, shares] = [(); 2].map(|()| gpu.room(4 * shape.heads * TOKENS));
        let padded = self.vocab.next_multiple_of(4);
        let logits = gpu.room(4 * padded);
        let op = |tags: &[&str], quads: usize| {
            let numbers = [("QUADS", quads), ("HEADS", shape.heads), ("HEAD_QUADS", shape.head_dim() / 4)];
            let mut overrides: Vec<(&str, f64)> = numbers.map(|(name, number)| (name, number as f64)).to_vec();
            overrides.push(("SCALE", 1.0 / (shape.head_dim() as f64).sqrt()));
            Kernel::new(gpu.device, File::Ops, tags, &overrides)
        };
        let embed = op(&["EMBED", "HALVES", "ROWS", "TO4"], quads);
        let norm = op(&["NORM", "GAIN", "FOURS", "ROWS", "TO4"], quads);
        let append = op(&["APPEND", "FOURS", "TO4"], quads);
        let score = op(&["SCORES", "FOURS", "CACHE", "TO1"], quads);
        let softmax = op(&["SOFTMAX", "ONES", "TO1"], quads);
        let value = op(&["VALUES", "ONES", "CACHE", "TO4"], quads);
        let [add, add_qkv, add_hidden] = [1, 3, 4].map(|times| op(&["ADD", "FOURS", "TO4"], times * quads));
        let gelu = op(&["GELU", "FOURS", "TO4"], 4 * quads);
        let argmax = Kernel::new(gpu.device, File::Argmax, &[], &[("LOGITS", self.vocab as f64)]);
        let product = |inputs: usize, rows: usize| Gemv::new(gpu, &["W16", "PLAIN", "STORE"], inputs, rows, &[]);
        let (to_qkv, square, to_hidden, from_hidden, head) = (
            product(width, 3 * width),
            product(width, width),
            product(width, 4 * width),
            product(4 * width, width),
            product(width, padded),
        );
        let fours = |quads: usize| quads.div_ceil(64);
        let plain = |kernel: &Kernel, from: &Buffer, to: &Buffer, workgroups: usize| {
            Launch::new(gpu, kernel, &[(0, from), (2, &tokens), (3, to)], workgroups)
        };
        let with = |kernel: &Kernel, from: &Buffer, more: &Buffer, to: &Buffer, workgroups: usize| {
            Launch::new(gpu, kernel, &[(0, from), (1, more), (2, &tokens), (3, to)], workgroups)
        };

        let (table, positions) = (halves(&self.tokens), storage(&self.positions));
        let buffers = [(0, &table), (1, &positions), (2, &tokens), (3, &x), (4, &ids)];
        let mut launches = vec![Launch::new(gpu, &embed, &buffers, fours(quads))];
        for layer in &self.layers {
            let kv = gpu.room(4 * 2 * TOKENS * width);
            let [first, second] = [&layer.norms[0], &layer.norms[1]].map(|norm| storage(&norm.0.concat()));
            let linears = [&layer.qkv, &layer.out, &layer.up, &layer.down];
            let [qkv_w, out_w, up_w, down_w] = linears.map(|linear| halves(&linear.weights));
            let [qkv_b, out_b, up_b, down_b] = linears.map(|linear| storage(&linear.bias));
            launches.extend([
                with(&norm, &x, &first, &normed, 1),
                to_qkv.launch(gpu, &tokens, [&qkv_w, &normed, &qkv, &qkv]),
                plain(&add_qkv, &qkv_b, &qkv, fours(3 * quads)),
                plain(&append, &qkv, &kv, fours(quads)),
                with(&score, &qkv, &kv, &scores, shape.heads),
                plain(&softmax, &scores, &shares, shape.heads),
                with(&value, &shares, &kv, &o, fours(quads)),
                square.launch(gpu, &tokens, [&out_w, &o, &branch, &branch]),
                plain(&add, &out_b, &branch, fours(quads)),
                plain(&add, &branch, &x, fours(quads)),
                with(&norm, &x, &second, &normed, 1),
                to_hidden.launch(gpu, &tokens, [&up_w, &normed, &hidden, &hidden]),
                plain(&add_hidden, &up_b, &hidden, fours(4 * quads)),
                plain(&gelu, &hidden, &h, fours(4 * quads)),
                from_hidden.launch(gpu, &tokens, [&down_w, &h, &branch, &branch]),
                plain(&add, &down_b, &branch, fours(quads)),
                plain(&add, &branch, &x, fours(quads)),
            ]);
        }
        let last = storage(&self.norm.0.concat());
        launches.push(with(&norm, &x, &last, &normed, 1));
        launches.push(head.launch(gpu, &tokens, [&table, &normed, &logits, &logits]));
        launches.push(plain(&argmax, &logits, &ids, 1));
        let submits = (0..TOKENS).flat_map(|token| {
            let commands: Vec<Command> = launches.iter().map(|launch| launch.command(token)).collect();
            match submits {
                Submits::PerOp => commands.into_iter().map(|command| vec![command]).collect::<Vec<Vec<Command>>>(),
                Submits::Once => vec![commands],
            }
        });
        let program = Program { submits: submits.collect(), waits: true, results: x, gave_up: None };
        (program, ids)
    }

    /// The first `count` greedy ids behind id 0, in f64 on the CPU.
    fn greedy(&self, count: usize) -> Vec<u32> {
        let (width, heads) = (self.shape.width, self.shape.heads);
        let mut caches = vec![reference::Cache::default(); self.shape.layers];
        let mut ids = vec![0_u32];
        for position in 0..count {
            let row = |table: &[f32], row: usize| table[row * width..(row + 1) * width].to_vec();
            let token = row(&self.tokens, ids[position] as usize);
            let mut x: Vec<f64> =
                token.iter().zip(row(&self.positions, position)).map(|(a, b)| f64::from(*a) + f64::from(b)).collect();
            for (layer, cache) in self.layers.iter().zip(&mut caches) {
                let qkv = layer.qkv.times(&layer.norms[0].of(&x));
                let attended = reference::attended(&qkv, cache, heads);
                reference::add(&mut x, &layer.out.times(&attended));
                let hidden: Vec<f64> =
                    layer.up.times(&layer.norms[1].of(&x)).into_iter().map(reference::gelu).collect();
                reference::add(&mut x, &layer.down.times(&hidden));
            }
            let logits = reference::times(&self.tokens[..self.vocab * width], &self.norm.of(&x));
            let best =
                logits.iter().enumerate().fold(0, |best, (id, logit)| if *logit > logits[best] { id } else { best });
            ids.push(best as u32);
        }
        ids.split_off(1)
    }
}

impl Norm {
    fn of(&self, x: &[f64]) -> Vec<f64> {
        let [gain, offset] = &self.0;
        let affine = |((x, &gain), &offset): ((f64, &f32), &f32)| x * f64::from(gain) + f64::from(offset);
        reference::normed(x).into_iter().zip(gain).zip(offset).map(affine).collect()
    }
}

impl Linear {
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let products = reference::times(&self.weights, x).into_iter().zip(&self.bias);
        products.map(|(sum, &bias)| sum + f64::from(bias)).collect()
    }
}

/// Ids that are compared: an f64 forward of GPT-2 takes a tenth of a second.
const VERIFIED: usize = 8;

#[cfg(test)]
mod tests {
    use syn1_kernels::gpu::GpuDevice;

    use super::*;

    #[test]
    fn unfused_gpt2_gives_the_ids_of_the_f64_forward_however_it_is_submitted() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let gpu = Gpu::new(device.device(), device.queue());
        let naive = Naive::random(Shape { width: 96, heads: 3, layers: 2 }, 301);
        for (gpu, per_op) in [(gpu, true), (gpu, false), (gpu.without_subgroups(), false)] {
            let report = pollster::block_on(naive.run(gpu, per_op, 1, 1.0, &|| 0.0)).unwrap();
            assert_eq!(report.dispatches_per_token, 2 * 17 + 4);
            assert_eq!(report.submits_per_token, if per_op { 38.0 } else { 1.0 });
        }
    }
}
