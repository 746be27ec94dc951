//! Whole tokens in one dispatch: the plan as a table, and what persist.wgsl needs to be sure of.

use std::sync::atomic::{AtomicU32, Ordering};

use syn1_model::plan::{Gemv, Op, Piece, Plan, TENSOR_ALIGN, WeightFormat, piece_bytes};
use syn1_model::spec::Activation;
use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry,
    BindingType, Buffer, BufferBindingType, BufferUsages, ComputePass, ComputePipeline, ComputePipelineDescriptor,
    Features, PipelineCompilationOptions, PipelineLayoutDescriptor, ShaderStages,
};

use super::activations::{Activations, RING};
use super::attention::Rotation;
use super::device::GpuDevice;
use super::gemv::center;
use super::memory::{View, bind, buffer};
use super::readback::Readback;
use super::shader::{File, Kernels, trusted, variant};
use super::weights::{Arena, Weights};
use crate::engine::{EngineConfig, EngineError};

/// What the kernel needs of an adapter beside subgroups.
pub(super) const FEATURES: Features = Features::MEMORY_DECORATION_COHERENT.union(Features::MEMORY_DECORATION_VOLATILE);

/// A plan's blocks, or the token loop of a whole model, as one dispatch.
pub(super) struct Persist {
    device: GpuDevice,
    pipeline: ComputePipeline,
    groups: u32,
    layers: u32,
    own: BindGroupLayout,
    blocks: Buffer,
    tables: Buffer,
    pub(super) wire: Buffer,
    control: Buffer,
    /// 1 when a workgroup gave up waiting.
    pub(super) status: Buffer,
    rotations: Option<Buffer>,
    flag: AtomicU32,
}

/// `Control` in persist.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Control {
    turns: u32,
    flag: u32,
    patience: u32,
    pad: u32,
}

/// Why a plan, a device or a size does not allow it.
pub(super) fn obstacle(device: &GpuDevice, plan: &Plan, groups: u32) -> Option<String> {
    let spec = &plan.spec;
    let not = |what: &str| Some(what.to_owned());
    if !(plan.embeds() && plan.heads()) {
        return not("only a part of the model");
    }
    let Some((lanes, most)) = device.subgroup_sizes() else { return not("no subgroups") };
    if lanes != most {
        return not("subgroups of several sizes");
    }
    if !device.device.features().contains(FEATURES) {
        return Some(format!("a device without {}", FEATURES - device.device.features()));
    }
    let most = device.limits.max_storage_buffer_binding_size;
    let largest = Arena::bytes(plan).into_iter().max().unwrap_or(0);
    if largest > most {
        return Some(format!("{largest} bytes of weights in one binding, the largest has {most}"));
    }
    if spec.ropes().len() > 1 {
        return not("several rotations");
    }
    if spec.attention.qk_norm || spec.post_norms {
        return not("norms of heads or behind attention and MLP");
    }
    let parts = spec.head_dim / 8;
    if !spec.head_dim.is_multiple_of(8) || !parts.is_power_of_two() || parts > lanes as usize {
        return Some(format!("heads of {} elements", spec.head_dim));
    }
    let widths = [spec.width, spec.attention_width(), spec.ffn];
    if widths.iter().any(|width| !width.is_multiple_of(32)) {
        return not("a width that is no multiple of 32");
    }
    let pairs = [spec.width, spec.qkv_rows(), spec.ffn].into_iter().min().unwrap_or(0) / 2;
    if pairs < groups as usize {
        return Some(format!("{pairs} pairs of rows for {groups} workgroups"));
    }
    None
}

/// Workgroups and threads for `plan`; none where something stands in the way, which is said.
///
/// # Errors
/// What the device says.
pub(super) fn size(device: &GpuDevice, plan: &Plan) -> Result<Option<(u32, u32)>, EngineError> {
    let refused = |why: &str| {
        tracing::debug!("{}: no token loop in one dispatch: {why}", device.name());
        Ok(None)
    };
    if !device.may_persist() {
        return refused("only discrete GPUs of NVIDIA, AMD and Intel are known to let workgroups wait for each other");
    }
    if device.limits.max_compute_invocations_per_workgroup < 1024 {
        return refused("workgroups are small");
    }
    // Two workgroups of 1,024 threads fill what computes: one of half the threads leaves its registers to the weights.
    let groups = residents(device)? / 2;
    if groups == 0 {
        return refused("workgroups do not stay on the device");
    }
    match obstacle(device, plan, groups) {
        Some(why) => refused(&why),
        None => Ok(Some((groups, 512))),
    }
}

