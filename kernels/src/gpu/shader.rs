//! WGSL files, their variants, and the pipelines made from them.
//!
//! One file gives several variants by a filter of lines: see [`wgsl`]. [`NOISE`] stands for the text of noise.wgsl.

use std::collections::HashMap;

use syn1_model::plan::WeightFormat;
use wgpu::{
    BindGroup, BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    CommandEncoder, CommandEncoderDescriptor, ComputePassDescriptor, ComputePipelineDescriptor,
    PipelineCompilationOptions, PipelineLayoutDescriptor, ShaderModuleDescriptor, ShaderRuntimeChecks, ShaderSource,
    ShaderStages,
};

use super::device::GpuDevice;
use crate::wgsl::{self, bindings};

/// A WGSL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum File {
    /// Matrix times one token row.
    Gemv,
    /// Matrix times several token rows.
    GemvRows,
    /// Matrix times many token rows.
    Matmul,
    /// The same by cooperative matrices.
    Cooperative,
    /// The norm in front of it.
    Norm,
    /// Norms and rotation of heads.
    Heads,
    /// Attention over the KV cache.
    Attend,
    /// The same for many token rows.
    AttendRows,
    /// The same by cooperative matrices.
    AttendCooperative,
    /// Adds up the splits of attention.
    Combine,
    /// The norm behind attention and MLP.
    Post,
    /// Token and position embedding.
    Embed,
    /// The token loop's turn.
    Step,
    /// Rows from and to memory that the CPU sees.
    Carry,
    /// Draws among the most likely tokens.
    Sieve,
    /// The read bandwidth measurement.
    Read,
    /// Whole tokens in one dispatch.
    Persist,
    /// One product of it.
    PersistProduct,
    /// How many workgroups stay on the device.
    Resident,
    /// The look at subgroups.
    Probe,
}

impl File {
    fn text(self) -> &'static str {
        match self {
            Self::Gemv => include_str!("../../wgsl/gemv.wgsl"),
            Self::GemvRows => {
                concat!(include_str!("../../wgsl/gemv_rows.wgsl"), include_str!("../../wgsl/finish.wgsl"))
            }
            Self::Matmul => {
                concat!(include_str!("../../wgsl/matmul.wgsl"), include_str!("../../wgsl/finish.wgsl"))
            }
            Self::Cooperative => {
                concat!(include_str!("../../wgsl/cooperative.wgsl"), include_str!("../../wgsl/finish.wgsl"))
            }
            Self::Norm => include_str!("../../wgsl/norm.wgsl"),
            Self::Heads => include_str!("../../wgsl/heads.wgsl"),
            Self::Attend => include_str!("../../wgsl/attend.wgsl"),
            Self::AttendCooperative => include_str!("../../wgsl/attend_cooperative.wgsl"),
            Self::AttendRows => include_str!("../../wgsl/attend_rows.wgsl"),
            Self::Combine => include_str!("../../wgsl/combine.wgsl"),
            Self::Post => include_str!("../../wgsl/post.wgsl"),
            Self::Embed => include_str!("../../wgsl/embed.wgsl"),
            Self::Step => include_str!("../../wgsl/step.wgsl"),
            Self::Carry => include_str!("../../wgsl/carry.wgsl"),
            Self::Sieve => include_str!("../../wgsl/sieve.wgsl"),
            Self::Read => include_str!("../../wgsl/read.wgsl"),
            Self::Persist => include_str!("../../wgsl/persist.wgsl"),
            Self::PersistProduct => include_str!("../../wgsl/persist_product.wgsl"),
            Self::Resident => include_str!("../../wgsl/resident.wgsl"),
            Self::Probe => include_str!("../../wgsl/probe.wgsl"),
        }
    }
}

/// A pipeline and the layout of its one bind group.
#[derive(Clone)]
pub(super) struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: BindGroupLayout,
}

impl Kernel {
    /// Commands that run it `times` times, on `workgroups` workgroups each.
    pub(super) fn encode(&self, device: &GpuDevice, binds: &BindGroup, workgroups: u32, times: u32) -> CommandEncoder {
        let mut encoder = device.device.create_command_encoder(&CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, binds, &[]);
        for _ in 0..times {
            pass.dispatch_workgroups(workgroups, 1, 1);
        }
        drop(pass);
        encoder
    }
}

