//! Whether a GPU computes what the CPU computes.
//!
//! Browsers run on drivers that nobody has tested with anything but games. So before a tab offers itself, small models of
//! random weights go through both engines: every kind of op, both kinds of norm, f16, int8 and int4 weights, one row
//! and many. A GPU that gives anything else than the CPU is refused by name.

use syn1_kernels::engine::{Engine, EngineConfig, EngineError, Input, Step};
use syn1_model::{PieceBytes, Plan, Spec, WeightFormat, random_piece};

/// A small model and what goes through it.
#[derive(Clone)]
pub struct Case {
    /// Its plan: the whole model.
    pub plan: Plan,
    /// Its random weights.
    pub pieces: Vec<PieceBytes>,
    /// What engines for it are sized for.
    pub config: EngineConfig,
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let small =
        Spec { layers: 1, width: 128, heads: 4, kv_heads: 2, head_dim: 64, ffn: 192, vocab: 320, ..Spec::llama_1b() };
    let learned =
        Spec { layers: 1, width: 96, heads: 3, kv_heads: 3, head_dim: 32, ffn: 160, vocab: 300, ..Spec::gpt2_124m() };
    let with = |spec: &Spec, format| {
        let plan = Plan::new(spec, format, 0..spec.layers);
        let pieces = plan.pieces.iter().map(|piece| random_piece(spec, format, *piece, SEED)).collect();
        let config = EngineConfig { max_positions: 64, slots: 1, max_rows: STEPS[0] };
        Case { plan, pieces, config }
    };
    // An int4 model's embedding and head are int8.
    vec![with(&learned, WeightFormat::F16), with(&small, WeightFormat::Int4)]
}

/// The logits of some steps, all rows of them.
///
/// # Errors
/// When a step fails.
pub async fn logits(engine: &mut impl Engine) -> Result<Vec<f32>, EngineError> {
    let vocab = engine.plan().spec.vocab as u32;
    let slot = engine.open()?;
    let (mut all, mut out, mut position) = (Vec::new(), Vec::new(), 0);
    for rows in STEPS {
        let ids: Vec<u32> = (position..position + rows).map(|id| (id as u32 * 37 + 11) % vocab).collect();
        engine.run(Step { slot, position, input: Input::Tokens(&ids), wanted: 0 }, &mut out).await?;
        all.extend_from_slice(&out);
        position += rows;
    }
    engine.close(slot);
    Ok(all)
}

/// The largest difference, as a share of the largest value that is right. What is missing or no number is as wrong as can
/// be.
pub fn worst(got: &[f32], right: &[f32]) -> f64 {
    let largest = right.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(f64::from(value.abs())));
    if got.len() != right.len() {
        return f64::INFINITY;
    }
    let difference = |(got, right): (&f32, &f32)| (f64::from(*got) - f64::from(*right)).abs() / largest;
    got.iter().zip(right).map(difference).fold(0.0, |worst, one| {
        if one <= worst {
            worst
        } else if one.is_nan() {
            f64::INFINITY
        } else {
            one
        }
    })
}

/// The engines add in another order, and keep keys and values in f16; what is more than this is wrong.
pub const LIMIT: f64 = 0.01;

/// Rows of the steps: as many as tiled kernels take, few, and one.
const STEPS: [usize; 4] = [34, 3, 1, 1];

const SEED: u64 = 5;

#[cfg(test)]
mod tests {
    use pollster::block_on;
    use syn1_kernels::cpu::CpuEngine;
    use syn1_kernels::gpu::{GpuDevice, GpuEngine, GpuOptions};

    use super::*;

    fn on_cpu(case: &Case) -> Vec<f32> {
        let mut engine = CpuEngine::new(case.plan.clone(), &case.pieces, case.config, Some(1)).unwrap();
        block_on(logits(&mut engine)).unwrap()
    }

    #[test]
    fn software_vulkan_passes_as_a_browser_would_run_it() {
        let device = GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"));
        for (case, tiles) in cases().into_iter().flat_map(|case| [(case.clone(), true), (case, false)]) {
            let options =
                GpuOptions { subgroups: false, carried: false, cooperative: false, tiles, ..GpuOptions::default() };
            let engine = GpuEngine::with_options(&device, case.plan.clone(), &case.pieces, case.config, options);
            let worst = worst(&block_on(logits(&mut engine.unwrap())).unwrap(), &on_cpu(&case));
            assert!(worst < LIMIT / 2.0, "{worst}");
        }
    }

    #[test]
    fn other_weights_zeros_and_what_is_no_number_are_garbage() {
        let case = &cases()[0];
        let right = on_cpu(case);
        assert_eq!(worst(&right, &right), 0.0);
        let vocab = case.plan.spec.vocab;
        let shifted: Vec<f32> = right[vocab..].iter().chain(&right[..vocab]).copied().collect();
        for garbage in [shifted, vec![0.0; right.len()], right[1..].to_vec()] {
            assert!(worst(&garbage, &right) > LIMIT);
        }
        let mut one = right.clone();
        one[7] = f32::NAN;
        assert!(worst(&one, &right) > LIMIT);
    }
}
