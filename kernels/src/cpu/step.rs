//! One pass over the rows of one step or several, as every thread walks it: op after op, each one or two phases.

use std::ops::Range;

use syn1_model::Lines;
use syn1_model::plan::padded;
use syn1_model::spec::{Norm, Spec};
use web_time::Instant;

use super::kernels::{Compiled, Kernels};
use super::math::normalise;
use super::pool::{Poisoned, Worker};
use super::rotate::Rotations;
use super::share::{Dealer, Parts};
use super::weights::{Product, Rows, Stage, Weights};
use crate::group::GroupRow;

/// What all threads of a pass share.
pub(super) struct Pass<'a, W> {
    pub(super) spec: &'a Spec,
    pub(super) kernels: &'a Kernels,
    pub(super) stages: &'a [Stage],
    /// By number, as the stages have them.
    pub(super) rotations: &'a [Rotations],
    pub(super) dealer: &'a Dealer,
    /// Where each row stands in its request, and whose it is.
    pub(super) places: &'a [GroupRow],
    /// First row that gives logits.
    pub(super) wanted: usize,
    /// Threads that may take part.
    pub(super) threads: usize,
    /// Positions of the KV cache.
    pub(super) max_positions: usize,
    /// For each member of the group `[layer][K|V][kv_head][max_positions][padded(head_dim)]`.
    pub(super) caches: &'a [Parts<'a, W>],
    /// Residual stream, `[row][padded(width)]`.
    pub(super) x: Parts<'a, f32>,
    /// Normed rows, as `x`; used when a step has several. Behind a product with a post norm: the rows to be normed.
    pub(super) normed: Parts<'a, f32>,
    /// Queries, `[row][head][padded(head_dim)]`.
    pub(super) q: Parts<'a, f32>,
    /// The fused projection of models that norm their heads, `[row][padded(qkv_rows)]`.
    pub(super) projected: Parts<'a, f32>,
    /// Attention output, `[row][padded(heads * head_dim)]`.
    pub(super) a: Parts<'a, f32>,
    /// Hidden rows of the MLP, `[row][padded(ffn)]`.
    pub(super) h: Parts<'a, f32>,
    /// `[row from wanted on][vocab]`.
    pub(super) logits: Parts<'a, f32>,
    /// One per thread.
    pub(super) scratch: Parts<'a, Scratch>,
    /// When each stage was done, for those who measure.
    pub(super) ends: Option<Parts<'a, Instant>>,
}

/// What a thread has for itself.
pub(super) struct Scratch {
    /// One normed row or head.
    pub(super) row: Lines,
    /// Weight rows of one block, widened.
    panel: Lines,
    /// Results of one block, `[token row][weight row]`.
    results: Lines,
    /// One score per position.
    pub(super) scores: Lines,
}

impl Scratch {
    /// For steps of up to `max_rows` over `max_positions`; `None` when there is no room.
    pub(super) fn new(spec: &Spec, max_rows: usize, max_positions: usize) -> Option<Self> {
        let longest = padded(spec.width.max(spec.ffn).max(spec.attention_width()));
        Some(Self {
            row: Lines::zeroed::<f32>(padded(spec.width.max(spec.head_dim)))?,
            panel: Lines::zeroed::<f32>(PANEL_ROWS * longest)?,
            results: Lines::zeroed::<f32>((PANEL_ROWS * max_rows).max(BLOCK_ROWS))?,
            scores: Lines::zeroed::<f32>(max_positions)?,
        })
    }
}

