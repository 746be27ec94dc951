//! Attention as dispatches: the fused projection with norms and rotation of heads, and the softmax over the KV cache.

use syn1_model::plan::{Gemv, Plan, QkNorm, padded};
use syn1_model::spec::Rope;
use wgpu::{Buffer, BufferUsages};

use super::activations::Strides;
use super::device::GpuDevice;
use super::gemv::{Epilogue, GemvShape, center};
use super::launch::{Binds, Grid, Launch, PerSlot, Shot, Tiled};
use super::memory::{View, bind, buffer};
use super::program::Builder;
use super::shader::{File, Kernel};
use crate::engine::{EngineConfig, EngineError};

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
    cap: f32,
    window: u32,
}

const _: () = assert!(size_of::<AttendShape>() == 32);

/// `Shape` in heads.wgsl.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct HeadsShape {
    stride: u32,
    q_stride: u32,
    heads: u32,
    kv_heads: u32,
    max_positions: u32,
    rope_quads: u32,
    eps: f32,
    pad: u32,
}

const _: () = assert!(size_of::<HeadsShape>() == 32);

/// One of the model's rotations.
#[derive(Clone)]
pub(super) struct Rotation {
    /// `[max_positions][quads]` of (cos, sin) of two pairs.
    table: View,
    /// A quarter of the elements of a head that are rotated.
    quads: u32,
}

impl Rotation {
    /// The table.
    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        self.table.buffer()
    }

    /// A quarter of the elements of a head that are rotated.
    pub(super) fn quads(&self) -> u32 {
        self.quads
    }
}

/// Uploads the rotations of the plan's model.
///
/// # Errors
/// [`EngineError::Unsupported`] for pairs that do not come in twos and for a table beyond the largest binding,
/// [`EngineError::Memory`] without room for one.
pub(super) fn rotations(device: &GpuDevice, plan: &Plan, config: &EngineConfig) -> Result<Vec<Rotation>, EngineError> {
    let most = device.limits.max_storage_buffer_binding_size;
    let upload = |rope: &Rope| {
        if !rope.dims.is_multiple_of(4) {
            return Err(device.unsupported(format!("{} rotated elements of a head (only multiples of 4)", rope.dims)));
        }
        let table = rope.table(0..config.max_positions);
        let bytes = 4 * table.len() as u64;
        if bytes > most {
            return Err(device.unsupported(format!("a rotary table of {bytes} bytes, the largest binding is {most}")));
        }
        device.guarded("the rotary table", bytes, || {
            let made = buffer(device, "rotations", bytes, BufferUsages::STORAGE | BufferUsages::COPY_DST);
            device.queue.write_buffer(&made, 0, bytemuck::cast_slice(&table));
            Rotation { table: View::whole(&made), quads: (rope.dims / 4) as u32 }
        })
    };
    plan.spec.ropes().iter().map(upload).collect()
}

