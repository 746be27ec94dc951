//! A plan as dispatches: pipelines, constants and bind groups, all made before the first step.

use syn1_model::plan::{Gemv, Matrix, Op, Plan};
use syn1_model::spec::Activation;
use wgpu::{BindGroup, Buffer};

use super::activations::{Activations, RING, Strides};
use super::device::GpuDevice;
use super::engine::GpuOptions;
use super::gemv::{Epilogue, GemvShape, Product};
use super::launch::{Binds, Grid, Launch, PerSlot, Shot};
use super::logits::Head;
use super::memory::{Uniforms, View, bind};
use super::shader::{File, Kernels};
use super::weights::Weights;
use crate::engine::{EngineConfig, EngineError};

/// Everything that a step dispatches.
#[derive(Default)]
pub(super) struct Program {
    /// Token ids to the residual stream.
    pub(super) embed: Vec<Launch>,
    /// The residual stream through the layers.
    pub(super) body: Vec<Launch>,
    /// The head that keeps only each workgroup's largest logit: for the token loop.
    pub(super) best: Vec<Launch>,
    /// The token loop's turn.
    pub(super) turn: Vec<Launch>,
    /// What the head that stores logits is made from.
    pub(super) head: Option<Head>,
    /// Bind groups that need a KV cache.
    per_slot: Vec<PerSlot>,
    /// Bytes of one layer's KV cache.
    kv_layer_bytes: u64,
    /// Workgroups of `best`.
    winners: u32,
}

/// `Shape` in attend.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct AttendShape {
    q_stride: u32,
    a_stride: u32,
    kv_heads: u32,
    sharing: u32,
    max_positions: u32,
    scale: f32,
    pad: [u32; 2],
}

const _: () = assert!(size_of::<AttendShape>() == 32);

impl Program {
    /// Makes everything for `plan`.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for what the kernels cannot do, else what the device says.
    pub(super) fn new(
        device: &GpuDevice,
        plan: &Plan,
        weights: &Weights,
        activations: &Activations,
        config: &EngineConfig,
        options: GpuOptions,
    ) -> Result<Self, EngineError> {
        let kv_layer_bytes = kv_layer_bytes(device, plan, config)?;
        let subgroups = device.subgroup_sizes().filter(|_| options.subgroups);
        device.guarded("pipelines and constants", 0, || {
            let program = Self { kv_layer_bytes, ..Self::default() };
            let kernels = Kernels::new(device, plan.format, subgroups);
            let uniforms = Uniforms::new(device);
            let mut builder =
                Builder { device, plan, weights, activations, config, options, kernels, uniforms, program };
            for op in &plan.ops {
                builder.add(op)?;
            }
            Ok(builder.program)
        })?
    }

    /// Bytes of a request's KV cache.
    pub(super) fn kv_bytes(&self, plan: &Plan) -> u64 {
        self.kv_layer_bytes * plan.layers.len() as u64
    }

    /// The bind groups of a request whose KV cache is `kv`. To be called inside [`GpuDevice::guarded`].
    pub(super) fn bind_slot(&self, device: &GpuDevice, kv: &Buffer) -> Vec<BindGroup> {
        self.per_slot.iter().map(|part| part.bind(device, kv, self.kv_layer_bytes)).collect()
    }
}

/// Bytes of one layer's KV cache, whole storage offsets.
fn kv_layer_bytes(device: &GpuDevice, plan: &Plan, config: &EngineConfig) -> Result<u64, EngineError> {
    let bytes = 2 * (plan.spec.kv_width() * config.max_positions * plan.format.bytes()) as u64;
    let most = device.limits.max_storage_buffer_binding_size;
    if bytes > most {
        return Err(device.unsupported(format!("a KV cache of {bytes} bytes a layer, the largest binding is {most}")));
    }
    Ok(bytes.next_multiple_of(256))
}

/// Turns ops into launches.
struct Builder<'a> {
    device: &'a GpuDevice,
    plan: &'a Plan,
    weights: &'a Weights,
    activations: &'a Activations,
    config: &'a EngineConfig,
    options: GpuOptions,
    kernels: Kernels<'a>,
    uniforms: Uniforms,
    program: Program,
}

