//! The arm of fused kernels: five dispatches a layer (`gemv.wgsl`, `attend.wgsl`), several tokens a submit.

use wgpu::{BindGroup, Buffer, BufferUsages};

use crate::gpu::{Command, Gpu, Program};
use crate::model::Model;
use crate::shader::{File, Kernel};
use crate::shape::TOKENS;

/// A dispatch of every token.
pub(crate) struct Launch {
    kernel: Kernel,
    binds: BindGroup,
    workgroups: usize,
}

impl Launch {
    pub(crate) fn new(gpu: &Gpu<'_>, kernel: &Kernel, buffers: &[(u32, &Buffer)], workgroups: usize) -> Self {
        Self { kernel: kernel.clone(), binds: gpu.bind(kernel, buffers), workgroups }
    }

    /// Its command for `token`.
    pub(crate) fn command(&self, token: usize) -> Command {
        Command::token(&self.kernel, &self.binds, token, self.workgroups)
    }
}

/// All tokens, `each` of them a submit.
pub(crate) fn program(gpu: &Gpu<'_>, model: &Model, each: usize) -> Program {
    let shape = model.shape;
    let (width, quads) = (shape.width, shape.quads());
    let storage = |values: &[f32]| gpu.filled(values, BufferUsages::STORAGE);
    let (tokens, rows, results) = (gpu.tokens(), storage(&model.rows), gpu.room(4 * TOKENS * width));
    let [x, between, q, o, h] = [1, 1, 1, 1, 4].map(|times| gpu.room(4 * times * width));
    let attend = {
        let overrides = [("QUADS", quads as f64), ("HEAD_QUADS", (shape.head_dim() / 4) as f64)];
        Kernel::new(gpu.device, File::Attend, &[], &overrides)
    };
    let last = shape.layers - 1;
    let mut launches = Vec::new();
    for (number, layer) in model.layers.iter().enumerate() {
        let layer = layer.folded(shape);
        let [qkv_w, out_w, up_w, down_w] = [&layer.qkv, &layer.out, &layer.up, &layer.down].map(|w| storage(w));
        let kv = gpu.room(4 * 2 * TOKENS * width);
        let first = f64::from(u8::from(number == 0));
        let at_end = f64::from(u8::from(number == last));
        let source = if number == 0 { &rows } else { &x };
        let target = if number == last { &results } else { &x };

        let qkv = Gemv::new(gpu, &["NORM", "KV"], width, 3 * width, &[("X_ROW", first)]);
        launches.push(qkv.launch(gpu, &tokens, [&qkv_w, source, &q, &kv]));
        let buffers = [(0, &q), (1, &kv), (2, &tokens), (3, &o)];
        launches.push(Launch::new(gpu, &attend, &buffers, shape.heads));
        let out = Gemv::new(gpu, &["PLAIN", "ADD"], width, width, &[("REST_ROW", first)]);
        launches.push(out.launch(gpu, &tokens, [&out_w, &o, &between, source]));
        let up = Gemv::new(gpu, &["NORM", "GELU"], width, 4 * width, &[]);
        launches.push(up.launch(gpu, &tokens, [&up_w, &between, &h, &h]));
        let down = Gemv::new(gpu, &["PLAIN", "ADD"], 4 * width, width, &[("Y_ROW", at_end)]);
        launches.push(down.launch(gpu, &tokens, [&down_w, &h, target, &between]));
    }
    let commands = |token: usize| launches.iter().map(move |launch| launch.command(token));
    let submit = |first: usize| (first..(first + each).min(TOKENS)).flat_map(commands).collect();
    let submits = (0..TOKENS).step_by(each).map(submit).collect();
    Program { submits, waits: false, results, gave_up: None }
}

/// A product with what is fused to it.
pub(crate) struct Gemv {
    kernel: Kernel,
    workgroups: usize,
    fourth: bool,
}

impl Gemv {
    /// The kernel for `rows` rows of `inputs` inputs.
    pub(crate) fn new(gpu: &Gpu<'_>, tags: &[&str], inputs: usize, rows: usize, more: &[(&str, f64)]) -> Self {
        let quads = 1 << (inputs / 4).ilog2();
        let lanes = quads.min(gpu.lanes.unwrap_or(MOST_LANES)).min(MOST_LANES);
        let format = if tags.contains(&"W16") { "W16" } else { "W32" };
        let tags = [tags, &[gpu.twin(), format]].concat();
        let mut overrides = vec![("QUADS", (inputs / 4) as f64), ("FOURS", (rows / 4) as f64), ("LANES", lanes as f64)];
        overrides.extend(more);
        let kernel = Kernel::new(gpu.device, File::Gemv, &tags, &overrides);
        let fourth = tags.contains(&"ADD") || tags.contains(&"KV");
        Self { kernel, workgroups: (rows / 4).div_ceil(THREADS / lanes), fourth }
    }

    /// The launch with weights, x, y and, where the kernel has one, its fourth buffer.
    pub(crate) fn launch(&self, gpu: &Gpu<'_>, tokens: &Buffer, [w, x, y, fourth]: [&Buffer; 4]) -> Launch {
        let mut buffers = vec![(0, w), (1, x), (2, tokens), (3, y)];
        buffers.extend(self.fourth.then_some((4, fourth)));
        Launch::new(gpu, &self.kernel, &buffers, self.workgroups)
    }
}

/// Threads of a workgroup in gemv.wgsl.
const THREADS: usize = 64;

/// Threads that share four rows at most.
const MOST_LANES: usize = 32;