impl<W: Compiled> Pass<'_, W> {
    /// One thread's part of the step.
    ///
    /// # Errors
    /// [`Poisoned`] when another thread panicked.
    ///
    /// # Safety
    /// Each worker of one run walks once, all with the same dealer, which was reset before; nobody else refers to what the
    /// parts refer to.
    pub(super) unsafe fn walk(&self, worker: Worker<'_>) -> Result<(), Poisoned> {
        // SAFETY: every worker takes the scratch of its own index, once, as the caller promises.
        let [scratch] = (unsafe { self.scratch.at_mut(worker.index..worker.index + 1) }) else { return Ok(()) };
        for (index, stage) in self.stages.iter().enumerate() {
            let task = Task { pass: self, worker, phase: PHASES_PER_STAGE * index };
            let all = 0..self.rows();
            match stage {
                Stage::Qkv { layer, product, norms, rope } => {
                    let rope = rope.map(|index| &self.rotations[index]);
                    task.project(*layer, product, norms.as_ref(), rope, scratch)?;
                }
                Stage::Attend { layer, score, window } => task.attend(*layer, *score, *window, scratch)?,
                Stage::Out { product, post } => {
                    task.contribute(product, Source::Rows(&self.a, all), post.as_ref(), scratch)?;
                }
                Stage::Up { product, activation, gated } => {
                    task.normed_multiply(product, all, scratch, |row, first, values| {
                        if *gated {
                            let activate = |gate: &mut [f32]| self.kernels.activate(gate, *activation);
                            // SAFETY: the outputs are of the item that this thread is finishing.
                            unsafe { self.gate(row, first, values, activate) };
                        } else {
                            self.kernels.activate(values, *activation);
                            // SAFETY: as above.
                            unsafe { self.hidden(row, first, values.len()) }.copy_from_slice(values);
                        }
                    })?;
                }
                Stage::Down { product, post } => {
                    task.contribute(product, Source::Rows(&self.h, all), post.as_ref(), scratch)?;
                }
                Stage::Head { .. } if self.wanted >= self.rows() => {}
                Stage::Head { product, cap } => {
                    task.normed_multiply(product, self.wanted..self.rows(), scratch, |row, first, values| {
                        if let Some(cap) = cap {
                            self.kernels.soft_cap(values, *cap);
                        }
                        let begin = row * self.spec.vocab + first;
                        // SAFETY: the outputs are of the item that this thread is finishing, so nobody else refers to them.
                        unsafe { self.logits.at_mut(begin..begin + values.len()) }.copy_from_slice(values);
                    })?;
                }
            }
            if let (Some(ends), 0) = (&self.ends, worker.index) {
                // SAFETY: only the first worker comes here, once a stage.
                let end = unsafe { ends.at_mut(index..index + 1) };
                end.fill(Instant::now());
            }
        }
        Ok(())
    }

    /// Rows of the pass.
    pub(super) fn rows(&self) -> usize {
        self.places.len()
    }

    /// A row of the residual stream, for ops that do not write it.
    ///
    /// # Safety
    /// While the result lives, nobody writes the row: the caller is inside an item of an op that only reads it.
    unsafe fn residual(&self, row: usize) -> &[f32] {
        let begin = row * padded(self.spec.width);
        // SAFETY: nobody writes it meanwhile, as the caller promises.
        unsafe { self.x.at(begin..begin + self.spec.width) }
    }

    /// Adds to the residual stream.
    ///
    /// # Safety
    /// While it runs, nobody else refers to these elements: they are of an item of the caller's.
    unsafe fn add(&self, row: usize, first: usize, values: &[f32]) {
        let begin = row * padded(self.spec.width) + first;
        // SAFETY: nobody else refers to these elements, as the caller promises.
        let x = unsafe { self.x.at_mut(begin..begin + values.len()) };
        x.iter_mut().zip(values).for_each(|(x, value)| *x += value);
    }

    /// Pairs of gate and up give one hidden element each. The activated gates gather in front of `values`.
    ///
    /// # Safety
    /// As for [`Self::add`].
    unsafe fn gate(&self, row: usize, first: usize, values: &mut [f32], activate: impl Fn(&mut [f32])) {
        let pairs = values.len() / 2;
        // SAFETY: the caller's promise; blocks are whole pairs, so their halves do not overlap either.
        let hidden = unsafe { self.hidden(row, first / 2, pairs) };
        for i in 0..pairs {
            hidden[i] = values[2 * i + 1];
            values[i] = values[2 * i];
        }
        activate(&mut values[..pairs]);
        hidden.iter_mut().zip(values).for_each(|(hidden, gate)| *hidden *= *gate);
    }

    /// Elements of a hidden row, to be written.
    ///
    /// # Safety
    /// While the result lives, nobody else refers to these elements.
    #[allow(clippy::mut_from_ref)] // As `Parts::at_mut`.
    unsafe fn hidden(&self, row: usize, first: usize, len: usize) -> &mut [f32] {
        let begin = row * padded(self.spec.ffn) + first;
        // SAFETY: the caller's promise is the same.
        unsafe { self.h.at_mut(begin..begin + len) }
    }
}

/// The rows that enter a product.
#[derive(Clone)]
pub(super) enum Source<'a> {
    /// Rows of a buffer.
    Rows(&'a Parts<'a, f32>, Range<usize>),
    /// One row of the residual stream, to be normed.
    Norm(usize, Norm, &'a [f32]),
}

/// One thread's part of one op.
pub(super) struct Task<'a, W> {
    pub(super) pass: &'a Pass<'a, W>,
    pub(super) worker: Worker<'a>,
    /// The op's first phase.
    pub(super) phase: usize,
}

