//! What a page asks for.

use serde::Deserialize;
use syn1_model::WeightFormat;

use crate::device::Choice;
use crate::shape::Shape;

/// How to be a node; the page's `SynNode` fills in what was left out.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NodeOptions {
    /// `ws://host:port/node` or `wss://..`.
    pub(crate) coordinator: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) memory_bytes: Option<f64>,
    #[serde(default)]
    pub(crate) device: Choice,
    /// What the browser says of its GPU.
    #[serde(default)]
    pub(crate) adapter: String,
    /// Why it gives none.
    #[serde(default)]
    pub(crate) no_gpu: Option<String>,
}

impl NodeOptions {
    /// Where the coordinator has the weights: beside the address of its link.
    ///
    /// # Errors
    /// A sentence, for an address of another kind.
    pub(crate) fn shards(&self) -> Result<String, String> {
        let rest = [("ws://", "http://"), ("wss://", "https://")].into_iter().find_map(|(link, page)| {
            let rest = self.coordinator.strip_prefix(link)?;
            Some(format!("{page}{}/shards", rest.split(['/', '?']).next()?))
        });
        rest.ok_or_else(|| {
            format!("{} is no address of a coordinator: it begins with ws:// or wss://", self.coordinator)
        })
    }
}

/// What to measure.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BenchOptions {
    pub(crate) shape: Shape,
    pub(crate) weights: WeightFormat,
    pub(crate) tokens: usize,
    pub(crate) prompt: usize,
    pub(crate) runs: usize,
    pub(crate) device: Choice,
    pub(crate) adapter: String,
    pub(crate) no_gpu: Option<String>,
    /// Kernels for several token rows also on software: it takes longer to make them.
    pub(crate) tiles: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            shape: Shape::default(),
            weights: WeightFormat::F16,
            tokens: 64,
            prompt: 16,
            runs: 5,
            device: Choice::Auto,
            adapter: String::new(),
            no_gpu: None,
            tiles: false,
        }
    }
}

/// What the fusion experiment is to compare.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FusionOptions {
    pub(crate) widths: Vec<usize>,
    pub(crate) layers: Vec<usize>,
    /// Timed runs of an arm.
    pub(crate) runs: usize,
    /// Seconds after which an arm gets no further run.
    pub(crate) seconds: f64,
    pub(crate) adapter: String,
    pub(crate) no_gpu: Option<String>,
}

impl Default for FusionOptions {
    fn default() -> Self {
        Self { widths: vec![64, 256], layers: vec![1, 4], runs: 30, seconds: 5.0, adapter: String::new(), no_gpu: None }
    }
}
