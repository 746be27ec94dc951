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

#[cfg(test)]
mod tests {
    use super::super::CpuEngine;
    use super::*;
    use crate::engine::{Engine, EngineConfig, EngineError, Input, Step};
    use syn1_model::plan::{Plan, WeightFormat};
    use syn1_model::random_piece;

    #[test]
    fn a_look_changes_no_bits_and_sees_every_product_with_rows_of_its_width() {
        let small = Spec { layers: 3, width: 48, heads: 3, kv_heads: 3, head_dim: 16, ffn: 72, ..Spec::gpt2_124m() };
        let plan = Plan::new(&small, WeightFormat::F16, 1..3);
        let pieces: Vec<_> =
            plan.pieces.iter().map(|piece| random_piece(&small, WeightFormat::F16, *piece, 1)).collect();
        let config = EngineConfig { max_positions: 16, slots: 1, max_rows: 16 };
        let mut engine = CpuEngine::new(plan, &pieces, config, Some(2)).expect("engine");
        let slot = engine.open().expect("slot");
        let rows: Vec<f32> = (0..5 * 48).map(|at| (at * 7 % 31) as f32 / 31.0 - 0.5).collect();
        let step = |rows| Step { slot, position: 0, input: Input::Rows(rows), wanted: 4 };
        let (mut plain, mut watched, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        pollster::block_on(engine.run(step(&rows), &mut plain)).expect("run");
        let mut see = |product, inputs: &[f32]| seen.push((product, inputs.to_vec()));
        engine.observe(step(&rows), &mut watched, &mut see).expect("observe");
        assert_eq!(plain, watched);
        let block = [(Product::Qkv, 48), (Product::Out, 48), (Product::Up, 48), (Product::Down, 72)];
        assert_eq!(seen.len(), 2 * block.len());
        for ((product, inputs), (wanted, cols)) in seen.iter().zip(block.iter().cycle()) {
            assert_eq!((product, inputs.len()), (wanted, 5 * cols));
        }
        // The first product's are the rows, normed: without gamma, which is near 1, of mean 0 and variance 1.
        for row in seen[0].1.chunks_exact(48) {
            let mean = row.iter().sum::<f32>() / 48.0;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / 48.0;
            assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
        }
        let error = engine.observe(step(&rows[..48]), &mut watched, &mut |_, _| {}).expect_err("one row");
        assert_eq!(error, EngineError::Rows { got: 1, max: 16 });
    }
}
