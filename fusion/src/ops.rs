//! The arms of primitive operations, each a dispatch: what a program does that fuses nothing.

use wgpu::{Buffer, BufferUsages};

use crate::fused::{Gemv, Launch};
use crate::gpu::{Command, Gpu, Program};
use crate::model::Model;
use crate::shader::{File, Kernel};
use crate::shape::TOKENS;

/// When operations are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submits {
    /// Each by itself, and waited for.
    PerOp,
    /// All at once.
    Once,
}

/// All tokens, with weights, norms and scale as the model has them.
pub(crate) fn program(gpu: &Gpu<'_>, model: &Model, submits: Submits) -> Program {
    let shape = model.shape;
    let (width, quads) = (shape.width, shape.quads());
    let storage = |values: &[f32]| gpu.filled(values, BufferUsages::STORAGE);
    let (tokens, rows, results) = (gpu.tokens(), storage(&model.rows), gpu.room(4 * TOKENS * width));
    let [x, normed, qkv, o, branch, hidden, h] = [1, 1, 3, 1, 1, 4, 4].map(|times| gpu.room(4 * times * width));
    let [scores, shares] = [(); 2].map(|()| gpu.room(4 * shape.heads * TOKENS));
    let op = |tags: &[&str], quads: usize| {
        let numbers = [("QUADS", quads), ("HEADS", shape.heads), ("HEAD_QUADS", shape.head_dim() / 4)];
        let mut overrides: Vec<(&str, f64)> = numbers.map(|(name, number)| (name, number as f64)).to_vec();
        overrides.push(("SCALE", 1.0 / (shape.head_dim() as f64).sqrt()));
        Kernel::new(gpu.device, File::Ops, tags, &overrides)
    };
    let row = op(&["ROW", "FOURS", "TO4"], quads);
    let norm = op(&["NORM", "FOURS", "TO4"], quads);
    let append = op(&["APPEND", "FOURS", "TO4"], quads);
    let score = op(&["SCORES", "FOURS", "CACHE", "TO1"], quads);
    let softmax = op(&["SOFTMAX", "ONES", "TO1"], quads);
    let value = op(&["VALUES", "ONES", "CACHE", "TO4"], quads);
    let add = op(&["ADD", "FOURS", "TO4"], quads);
    let gelu = op(&["GELU", "FOURS", "TO4"], 4 * quads);
    let result = op(&["RESULT", "FOURS", "TO4"], quads);
    let product = |inputs: usize, rows: usize| Gemv::new(gpu, &["PLAIN", "STORE"], inputs, rows, &[]);
    let (to_qkv, square, to_hidden, from_hidden) =
        (product(width, 3 * width), product(width, width), product(width, 4 * width), product(4 * width, width));
    // Workgroups of 64 threads that each have four elements.
    let fours = |quads: usize| quads.div_ceil(64);
    let launch = |kernel: &Kernel, from: &Buffer, to: &Buffer, workgroups: usize| {
        Launch::new(gpu, kernel, &[(0, from), (2, &tokens), (3, to)], workgroups)
    };

    let mut launches = vec![launch(&row, &rows, &x, fours(quads))];
    for layer in &model.layers {
        let [qkv_w, out_w, up_w, down_w] = [&layer.qkv, &layer.out, &layer.up, &layer.down].map(|w| storage(w));
        let kv = gpu.room(4 * 2 * TOKENS * width);
        let cached = |kernel: &Kernel, from: &Buffer, to: &Buffer, workgroups: usize| {
            Launch::new(gpu, kernel, &[(0, from), (1, &kv), (2, &tokens), (3, to)], workgroups)
        };
        launches.extend([
            launch(&norm, &x, &normed, 1),
            to_qkv.launch(gpu, &tokens, [&qkv_w, &normed, &qkv, &qkv]),
            launch(&append, &qkv, &kv, fours(quads)),
            cached(&score, &qkv, &scores, shape.heads),
            launch(&softmax, &scores, &shares, shape.heads),
            cached(&value, &shares, &o, fours(quads)),
            square.launch(gpu, &tokens, [&out_w, &o, &branch, &branch]),
            launch(&add, &branch, &x, fours(quads)),
            launch(&norm, &x, &normed, 1),
            to_hidden.launch(gpu, &tokens, [&up_w, &normed, &hidden, &hidden]),
            launch(&gelu, &hidden, &h, fours(4 * quads)),
            from_hidden.launch(gpu, &tokens, [&down_w, &h, &branch, &branch]),
            launch(&add, &branch, &x, fours(quads)),
        ]);
    }
    launches.push(launch(&result, &x, &results, fours(quads)));
    let commands = (0..TOKENS).flat_map(|token| launches.iter().map(move |launch| launch.command(token)));
    let submits = match submits {
        Submits::PerOp => commands.map(|command| vec![command]).collect::<Vec<Vec<Command>>>(),
        Submits::Once => vec![commands.collect()],
    };
    let waits = submits.len() > 1;
    Program { submits, waits, results, gave_up: None }
}
