//! A step's commands, recorded before its frame is here.
//!
//! Commands name buffers and grids, and nothing of a step's values: positions and rows come by the [inbox](super::inbox).
//! So while the device computes a step, the CPU records the one that most likely follows: one like it, behind it. What
//! another step needs instead is recorded when it comes, and a guess that fits nothing is dropped.

use std::time::Duration;

use web_time::Instant;
use wgpu::CommandBuffer;

use super::launch::Extent;

/// What the commands of a step depend on, beside the request that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Grids.
    pub(super) extent: Extent,
    /// Rows.
    pub(super) rows: usize,
    /// Rows that logits are wanted for.
    pub(super) wanted: usize,
    /// Rows that the buffer of logits holds: another one is made when it grows.
    pub(super) room: usize,
}

/// Commands that wait for their input.
pub(super) struct Prepared {
    shape: Shape,
    commands: CommandBuffer,
}

impl Prepared {
    /// `commands` for steps of `shape`.
    pub(super) fn new(shape: Shape, commands: CommandBuffer) -> Self {
        Self { shape, commands }
    }

    /// The commands, if they are those of `shape`.
    pub(super) fn take(self, shape: Shape) -> Option<CommandBuffer> {
        (self.shape == shape).then_some(self.commands)
    }
}

/// Where the time of a step went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Writing the input.
    pub upload: Duration,
    /// Recording the commands; hardly anything where they were prepared.
    pub record: Duration,
    /// Submitting them.
    pub submit: Duration,
    /// Recording those of the next step, while the device computes.
    pub ahead: Duration,
    /// Waiting for the device after that.
    pub wait: Duration,
    /// Copying the result.
    pub read: Duration,
    /// Whether the commands were ready when the step came.
    pub prepared: bool,
}

/// Gives the time between two calls.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
