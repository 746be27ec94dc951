//! Whether the token loop may run as one dispatch, and with how many workgroups.

use std::ops::ControlFlow;
use std::time::Duration;

use syn1_model::plan::{Plan, WeightFormat};
use web_time::Instant;
use wgpu::{BufferUsages, Features};

use super::super::device::GpuDevice;
use super::super::engine::GpuEngine;
use super::super::memory::{View, bind, buffer};
use super::super::program::kv_layer_bytes;
use super::super::readback::Readback;
use super::super::shader::{File, Kernels};
use super::super::weights::Arena;
use crate::engine::{Decode, Engine, EngineConfig, EngineError};

/// What the kernel needs of an adapter beside subgroups.
pub(in super::super) const FEATURES: Features =
    Features::MEMORY_DECORATION_COHERENT.union(Features::MEMORY_DECORATION_VOLATILE);

/// The workgroups of the dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Size {
    pub(in super::super) groups: u32,
    pub(in super::super) threads: u32,
}

/// What about the plan, the device or the size does not allow it, if anything.
pub(in super::super) fn obstacle(device: &GpuDevice, plan: &Plan, config: &EngineConfig, size: Size) -> Option<String> {
    let (spec, limits) = (&plan.spec, &device.limits);
    let not = |what: &str| Some(what.to_owned());
    if !(plan.embeds() && plan.heads()) {
        return not("this is only a part of the model");
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
    let most = most_groups(plan);
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
    let kv = kv_layer_bytes(plan, config) * plan.layers.len() as u64;
    let largest = Arena::bytes(plan).into_iter().chain([kv]).max().unwrap_or(0);
    let most = limits.max_storage_buffer_binding_size;
    (largest > most).then(|| format!("weights or KV cache have {largest} bytes, one binding {most}"))
}

/// The size for `plan`; none where something stands in the way, which is logged.
///
/// # Errors
/// What the device says.
pub(in super::super) fn size(
    device: &GpuDevice,
    plan: &Plan,
    config: &EngineConfig,
) -> Result<Option<Size>, EngineError> {
    let refused = |why: &str| {
        tracing::debug!("{}: no token loop in one dispatch: {why}", device.name());
        Ok(None)
    };
    if !device.may_persist() {
        return refused("only discrete GPUs of NVIDIA, AMD and Intel are known to let workgroups wait for each other");
    }
    if device.limits.max_compute_invocations_per_workgroup < PROBE_THREADS {
        return refused("the device's workgroups are small");
    }
    // What computes holds two such workgroups; one of half the threads leaves its registers to the weights.
    let groups = (residents(device)? / 2).min(most_groups(plan));
    let size = Size { groups, threads: PROBE_THREADS / 2 };
    match obstacle(device, plan, config, size) {
        Some(why) => refused(&why),
        None => Ok(Some(size)),
    }
}

/// Workgroups at most: every one must have rows of every product, which keeps fast ones from overwriting what slow ones
/// still read.
fn most_groups(plan: &Plan) -> u32 {
    let spec = &plan.spec;
    let rows = [spec.width, spec.qkv_rows(), spec.ffn, spec.vocab].into_iter().min().unwrap_or(0);
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

impl GpuEngine {
    /// Keeps the persistent kernel only if it gives the same tokens as the other kernels, and at least [`GAIN`] times as
    /// many a second.
    ///
    /// # Errors
    /// What the device says.
    pub(in super::super) fn admit(&mut self) -> Result<(), EngineError> {
        let count = TRIAL.min(self.config.max_positions);
        let slot = self.open()?;
        let trial = |engine: &mut Self| -> Result<(Vec<u32>, Duration), EngineError> {
            let mut ids = Vec::with_capacity(count);
            let sink = |id| {
                ids.push(id);
                ControlFlow::Continue(())
            };
            let begun = Instant::now();
            pollster::block_on(engine.token_loop(Decode::greedy(slot, 0, 0, count), sink))?;
            Ok((ids, begun.elapsed()))
        };
        let mut times = [Duration::MAX; 2];
        let mut texts = [Vec::new(), Vec::new()];
        for _ in 0..=TRIALS {
            for (arm, (time, text)) in times.iter_mut().zip(&mut texts).enumerate() {
                let aside = if arm == 0 { self.persist.take() } else { None };
                let tried = trial(self);
                if arm == 0 {
                    self.persist = aside;
                }
                let (ids, took) = tried?;
                (*text, *time) = (ids, took.min(*time));
            }
        }
        self.close(slot);
        let gain = times[0].as_secs_f64() / times[1].as_secs_f64();
        let (is_same, name) = (texts[0] == texts[1], self.device.name());
        tracing::debug!("{name}: the token loop in one dispatch: {gain:.2} times as fast, same tokens: {is_same}");
        if !is_same || gain < GAIN {
            self.persist = None;
        }
        Ok(())
    }
}

/// Tokens of a trial of the persistent kernel.
const TRIAL: usize = 48;

/// Trials of each arm behind a first one that warms up.
const TRIALS: usize = 2;

/// How much faster the persistent kernel must be.
const GAIN: f64 = 1.15;

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
                let text = variant(File::Persist, &[tables, kv, positions]);
                assert_eq!(bindings(&text).len(), BINDINGS as usize, "{tables} {kv} {positions}");
                assert_eq!(text.matches("@binding(").count(), BINDINGS as usize, "{tables} {kv} {positions}");
            }
        }
    }
}
