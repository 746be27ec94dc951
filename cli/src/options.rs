//! Options that several commands share.

use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use syn1_coordinator::sample::{Sampling, fresh_seed};
use syn1_model::plan::WeightFormat;
use syn1_node_host::cache::Cache;
use syn1_node_host::{Device, DeviceChoice, DeviceError};

use crate::wire::WireChoice;

/// Which model, and how its weights are stored.
#[derive(Args, Clone)]
pub(crate) struct ModelOptions {
    /// A Hugging Face folder, one that `syn1 split` made, or the ORG/NAME (or ORG/NAME@REV) of a model that `syn1 pull` fetched
    /// [default: the bundled tiny-rust-docs]
    #[arg(long, value_name = "DIR|ORG/NAME", env = "SYN1_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// How weights are stored on the nodes.
    #[arg(long, value_enum, default_value_t = Weights::Auto)]
    pub(crate) weights: Weights,
    /// Positions a request may take, prompt included, up to the model's limit [default: 8192, or the model's limit if that
    /// is less]
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<usize>,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// What a split folder has; else the first of f16, int8 and int4 that fits the memory of the nodes that are there. Where
    /// no nodes are asked (split, bench): f16.
    Auto,
    /// 16 bits a weight: exact for f16 models, a rounding that hardly shows for others.
    F16,
    /// 8.5 bits a weight: half of f16's memory, for a small loss.
    Int8,
    /// 5 bits a weight (8.5 in the token embedding and the head): a third of f16's, for a loss that can show.
    Int4,
    /// 32 bits a weight: exact for every model, twice f16's memory.
    F32,
}

impl Weights {
    /// The format, or the one to begin with; `have` is that of weights which are split already.
    pub(crate) fn format(self, have: Option<WeightFormat>) -> WeightFormat {
        match self {
            Self::Auto => have.unwrap_or(WeightFormat::F16),
            Self::F16 => WeightFormat::F16,
            Self::Int8 => WeightFormat::Int8,
            Self::Int4 => WeightFormat::Int4,
            Self::F32 => WeightFormat::F32,
        }
    }

    /// The formats that may follow where that one does not fit, the best first.
    pub(crate) fn smaller(self) -> Vec<WeightFormat> {
        if self == Self::Auto { vec![WeightFormat::Int8, WeightFormat::Int4] } else { Vec::new() }
    }
}

/// What computes.
#[derive(Args, Clone)]
pub(crate) struct DeviceOptions {
    /// auto (the best GPU, else the CPU), gpu, cpu, or a GPU's index or part of its name (see `syn1 doctor`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Threads of the CPU engine [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Measure nothing on a GPU and take the usual kernels. Else those are taken that are the fastest on it, found once for
    /// each shape of model and kept in the cache
    #[arg(long)]
    pub(crate) no_tune: bool,
}

impl DeviceOptions {
    /// Opens the device, its kernels chosen as asked.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub(crate) fn open(&self) -> Result<Device, DeviceError> {
        let device = Device::open(&self.device, self.threads)?;
        // Without a folder what is measured is not kept.
        Ok(if self.no_tune { device } else { device.tuned(Cache::default_dir().ok()) })
    }
}

/// How activations travel between nodes.
#[derive(Args, Clone, Copy)]
pub(crate) struct WireOptions {
    /// How activations travel between nodes: auto (what `syn1 bench wire --save` picked for the model, else f16), f32,
    /// f16, q8, q4, and q8+compressed, q8+delta, q8+delta+compressed, q4+delta
    #[arg(long, value_name = "FORM", default_value = "auto")]
    pub(crate) wire: WireChoice,
}

/// How a text is made: what computes, how activations travel, how many tokens and which.
#[derive(Args, Clone)]
pub(crate) struct TextOptions {
    #[command(flatten)]
    pub(crate) device: DeviceOptions,
    #[command(flatten)]
    pub(crate) wire: WireOptions,
    /// Guess up to K tokens ahead from what the text has said before and compute them together: the same text (but in delta
    /// forms) in fewer passes through the nodes, where it repeats itself.
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) speculate: u16,
    /// Tokens to generate at most
    #[arg(long, value_name = "M", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,
}

/// How tokens are chosen.
#[derive(Args, Clone)]
pub(crate) struct SamplingOptions {
    /// Logits are divided by this; 0 takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    temperature: f32,
    /// Only the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: u32,
    /// Only the most likely tokens that together reach probability P.
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f32,
    /// Only tokens at least P times as likely as the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens that were seen before less likely; 1 for no effect.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random numbers: the same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

impl SamplingOptions {
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(fresh_seed),
        }
    }
}

/// Layers as `A..B`: from A up to but not including B, counted from 0.
pub(crate) fn layers(text: &str) -> Result<Range<usize>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let range = bounds.filter(|range: &Range<usize>| range.start < range.end);
    range.ok_or_else(|| "two numbers are expected, the first below the second, as in 0..8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_two_numbers_in_order() {
        assert_eq!(layers("0..8"), Ok(0..8));
        for wrong in ["", "8", "..8", "0..", "0..=8", "8..8", "9..8", "-1..8", "a..b"] {
            assert!(layers(wrong).is_err(), "{wrong}");
        }
    }
}
