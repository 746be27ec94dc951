//! A plan as dispatches: pipelines, constants and bind groups, all made before the first step.

use std::ops::Range;

use syn1_model::plan::{FoldedNorm, Gemv, Matrix, Op, Plan};
use wgpu::{BindGroup, Buffer};

use super::activations::{Activations, RING, Strides};
use super::attention::{READ_AHEAD, Rotation, attends_rows, rotations};
use super::bank::{Cache, Layout};
use super::device::GpuDevice;
use super::division::{Division, Room};
use super::engine::{GpuOptions, layout};
use super::gemv::{Epilogue, GemvShape, Product, center};
use super::launch::{Binds, Grid, Launch, MANY, PerSlot, Shot};
use super::logits::Head;
use super::matmul::MatrixUnits;
use super::memory::{Uniforms, View, bind};
use super::shader::{File, Kernels, gathered};
use super::together::Together;
use super::tuning::Tuning;
use super::weights::Weights;
use crate::engine::{EngineConfig, EngineError};

/// Everything that a step dispatches.
#[derive(Default)]
pub(super) struct Program {
    /// Token ids to the residual stream.
    pub(super) embed: Vec<Launch>,
    /// The residual stream through the layers.
    pub(super) body: Vec<Launch>,
    /// Which op of the plan each part of `body` is of.
    pub(super) spans: Vec<(&'static str, Range<usize>)>,
    /// The head that keeps only each workgroup's largest logit, with noise or without: for the token loop.
    pub(super) best: Vec<Launch>,
    /// The token loop's turn.
    pub(super) turn: Vec<Launch>,
    /// What the head that stores logits is made from.
    pub(super) head: Option<Head>,
    /// Bind groups that need a KV cache.
    pub(super) per_slot: Vec<PerSlot>,
    /// How KV caches lie.
    pub(super) layout: Layout,
    /// What rows of several requests need.
    pub(super) together: Option<Together>,
    /// Those of [`syn1_model::Spec::ropes`].
    pub(super) rotations: Vec<Rotation>,
    /// Workgroups of `best`.
    pub(super) winners: u32,
}

/// `Shape` in embed.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct EmbedShape {
    row_base: u32,
    rows: u32,
    max_positions: u32,
    scale: f32,
}

const _: () = assert!(size_of::<EmbedShape>() == 16);

/// `Shape` in step.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct StepShape {
    winners: u32,
    rows: u32,
    max_positions: u32,
    vocab: u32,
    scale: f32,
    pad: [u32; 3],
}

const _: () = assert!(size_of::<StepShape>() == 32);

/// `Shape` in post.wgsl and norm.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct NormShape {
    pub(super) inverse_cols: f32,
    pub(super) eps: f32,
    pub(super) pad: [u32; 2],
}

const _: () = assert!(size_of::<NormShape>() == 16);

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
        tuning: &Tuning,
    ) -> Result<Self, EngineError> {
        let (kv_layer_bytes, most) = (kv_layer_bytes(plan, config), device.limits.max_storage_buffer_binding_size);
        if kv_layer_bytes > most {
            let what = format!("a KV cache of {kv_layer_bytes} bytes a layer, the largest binding is {most}");
            return Err(device.unsupported(what));
        }
        let rotations = rotations(device, plan, config)?;
        let subgroups = device.subgroup_sizes().filter(|_| options.subgroups);
        device.guarded("pipelines and constants", 0, || {
            let layout = layout(device, plan, config, options);
            let program = Self { layout, ..Self::default() };
            let kernels = Kernels::new(device, plan.format.kv(), subgroups);
            let uniforms = Uniforms::new(device);
            let tiles = options.cooperative
                && options.tiles
                && config.max_rows >= MANY as usize
                && attends_rows(plan.spec.head_dim);
            let units = if tiles { MatrixUnits::of(device, plan) } else { None };
            let mut builder = Builder {
                device,
                plan,
                weights,
                activations,
                config,
                options,
                tuning,
                rotations,
                kernels,
                units,
                uniforms,
                program,
            };
            for op in &plan.ops {
                let begin = builder.program.body.len();
                builder.add(op)?;
                let end = builder.program.body.len();
                builder.program.spans.push((op.name(), begin..end));
            }
            let together = builder.together(&layout);
            Ok(Self { rotations: builder.rotations, together, ..builder.program })
        })?
    }

    /// The bind groups of a request with `cache`. To be called inside [`GpuDevice::guarded`].
    pub(super) fn bind_slot(&self, device: &GpuDevice, cache: &Cache) -> Vec<BindGroup> {
        self.per_slot.iter().map(|part| part.bind(device, cache)).collect()
    }
}

/// Tags and overrides of the kernels that gather token rows.
fn gathering(tokens: &Matrix, positions: &Option<View>) -> (Vec<&'static str>, Vec<(&'static str, f64)>) {
    let (format, unit) = gathered(tokens.format);
    let mut tags = vec![format];
    tags.extend(positions.as_ref().map(|_| "LEARNED"));
    (tags, vec![("QUADS", (tokens.stride / 4) as f64), ("ROW", (tokens.row_bytes() / unit) as f64)])
}

