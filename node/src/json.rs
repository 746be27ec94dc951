//! Events for programs: one JSON object each.

use serde_json::{Value, json};

use crate::host::NodeEvent;

impl NodeEvent {
    /// The event as one JSON object: `event` names its kind, the rest are its fields.
    pub fn json(&self) -> Value {
        match self {
            Self::Met { key } => json!({ "event": "met", "coordinator_key": key.map(hexadecimal) }),
            Self::Joined { model } => json!({ "event": "joined", "model": model }),
            Self::Profiled(figures) => json!({
                "event": "profiled",
                "device": figures.device,
                "memory_bytes": figures.memory_bytes,
                "read_bytes_per_s": figures.read_bytes_per_s,
                "layer_ns": figures.layer_ns,
            }),
            Self::Assigned { generation, layers, of } => {
                json!({ "event": "assigned", "generation": generation, "layers": [layers.start, layers.end], "of": of })
            }
            Self::Loading(at) => {
                json!({ "event": "loading", "done_bytes": at.done_bytes, "total_bytes": at.total_bytes })
            }
            Self::Ready { layers, fetched_bytes, layer_ns } => json!({
                "event": "ready",
                "layers": [layers.start, layers.end],
                "fetched_bytes": fetched_bytes,
                "layer_ns": layer_ns,
            }),
            Self::Unable { cause } => json!({ "event": "unable", "cause": cause }),
            Self::Replaced { generation } => json!({ "event": "replaced", "generation": generation }),
            Self::RequestFailed { request, cause } => {
                json!({ "event": "request_failed", "request": request, "cause": cause })
            }
            Self::Left { cause } => json!({ "event": "left", "cause": cause }),
        }
    }
}

/// A key as people write it.
fn hexadecimal(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_identity_writes_them() {
        assert_eq!(NodeEvent::Met { key: None }.json()["coordinator_key"], Value::Null);
        let key = NodeEvent::Met { key: Some([0x0f; 32]) }.json()["coordinator_key"].clone();
        assert_eq!(key, json!("0f".repeat(32)));
    }
}
