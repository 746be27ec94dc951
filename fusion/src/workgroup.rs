//! The arm of one workgroup in a single dispatch, done well (`workgroup.wgsl`).

use wgpu::BufferUsages;

use crate::gpu::{Gpu, Program};
use crate::model::Model;
use crate::shader::{File, Kernel};
use crate::shape::TOKENS;
use crate::tape::{Sharings, Threads, tape};

/// Sizes of workgroups worth trying for `model`, or why there is none.
pub(crate) fn candidates(gpu: &Gpu<'_>, model: &Model) -> Result<Vec<usize>, String> {
    let limits = gpu.device.limits();
    let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x) as usize;
    let fits = |&threads: &usize| {
        threads <= most && workgroup_bytes(gpu, model, threads) <= limits.max_compute_workgroup_storage_size as usize
    };
    // Threads of software wait for each other's turns.
    let sizes: &[usize] = if gpu.is_software() { &[64, 256] } else { &[64, 128, 256, 512, 1024] };
    let sizes: Vec<usize> = sizes.iter().copied().filter(fits).collect();
    let bytes = limits.max_compute_workgroup_storage_size;
    if sizes.is_empty() {
        Err(format!("the activations do not fit {bytes} bytes of workgroup memory"))
    } else {
        Ok(sizes)
    }
}

/// All tokens in one dispatch of one workgroup of `threads` threads.
pub(crate) fn program(gpu: &Gpu<'_>, model: &Model, threads: usize) -> Program {
    let shape = model.shape;
    let (quads, lanes) = (shape.quads(), gpu.lanes.unwrap_or(1));
    let threads = Threads { workgroups: 1, each: threads, lanes };
    let sharings = Sharings::new(threads, shape.width);
    let split = split(gpu, threads.each, quads);
    let rounds = quads.div_ceil(threads.each / split);
    let mut overrides = sharings.overrides();
    overrides.extend(sizes(gpu, model, threads, split));
    overrides.extend(
        [
            ("ACTIVATIONS", 5 * quads),
            ("SCORES", shape.heads * TOKENS),
            ("SPLIT_ROUNDS", rounds),
            ("K", 2 * quads),
            ("V", 3 * quads),
            ("O", 4 * quads),
        ]
        .map(|(name, value)| (name, value as f64)),
    );
    let kernel = Kernel::new(gpu.device, File::Workgroup, &[gpu.twin()], &overrides);
    let tape = gpu.filled(&tape(model, threads, &sharings), BufferUsages::STORAGE);
    let rows = gpu.filled(&model.rows, BufferUsages::STORAGE);
    let results = gpu.room(4 * TOKENS * shape.width);
    let keys = gpu.room(4 * TOKENS * shape.width * shape.layers);
    let values = gpu.room(16 * shape.layers * rounds * (TOKENS / split) * threads.each);
    let binds =
        gpu.bind(&kernel, &[(0, &tape), (1, &rows), (2, &results), (3, &keys), (4, &values), (7, &gpu.tokens())]);
    let submits = vec![gpu.all_tokens(&kernel, &binds, 1)];
    Program { submits, waits: false, results, gave_up: None }
}

/// Overrides of `tape.wgsl` beside those of the products.
pub(crate) fn sizes(gpu: &Gpu<'_>, model: &Model, threads: Threads, split: usize) -> Vec<(&'static str, f64)> {
    let shape = model.shape;
    [
        ("THREADS", threads.each),
        ("STRIDE", threads.all()),
        ("LANES", gpu.lanes.unwrap_or(1)),
        ("LAYERS", shape.layers),
        ("QUADS", shape.quads()),
        ("HEADS", shape.heads),
        ("HEAD_QUADS", shape.head_dim() / 4),
        ("SPLIT", split),
        ("SUMS", sums(gpu, threads.each)),
    ]
    .map(|(name, value)| (name, value as f64))
    .to_vec()
}

/// Threads that share four elements of attention's result, of which there are `quads`.
pub(crate) fn split(gpu: &Gpu<'_>, threads: usize, quads: usize) -> usize {
    (threads / quads).clamp(1, gpu.lanes.unwrap_or(MOST_SPLIT_BY_MEMORY))
}

/// Fours of sums in workgroup memory.
fn sums(gpu: &Gpu<'_>, threads: usize) -> usize {
    threads / gpu.lanes.unwrap_or(1)
}

fn workgroup_bytes(gpu: &Gpu<'_>, model: &Model, threads: usize) -> usize {
    16 * (5 * model.shape.quads() + sums(gpu, threads)) + 4 * model.shape.heads * TOKENS
}

/// Without shuffles every thread reads what all its neighbours have.
const MOST_SPLIT_BY_MEMORY: usize = 8;
