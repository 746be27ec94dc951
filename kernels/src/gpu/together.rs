//! Token rows of several requests in one pass: each has a position and a KV cache of its own, and all share what is read of
//! the weights.
//!
//! Products do not know whose rows they multiply, so most dispatches are those of several rows of one request. Three ops know
//! where a row stands: the embedding of learned positions, the storing of keys and values, and attention. These have forms of
//! their own, which look a row's place up in a table; and the projection, whose epilogue would store keys and values in one
//! request's cache, leaves them to `heads.wgsl` instead.

use std::ops::Range;

use syn1_model::plan::{Gemv, Op, QkNorm, padded};
use wgpu::{Buffer, BufferUsages};

use super::activations::Strides;
use super::attention::{ATTEND_CACHE, HEADS_CACHE};
use super::bank::Layout;
use super::gemv::{Epilogue, GemvShape, Product};
use super::launch::{Binds, Grid, Launch, MANY, PerSlot, Shot};
use super::memory::{View, bind, buffer};
use super::program::{Builder, Program};

/// What rows of several requests need beside the program.
pub(super) struct Together {
    /// Rows at most.
    pub(super) rows: usize,
    /// A [`Place`] for each row.
    pub(super) places: Buffer,
    /// Bind groups that need the KV caches of a bank.
    pub(super) per_bank: Vec<PerSlot>,
    parts: Vec<Part>,
}

/// Where a row stands: an element of `places` in the WGSL files.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Place {
    /// Its position in its request.
    pub(super) position: u32,
    /// Groups of eight elements in front of its cache, see [`Layout::eights`].
    pub(super) eights: u32,
}

const _: () = assert!(size_of::<Place>() == 8);

/// Some dispatches.
enum Part {
    /// Those of the embedding, as they are.
    Embed,
    /// Those of the body, as they are.
    Body(Range<usize>),
    /// One of its own.
    Own(Launch),
}

impl Together {
    /// All dispatches in front of the head.
    pub(super) fn launches<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = &'a Launch> {
        self.parts.iter().flat_map(|part| match part {
            Part::Embed => &program.embed[..],
            Part::Body(range) => &program.body[range.clone()],
            Part::Own(launch) => std::slice::from_ref(launch),
        })
    }
}

impl Builder<'_> {
    /// The forms for rows of several requests; nothing where a bank has one cache, or a step one row.
    pub(super) fn together(&mut self, layout: &Layout) -> Option<Together> {
        let rows = self.config.max_rows.min(MOST);
        if layout.caches < 2 || rows < 2 || !self.options.tiles || self.kernels.on_few_threads() {
            return None;
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
        let buffer = |label, bytes: usize| buffer(self.device, label, bytes as u64, usage);
        let places = buffer("places", rows * size_of::<Place>());
        let spec = &self.plan.spec;
        let qkv = match spec.attention.qk_norm {
            true => self.activations.qkv.clone(),
            false => buffer("qkv of several requests", 4 * rows * padded(spec.qkv_rows())),
        };
        let mut made = Together { rows, places, per_bank: Vec::new(), parts: Vec::new() };
        let spans: Vec<Range<usize>> = self.program.spans.iter().map(|(_, span)| span.clone()).collect();
        for (op, span) in self.plan.ops.iter().zip(spans) {
            match op {
                Op::Embed { positions: None, .. } => made.parts.push(Part::Embed),
                Op::Embed { tokens, positions, scale } => {
                    let learned = positions.as_ref().map(|matrix| self.weights.view(matrix.data));
                    let launches = self.embed(tokens, &learned, *scale, 0, Some(&View::whole(&made.places)));
                    made.parts.extend(launches.into_iter().map(Part::Own));
                }
                Op::Qkv { layer, gemv, qk_norm, rope } => {
                    match qk_norm {
                        // All but the last, which stores for one request.
                        Some(_) => made.parts.push(Part::Body(span.start..span.end - 1)),
                        None => made.parts.extend(self.project(gemv, &qkv).into_iter().map(Part::Own)),
                    }
                    self.store(&mut made, *layer, &qkv, qk_norm.as_ref(), *rope);
                }
                Op::Attend { layer, scale, softcap, window } => {
                    let heads = spec.heads as u32;
                    let places = View::whole(&made.places);
                    let (kernel, views) = self.attend_each((*scale, *softcap, *window), Some(&places));
                    let one = Shot::new(&kernel, Grid::Attend { heads });
                    made.own(one, PerSlot { kernel, views, kv_binding: ATTEND_CACHE, layer: *layer });
                }
                Op::Out { .. } | Op::Up { .. } | Op::Down { .. } => made.parts.push(Part::Body(span)),
                Op::Head { .. } | Op::Step { .. } => {}
            }
        }
        Some(made)
    }

    /// The projection of several rows, into `qkv`.
    fn project(&mut self, gemv: &Gemv, qkv: &Buffer) -> Vec<Launch> {
        let epilogue = Epilogue::Store { cap: None };
        let product = Product::several(&mut self.kernels, self.weights, gemv, epilogue, self.options.window_bytes);
        let (x_stride, y_stride) = (Strides::of(self.plan).x / 4, padded(self.plan.spec.qkv_rows()) / 4);
        let mut launches = Vec::new();
        for window in &product.windows {
            let shape = GemvShape { x_stride: x_stride as u32, y_stride: y_stride as u32, ..window.shape };
            let mut views = product.views.clone();
            views.extend([
                (0, window.weights.clone()),
                (2, View::whole(&self.activations.x)),
                (3, View::whole(&self.activations.state)),
                (4, self.uniforms.slot(&shape)),
                (6, View::whole(qkv)),
            ]);
            let binds = Binds::Shared(bind(self.device, &product.one, &views));
            launches.push(window.launch(&product, binds));
        }
        launches
    }

    /// Queries, keys and values from `qkv` to where attention reads them.
    fn store(&mut self, made: &mut Together, layer: usize, qkv: &Buffer, norms: Option<&QkNorm>, rope: Option<usize>) {
        let spec = &self.plan.spec;
        let each = (spec.heads + 2 * spec.kv_heads) as u32;
        let (kernel, views) = self.heads(qkv, norms, rope, Some(&View::whole(&made.places)));
        let one = Shot::new(&kernel, Grid::Tokens { each });
        made.own(one, PerSlot { kernel, views, kv_binding: HEADS_CACHE, layer });
    }
}

impl Together {
    fn own(&mut self, one: Shot, part: PerSlot) {
        let binds = Binds::Slot(self.per_bank.len());
        self.per_bank.push(part);
        self.parts.push(Part::Own(Launch { one, many: None, tiled: None, binds }));
    }
}

/// Rows of a group at most: from the next one on matrix units may multiply, which round, and what a request gets must not
/// depend on how many others there are.
const MOST: usize = MANY as usize - 1;
