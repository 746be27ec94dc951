//! WGSL files, their variants, and the pipelines made from them.
//!
//! One file gives several variants: see [`wgsl`].

use syn1_kernels::wgsl;
use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType,
    ComputePipelineDescriptor, PipelineCompilationOptions, PipelineLayoutDescriptor, ShaderModuleDescriptor,
    ShaderRuntimeChecks, ShaderSource, ShaderStages,
};

/// A WGSL program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// One workgroup for everything.
    Workgroup,
    /// Many workgroups that run at the same time.
    Grid,
    /// One workgroup, as published.
    Published,
    /// A layer without KV cache.
    Recompute,
    /// A product with what is fused to it.
    Gemv,
    /// Attention.
    Attend,
    /// A primitive operation.
    Ops,
    /// The largest logit.
    Argmax,
}

impl File {
    fn text(self) -> [&'static str; 2] {
        let alone = |text| ["", text];
        match self {
            Self::Workgroup => [include_str!("../wgsl/tape.wgsl"), include_str!("../wgsl/workgroup.wgsl")],
            Self::Grid => [include_str!("../wgsl/tape.wgsl"), include_str!("../wgsl/grid.wgsl")],
            Self::Published => alone(include_str!("../wgsl/published.wgsl")),
            Self::Recompute => alone(include_str!("../wgsl/recompute.wgsl")),
            Self::Gemv => alone(include_str!("../wgsl/gemv.wgsl")),
            Self::Attend => alone(include_str!("../wgsl/attend.wgsl")),
            Self::Ops => alone(include_str!("../wgsl/ops.wgsl")),
            Self::Argmax => alone(include_str!("../wgsl/argmax.wgsl")),
        }
    }

    /// The text with the lines of `tags`.
    fn variant(self, tags: &[&str]) -> String {
        self.text().map(|text| wgsl::variant(text, tags)).concat()
    }
}

/// A pipeline and the layout of its one bind group.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: BindGroupLayout,
}

impl Kernel {
    /// The kernel of `file` with `tags` and values for its overrides. What fails is for an error scope to see.
    pub(crate) fn new(device: &wgpu::Device, file: File, tags: &[&str], overrides: &[(&str, f64)]) -> Self {
        let source = file.variant(tags);
        let label = format!("{file:?} {}", tags.join(" "));
        let entries: Vec<BindGroupLayoutEntry> = wgsl::bindings(&source)
            .into_iter()
            .map(|(binding, ty)| BindGroupLayoutEntry {
                binding,
                visibility: ShaderStages::COMPUTE,
                ty: BindingType::Buffer {
                    ty,
                    // The token's uniform has one.
                    has_dynamic_offset: ty == BufferBindingType::Uniform,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout =
            device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let module = trusted(device, &label, source);
        let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
            label: Some(&label),
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
        Self { pipeline, layout }
    }
}

/// A module without injected bounds checks and loop bounds: these would slow every arm down, some more than others.
#[allow(unsafe_code)]
fn trusted(device: &wgpu::Device, label: &str, source: String) -> wgpu::ShaderModule {
    let descriptor = ShaderModuleDescriptor { label: Some(label), source: ShaderSource::Wgsl(source.into()) };
    // SAFETY: the text is this crate's own. Every index follows from overrides, thread numbers and the token's number, for
    // which the arms size their buffers; every loop is bounded by an override, the token's number or SPIN; no divisor is
    // zero. The tests run every kernel at every width.
    unsafe { device.create_shader_module_trusted(descriptor, ShaderRuntimeChecks::unchecked()) }
}

#[cfg(test)]
mod tests {
    use wgpu::naga::front::wgsl::parse_str;
    use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

    use super::*;

    /// Every variant that an arm can ask for, without the tag of its twin.
    fn variants() -> Vec<(File, Vec<&'static str>)> {
        let mut all = vec![
            (File::Workgroup, vec![]),
            (File::Grid, vec![]),
            (File::Published, vec![]),
            (File::Recompute, vec![]),
            (File::Attend, vec![]),
            (File::Argmax, vec![]),
            (File::Gemv, vec!["W16", "PLAIN", "STORE"]),
            (File::Ops, vec!["EMBED", "HALVES", "ROWS", "TO4"]),
            (File::Ops, vec!["NORM", "GAIN", "FOURS", "ROWS", "TO4"]),
        ];
        for tags in [["NORM", "KV"], ["NORM", "GELU"], ["PLAIN", "ADD"], ["PLAIN", "STORE"]] {
            all.push((File::Gemv, [&tags[..], &["W32"]].concat()));
        }
        for tags in
            ["ROW FOURS TO4", "RESULT FOURS TO4", "NORM FOURS TO4", "APPEND FOURS TO4", "SCORES FOURS CACHE TO1"]
        {
            all.push((File::Ops, tags.split(' ').collect()));
        }
        for tags in ["SOFTMAX ONES TO1", "VALUES ONES CACHE TO4", "ADD FOURS TO4", "GELU FOURS TO4"] {
            all.push((File::Ops, tags.split(' ').collect()));
        }
        all
    }

    #[test]
    fn every_variant_is_valid_and_uses_subgroups_only_where_it_may() {
        for (file, tags) in variants() {
            for twin in ["SG", "NOSG"] {
                let source = file.variant(&[&tags[..], &[twin]].concat());
                let module = parse_str(&source)
                    .unwrap_or_else(|error| panic!("{file:?} {tags:?} {twin}: {}", error.emit_to_string(&source)));
                // Every device reads f16 out of words.
                let subgroups = if twin == "SG" { Capabilities::SUBGROUP } else { Capabilities::empty() };
                let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32 | subgroups;
                let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
                assert!(valid.is_ok(), "{file:?} {tags:?} {twin}: {}", valid.unwrap_err().emit_to_string(&source));
                let found = wgsl::bindings(&source);
                assert_eq!(found.len(), source.matches("@binding(").count(), "{file:?} {tags:?}: one was overlooked");
                let storage = found.iter().filter(|(_, ty)| *ty != BufferBindingType::Uniform).count();
                assert!(storage <= 8, "{file:?} {tags:?} has {storage} storage bindings");
            }
        }
    }
}
