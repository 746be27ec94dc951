//! Whether an Assign is one that this node can take.

use syn1_core::control::Assign;
use syn1_core::{Form, Negotiated};
use syn1_kernels::engine::EngineConfig;
use syn1_model::plan::Plan;

use crate::host::{Assignment, ModelInfo};

/// Why an assignment was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssignError {
    #[error("layers {first}..{end} are no range of the model's {layers}")]
    Layers { first: u16, end: u16, layers: u16 },
    #[error("{0} of 0 is not possible")]
    Zero(&'static str),
    #[error("{got} rows a frame were assigned, {max} were negotiated")]
    Rows { got: u16, max: u16 },
    #[error("{rows} rows of width {width} may take {bytes} bytes, {max} a frame were negotiated: assign fewer rows")]
    Payload { rows: u16, width: u16, bytes: u64, max: u32 },
    #[error("the manifest's {what} is {got}, the coordinator announced {want}")]
    Mismatch { what: &'static str, got: usize, want: usize },
}

/// The assignment in a node's own types.
pub(crate) fn check(assign: &Assign, model: &ModelInfo, negotiated: &Negotiated) -> Result<Assignment, AssignError> {
    let &Assign { generation, first_layer: first, end_layer: end, max_positions, slots, max_rows } = assign;
    if first >= end || end > model.layers {
        return Err(AssignError::Layers { first, end, layers: model.layers });
    }
    for (what, value) in [("max_positions", max_positions), ("slots", slots.into()), ("max_rows", max_rows.into())] {
        if value == 0 {
            return Err(AssignError::Zero(what));
        }
    }
    if max_rows > negotiated.max_rows {
        return Err(AssignError::Rows { got: max_rows, max: negotiated.max_rows });
    }
    // Any form may be asked for, and F32 is what any falls back to.
    let longest = Form::ALL.map(|form| form.max_len(max_rows, model.width).map_or(u64::MAX, u64::from));
    let bytes = longest.into_iter().max().unwrap_or(u64::MAX);
    if bytes > u64::from(negotiated.max_payload) {
        return Err(AssignError::Payload { rows: max_rows, width: model.width, bytes, max: negotiated.max_payload });
    }
    let max_positions = usize::try_from(max_positions).unwrap_or(usize::MAX);
    let engine = EngineConfig { max_positions, slots: slots.into(), max_rows: max_rows.into() };
    Ok(Assignment { generation, layers: first.into()..end.into(), engine })
}

/// Whether an engine runs what was assigned: frames are checked against the announced shape only.
pub(crate) fn check_plan(plan: &Plan, assignment: &Assignment, model: &ModelInfo) -> Result<(), AssignError> {
    let vocab = usize::try_from(model.vocab).unwrap_or(usize::MAX);
    for (what, got, want) in [
        ("width", plan.spec.width, model.width.into()),
        ("vocabulary", plan.spec.vocab, vocab),
        ("number of layers", plan.spec.layers, model.layers.into()),
        ("first layer", plan.layers.start, assignment.layers.start),
        ("last layer", plan.layers.end, assignment.layers.end),
    ] {
        if got != want {
            return Err(AssignError::Mismatch { what, got, want });
        }
    }
    Ok(())
}
