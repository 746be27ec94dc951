//! The two public kernels: one workgroup as it was published, and the baseline that it was compared with.

use wgpu::BufferUsages;

use crate::fused::Launch;
use crate::gpu::{Gpu, Program};
use crate::model::Model;
use crate::shader::{File, Kernel};
use crate::shape::TOKENS;

/// One workgroup of 64 threads in a single dispatch (`published.wgsl`).
pub(crate) fn workgroup(gpu: &Gpu<'_>, model: &Model) -> Program {
    let shape = model.shape;
    let width = shape.width;
    let mut weights = Vec::new();
    for layer in &model.layers {
        for (matrix, inputs) in [(&layer.qkv, width), (&layer.out, width), (&layer.up, width), (&layer.down, 4 * width)]
        {
            weights.extend(transposed(matrix, inputs));
        }
    }
    let overrides = [
        ("WIDTH", width),
        ("HEADS", shape.heads),
        ("HEAD", shape.head_dim()),
        ("LAYERS", shape.layers),
        ("HIDDEN", 4 * width),
        ("SCORES", shape.heads * TOKENS),
    ]
    .map(|(name, value)| (name, value as f64));
    let kernel = Kernel::new(gpu.device, File::Published, &[], &overrides);
    let weights = gpu.filled(&weights, BufferUsages::STORAGE);
    let rows = gpu.filled(&model.rows, BufferUsages::STORAGE);
    let results = gpu.room(4 * TOKENS * width);
    let kv = gpu.room(4 * 2 * TOKENS * width * shape.layers);
    let binds = gpu.bind(&kernel, &[(0, &weights), (1, &rows), (2, &results), (3, &kv), (7, &gpu.tokens())]);
    Program { submits: vec![gpu.all_tokens(&kernel, &binds, 1)], waits: false, results, gave_up: None }
}

/// No KV cache, and a submit that is waited for per layer and token (`recompute.wgsl`).
pub(crate) fn baseline(gpu: &Gpu<'_>, model: &Model) -> Program {
    let shape = model.shape;
    let width = shape.width;
    let overrides = [("WIDTH", width), ("HEADS", shape.heads), ("HEAD", shape.head_dim())];
    let overrides = overrides.map(|(name, value)| (name, value as f64));
    let kernel = Kernel::new(gpu.device, File::Recompute, &[], &overrides);
    let (tokens, scratch) = (gpu.tokens(), gpu.room(4 * TOKENS * 5 * width));
    let mut x = gpu.filled(&model.rows, BufferUsages::STORAGE);
    let mut launches = Vec::new();
    for layer in &model.layers {
        let matrix = |matrix: &[f32], inputs: usize| gpu.filled(&transposed(matrix, inputs), BufferUsages::STORAGE);
        let (qkv, out) = (matrix(&layer.qkv, width), matrix(&layer.out, width));
        let (up, down) = (matrix(&layer.up, width), matrix(&layer.down, 4 * width));
        let y = gpu.room(4 * TOKENS * width);
        let buffers = [(0, &x), (1, &qkv), (2, &tokens), (3, &y), (4, &out), (5, &up), (6, &down), (7, &scratch)];
        launches.push(Launch::new(gpu, &kernel, &buffers, 1));
        x = y;
    }
    let launches = &launches;
    let submits =
        (0..TOKENS).flat_map(|token| launches.iter().map(move |launch| vec![launch.command(token)])).collect();
    Program { submits, waits: true, results: x, gave_up: None }
}

/// `[inputs][outputs]` of `[outputs][inputs]`, as the public kernels have their weights.
fn transposed(matrix: &[f32], inputs: usize) -> Vec<f32> {
    let outputs = matrix.len() / inputs;
    (0..inputs).flat_map(|input| (0..outputs).map(move |output| matrix[output * inputs + input])).collect()
}

#[cfg(test)]
mod tests {
    use syn1_kernels::gpu::GpuDevice;

    use super::*;
    use crate::reference::{error, forward};
    use crate::shape::Shape;

    #[test]
    fn the_baseline_gives_the_rows_of_the_f64_forward() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        let gpu = Gpu::new(device.device(), device.queue());
        let model = Model::random(Shape::new(32, 2).unwrap());
        let words = pollster::block_on(async {
            let program = baseline(&gpu, &model);
            gpu.run(&program).await;
            gpu.read(&program.results).await.unwrap()
        });
        let found: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        // Software adapters leave a kernel's loops after 65,535 turns: later tokens need more.
        let rows = if gpu.is_software() { 8 } else { TOKENS };
        let error = error(&forward(&model)[..rows * 32], &found[..rows * 32]);
        assert!(error <= crate::TOLERANCE, "{error}");
    }
}
