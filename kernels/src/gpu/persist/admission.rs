//! Whether the token loop or a step may run as one dispatch, and with how many workgroups.

use syn1_model::plan::{Plan, WeightFormat};
use wgpu::{BufferUsages, Features};

use super::super::bank::Layout;
use super::super::device::GpuDevice;
use super::super::engine::Persistence;
use super::super::memory::{View, bind, buffer};
use super::super::readback::Readback;
use super::super::shader::{File, Kernels};
use super::super::weights::Arena;
use super::Work;
use crate::engine::EngineError;

/// What the kernel needs of an adapter beside subgroups.
pub(in super::super) const FEATURES: Features =
    Features::MEMORY_DECORATION_COHERENT.union(Features::MEMORY_DECORATION_VOLATILE);

/// The workgroups of the dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Size {
    pub(in super::super) groups: u32,
    pub(in super::super) threads: u32,
}

/// What about the plan, the device, the size or the KV caches, which lie as `layout` says, does not allow the `work`, if
/// anything.
fn obstacle(device: &GpuDevice, plan: &Plan, layout: &Layout, work: Work, size: Size) -> Option<String> {
    let (spec, limits) = (&plan.spec, &device.limits);
    let not = |what: &str| Some(what.to_owned());
    if work == Work::Loop && !(plan.embeds() && plan.heads()) {
        return not("this is only a part of the model");
    }
    if plan.layers.is_empty() {
        return not("there are no layers");
    }
    let lanes = match device.subgroup_sizes() {
        Some((least, most)) if least == most => least,
        _ => return not("the device has no subgroups of one size"),
    };
    let missing = FEATURES - device.device.features();
    if !missing.is_empty() {
        return Some(format!("the device has no {missing}"));
    }
    if spec.attention.qk_norm || spec.post_norms {
        return not("the model norms heads, or what attention and MLP give");
    }
    let like_first = |layer: usize| spec.layer(layer) == spec.layer(plan.layers.start);
    if !plan.layers.clone().all(like_first) {
        return not("the model's layers differ in window or rotation");
    }
    // Inputs of a chunk of weights are put into digits by as many threads of a subgroup.
    let sharing = match plan.format {
        WeightFormat::F32 | WeightFormat::F16 => 1,
        WeightFormat::Int8 => 4,
        WeightFormat::Int4 => 8,
    };
    if lanes < sharing {
        return Some(format!("subgroups of {lanes} threads ({} weights need {sharing})", plan.format));
    }
    let parts = spec.head_dim / 8;
    if !spec.head_dim.is_multiple_of(8) || !parts.is_power_of_two() || parts > lanes as usize {
        return Some(format!("heads have {} elements (only 8, 16, 32 and so on)", spec.head_dim));
    }
    if !spec.heads.is_multiple_of(spec.kv_heads.max(1)) {
        return Some(format!("{} query heads share {} KV heads", spec.heads, spec.kv_heads));
    }
    if [spec.width, spec.attention_width(), spec.ffn].iter().any(|width| !width.is_multiple_of(32)) {
        return not("a width of the model is no multiple of 32");
    }
    let Size { groups, threads } = size;
    let most = most_groups(plan, work);
    if groups == 0 || groups > most {
        return Some(format!("there are rows for {most} workgroups, not for {groups}"));
    }
    if threads < lanes
        || !threads.is_multiple_of(lanes)
        || threads > limits.max_compute_invocations_per_workgroup
        || (threads as usize) < 6 * parts
    {
        return Some(format!("workgroups of {threads} threads"));
    }
    // The input row, and what subgroups and heads exchange.
    let warps = (threads / lanes) as usize;
    let memory = 4 * spec.width.max(spec.ffn).max(spec.attention_width())
        + 8 * spec.width.div_ceil(2 * groups as usize)
        + 32 * warps
        + 16 * (6 * parts + 2 * parts * warps);
    if memory > limits.max_compute_workgroup_storage_size as usize {
        return Some(format!("workgroups would need {memory} bytes of workgroup memory"));
    }
    if limits.max_storage_buffers_per_shader_stage < BINDINGS {
        return Some(format!("the device binds fewer than {BINDINGS} buffers"));
    }
    let largest = Arena::bytes(plan).into_iter().chain([layout.bytes()]).max().unwrap_or(0);
    let most = limits.max_storage_buffer_binding_size;
    (largest > most).then(|| format!("weights or KV caches have {largest} bytes, one binding {most}"))
}

