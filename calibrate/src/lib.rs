//! Calibration: what the inputs of a model's products are like, so that its weights can be rounded with feedback
//! ([`syn1_model::Feedback`]).
//!
//! | question | answer |
//! |---|---|
//! | on which text? | one that the model writes: [`Text::written`]; or any other: [`Text::of_ids`] |
//! | what do a block's products see of it? | [`Calibrator::block`], one block after the other |
#![forbid(unsafe_code)]

mod calibrator;
mod text;

pub use calibrator::Calibrator;
pub use text::Text;

/// Why a model cannot be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// A weight.
    #[error(transparent)]
    Pack(#[from] syn1_model::PackError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] syn1_kernels::engine::EngineError),
    /// No memory for the moments of a product's inputs.
    #[error("there is no memory for the moments of {0} inputs: end other programs, or do not calibrate")]
    Memory(usize),
    /// Too short a text.
    #[error("a text of {found} tokens is too short to calibrate with: {least} are needed")]
    Short {
        /// Its tokens.
        found: usize,
        /// The fewest that will do.
        least: usize,
    },
    /// An infinity or a NaN.
    #[error("the inputs of block {0} are not finite: the model's weights are damaged or beyond what f16 can compute")]
    NotFinite(usize),
    /// A block that was passed already.
    #[error("block {block} is asked for behind block {next}: blocks are calibrated in order")]
    Order {
        /// The block.
        block: usize,
        /// The next that can be had.
        next: usize,
    },
}