impl Builder<'_> {
    /// The projection, which rotates and stores in its epilogue.
    pub(super) fn qkv(&mut self, layer: usize, gemv: &Gemv, rope: Option<usize>) {
        let spec = &self.plan.spec;
        let strides = Strides::of(self.plan);
        let epilogue = Epilogue::Kv { rotated: rope.is_some() };
        let halved = self.halved(gemv, epilogue, &self.activations.x);
        let product = self.product_of(gemv, epilogue);
        let rotation = rope.map(|index| self.rotations[index].clone());
        for window in &product.windows {
            let shape = GemvShape {
                x_stride: (strides.x / 4) as u32,
                y_stride: (strides.q / 4) as u32,
                q_rows: spec.attention_width() as u32,
                head_dim: spec.head_dim as u32,
                max_positions: self.config.max_positions as u32,
                rotated_rows: (spec.attention_width() + spec.kv_width()) as u32,
                rope_quads: rotation.as_ref().map_or(0, |rotation| rotation.quads),
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
            views.extend(rotation.iter().map(|rotation| (8, rotation.table.clone())));
            let mut tiled = None;
            if let Some(halved) = &halved {
                let (shot, views) = halved.shot(shape.rows, &views);
                tiled = Some(Tiled { shot, binds: Some(self.per_slot(halved.kernel().clone(), views, 7, layer)) });
            }
            let binds = self.per_slot(product.one.clone(), views, 7, layer);
            let mut launch = window.launch(&product, binds);
            launch.tiled = tiled.or(launch.tiled);
            self.program.body.push(launch);
        }
    }

    /// The projection, and behind it what needs whole heads: their norms, then rotation and storing.
    pub(super) fn normed_qkv(&mut self, layer: usize, gemv: &Gemv, norms: &QkNorm, rope: Option<usize>) {
        let spec = &self.plan.spec;
        let (strides, activations) = (Strides::of(self.plan), self.activations);
        let (x, qkv) = ((&activations.x, strides.x), (&activations.qkv, strides.qkv));
        self.product(gemv, Epilogue::Store { cap: None }, x, qkv);
        let (kernel, views) = self.heads(&activations.qkv, Some(norms), rope, None);
        let one = Shot::new(&kernel, Grid::Tokens { each: (spec.heads + 2 * spec.kv_heads) as u32 });
        let binds = self.per_slot(kernel, views, HEADS_CACHE, layer);
        self.program.body.push(Launch { one, many: None, tiled: None, binds });
    }

    /// What stores the projection's results in `qkv`, and its views but the cache; `places` where each row has its own.
    pub(super) fn heads(
        &mut self,
        qkv: &Buffer,
        norms: Option<&QkNorm>,
        rope: Option<usize>,
        places: Option<&View>,
    ) -> (Kernel, Vec<(u32, View)>) {
        let (spec, strides, activations) = (&self.plan.spec, Strides::of(self.plan), self.activations);
        let rotation = rope.map(|index| self.rotations[index].clone());
        let tags = [norms.map(|_| "NORM"), rotation.as_ref().map(|_| "ROPE"), places.map(|_| "TOGETHER")];
        let tags: Vec<&str> = tags.into_iter().flatten().collect();
        let centered = norms.map_or(0.0, |norms| center(norms.norm.kind));
        let overrides = [("HEAD4", (spec.head_dim / 4) as f64), ("CENTER", centered)];
        let kernel = self.kernels.kernel(File::Heads, &tags, &overrides);
        let shape = HeadsShape {
            stride: (padded(spec.qkv_rows()) / 4) as u32,
            q_stride: (strides.q / 4) as u32,
            heads: spec.heads as u32,
            kv_heads: spec.kv_heads as u32,
            max_positions: self.config.max_positions as u32,
            rope_quads: rotation.as_ref().map_or(0, |rotation| rotation.quads),
            eps: norms.map_or(0.0, |norms| norms.norm.eps),
            pad: 0,
        };
        let mut views = vec![
            (0, View::whole(qkv)),
            (3, View::whole(&activations.state)),
            (4, self.uniforms.slot(&shape)),
            (6, View::whole(&activations.q)),
        ];
        views.extend(
            norms
                .into_iter()
                .flat_map(|norms| [(1, norms.q), (2, norms.k)])
                .map(|(binding, gamma)| (binding, self.weights.view(gamma))),
        );
        views.extend(rotation.map(|rotation| (5, rotation.table.clone())));
        views.extend(places.map(|places| (9, places.clone())));
        (kernel, views)
    }

    /// The kernel for many token rows, and its tile of rows.
    fn attend_rows(&mut self, head_dim: usize) -> Option<(Kernel, u32)> {
        let parts = head_dim / 8;
        let result = if self.units.is_some() { "HALF" } else { "FULL" };
        if let Some(units) = self.units.filter(|_| parts.is_multiple_of(2) && head_dim <= COOPERATIVE_DIM) {
            let tags: &[&str] = if head_dim > COOPERATIVE_DIM / 2 { &["LONG", result] } else { &[result] };
            let room = COOPERATIVE_ROWS as usize * (2 * parts + 2);
            let overrides = [("THREADS", f64::from(4 * units.lanes)), ("HEAD8", parts as f64), ("Q_ROOM", room as f64)];
            return Some((self.kernels.kernel(File::AttendCooperative, tags, &overrides), COOPERATIVE_ROWS));
        }
        if !attends_rows(head_dim) || !self.options.tiles {
            return None;
        }
        let threads = OCTETS * LANES;
        let overrides = [
            ("OCTETS", f64::from(OCTETS)),
            ("LANES", f64::from(LANES)),
            ("THREADS", f64::from(threads)),
            ("P_ROOM", f64::from(8 * threads)),
            ("H_ROOM", f64::from(2 * threads)),
            ("HEAD8", parts as f64),
            ("TEAMS", (LANES as usize / parts) as f64),
        ];
        Some((self.kernels.kernel(File::AttendRows, &[result], &overrides), 8 * OCTETS))
    }

    /// The bind groups of a kernel that needs the KV cache of `layer`.
    fn per_slot(&mut self, kernel: Kernel, views: Vec<(u32, View)>, kv_binding: u32, layer: usize) -> Binds {
        self.program.per_slot.push(PerSlot { kernel, views, kv_binding, layer });
        Binds::Slot(self.program.per_slot.len() - 1)
    }

    /// The softmax over the KV cache, and the sum of its splits.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        scale: f32,
        cap: Option<f32>,
        window: Option<usize>,
    ) -> Result<(), EngineError> {
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
        let (kernel, views) = self.attend_each((scale, cap, window), None);
        let heads = spec.heads as u32;
        let rows = self.attend_rows(spec.head_dim);
        let tiled = rows.map(|(rows, tile)| {
            let shot = Shot::new(&rows, Grid::Heads { heads, tile });
            let mut views: Vec<(u32, View)> = views.iter().filter(|(binding, _)| *binding != 5).cloned().collect();
            if self.units.is_some() {
                views[1] = (2, View::whole(&self.activations.halves.a));
            }
            Tiled { shot, binds: Some(self.per_slot(rows, views, ATTEND_CACHE, layer)) }
        });
        let one = Shot::new(&kernel, Grid::Attend { heads });
        let binds = self.per_slot(kernel, views, ATTEND_CACHE, layer);
        self.program.body.push(Launch { one, many: None, tiled, binds });

        let kernel = self.kernels.kernel(File::Combine, &[], &[("HEAD8", parts as f64)]);
        let views = [(0, View::whole(&self.activations.parts)), (1, View::whole(&self.activations.a))];
        let one = Shot::new(&kernel, Grid::Combine { heads: spec.heads as u32 });
        let binds = Binds::Shared(bind(self.device, &kernel, &views));
        self.program.body.push(Launch { one, many: None, tiled: None, binds });
        Ok(())
    }

    /// Attention of one row at a time, and its views but the cache; `places` where each row has its own. The heads must be
    /// such as the kernels can do.
    pub(super) fn attend_each(
        &mut self,
        (scale, cap, window): (f32, Option<f32>, Option<usize>),
        places: Option<&View>,
    ) -> (Kernel, Vec<(u32, View)>) {
        let spec = &self.plan.spec;
        let parts = spec.head_dim / 8;
        let overrides =
            [("THREADS", ATTEND_THREADS as f64), ("HEAD8", parts as f64), ("TEAMS", (ATTEND_THREADS / parts) as f64)];
        let tags: &[&str] = if places.is_some() { &["TOGETHER"] } else { &[] };
        let kernel = self.kernels.kernel(File::Attend, tags, &overrides);
        let stride = (Strides::of(self.plan).q / 4) as u32;
        let shape = AttendShape {
            q_stride: stride,
            a_stride: stride,
            kv_heads: spec.kv_heads as u32,
            sharing: (spec.heads / spec.kv_heads) as u32,
            max_positions: self.config.max_positions as u32,
            scale,
            cap: cap.unwrap_or(0.0),
            window: window.map_or(u32::MAX, |window| window as u32),
        };
        let mut views = vec![
            (0, View::whole(&self.activations.q)),
            (2, View::whole(&self.activations.a)),
            (3, View::whole(&self.activations.state)),
            (4, self.uniforms.slot(&shape)),
            (5, View::whole(&self.activations.parts)),
        ];
        views.extend(places.map(|places| (6, places.clone())));
        (kernel, views)
    }
}

/// Binding of the KV cache in heads.wgsl.
pub(super) const HEADS_CACHE: u32 = 7;

/// The same in attend.wgsl and its forms for many rows.
pub(super) const ATTEND_CACHE: u32 = 1;

/// Whether attend_rows.wgsl has a thread for every 8 elements of a head.
pub(super) fn attends_rows(head_dim: usize) -> bool {
    head_dim <= 8 * LANES as usize
}

/// Positions behind the last that attend_cooperative.wgsl may read, and weighs with 0: it reads matrices of 16.
pub(super) const READ_AHEAD: usize = 15;

/// Elements of a head at most that attend_cooperative.wgsl has matrices for.
const COOPERATIVE_DIM: usize = 128;

/// Token rows that a workgroup of it takes.
const COOPERATIVE_ROWS: u32 = 32;

/// Threads for eight token rows of a head.
const LANES: u32 = 64;

/// Eights of token rows that a workgroup takes; each needs 10 KiB of workgroup memory.
const OCTETS: u32 = 1;

/// Threads of an attention workgroup.
const ATTEND_THREADS: usize = 128;