impl Persist {
    /// Makes everything for `plan`, whose weights are in an arena, with workgroups of `threads` threads.
    ///
    /// # Errors
    /// What the device says.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        device: &GpuDevice,
        plan: &Plan,
        weights: &Weights,
        rotations: &[Rotation],
        config: &EngineConfig,
        kv_layer_bytes: u64,
        arena: &Arena,
        (groups, threads): (u32, u32),
    ) -> Result<Self, EngineError> {
        let lanes = device.subgroup_sizes().map_or(1, |(least, _)| least);
        let warps = threads / lanes;
        let spec = &plan.spec;
        let quad = |piece: Piece| (weights.place(piece).1 / 16) as usize;
        let first = Piece::Block(plan.layers.start);
        let splits = (groups as usize / spec.heads).clamp(1, MOST_SPLITS);
        let mut at = 0;
        let mut place = |slots: usize| {
            let begin = at;
            at += slots.next_multiple_of(8);
            begin as f64
        };
        let mut overrides = vec![
            ("THREADS".to_owned(), f64::from(threads)),
            ("LANES".to_owned(), f64::from(lanes)),
            ("WARPS".to_owned(), f64::from(warps)),
            ("GROUPS".to_owned(), f64::from(groups)),
            ("AT_Q".to_owned(), place(spec.qkv_rows() / 2)),
            ("AT_PART".to_owned(), place(spec.heads * splits * (spec.head_dim / 2 + 1))),
            ("AT_A".to_owned(), place(spec.attention_width() / 2)),
            ("AT_X".to_owned(), place(spec.width / 2)),
            ("AT_Y".to_owned(), place(spec.width / 2)),
            ("AT_H".to_owned(), place(spec.ffn / 2)),
            ("AT_WIN".to_owned(), place(groups as usize)),
        ];
        let mut set = |name: &str, value: f64| overrides.push((name.to_owned(), value));
        set("LAYERS", plan.layers.len() as f64);
        set("BLOCK_STEP", (piece_bytes(spec, plan.format, first).next_multiple_of(TENSOR_ALIGN) / 16) as f64);
        set("X_QUADS", (spec.width / 4) as f64);
        set("OWNED", (spec.width / 2).div_ceil(groups as usize) as f64);
        set("HEAD8", (spec.head_dim / 8) as f64);
        set("FRESH", (6 * (spec.head_dim / 8)) as f64);
        set("MERGED", (2 * (spec.head_dim / 8) * warps as usize) as f64);
        set("HEADS", spec.heads as f64);
        set("SHARING", (spec.heads / spec.kv_heads) as f64);
        set("KV_HEADS", spec.kv_heads as f64);
        set("SPLITS", splits as f64);
        set("ROPE_QUADS", rotations.first().map_or(0.0, |rotation| f64::from(rotation.quads())));
        set("CONTEXT", config.max_positions as f64);
        set("KV_LAYER", (kv_layer_bytes / if plan.format.kv() == WeightFormat::F32 { 8 } else { 4 }) as f64);
        set("INVERSE", 1.0 / spec.width as f64);
        set("ACTIVATION", if spec.activation == Activation::GeluTanh { 1.0 } else { 2.0 });
        let mut kinds = Vec::new();
        let mut quads = 1;
        let mut product = |kind: &'static str, gemv: &Gemv, gated: bool, set: &mut dyn FnMut(&str, f64)| {
            let matrix = &gemv.matrix;
            let chunks = matrix.stride / elements_of(matrix.format);
            let units = matrix.rows.div_ceil(2) / if gated { 2 } else { 1 };
            let most = units.div_ceil(groups as usize);
            let (lanes, warps) = (lanes as usize, warps as usize);
            let mut slices = 1;
            while !gated && kind != "head" && most * 2 * slices <= warps && chunks > slices * lanes {
                slices *= 2;
            }
            quads = quads.max(matrix.stride / 4);
            let mut set = |name: &str, value: usize| set(&format!("{kind}_{name}"), value as f64);
            set("ROWS", matrix.rows);
            set("CHUNKS", chunks);
            set("ROW", matrix.row_bytes() / 16);
            set("AT", matrix.data.offset as usize / 16);
            set("AUX", gemv.aux.offset as usize / 16);
            set("QUADS", matrix.stride / 4);
            set("PARTS", elements_of(matrix.format) / 4);
            set("UNITS", units);
            set("TEAMS", warps / slices);
            set("SLICES", slices);
            set("STEPS", chunks.div_ceil(3 * slices * lanes));
            set("ROUNDS", (matrix.stride / 4).div_ceil(threads as usize));
            if let Some(norm) = gemv.norm {
                set("GAMMA", norm.gamma.offset as usize / 16);
            }
            let mut tags = vec![kind, if gated { "GATED" } else { "PLAIN" }];
            tags.push(if gemv.norm.is_some() { "NORMED" } else { "BARE" });
            tags.push(match matrix.format {
                WeightFormat::F32 => "W32",
                WeightFormat::F16 => "W16",
                WeightFormat::Int8 => "BYTES",
                WeightFormat::Int4 => "HALVES",
            });
            tags.extend((kind != "head").then_some("BLOCK"));
            tags.extend((kind != "qkv").then_some("OTHER"));
            tags.extend(matches!(kind, "out" | "down").then_some("ADDS"));
            kinds.push((kind, tags));
        };
        let mut learned = false;
        for op in &plan.ops {
            match op {
                Op::Qkv { layer: 0, gemv, .. } => {
                    product("qkv", gemv, false, &mut set);
                    if let Some(norm) = gemv.norm {
                        set("EPS", f64::from(norm.norm.eps));
                        set("CENTER", center(norm.norm.kind));
                    }
                }
                Op::Attend { layer: 0, scale, softcap, window } => {
                    set("SCALE", f64::from(*scale));
                    set("SOFTCAP", f64::from(softcap.unwrap_or(0.0)));
                    set("WINDOW", window.map_or(f64::from(u32::MAX), |window| window as f64));
                }
                Op::Out { gemv, .. } if gemv.matrix.data.piece == first => product("out", gemv, false, &mut set),
                Op::Up { gemv, gated, .. } if gemv.matrix.data.piece == first => {
                    product("up", gemv, *gated, &mut set);
                }
                Op::Down { gemv, .. } if gemv.matrix.data.piece == first => product("down", gemv, false, &mut set),
                Op::Head { gemv, softcap } => {
                    product("head", gemv, false, &mut set);
                    set("CAP", f64::from(softcap.unwrap_or(0.0)));
                    set("HEAD_AT", quad(gemv.matrix.data.piece) as f64);
                    set("HEAD_EXTRA", quad(gemv.aux.piece) as f64);
                }
                Op::Step { tokens, positions, scale } => {
                    set("TOKENS", 4.0 * quad(tokens.data.piece) as f64);
                    set("TOKEN_ROW", (tokens.row_bytes() / 4) as f64);
                    set("TOKEN_STRIDE", tokens.stride as f64);
                    set("MODEL_POSITIONS", spec.max_positions as f64);
                    set("VOCAB", spec.vocab as f64);
                    set("EMBED_SCALE", f64::from(*scale));
                    set("KEPT", RING as f64);
                    if let Some(positions) = positions {
                        learned = true;
                        set("POSITIONS", 4.0 * quad(positions.data.piece) as f64);
                    }
                }
                _ => {}
            }
        }
        set("QUADS", quads as f64);
        let mut tags = vec![
            match plan.format.tables() {
                WeightFormat::F32 => "T32",
                WeightFormat::F16 => "T16",
                _ => "T8",
            },
            if plan.format.kv() == WeightFormat::F32 { "F32" } else { "F16" },
        ];
        tags.extend(learned.then_some("LEARNED"));
        let rotations = rotations.first().map(|rotation| rotation.buffer().clone());
        let mut text = variant(File::Persist, &tags);
        for (kind, own) in &kinds {
            let tags: Vec<&str> = tags.iter().chain(own).copied().collect();
            text += &variant(File::PersistProduct, &tags).replace("KIND", kind);
        }
        let named: Vec<(&str, f64)> = overrides
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .filter(|(name, _)| text.contains(&format!("override {name}:")))
            .collect();
        device.guarded("the persistent kernel", 0, || {
            let own = own_layout(device);
            let pipeline = pipeline(device, &own, text, &named);
            let storage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
            Self {
                device: device.clone(),
                pipeline,
                groups,
                layers: plan.layers.len() as u32,
                blocks: arena.blocks.clone(),
                tables: arena.tables.clone(),
                own,
                wire: buffer(device, "wire", 16 * at as u64, storage),
                control: buffer(device, "control", 16, storage),
                status: buffer(device, "status", 4, storage),
                rotations,
                flag: AtomicU32::new(1),
            }
        })
    }

    /// The bind group of a request with the cache `kv`. To be called inside [`GpuDevice::guarded`].
    pub(super) fn bind(&self, activations: &Activations, kv: &Buffer) -> BindGroup {
        let buffers = [
            (0, self.rotations.as_ref().unwrap_or(&self.control)),
            (1, &self.blocks),
            (9, &self.blocks),
            (11, &self.tables),
            (12, &self.tables),
            (2, &self.wire),
            (3, kv),
            (4, &activations.x),
            (5, &activations.state),
            (6, &self.control),
            (7, &self.status),
            (8, &activations.chosen),
            (10, kv),
        ];
        let entries: Vec<BindGroupEntry<'_>> = buffers
            .iter()
            .map(|(binding, buffer)| BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
            .collect();
        self.device.device.create_bind_group(&BindGroupDescriptor {
            label: Some("persist"),
            layout: &self.own,
            entries: &entries,
        })
    }

    /// Writes what the next submit's dispatch is to do: `turns` tokens.
    pub(super) fn prepare(&self, turns: u32) {
        let used = turns * (self.layers + 1);
        let flag = match self.flag.load(Ordering::Relaxed).checked_add(used) {
            Some(_) => self.flag.load(Ordering::Relaxed),
            None => {
                let zeros = vec![0; self.wire.size() as usize];
                self.device.queue.write_buffer(&self.wire, 0, &zeros);
                1
            }
        };
        self.flag.store(flag + used, Ordering::Relaxed);
        let control = Control { turns, flag, patience: PATIENCE, pad: 0 };
        self.device.queue.write_buffer(&self.control, 0, bytemuck::bytes_of(&control));
    }

    /// Records the dispatch.
    pub(super) fn record(&self, pass: &mut ComputePass<'_>, binds: &BindGroup) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, binds, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
    }
}