/// A file, its tags, and the bits of its overrides' values.
type Key = (File, Vec<&'static str>, Vec<(&'static str, u64)>);

/// Makes pipelines, each once.
pub(super) struct Kernels<'a> {
    device: &'a GpuDevice,
    common: [&'static str; 2],
    subgroups: Option<(u32, u32)>,
    made: HashMap<Key, Kernel>,
    layouts: HashMap<Vec<(u32, BufferBindingType)>, BindGroupLayout>,
}

impl<'a> Kernels<'a> {
    /// Kernels for KV caches in `kv` (f32 or f16), with subgroup operations if the sizes (smallest, largest) of subgroups are given.
    pub(super) fn new(device: &'a GpuDevice, kv: WeightFormat, subgroups: Option<(u32, u32)>) -> Self {
        let common = [if subgroups.is_some() { "SG" } else { "NOSG" }, cached(kv)];
        Self { device, common, subgroups, made: HashMap::new(), layouts: HashMap::new() }
    }

    /// Kernels of texts that have no variants by KV cache or subgroups.
    pub(super) fn plain(device: &'a GpuDevice) -> Self {
        Self::new(device, WeightFormat::F16, None)
    }

    /// The device that they are for.
    pub(super) fn device(&self) -> &GpuDevice {
        self.device
    }

    /// Threads of the smallest and the largest subgroup, where the kernels use them.
    pub(super) fn subgroup_sizes(&self) -> Option<(u32, u32)> {
        self.subgroups
    }

    /// Whether threads are the turns of a loop on some cores: a browser's software adapter, where a barrier costs as much as
    /// a hundred products.
    pub(super) fn on_few_threads(&self) -> bool {
        cfg!(target_family = "wasm") && self.device.is_software()
    }

    /// The kernel of `file` with `tags` (beside those of the KV cache and of subgroups) and values for its overrides.
    pub(super) fn kernel(&mut self, file: File, tags: &[&'static str], overrides: &[(&'static str, f64)]) -> Kernel {
        let tags: Vec<&'static str> = self.common.iter().chain(tags).copied().collect();
        let values = overrides.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        let key = (file, tags, values);
        if let Some(kernel) = self.made.get(&key) {
            return kernel.clone();
        }
        let label = format!("{file:?} {}", key.1.join(" "));
        let kernel = self.compile(&label, variant(file, &key.1), overrides);
        self.made.insert(key, kernel.clone());
        kernel
    }

    /// The kernel of `source`, this crate's own text, with values for its overrides.
    pub(super) fn compile(&mut self, label: &str, source: String, overrides: &[(&str, f64)]) -> Kernel {
        let layout = self.layout(bindings(&source));
        let device = &self.device.device;
        let module = trusted(device, label, source);
        let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: PipelineCompilationOptions {
                constants: overrides,
                // Every kernel writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Kernel { pipeline, layout }
    }

    fn layout(&mut self, bindings: Vec<(u32, BufferBindingType)>) -> BindGroupLayout {
        let device = &self.device.device;
        let make = |bindings: &Vec<(u32, BufferBindingType)>| {
            let entries: Vec<BindGroupLayoutEntry> = bindings
                .iter()
                .map(|&(binding, ty)| BindGroupLayoutEntry {
                    binding,
                    visibility: ShaderStages::COMPUTE,
                    ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                    count: None,
                })
                .collect();
            device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.entry(bindings).or_insert_with_key(make).clone()
    }
}

/// The tag of a matrix's format, and the bytes of an element of its binding.
pub(super) fn stored(format: WeightFormat) -> (&'static str, usize) {
    match format {
        WeightFormat::F32 => ("W32", 16),
        WeightFormat::F16 => ("W16", 16),
        WeightFormat::Int8 => ("W8", 8),
        WeightFormat::Int4 => ("W4", 4),
    }
}

/// The same for matrices whose rows are gathered.
pub(super) fn gathered(format: WeightFormat) -> (&'static str, usize) {
    match format {
        WeightFormat::F32 => ("W32", 16),
        WeightFormat::F16 => ("W16", 8),
        // An int4 model's tables are int8.
        WeightFormat::Int8 | WeightFormat::Int4 => ("W8", 4),
    }
}

/// The tag of a KV cache in `format`.
pub(super) fn cached(format: WeightFormat) -> &'static str {
    if format == WeightFormat::F32 { "F32" } else { "F16" }
}

