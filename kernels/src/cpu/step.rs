//! One pass over the rows of one step or several, as every thread walks it: op after op, each one or two phases.

use std::ops::Range;

use syn1_model::Lines;
use syn1_model::plan::padded;
use syn1_model::spec::{Norm, Spec};
use web_time::Instant;

use super::digits::{Digits, Turned, lines};
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
    /// The rows that enter a product, cut into digits, `[row][line]`; used when a step has several and the kernels want it.
    pub(super) digits: Parts<'a, Digits>,
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
    /// The row that enters a product, cut into digits.
    digits: Lines,
    /// Weight rows of one block, widened.
    panel: Lines,
    /// Weight rows of one block, turned.
    turned: Lines,
    /// Results of one block, `[token row][weight row]`.
    results: Lines,
    /// One score per position.
    pub(super) scores: Lines,
}

impl Scratch {
    /// For steps of up to `max_rows` over `max_positions`, with digits or without; `None` when there is no room.
    pub(super) fn new(spec: &Spec, digits: bool, max_rows: usize, max_positions: usize) -> Option<Self> {
        let longest = longest_row(spec);
        let longest_lines = if digits { lines(longest) } else { 0 };
        Some(Self {
            row: Lines::zeroed::<f32>(padded(spec.width.max(spec.head_dim)))?,
            digits: Lines::zeroed::<Digits>(longest_lines)?,
            turned: Lines::zeroed::<Turned>(PANEL_ROWS * longest_lines)?,
            panel: Lines::zeroed::<f32>(PANEL_ROWS * longest)?,
            results: Lines::zeroed::<f32>((PANEL_ROWS * max_rows).max(BLOCK_ROWS))?,
            scores: Lines::zeroed::<f32>(max_positions)?,
        })
    }
}