/// Weights in a vec4.
fn elements_of(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 => 4,
        WeightFormat::F16 => 8,
        WeightFormat::Int8 => 16,
        WeightFormat::Int4 => 32,
    }
}

fn own_layout(device: &GpuDevice) -> BindGroupLayout {
    let storage = |read_only| BufferBindingType::Storage { read_only };
    let entries: Vec<BindGroupLayoutEntry> = [
        (0, storage(true)),
        (1, storage(true)),
        (9, storage(true)),
        (11, storage(true)),
        (12, storage(true)),
        (2, storage(false)),
        (3, storage(false)),
        (4, storage(false)),
        (5, storage(false)),
        (6, storage(true)),
        (7, storage(false)),
        (8, storage(false)),
        (10, storage(false)),
    ]
    .into_iter()
    .map(|(binding, ty)| BindGroupLayoutEntry {
        binding,
        visibility: ShaderStages::COMPUTE,
        ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    })
    .collect();
    device.device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some("persist"), entries: &entries })
}

fn pipeline(device: &GpuDevice, own: &BindGroupLayout, text: String, overrides: &[(&str, f64)]) -> ComputePipeline {
    let label = "persist";
    let module = trusted(&device.device, label, text);
    let layout = device.device.create_pipeline_layout(&PipelineLayoutDescriptor {
        label: Some(label),
        bind_group_layouts: &[Some(own)],
        immediate_size: 0,
    });
    device.device.create_compute_pipeline(&ComputePipelineDescriptor {
        label: Some(label),
        layout: Some(&layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: PipelineCompilationOptions {
            constants: overrides,
            zero_initialize_workgroup_memory: false,
        },
        cache: None,
    })
}

/// Workgroups of 1,024 threads that the device keeps at a time, as far as it can be seen: each waits, with bounded patience,
/// until all have begun.
///
/// # Errors
/// What the device says.
pub(super) fn residents(device: &GpuDevice) -> Result<u32, EngineError> {
    let (kernel, binds, state, readback) = device.guarded("the residency probe", 0, || {
        let kernel = Kernels::new(device, WeightFormat::F16, None).kernel(File::Resident, &[], &[]);
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let state = buffer(device, "residency", 8, usage);
        let binds = bind(device, &kernel, &[(0, View::whole(&state))]);
        (kernel, binds, state, Readback::new(device, 8))
    })?;
    let all_meet = |groups: u32| -> Result<bool, EngineError> {
        device.queue.write_buffer(&state, 0, &[0; 8]);
        let mut encoder = device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &binds, &[]);
        pass.dispatch_workgroups(groups, 1, 1);
        drop(pass);
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

/// Loads in one wait at most: about a tenth of a second.
const PATIENCE: u32 = 1 << 17;

/// Splits of a context at most.
const MOST_SPLITS: usize = 8;
