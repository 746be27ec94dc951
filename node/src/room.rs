//! What a shard takes of a node's memory.

use syn1_kernels::engine::EngineConfig;
use syn1_model::plan::padded;
use syn1_model::{Manifest, Plan, Spec};

use crate::host::Assignment;

/// The plan of an assigned shard, whose weights and KV caches fit into the `offered` bytes.
///
/// # Errors
/// One line: the layers are none of the manifest's, or what is needed and what is offered.
pub fn plan(manifest: &Manifest, assignment: &Assignment, offered: u64) -> Result<Plan, String> {
    let (layers, of) = (&assignment.layers, manifest.spec.layers);
    if layers.start >= layers.end || layers.end > of {
        return Err(format!("layers {layers:?} are no range of the manifest's {of}"));
    }
    let plan = Plan::new(&manifest.spec, manifest.format, layers.clone());
    check(&plan, &assignment.engine, offered)?;
    Ok(plan)
}

/// Whether a shard's weights and KV caches fit into the `offered` bytes.
///
/// # Errors
/// One line with what is needed and what is offered.
pub fn check(plan: &Plan, config: &EngineConfig, offered: u64) -> Result<(), String> {
    let (weights, kv) = (plan.weight_bytes(), plan.kv_bytes(config.max_positions, config.slots));
    let needed = weights.saturating_add(kv);
    if needed <= offered {
        return Ok(());
    }
    let (layers, slots) = (&plan.layers, config.slots);
    Err(format!(
        "layers {layers:?} need {needed} bytes ({weights} of weights, {kv} of {slots} KV caches), this node offers {offered}"
    ))
}

/// Bytes of the rows between the ops, for steps of up to `rows` rows: roughly, and rather too many. They come on top of
/// what a node offers.
pub fn row_bytes(spec: &Spec, rows: usize) -> u64 {
    let head = padded(spec.head_dim) as u64;
    let (width, ffn, heads) = (padded(spec.width) as u64, padded(spec.ffn) as u64, spec.heads as u64);
    // The residual stream, normed and as it is sent; queries and the attention's output; the MLP's hidden row.
    let row = head.saturating_mul(heads).saturating_mul(2).saturating_add(3 * width).saturating_add(ffn);
    // Logits for the engine and for the answer: of a token and of the guesses that may come with it.
    let logits = 2 * spec.vocab as u64 * rows.min(1 + GUESSES) as u64;
    row.saturating_mul(rows as u64).saturating_add(logits).saturating_mul(4)
}

/// Tokens that coordinators guess ahead at most.
const GUESSES: usize = 64;

#[cfg(test)]
mod tests {
    use syn1_model::WeightFormat;

    use super::*;

    fn plan() -> Plan {
        // Heads of 8 elements, padded to 32.
        let spec = Spec { width: 32, heads: 4, kv_heads: 4, head_dim: 8, ffn: 64, ..Spec::gpt2_124m() };
        Plan::new(&spec, WeightFormat::F16, 1..3)
    }

    #[test]
    fn every_slot_counts_with_padded_heads_and_both_numbers_are_told() {
        let plan = plan();
        let config = EngineConfig { max_positions: 100, slots: 3, max_rows: 8 };
        let kv = 2 * 2 * 4 * 32 * 100 * 3 * 2;
        let needed = plan.weight_bytes() + kv;
        assert_eq!(check(&plan, &config, needed), Ok(()));
        let offered = needed - 1;
        let text = check(&plan, &config, offered).unwrap_err();
        assert!(text.contains(&format!("need {needed} bytes")), "{text}");
        assert!(text.contains(&format!("{kv} of 3 KV caches")), "{text}");
        assert!(text.ends_with(&format!("this node offers {offered}")), "{text}");
    }

    #[test]
    fn absurd_sizes_are_declined_and_do_not_overflow() {
        let config = EngineConfig { max_positions: usize::MAX, slots: usize::MAX, max_rows: 1 };
        assert!(check(&plan(), &config, u64::MAX - 1).is_err());
    }

    #[test]
    fn more_rows_take_more() {
        let spec = Spec::gpt2_124m();
        // The engine's five buffers of a row: residual stream, normed row, queries, attention output, hidden row.
        let row = 4 * (4 * 768 + 3072);
        assert!(row_bytes(&spec, 512) - row_bytes(&spec, 0) >= 512 * row);
    }
}
