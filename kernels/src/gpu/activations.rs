//! The buffers between ops, which all requests share: an engine computes one step at a time.

use syn1_model::plan::{Plan, padded};
use wgpu::{Buffer, BufferUsages};

use super::device::GpuDevice;
use super::launch::MOST_SPLITS;
use super::memory::buffer;
use crate::sampling::Draw;

/// The rows between ops, padded with zeros to whole groups of inputs, and the step's state.
pub(super) struct Activations {
    /// A [`StepState`], followed by the step's token ids.
    pub(super) state: Buffer,
    /// The residual stream.
    pub(super) x: Buffer,
    /// What matrix units multiply, in f16. Its padding stays zero because nothing else is ever written there.
    pub(super) halves: Halves,
    /// Queries, keys and values in front of their norms, in models that norm them.
    pub(super) qkv: Buffer,
    /// Queries.
    pub(super) q: Buffer,
    /// The attention's output.
    pub(super) a: Buffer,
    /// What the splits of a long context leave of a row's attention.
    pub(super) parts: Buffer,
    /// The MLP's hidden rows.
    pub(super) h: Buffer,
    /// What attention or MLP gives, in models that norm it before they add it to the residual stream.
    pub(super) branch: Buffer,
    /// The largest logit of each workgroup of the head, in the token loop.
    pub(super) winners: Buffer,
    /// The tokens of the loop, a ring of [`RING`].
    pub(super) chosen: Buffer,
    /// A [`Draw`](crate::sampling::Draw).
    pub(super) draw: Buffer,
}

/// Rows in f16, for many token rows.
pub(super) struct Halves {
    /// The residual stream behind a norm.
    pub(super) x: Buffer,
    /// The attention's output.
    pub(super) a: Buffer,
    /// The MLP's hidden rows.
    pub(super) h: Buffer,
}

/// Elements from one token row to the next.
pub(super) struct Strides {
    pub(super) x: usize,
    /// 0 in models that do not norm their heads.
    pub(super) qkv: usize,
    pub(super) q: usize,
    pub(super) h: usize,
    /// 0 in models without norms behind attention and MLP.
    pub(super) branch: usize,
}

/// What the kernels know of a step: `State` in the WGSL files.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct StepState {
    /// Position of the first row.
    pub(super) position: u32,
    /// Token rows.
    pub(super) rows: u32,
    /// First token row whose logits are wanted.
    pub(super) wanted: u32,
    /// Tokens chosen since the loop began.
    pub(super) made: u32,
}

const _: () = assert!(size_of::<StepState>() == 16);

impl Activations {
    /// Buffers for steps of up to `rows` token rows. To be called inside [`GpuDevice::guarded`].
    pub(super) fn new(device: &GpuDevice, plan: &Plan, rows: usize) -> Self {
        let Strides { x, qkv, q, h, branch } = Strides::of(plan);
        let make = |label, elements: usize| {
            let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
            buffer(device, label, 4 * elements as u64, usage)
        };
        Self {
            state: make("state", size_of::<StepState>() / 4 + rows),
            x: make("x", rows * x),
            halves: Halves {
                x: make("x in f16", rows * x / 2),
                a: make("a in f16", rows * q / 2),
                h: make("h in f16", rows * h / 2),
            },
            qkv: make("qkv", rows * qkv),
            q: make("q", rows * q),
            a: make("a", rows * q),
            parts: make("parts", parts(plan)),
            h: make("h", rows * h),
            branch: make("branch", rows * branch),
            winners: make("winners", winners(plan)),
            chosen: make("chosen", RING),
            draw: buffer(device, "draw", size_of::<Draw>() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST),
        }
    }

    /// Bytes of all of them.
    pub(super) fn bytes(plan: &Plan, rows: usize) -> u64 {
        let Strides { x, qkv, q, h, branch } = Strides::of(plan);
        4 * (rows * (1 + x + qkv + 2 * q + h + branch + (x + q + h) / 2) + parts(plan) + winners(plan) + RING) as u64
    }

    /// Bytes of the largest of them, which must fit a binding.
    pub(super) fn largest(plan: &Plan, rows: usize) -> u64 {
        let Strides { x, qkv, q, h, branch } = Strides::of(plan);
        4 * (rows * x.max(qkv).max(q).max(h).max(branch)).max(winners(plan)) as u64
    }
}

impl Strides {
    /// Those of `plan`.
    pub(super) fn of(plan: &Plan) -> Self {
        let spec = &plan.spec;
        let x = padded(spec.width);
        Self {
            x,
            qkv: if spec.attention.qk_norm { padded(spec.qkv_rows()) } else { 0 },
            q: padded(spec.attention_width()),
            h: padded(spec.ffn),
            branch: if spec.post_norms { x } else { 0 },
        }
    }
}

/// For each head and split the head's elements, and four for their maximum and sum.
fn parts(plan: &Plan) -> usize {
    plan.spec.heads * MOST_SPLITS * (plan.spec.head_dim + 4)
}

/// A pair of value and id for every four logits: no workgroup takes fewer.
fn winners(plan: &Plan) -> usize {
    2 * (plan.spec.vocab.div_ceil(4) + 1)
}

/// Turns of the token loop in one submit at most: more gain nothing where another submit waits in the device's queue, and
/// make text jerk. How many there are is a matter of time, see `token_loop.rs`.
pub(super) const RING: usize = 16;