impl<W: Compiled> Task<'_, W> {
    /// [`Self::multiply`] over normed rows of the residual stream. A single row is normed by every thread for itself,
    /// which is cheaper than to wait for each other; several are shared out.
    pub(super) fn normed_multiply(
        &self,
        product: &Product,
        rows: Range<usize>,
        scratch: &mut Scratch,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) -> Result<(), Poisoned> {
        let pass = self.pass;
        let Some((norm, gamma)) = &product.norm else {
            return self.multiply(product, Source::Rows(&pass.x, rows), scratch, finish);
        };
        let gamma = &gamma.elements::<f32>()[..pass.spec.width];
        if rows.len() == 1 {
            return self.multiply(product, Source::Norm(rows.start, *norm, gamma), scratch, finish);
        }
        pass.dealer.phase(self.phase, self.worker, rows.len(), |row| {
            let begin = row * padded(pass.spec.width);
            // SAFETY: the row is this item's, and read only in the next phase.
            let out = unsafe { pass.normed.at_mut(begin..begin + gamma.len()) };
            // SAFETY: this item's op writes other buffers.
            normalise(unsafe { pass.residual(rows.start + row) }, *norm, gamma, out);
        })?;
        self.multiply(product, Source::Rows(&pass.normed, 0..rows.len()), scratch, finish)
    }

    /// Multiplies blocks of weight rows with the rows of `source`. `finish(row, first, values)` gets outputs `first..`
    /// of a row, bias included.
    fn multiply(
        &self,
        product: &Product,
        source: Source<'_>,
        scratch: &mut Scratch,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) -> Result<(), Poisoned> {
        let (pass, matrix, aux) = (self.pass, &product.matrix, product.aux.elements::<[f32; 2]>());
        let (stride, format) = (matrix.stride, matrix.format);
        let tokens = match &source {
            Source::Rows(_, rows) => rows.len(),
            Source::Norm(..) => 1,
        };
        let block = block_rows(matrix, tokens, pass.threads);
        let mut normed = false;
        pass.dealer.phase(self.phase + 1, self.worker, matrix.count.div_ceil(block), |index| {
            let input = match &source {
                // SAFETY: the buffer was written in an earlier phase.
                Source::Rows(parts, rows) => unsafe { parts.at(rows.start * stride..rows.end * stride) },
                Source::Norm(row, norm, gamma) => {
                    if !normed {
                        // SAFETY: ops whose input is normed write other buffers.
                        let row = unsafe { pass.residual(*row) };
                        normalise(row, *norm, gamma, &mut scratch.row.of_mut()[..gamma.len()]);
                        normed = true;
                    }
                    scratch.row.of::<f32>()
                }
            };
            let first = index * block;
            let rows = block.min(matrix.count - first);
            let weights = matrix.bytes(first..first + rows);
            let results = &mut scratch.results.of_mut::<f32>()[..rows * tokens];
            if tokens == 1 {
                pass.kernels.gemv(format, weights, input, results);
            } else {
                let panel = &mut scratch.panel.of_mut()[..rows * stride];
                pass.kernels.gemm(format, weights, stride, panel, input, results);
            }
            for (row, values) in results.chunks_exact_mut(rows).enumerate() {
                values.iter_mut().zip(&aux[first..]).for_each(|(value, [_, c2])| *value += c2);
                finish(row, first, values);
            }
        })
    }

    /// `x += product(source)`, or `x += norm(product(source))` where there is a norm behind it.
    fn contribute(
        &self,
        product: &Product,
        source: Source<'_>,
        post: Option<&(Norm, Weights)>,
        scratch: &mut Scratch,
    ) -> Result<(), Poisoned> {
        let (pass, width) = (self.pass, self.pass.spec.width);
        let Some((norm, gamma)) = post else {
            return self.multiply(product, source, scratch, |row, first, values| {
                // SAFETY: the outputs are of the item that this thread is finishing.
                unsafe { pass.add(row, first, values) };
            });
        };
        self.multiply(product, source, scratch, |row, first, values| {
            let begin = row * padded(width) + first;
            // SAFETY: the outputs are of the item that this thread is finishing.
            unsafe { pass.normed.at_mut(begin..begin + values.len()) }.copy_from_slice(values);
        })?;
        pass.dealer.phase(self.last_phase(), self.worker, pass.rows(), |row| {
            let begin = row * padded(width);
            let normed = &mut scratch.row.of_mut::<f32>()[..width];
            // SAFETY: the product was written in an earlier phase.
            let product = unsafe { pass.normed.at(begin..begin + width) };
            normalise(product, *norm, &gamma.elements::<f32>()[..width], normed);
            // SAFETY: the row is this item's.
            unsafe { pass.add(row, 0, normed) };
        })
    }

    /// The phase behind the products.
    pub(super) fn last_phase(&self) -> usize {
        self.phase + PHASES_PER_STAGE - 1
    }
}

/// Weight rows per block: some blocks for every thread, so that the early ones can help the late ones, but long enough
/// reads; multiples of the kernels' tiles.
fn block_rows(matrix: &Rows, tokens: usize, threads: usize) -> usize {
    let most = if tokens == 1 { (BLOCK_BYTES / matrix.row_bytes()).min(BLOCK_ROWS) } else { PANEL_ROWS };
    let even = matrix.count.div_ceil(BLOCKS_PER_THREAD * threads);
    (most.min(even) / TILE_ROWS * TILE_ROWS).max(TILE_ROWS)
}

/// Phases of an op at most: norms in front, products, what needs all results of a row or a head.
pub(super) const PHASES_PER_STAGE: usize = 3;

/// Weight rows that are widened at once for several token rows: the panel stays in the second-level cache.
const PANEL_ROWS: usize = 32;

/// Weight bytes of a block for one token row: a few microseconds from memory, long against dealing it out.
const BLOCK_BYTES: usize = 32 * 1024;

/// Weight rows of a block for one token row at most.
const BLOCK_ROWS: usize = 256;

/// Blocks that a thread gets of an op at least, if it is long enough.
const BLOCKS_PER_THREAD: usize = 4;

/// Blocks are multiples of this; even, so that pairs of gate and up stay together.
const TILE_ROWS: usize = 4;
