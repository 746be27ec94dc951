//! A look at what a layer's products multiply: for those who want to know what its weights meet.

use syn1_model::plan::padded;
use syn1_model::spec::Spec;

use super::engine::Buffers;
use super::weights::Stage;

/// A product of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Of queries, keys and values.
    Qkv,
    /// Behind attention.
    Out,
    /// Of gate and up.
    Up,
    /// Behind the MLP's nonlinearity.
    Down,
}

/// The product of a stage that has just run, and the rows that it multiplied, without padding: normed and times gamma,
/// where a norm is in front. None for a stage without a product, and for the head.
pub(super) fn inputs(stage: &Stage, spec: &Spec, buffers: &Buffers, rows: usize) -> Option<(Product, Vec<f32>)> {
    let behind = |norm: bool| if norm { &buffers.normed } else { &buffers.x };
    let (product, lines, cols) = match stage {
        Stage::Qkv { product, .. } => (Product::Qkv, behind(product.norm.is_some()), spec.width),
        Stage::Out { .. } => (Product::Out, &buffers.a, spec.attention_width()),
        Stage::Up { product, .. } => (Product::Up, behind(product.norm.is_some()), spec.width),
        Stage::Down { .. } => (Product::Down, &buffers.h, spec.ffn),
        Stage::Attend { .. } | Stage::Head { .. } => return None,
    };
    let mut inputs = Vec::with_capacity(rows * cols);
    for row in lines.of::<f32>().chunks_exact(padded(cols)).take(rows) {
        inputs.extend_from_slice(&row[..cols]);
    }
    Some((product, inputs))
}