/// Bytes of one layer's KV cache, whole storage offsets.
pub(super) fn kv_layer_bytes(plan: &Plan, config: &EngineConfig) -> u64 {
    let elements = 2 * plan.spec.kv_width() * config.max_positions + READ_AHEAD * plan.spec.head_dim;
    (plan.format.kv().row_bytes(elements) as u64).next_multiple_of(256)
}

/// Turns ops into launches.
pub(super) struct Builder<'a> {
    pub(super) device: &'a GpuDevice,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) activations: &'a Activations,
    pub(super) config: &'a EngineConfig,
    pub(super) options: GpuOptions,
    tuning: &'a Tuning,
    /// Those of [`syn1_model::Spec::ropes`].
    pub(super) rotations: Vec<Rotation>,
    pub(super) kernels: Kernels<'a>,
    /// Where many token rows go through matrix units.
    pub(super) units: Option<MatrixUnits>,
    pub(super) uniforms: Uniforms,
    pub(super) program: Program,
}

impl Builder<'_> {
    fn add(&mut self, op: &Op) -> Result<(), EngineError> {
        let Activations { x, a, h, .. } = self.activations;
        let strides = Strides::of(self.plan);
        match op {
            Op::Embed { tokens, positions, scale } => {
                let positions = self.learned(positions)?;
                let launches = self.embed(tokens, &positions, *scale, 0, None);
                self.program.embed.extend(launches);
            }
            Op::Qkv { layer, gemv, qk_norm: None, rope } => self.qkv(*layer, gemv, *rope),
            Op::Qkv { layer, gemv, qk_norm: Some(norms), rope } => self.normed_qkv(*layer, gemv, norms, *rope),
            Op::Attend { layer, scale, softcap, window } => self.attend(*layer, *scale, *softcap, *window)?,
            Op::Out { gemv, post } => self.contribute(gemv, post.as_ref(), (a, strides.q)),
            Op::Up { gemv, activation, gated } => {
                let epilogue = if *gated { Epilogue::Gate(*activation) } else { Epilogue::Activate(*activation) };
                self.product(gemv, epilogue, (x, strides.x), (h, strides.h));
            }
            Op::Down { gemv, post } => self.contribute(gemv, post.as_ref(), (h, strides.h)),
            Op::Head { gemv, softcap } => self.head(gemv, *softcap),
            Op::Step { tokens, positions, scale } => {
                let positions = self.learned(positions)?;
                self.step(tokens, &positions, *scale);
                let launches = self.embed(tokens, &positions, *scale, 1, None);
                self.program.turn.extend(launches);
            }
        }
        Ok(())
    }

    /// The learned positions, if the model has any.
    fn learned(&self, positions: &Option<Matrix>) -> Result<Option<View>, EngineError> {
        let Some(matrix) = positions else { return Ok(None) };
        let most = self.device.limits.max_storage_buffer_binding_size;
        if matrix.data.bytes > most {
            let bytes = matrix.data.bytes;
            let what = format!("a position matrix of {bytes} bytes, the largest binding is {most}");
            return Err(self.device.unsupported(what));
        }
        Ok(Some(self.weights.view(matrix.data)))
    }

    /// Gathers token rows, for the windows of the token matrix from number `first` on; `places` where rows have positions of
    /// their own.
    pub(super) fn embed(
        &mut self,
        tokens: &Matrix,
        positions: &Option<View>,
        scale: f32,
        first: usize,
        places: Option<&View>,
    ) -> Vec<Launch> {
        let (mut tags, overrides) = gathering(tokens, positions);
        tags.extend(places.map(|_| "TOGETHER"));
        let kernel = self.kernels.kernel(File::Embed, &tags, &overrides);
        let windows = self.weights.windows(tokens, self.options.window_bytes);
        let mut launches = Vec::new();
        for window in windows.into_iter().skip(first) {
            let shape = EmbedShape {
                row_base: window.row_base as u32,
                rows: window.rows as u32,
                max_positions: self.plan.spec.max_positions as u32,
                scale,
            };
            let mut views = vec![
                (0, window.view),
                (2, View::whole(&self.activations.state)),
                (3, View::whole(&self.activations.x)),
                (4, self.uniforms.slot(&shape)),
            ];
            views.extend(positions.clone().map(|view| (1, view)));
            views.extend(places.map(|view| (5, view.clone())));
            let binds = Binds::Shared(bind(self.device, &kernel, &views));
            launches.push(Launch { one: Shot::new(&kernel, Grid::Tokens { each: 1 }), many: None, tiled: None, binds });
        }
        launches
    }

    /// Adds a product of the rows of `from` to the residual stream, normed first where there is a norm behind it.
    fn contribute(&mut self, gemv: &Gemv, post: Option<&FoldedNorm>, from: (&Buffer, usize)) {
        let Activations { x, branch, .. } = self.activations;
        let stride = Strides::of(self.plan).x;
        let Some(post) = post else { return self.product(gemv, Epilogue::Add, from, (x, stride)) };
        self.product(gemv, Epilogue::Store { cap: None }, from, (branch, stride));
        let overrides = [("QUADS", (stride / 4) as f64), ("CENTER", center(post.norm.kind))];
        let kernel = self.kernels.kernel(File::Post, &[], &overrides);
        let shape = NormShape { inverse_cols: 1.0 / self.plan.spec.width as f32, eps: post.norm.eps, pad: [0; 2] };
        let views = [
            (0, View::whole(branch)),
            (1, self.weights.view(post.gamma)),
            (2, View::whole(x)),
            (3, self.uniforms.slot(&shape)),
        ];
        let binds = Binds::Shared(bind(self.device, &kernel, &views));
        self.program.body.push(Launch {
            one: Shot::new(&kernel, Grid::Tokens { each: 1 }),
            many: None,
            tiled: None,
            binds,
        });
    }

    /// A product from one buffer of rows to another, each with its elements from one row to the next.
    pub(super) fn product(&mut self, gemv: &Gemv, epilogue: Epilogue, x: (&Buffer, usize), y: (&Buffer, usize)) {
        let halved = self.halved(gemv, epilogue, x.0);
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
            let binds = Binds::Shared(bind(self.device, &product.one, &views));
            let mut launch = window.launch(&product, binds);
            if let Some(halved) = &halved {
                launch.tiled = Some(halved.tiled(self.device, shape.rows, &views));
            }
            self.program.body.push(launch);
        }
    }

    pub(super) fn product_of(&mut self, gemv: &Gemv, epilogue: Epilogue) -> Product {
        self.product_with(gemv, epilogue, self.config.max_rows > 1 && self.options.tiles)
    }

    fn product_with(&mut self, gemv: &Gemv, epilogue: Epilogue, many: bool) -> Product {
        let room = Room::of(self.device, self.kernels.subgroup_sizes());
        let tuned = || self.tuning.division(gemv, room);
        let division = if self.kernels.on_few_threads() { Division::alone() } else { tuned() };
        Product::new(&mut self.kernels, self.weights, gemv, epilogue, division, many, self.options.window_bytes)
    }

    fn head(&mut self, gemv: &Gemv, cap: Option<f32>) {
        let x_stride = (Strides::of(self.plan).x / 4) as u32;
        let shared = [(2, View::whole(&self.activations.x)), (3, View::whole(&self.activations.state))];
        if self.plan.embeds() {
            let product = self.product_with(gemv, Epilogue::Best { cap }, false);
            for window in &product.windows {
                let shape = GemvShape { x_stride, ..window.shape };
                let mut views = product.views.clone();
                views.extend(shared.clone());
                views.extend([
                    (0, window.weights.clone()),
                    (4, self.uniforms.slot(&shape)),
                    (6, View::whole(&self.activations.winners)),
                    (9, View::whole(&self.activations.draw)),
                ]);
                let binds = Binds::Shared(bind(self.device, &product.one, &views));
                self.program.best.push(Launch {
                    one: Shot::new(&product.one, window.one),
                    many: None,
                    tiled: None,
                    binds,
                });
            }
            self.program.winners = product.blocks();
        }
        let mut product = self.product_of(gemv, Epilogue::Store { cap });
        product.views.extend(shared);
        self.program.head = Some(Head {
            product,
            vocab: self.plan.spec.vocab,
            x_stride,
            window_bytes: self.options.window_bytes,
            uniforms: Uniforms::new(self.device),
        });
    }

    fn step(&mut self, tokens: &Matrix, positions: &Option<View>, scale: f32) {
        let (tags, mut overrides) = gathering(tokens, positions);
        overrides.extend([("THREADS", 256.0), ("KEPT", RING as f64)]);
        let kernel = self.kernels.kernel(File::Step, &tags, &overrides);
        let windows = self.weights.windows(tokens, self.options.window_bytes);
        let spec = &self.plan.spec;
        for window in windows.into_iter().take(1) {
            let shape = StepShape {
                winners: self.program.winners,
                rows: window.rows as u32,
                max_positions: spec.max_positions as u32,
                vocab: spec.vocab as u32,
                scale,
                pad: [0; 3],
            };
            let mut views = vec![
                (0, window.view),
                (2, View::whole(&self.activations.winners)),
                (3, View::whole(&self.activations.state)),
                (4, View::whole(&self.activations.chosen)),
                (5, View::whole(&self.activations.x)),
                (6, self.uniforms.slot(&shape)),
            ];
            views.extend(positions.clone().map(|view| (1, view)));
            let binds = Binds::Shared(bind(self.device, &kernel, &views));
            self.program.turn.push(Launch { one: Shot::new(&kernel, Grid::Once), many: None, tiled: None, binds });
        }
    }
}