/// The text of `file` with the lines of `tags`.
pub(super) fn variant(file: File, tags: &[&str]) -> String {
    wgsl::variant(file.text(), tags).replace(NOISE, include_str!("../../wgsl/noise.wgsl"))
}

/// A module without injected bounds checks, loop bounds and division guards, which would cost a decode step 17 to 40 %.
#[allow(unsafe_code)]
fn trusted(device: &wgpu::Device, label: &str, source: String) -> wgpu::ShaderModule {
    let descriptor = ShaderModuleDescriptor { label: Some(label), source: ShaderSource::Wgsl(source.into()) };
    // SAFETY: the text is this crate's own. Every index is clamped to, or follows from, the sizes that `program.rs` gives
    // the bindings; rows are bounded by the step's and by the room of their window, positions by the context that KV
    // caches and rotary tables are made for; ids are checked against the vocabulary before they are used; every loop is
    // bounded by an override or a uniform, or, where workgroups wait for each other (persist.wgsl, resident.wgsl), by a
    // number of tries; and divisors (LANES, TILE, grid sizes, head_dim) are never zero. The tests run every kernel.
    unsafe { device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) }
}

/// The line of a file that draws tokens.
const NOISE: &str = "// noise.wgsl\n";

#[cfg(test)]
mod tests {
    use wgpu::naga::front::wgsl::{Frontend, Options};
    use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

    use super::*;
    use crate::gpu::sieve::PASSES as SIEVE_PASSES;

    /// Every variant that the engine can ask for.
    fn variants() -> Vec<(File, Vec<&'static str>)> {
        let mut all =
            vec![(File::Read, vec![]), (File::Combine, vec![]), (File::Post, vec![]), (File::Probe, vec!["SG"])];
        all.extend(["ARRIVE", "DEPART"].map(|tag| (File::Carry, vec![tag])));
        all.push((File::Norm, vec![]));
        for twin in ["SG", "NOSG"] {
            for kv in ["F16", "F32"] {
                all.push((File::Attend, vec![twin, kv]));
                all.push((File::Attend, vec![twin, kv, "TOGETHER"]));
                all.push((File::AttendRows, vec![twin, kv, "FULL"]));
                all.push((File::AttendRows, vec![twin, kv, "HALF"]));
                for tags in [&["NORM"][..], &["NORM", "TOGETHER"], &["TOGETHER"]] {
                    all.push((File::Heads, [&[twin, kv], tags].concat()));
                    all.push((File::Heads, [&[twin, kv, "ROPE"], tags].concat()));
                }
                all.extend(SIEVE_PASSES.map(|pass| (File::Sieve, vec![twin, kv, pass])));
                for (file, weights) in
                    [File::Embed, File::Step].into_iter().flat_map(|f| ["W32", "W16", "W8"].map(|w| (f, w)))
                {
                    all.push((file, vec![twin, kv, weights]));
                    all.push((file, vec![twin, kv, weights, "LEARNED"]));
                    all.extend((file == File::Embed).then(|| (file, vec![twin, kv, weights, "LEARNED", "TOGETHER"])));
                }
                for result in ["FULL", "HALF"] {
                    if twin == "SG" && kv == "F16" {
                        all.push((File::AttendCooperative, vec![twin, kv, result]));
                        all.push((File::AttendCooperative, vec![twin, kv, result, "LONG"]));
                    }
                }
                let stored = [&["ROWS", "FULL"][..], &["GATE", "FULL"], &["KV", "FULL"], &["KV", "ROPE", "FULL"]];
                let halved = [&["ROWS", "HALF"][..], &["GATE", "HALF"]];
                for weights in ["W32", "W16", "W8", "W4"] {
                    for norm in ["NORM", "PLAIN"] {
                        for result in stored {
                            all.push((File::Matmul, [&[twin, kv, weights, norm], result].concat()));
                        }
                    }
                    let results = stored.into_iter().filter(|result| !result.contains(&"GATE")).chain(halved);
                    for result in results.filter(|_| twin == "SG" && kv == "F16" && weights != "W32") {
                        all.push((File::Cooperative, [&[twin, kv, weights], result].concat()));
                    }
                }
                let results = [&["ROWS"][..], &["GATE"], &["KV"], &["KV", "ROPE"]];
                for (weights, norm) in
                    ["W32", "W16", "W8", "W4"].into_iter().flat_map(|w| ["NORM", "PLAIN"].map(|n| (w, n)))
                {
                    for result in results {
                        all.push((File::GemvRows, [&[twin, kv, weights, norm, "FULL"], result].concat()));
                    }
                    let divided = ["Q1", "Q2"].into_iter().flat_map(|q| ["STAGED", "DIRECT"].map(|s| (q, s)));
                    for (quads, inputs) in divided {
                        for result in results.into_iter().chain([&["BEST"][..]]) {
                            all.push((File::Gemv, [&[twin, kv, weights, quads, inputs, norm], result].concat()));
                        }
                    }
                }
            }
        }
        all
    }