impl Builder<'_> {
    fn add(&mut self, op: &Op) -> Result<(), EngineError> {
        let Activations { x, a, h, .. } = self.activations;
        let strides = Strides::of(self.plan);
        match op {
            Op::Embed { tokens, positions } => {
                let positions = self.learned(positions)?;
                let launches = self.embed(tokens, &positions, 0);
                self.program.embed.extend(launches);
            }
            Op::Qkv { rope: Some(_), .. } => return Err(self.device.unsupported("rotary positions (RoPE)".into())),
            Op::Qkv { layer, gemv, rope: None } => self.qkv(*layer, gemv),
            Op::Attend { layer } => self.attend(*layer)?,
            Op::Out { gemv } => self.product(gemv, Epilogue::Add, (a, strides.q), (x, strides.x)),
            Op::Up { gated: true, .. } => return Err(self.device.unsupported("a gated MLP (SwiGLU)".into())),
            Op::Up { activation: Activation::Silu, .. } => {
                return Err(self.device.unsupported("the activation SiLU".into()));
            }
            Op::Up { gemv, activation: Activation::GeluTanh, gated: false } => {
                self.product(gemv, Epilogue::Gelu, (x, strides.x), (h, strides.h));
            }
            Op::Down { gemv } => self.product(gemv, Epilogue::Add, (h, strides.h), (x, strides.x)),
            Op::Head { gemv } => self.head(gemv),
            Op::Step { tokens, positions } => {
                let positions = self.learned(positions)?;
                self.step(tokens, &positions);
                let launches = self.embed(tokens, &positions, 1);
                self.program.turn.extend(launches);
            }
        }
        Ok(())
    }

    /// The learned positions; there are kernels for no others.
    fn learned(&self, positions: &Option<Matrix>) -> Result<View, EngineError> {
        let matrix =
            positions.ok_or_else(|| self.device.unsupported("an embedding without learned positions".into()))?;
        let most = self.device.limits.max_storage_buffer_binding_size;
        if matrix.data.bytes > most {
            let bytes = matrix.data.bytes;
            let what = format!("a position matrix of {bytes} bytes, the largest binding is {most}");
            return Err(self.device.unsupported(what));
        }
        Ok(self.weights.view(matrix.data))
    }

    /// Gathers token rows, for the windows of the token matrix from number `first` on.
    fn embed(&mut self, tokens: &Matrix, positions: &View, first: usize) -> Vec<Launch> {
        let kernel = self.kernels.kernel(File::Embed, &[], &[("QUADS", (tokens.stride / 4) as f64)]);
        let windows = self.weights.windows(tokens, self.options.window_bytes);
        let mut launches = Vec::new();
        for window in windows.into_iter().skip(first) {
            let shape = [window.row_base as u32, window.rows as u32, self.plan.spec.max_positions as u32, 0];
            let views = [
                (0, window.view),
                (1, positions.clone()),
                (2, View::whole(&self.activations.state)),
                (3, View::whole(&self.activations.x)),
                (4, self.uniforms.slot(&shape)),
            ];
            let binds = Binds::Shared(bind(self.device, &kernel, &views));
            launches.push(Launch { one: Shot::new(&kernel, Grid::Tokens), many: None, binds });
        }
        launches
    }

    fn qkv(&mut self, layer: usize, gemv: &Gemv) {
        let spec = &self.plan.spec;
        let strides = Strides::of(self.plan);
        let product = self.product_of(gemv, Epilogue::Kv);
        for window in &product.windows {
            let shape = GemvShape {
                x_stride: (strides.x / 4) as u32,
                y_stride: (strides.q / 4) as u32,
                q_rows: spec.attention_width() as u32,
                head_dim: spec.head_dim as u32,
                max_positions: self.config.max_positions as u32,
                ..window.shape
            };
            let mut views = product.views.clone();
            views.extend([
                (0, window.weights.clone()),
                (2, View::whole(&self.activations.x)),
                (3, View::whole(&self.activations.state)),
                (4, self.uniforms.slot(&shape)),
                (6, View::whole(&self.activations.q)),
            ]);
            let binds = Binds::Slot(self.program.per_slot.len());
            self.program.per_slot.push(PerSlot { kernel: product.one.clone(), views, kv_binding: 7, layer });
            let one = Shot::new(&product.one, window.one);
            let many = product.many.as_ref().map(|many| Shot::new(many, window.many));
            self.program.body.push(Launch { one, many, binds });
        }
    }

    fn attend(&mut self, layer: usize) -> Result<(), EngineError> {
        let spec = &self.plan.spec;
        let parts = spec.head_dim / 8;
        if !spec.head_dim.is_multiple_of(8) || !(1..=ATTEND_THREADS).contains(&parts) {
            let (dim, most) = (spec.head_dim, 8 * ATTEND_THREADS);
            let what = format!("heads of {dim} elements (only multiples of 8 up to {most})");
            return Err(self.device.unsupported(what));
        }
        if spec.kv_heads == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
            let (heads, kv_heads) = (spec.heads, spec.kv_heads);
            return Err(self.device.unsupported(format!("{heads} query heads that share {kv_heads} KV heads")));
        }
        let overrides =
            [("THREADS", ATTEND_THREADS as f64), ("HEAD8", parts as f64), ("TEAMS", (ATTEND_THREADS / parts) as f64)];
        let kernel = self.kernels.kernel(File::Attend, &[], &overrides);
        let stride = (Strides::of(self.plan).q / 4) as u32;
        let shape = AttendShape {
            q_stride: stride,
            a_stride: stride,
            kv_heads: spec.kv_heads as u32,
            sharing: (spec.heads / spec.kv_heads) as u32,
            max_positions: self.config.max_positions as u32,
            scale: (1.0 / (spec.head_dim as f64).sqrt()) as f32,
            pad: [0; 2],
        };
        let views = vec![
            (0, View::whole(&self.activations.q)),
            (2, View::whole(&self.activations.a)),
            (3, View::whole(&self.activations.state)),
            (4, self.uniforms.slot(&shape)),
            (5, View::whole(&self.activations.parts)),
        ];
        let one = Shot::new(&kernel, Grid::Attend { heads: spec.heads as u32 });
        let binds = Binds::Slot(self.program.per_slot.len());
        self.program.per_slot.push(PerSlot { kernel, views, kv_binding: 1, layer });
        self.program.body.push(Launch { one, many: None, binds });

        let kernel = self.kernels.kernel(File::Combine, &[], &[("HEAD8", parts as f64)]);
        let views = [(0, View::whole(&self.activations.parts)), (1, View::whole(&self.activations.a))];
        let one = Shot::new(&kernel, Grid::Combine { heads: spec.heads as u32 });
        let binds = Binds::Shared(bind(self.device, &kernel, &views));
        self.program.body.push(Launch { one, many: None, binds });
        Ok(())
    }

    /// A product from one buffer of rows to another, each with its elements from one row to the next.
    fn product(&mut self, gemv: &Gemv, epilogue: Epilogue, x: (&Buffer, usize), y: (&Buffer, usize)) {
        let product = self.product_of(gemv, epilogue);
        for window in &product.windows {
            let (x_stride, y_stride) = ((x.1 / 4) as u32, (y.1 / 4) as u32);
            let shape = GemvShape { x_stride, y_stride, ..window.shape };
            let mut views = product.views.clone();
            views.extend([
                (0, window.weights.clone()),
                (2, View::whole(x.0)),
                (3, View::whole(&self.activations.state)),
                (4, self.uniforms.slot(&shape)),
                (6, View::whole(y.0)),
            ]);
            let one = Shot::new(&product.one, window.one);
            let many = product.many.as_ref().map(|many| Shot::new(many, window.many));
            let binds = Binds::Shared(bind(self.device, &product.one, &views));
            self.program.body.push(Launch { one, many, binds });
        }
    }

    fn product_of(&mut self, gemv: &Gemv, epilogue: Epilogue) -> Product {
        let many = self.config.max_rows > 1;
        Product::new(&mut self.kernels, self.weights, gemv, epilogue, many, self.options.window_bytes)
    }

    fn head(&mut self, gemv: &Gemv) {
        let x_stride = (Strides::of(self.plan).x / 4) as u32;
        let shared = [(2, View::whole(&self.activations.x)), (3, View::whole(&self.activations.state))];
        if self.plan.embeds() {
            let product =
                Product::new(&mut self.kernels, self.weights, gemv, Epilogue::Best, false, self.options.window_bytes);
            for window in &product.windows {
                let shape = GemvShape { x_stride, ..window.shape };
                let mut views = product.views.clone();
                views.extend(shared.clone());
                views.extend([
                    (0, window.weights.clone()),
                    (4, self.uniforms.slot(&shape)),
                    (6, View::whole(&self.activations.winners)),
                ]);
                let binds = Binds::Shared(bind(self.device, &product.one, &views));
                self.program.best.push(Launch { one: Shot::new(&product.one, window.one), many: None, binds });
            }
            self.program.winners = product.blocks();
        }
        let mut product = self.product_of(gemv, Epilogue::Store);
        product.views.extend(shared);
        self.program.head = Some(Head {
            product,
            vocab: self.plan.spec.vocab,
            x_stride,
            window_bytes: self.options.window_bytes,
            uniforms: Uniforms::new(self.device),
        });
    }

    fn step(&mut self, tokens: &Matrix, positions: &View) {
        let overrides = [("THREADS", 256.0), ("QUADS", (tokens.stride / 4) as f64), ("KEPT", RING as f64)];
        let kernel = self.kernels.kernel(File::Step, &[], &overrides);
        let windows = self.weights.windows(tokens, self.options.window_bytes);
        let spec = &self.plan.spec;
        for window in windows.into_iter().take(1) {
            let shape = [self.program.winners, window.rows as u32, spec.max_positions as u32, spec.vocab as u32];
            let views = [
                (0, window.view),
                (1, positions.clone()),
                (2, View::whole(&self.activations.winners)),
                (3, View::whole(&self.activations.state)),
                (4, View::whole(&self.activations.chosen)),
                (5, View::whole(&self.activations.x)),
                (6, self.uniforms.slot(&shape)),
            ];
            let binds = Binds::Shared(bind(self.device, &kernel, &views));
            self.program.turn.push(Launch { one: Shot::new(&kernel, Grid::Once), many: None, binds });
        }
    }
}

/// Threads of an attention workgroup.
const ATTEND_THREADS: usize = 128;