/// The size of the `work` of `plan` as it is `wished` for; none where that is not at all, or where a measured one has
/// something in its way, which is logged.
///
/// # Errors
/// What stands in the way of a size that was given; what the device says.
pub(in super::super) fn size(
    device: &GpuDevice,
    plan: &Plan,
    layout: &Layout,
    work: Work,
    wished: Persistence,
) -> Result<Option<Size>, EngineError> {
    match wished {
        Persistence::Off => Ok(None),
        Persistence::Measured => measured(device, plan, layout, work),
        Persistence::Sized { groups, threads } => {
            let size = Size { groups, threads };
            match obstacle(device, plan, layout, work, size) {
                Some(why) => Err(device.unsupported(format!("{}: {why}", work.name()))),
                None => Ok(Some(size)),
            }
        }
    }
}

fn measured(device: &GpuDevice, plan: &Plan, layout: &Layout, work: Work) -> Result<Option<Size>, EngineError> {
    let refused = |why: &str| {
        tracing::debug!("{}: not {}: {why}", device.name(), work.name());
        Ok(None)
    };
    if !device.may_persist() {
        return refused("only discrete GPUs of NVIDIA, AMD and Intel are known to let workgroups wait for each other");
    }
    if device.limits.max_compute_invocations_per_workgroup < PROBE_THREADS {
        return refused("the device's workgroups are small");
    }
    // What computes holds two such workgroups; one of half the threads leaves its registers to the weights.
    let groups = (residents(device)? / 2).min(most_groups(plan, work));
    let size = Size { groups, threads: PROBE_THREADS / 2 };
    match obstacle(device, plan, layout, work, size) {
        Some(why) => refused(&why),
        None => Ok(Some(size)),
    }
}

/// Workgroups at most: every one must have rows of every product, which keeps fast ones from overwriting what slow ones
/// still read.
fn most_groups(plan: &Plan, work: Work) -> u32 {
    let spec = &plan.spec;
    let head = if work == Work::Loop { spec.vocab } else { usize::MAX };
    let rows = [spec.width, spec.qkv_rows(), spec.ffn, head].into_iter().min().unwrap_or(0);
    (rows / 2) as u32
}

/// Workgroups of 1,024 threads that the device keeps at a time, as far as it can be seen: each waits, with bounded patience,
/// until all have begun.
///
/// # Errors
/// What the device says.
fn residents(device: &GpuDevice) -> Result<u32, EngineError> {
    let (kernel, binds, state, readback) = device.guarded("the residency probe", 0, || {
        let kernel = Kernels::plain(device).kernel(File::Resident, &[], &[]);
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let state = buffer(device, "residency", 8, usage);
        let binds = bind(device, &kernel, &[(0, View::whole(&state))]);
        (kernel, binds, state, Readback::new(device, 8))
    })?;
    let all_meet = |groups: u32| -> Result<bool, EngineError> {
        device.queue.write_buffer(&state, 0, &[0; 8]);
        let mut encoder = kernel.encode(device, &binds, groups, 1);
        readback.copy(&mut encoder, &state, 8);
        let pending = readback.start(8, device.queue.submit([encoder.finish()]));
        let mut met = false;
        let look = |bytes: &[u8]| met = bytemuck::cast_slice::<u8, u32>(bytes) == [groups, 0];
        pollster::block_on(readback.finish(device, pending, look))?;
        Ok(met)
    };
    let (mut fits, mut too_many) = (0, MOST_GROUPS + 1);
    while fits + 1 < too_many {
        let groups = fits.midpoint(too_many);
        if all_meet(groups)? { fits = groups } else { too_many = groups }
    }
    Ok(fits)
}

/// Workgroups that the probe looks for at most.
const MOST_GROUPS: u32 = 1024;

/// Threads of a workgroup of the residency probe.
const PROBE_THREADS: u32 = 1024;

/// Storage buffers that the kernel binds.
const BINDINGS: u32 = 14;

#[cfg(test)]
mod tests {
    use super::super::super::shader::variant;
    use super::*;
    use crate::wgsl::bindings;

    #[test]
    fn the_text_declares_as_many_buffers_as_a_device_is_asked_for() {
        for (tables, kv) in [("W32", "F32"), ("W16", "F16"), ("W8", "F16")] {
            for positions in ["LEARNED", "ROTATED"] {
                let text = variant(File::Persist, &["LOOP", tables, kv, positions]);
                assert_eq!(bindings(&text).len(), BINDINGS as usize, "{tables} {kv} {positions}");
                assert_eq!(text.matches("@binding(").count(), BINDINGS as usize, "{tables} {kv} {positions}");
                // A step reads no tables and chooses no token.
                let text = variant(File::Persist, &["STEP", tables, kv, positions]);
                assert_eq!(bindings(&text).len(), BINDINGS as usize - 3, "{tables} {kv} {positions}");
                assert_eq!(text.matches("@binding(").count(), BINDINGS as usize - 3, "{tables} {kv} {positions}");
            }
        }
    }
}