    /// A variant without its comments.
    fn code(file: File, tags: &[&str]) -> String {
        let uncommented = |line: &str| line.split("//").next().unwrap_or_default().to_owned() + "\n";
        variant(file, tags).lines().map(uncommented).collect()
    }

    #[test]
    fn naga_accepts_every_variant_and_only_those_with_subgroups_need_the_feature() {
        for (file, tags) in variants() {
            let source = variant(file, &tags);
            // WGSL's own unpack2x16float is not behind a feature, but naga keeps it apart for OpenGL's sake.
            let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
            let cooperative = Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
            capabilities.set(cooperative, matches!(file, File::Cooperative | File::AttendCooperative));
            let options = Options { capabilities, ..Options::new() };
            let module = Frontend::new_with_options(options)
                .parse(&source)
                .unwrap_or_else(|e| panic!("{file:?} {tags:?}: {}", e.emit_to_string(&source)));
            capabilities.set(Capabilities::SUBGROUP, tags.contains(&"SG"));
            let mut validator = Validator::new(ValidationFlags::all(), capabilities);
            if tags.contains(&"SG") {
                validator
                    .subgroup_stages(wgpu::naga::valid::ShaderStages::COMPUTE)
                    .subgroup_operations(wgpu::naga::valid::SubgroupOperationSet::all());
            }
            let valid = validator.validate(&module);
            assert!(valid.is_ok(), "{file:?} {tags:?}: {}", valid.unwrap_err().emit_to_string(&source));
        }
    }

    #[test]
    fn every_variant_stays_within_the_limits_that_every_webgpu_device_has() {
        for (file, tags) in variants() {
            let source = code(file, &tags);
            let found = bindings(&source);
            let storage = found.iter().filter(|(_, ty)| *ty != BufferBindingType::Uniform).count();
            assert!(storage <= 8, "{file:?} {tags:?} has {storage} storage bindings");
            assert_eq!(found.len(), source.matches("@binding(").count(), "{file:?} {tags:?}: a binding was overlooked");
            let mut numbers: Vec<u32> = found.iter().map(|(number, _)| *number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), found.len(), "{file:?} {tags:?}: a binding appears twice");
            assert!(!source.contains("subgroup") || tags.contains(&"SG"), "{file:?} {tags:?} uses subgroups");
            assert!(!variant(file, &tags).contains("//#"), "{file:?} {tags:?}: a tag is left");
        }
    }

    #[test]
    fn a_line_stays_only_where_all_of_its_tags_are_set() {
        let with = variant(File::Gemv, &["SG", "F16", "W16", "Q2", "DIRECT", "NORM", "KV"]);
        assert!(with.contains("const QUADS: u32 = 2u;") && !with.contains("const QUADS: u32 = 1u;"));
        assert!(with.contains("kv: array<vec2<u32>>") && !with.contains("kv: array<vec4<f32>>"));
        let without = code(File::Gemv, &["NOSG", "F32", "W32", "Q1", "DIRECT", "PLAIN", "ROWS"]);
        assert!(
            !without.contains("kv[")
                && !without.contains("rotations")
                && !without.contains("gamma")
                && !without.contains("subgroupAdd")
        );
    }
}