/// Elements of the longest row that enters a product.
pub(super) fn longest_row(spec: &Spec) -> usize {
    padded(spec.width.max(spec.ffn).max(spec.attention_width()))
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
            let rows = |parts| Source { parts, rows: 0..self.rows(), norm: None };
            match stage {
                Stage::Qkv { layer, product, norms, rope } => {
                    let rope = rope.map(|index| &self.rotations[index]);
                    task.project(*layer, product, norms.as_ref(), rope, scratch)?;
                }
                Stage::Attend { layer, score, window } => task.attend(*layer, *score, *window, scratch)?,
                Stage::Out { product, post } => {
                    task.contribute(product, rows(&self.a), post.as_ref(), scratch)?;
                }
                Stage::Up { product, activation, gated } => {
                    task.normed_multiply(product, 0..self.rows(), scratch, |row, first, values| {
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
                    task.contribute(product, rows(&self.h), post.as_ref(), scratch)?;
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

/// The rows that enter a product: some of a buffer, normed where there is a norm in front.
pub(super) struct Source<'a> {
    parts: &'a Parts<'a, f32>,
    rows: Range<usize>,
    norm: Option<(Norm, &'a [f32])>,
}

/// One thread's part of one op.
pub(super) struct Task<'a, W> {
    pub(super) pass: &'a Pass<'a, W>,
    pub(super) worker: Worker<'a>,
    /// The op's first phase.
    pub(super) phase: usize,
}

impl<W: Compiled> Task<'_, W> {
    /// [`Self::multiply`] over rows of the residual stream, normed as the product says.
    pub(super) fn normed_multiply(
        &self,
        product: &Product,
        rows: Range<usize>,
        scratch: &mut Scratch,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) -> Result<(), Poisoned> {
        let pass = self.pass;
        let norm = product.norm.as_ref();
        let norm = norm.map(|(norm, gamma)| (*norm, &gamma.elements::<f32>()[..pass.spec.width]));
        self.multiply(product, &Source { parts: &pass.x, rows, norm }, scratch, finish)
    }

    /// Multiplies blocks of weight rows with the rows of `source`. `finish(row, first, values)` gets outputs `first..`
    /// of a row, bias included.
    ///
    /// What the rows need first (norm, digits) every thread does for itself where there is one row, which is cheaper than
    /// to wait for each other; several are shared out.
    fn multiply(
        &self,
        product: &Product,
        source: &Source<'_>,
        scratch: &mut Scratch,
        finish: impl Fn(usize, usize, &mut [f32]),
    ) -> Result<(), Poisoned> {
        let (pass, matrix, aux) = (self.pass, &product.matrix, product.aux.elements::<[f32; 2]>());
        let (stride, format, tokens) = (matrix.stride, matrix.format, source.rows.len());
        let digits = pass.kernels.digits(format);
        let lines = lines(stride);
        let alone = tokens == 1;
        if !alone {
            self.prepare(matrix, source)?;
        }
        let block = block_rows(matrix, tokens, pass.threads);
        let Scratch { row, digits: row_digits, panel, turned, results, .. } = scratch;
        let mut ready = !alone;
        pass.dealer.phase(self.phase + 1, self.worker, matrix.count.div_ceil(block), |index| {
            let (parts, begin) = if source.norm.is_some() && !alone {
                (&pass.normed, 0)
            } else {
                (source.parts, source.rows.start * stride)
            };
            // SAFETY: the rows were written in an earlier phase; ops whose input is normed write other buffers.
            let mut input = unsafe { parts.at(begin..begin + tokens * stride) };
            if let (true, Some((norm, gamma))) = (alone, source.norm) {
                if !ready {
                    let (normed, padding) = row.of_mut()[..stride].split_at_mut(gamma.len());
                    normalise(&input[..gamma.len()], norm, gamma, normed);
                    padding.fill(0.0);
                }
                input = &row.of::<f32>()[..stride];
            }
            if let (false, Some(digits)) = (ready, digits) {
                digits.cut(input, &mut row_digits.of_mut()[..lines]);
            }
            ready = true;
            let first = index * block;
            let rows = block.min(matrix.count - first);
            let weights = matrix.bytes(first..first + rows);
            let results = &mut results.of_mut::<f32>()[..rows * tokens];
            match digits {
                Some(digits) if alone => digits.gemv(weights, stride, &row_digits.of()[..lines], results),
                Some(digits) => {
                    // SAFETY: the digits were written in an earlier phase.
                    let input = unsafe { pass.digits.at(0..tokens * lines) };
                    digits.gemm(weights, stride, &mut turned.of_mut()[..rows * lines], input, results);
                }
                None if alone => pass.kernels.gemv(format, weights, input, results),
                None => {
                    let panel = &mut panel.of_mut()[..rows * stride];
                    pass.kernels.gemm(format, weights, stride, panel, input, results);
                }
            }
            for (row, values) in results.chunks_exact_mut(rows).enumerate() {
                values.iter_mut().zip(&aux[first..]).for_each(|(value, [_, c2])| *value += c2);
                finish(row, first, values);
            }
        })
    }

    /// Makes several rows what the product wants: normed, cut into digits, or neither.
    fn prepare(&self, matrix: &Rows, source: &Source<'_>) -> Result<(), Poisoned> {
        let (pass, stride, digits) = (self.pass, matrix.stride, self.pass.kernels.digits(matrix.format));
        if source.norm.is_none() && digits.is_none() {
            return Ok(());
        }
        pass.dealer.phase(self.phase, self.worker, source.rows.len(), |row| {
            let begin = (source.rows.start + row) * stride;
            // SAFETY: the row was written in an earlier phase, and this one writes other buffers.
            let mut input = unsafe { source.parts.at(begin..begin + stride) };
            if let Some((norm, gamma)) = source.norm {
                // SAFETY: the row is this item's, and read by others only in the next phase.
                let normed = unsafe { pass.normed.at_mut(row * stride..(row + 1) * stride) };
                normalise(&input[..gamma.len()], norm, gamma, &mut normed[..gamma.len()]);
                input = normed;
            }
            if let Some(digits) = digits {
                let lines = lines(stride);
                // SAFETY: as above.
                digits.cut(input, unsafe { pass.digits.at_mut(row * lines..(row + 1) * lines) });
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
            return self.multiply(product, &source, scratch, |row, first, values| {
                // SAFETY: the outputs are of the item that this thread is finishing.
                unsafe { pass.add(row, first, values) };
            });
        };
        self.multiply(product, &source, scratch, |row, first, values| {
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

/// Phases of an op at most: what rows need first, products, what needs all results of a row or a head.
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
