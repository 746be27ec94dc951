//! The arm of many workgroups in a single dispatch (`grid.wgsl`).

use wgpu::{BufferUsages, DeviceType};

use crate::gpu::{Command, Gpu, Program};
use crate::model::Model;
use crate::shader::{File, Kernel};
use crate::shape::TOKENS;
use crate::tape::{Sharings, Threads, tape};
use crate::workgroup::{sizes, split};

/// Numbers of workgroups and their sizes worth trying for `model`, or why there is none: workgroups wait for each other,
/// which WebGPU does not promise to end.
pub(crate) fn candidates(gpu: &Gpu<'_>, model: &Model) -> Result<Vec<(usize, usize)>, String> {
    let info = gpu.device.adapter_info();
    if cfg!(target_family = "wasm") {
        return Err("browsers do not promise that workgroups run at the same time".into());
    }
    if gpu.is_software() {
        return Ok(vec![(1, 64)]); // More would have to find as many idle cores.
    }
    if info.device_type != DeviceType::DiscreteGpu || !DISCRETE.contains(&info.vendor) {
        return Err(
            "only of discrete GPUs by NVIDIA, AMD and Intel is it known that workgroups can wait for each other".into(),
        );
    }
    let limits = gpu.device.limits();
    let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x) as usize;
    let fours = model.shape.width * model.shape.width / 4;
    let mut all = Vec::new();
    for each in [64, 256].into_iter().filter(|&each| each <= most) {
        // Neither threads without work in the widest product nor threads with too much of it.
        let sensible = |&workgroups: &usize| (fours / 64..=4 * fours).contains(&(workgroups * each));
        all.extend([8, 16, 32, 64, 128].into_iter().filter(sensible).map(|workgroups| (workgroups, each)));
    }
    Ok(all)
}

/// All tokens in one dispatch of `workgroups` workgroups of `each` threads.
pub(crate) fn program(gpu: &Gpu<'_>, model: &Model, workgroups: usize, each: usize) -> Program {
    let shape = model.shape;
    let (quads, head_quads) = (shape.quads(), shape.head_dim() / 4);
    let threads = Threads { workgroups, each, lanes: gpu.lanes.unwrap_or(1) };
    let sharings = Sharings::new(threads, shape.width);
    let split = split(gpu, each, head_quads);
    let mut overrides = sharings.overrides();
    overrides.extend(sizes(gpu, model, threads, split));
    overrides.extend(
        [
            ("GROUPS", workgroups),
            ("SPIN", if gpu.is_software() { SOFTWARE_SPIN } else { SPIN }),
            ("ACTIVATIONS", 6 * quads + 3 * head_quads),
            ("SCORES", TOKENS),
            ("O", quads),
            ("H", 2 * quads),
            ("Q", 6 * quads),
        ]
        .map(|(name, value)| (name, value as f64)),
    );
    let kernel = Kernel::new(gpu.device, File::Grid, &[gpu.twin()], &overrides);
    let tape = gpu.filled(&tape(model, threads, &sharings), BufferUsages::STORAGE);
    let rows = gpu.filled(&model.rows, BufferUsages::STORAGE);
    let results = gpu.room(4 * TOKENS * shape.width);
    let keys = gpu.room(4 * TOKENS * shape.width * shape.layers);
    let values = gpu.room(16 * shape.layers * shape.heads * (TOKENS / split) * each);
    let slots = gpu.room(4 * TOKENS * shape.layers * 10 * shape.width);
    let (gave_up, tokens) = (gpu.room(4), gpu.tokens());
    let buffers =
        [(0, &tape), (1, &rows), (2, &results), (3, &keys), (4, &values), (5, &slots), (6, &gave_up), (7, &tokens)];
    let binds = gpu.bind(&kernel, &buffers);
    let mut commands = vec![Command::Clear(slots), Command::Clear(gave_up.clone())];
    commands.extend(gpu.all_tokens(&kernel, &binds, workgroups));
    let submits = vec![commands];
    Program { submits, waits: false, results, gave_up: Some(gave_up) }
}

/// Loads of an empty slot before a workgroup gives up: seconds.
const SPIN: usize = 1 << 22;

/// The same on software adapters: llvmpipe leaves every loop after 65,535 turns.
const SOFTWARE_SPIN: usize = 32_000;

/// PCI vendors of discrete GPUs on which workgroups that wait for each other were seen to make progress: NVIDIA, AMD, Intel.
const DISCRETE: [u32; 3] = [0x10de, 0x1002, 0x8086];
