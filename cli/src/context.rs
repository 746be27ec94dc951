//! How long a text may get, and what that costs: a KV cache holds keys and values of every position.

use anyhow::{Result, bail};
use syn1_coordinator::placement::size;
use syn1_model::plan::Plan;
use syn1_model::spec::Spec;

use crate::model::Prepared;

/// Positions a request may take: those asked for, else [`DEFAULT`] as far as the model has them.
pub(crate) fn positions(asked: Option<usize>, spec: &Spec) -> Result<usize> {
    match asked {
        Some(0 | 1) => bail!("--context must be at least 2: one token in, one out"),
        Some(more) if more > spec.max_positions => {
            bail!("--context {more} is more than the model's {} positions", spec.max_positions)
        }
        asked => Ok(asked.unwrap_or(spec.max_positions.min(DEFAULT))),
    }
}

/// What the KV caches of `requests` at a time take, in a line; `nodes` where it is known how many share them.
pub(crate) fn cost(prepared: &Prepared, requests: usize, nodes: Option<usize>) -> String {
    let positions = prepared.max_positions;
    let plan = Plan::new(&prepared.spec, prepared.format, 0..prepared.spec.layers);
    let all = size(plan.kv_bytes(positions, requests));
    let nodes = match nodes {
        None => String::new(),
        Some(1) => " on 1 node".into(),
        Some(nodes) => format!(" on {nodes} nodes"),
    };
    let each = match requests {
        1 => String::new(),
        _ => format!(" ({requests} requests at a time, {} each)", size(plan.kv_bytes(positions, 1))),
    };
    format!("context {positions} needs {all} of KV{nodes}{each}")
}

/// Enough for a long conversation. The limit of a model of today is often 131,072, whose KV caches take more memory than
/// the weights do.
const DEFAULT: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(max_positions: usize) -> Spec {
        Spec { max_positions, ..Spec::gpt2_124m() }
    }

    #[test]
    fn the_models_limit_bounds_the_default_and_what_may_be_asked_for() {
        assert_eq!(positions(None, &spec(512)).unwrap(), 512);
        assert_eq!(positions(None, &spec(131_072)).unwrap(), 8192);
        assert_eq!(positions(Some(131_072), &spec(131_072)).unwrap(), 131_072);
        for wrong in [0, 1, 513] {
            assert!(positions(Some(wrong), &spec(512)).is_err(), "{wrong}");
        }
    }
}
