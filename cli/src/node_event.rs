//! What happens to a node: as a sentence for people, as JSON for programs.

use serde_json::{Value, json};
use syn1_coordinator::placement::size;
use syn1_node_host::{HostEvent, Key, NodeEvent};

/// An event in words; `None` for what is shown as a bar.
pub(crate) fn sentence(event: &HostEvent) -> Option<String> {
    Some(match event {
        HostEvent::Device(device) => device.clone(),
        HostEvent::Connecting(join) => format!("joining {join}"),
        HostEvent::Notice(text) => text.clone(),
        HostEvent::Retrying { cause, pause } => format!("{cause}; next try in {:.1} s", pause.as_secs_f64()),
        HostEvent::Node(event) => return node_sentence(event),
        _ => return None,
    })
}

fn node_sentence(event: &NodeEvent) -> Option<String> {
    Some(match event {
        NodeEvent::Met { key: Some(key) } => format!("the coordinator has proved its key: {}", Key(*key)),
        NodeEvent::Met { key: None } => "the coordinator has no key".into(),
        NodeEvent::Joined { model } => format!("joined: the coordinator serves {model}"),
        NodeEvent::Profiled(figures) => format!(
            "offering {} of memory, reads {}/s, {:.0} us a layer",
            size(figures.memory_bytes),
            size(figures.read_bytes_per_s),
            figures.layer_ns as f64 / 1e3
        ),
        NodeEvent::Assigned { layers, of, .. } => format!("layers {}..{} of {of}", layers.start, layers.end),
        NodeEvent::Ready { layers, fetched_bytes, layer_ns } => format!(
            "ready with layers {}..{}: {} fetched, {:.0} us a layer",
            layers.start,
            layers.end,
            size(*fetched_bytes),
            *layer_ns as f64 / 1e3
        ),
        NodeEvent::Unable { cause } => format!("cannot take these layers: {cause}"),
        NodeEvent::Replaced { .. } => "the coordinator shares the layers out anew".into(),
        NodeEvent::RequestFailed { request, cause } => format!("request {request} failed here: {cause}"),
        NodeEvent::Left { cause } => format!("the conversation is over: {cause}"),
        // Loading, and what a later version adds.
        _ => return None,
    })
}

/// An event as one JSON object: `event` names its kind, the rest are its fields. `None` for kinds of a later version.
pub(crate) fn json(event: &HostEvent) -> Option<Value> {
    Some(match event {
        HostEvent::Device(text) => json!({ "event": "device", "text": text }),
        HostEvent::Connecting(join) => json!({ "event": "connecting", "join": join.to_string() }),
        HostEvent::Notice(text) => json!({ "event": "notice", "text": text }),
        HostEvent::Retrying { cause, pause } => {
            json!({ "event": "retrying", "cause": cause, "pause_ms": pause.as_millis() as u64 })
        }
        HostEvent::Node(event) => event.json(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use syn1_node_host::{ProfileFigures, Progress};

    use super::*;

    fn events() -> Vec<HostEvent> {
        let (cause, layers) = (String::from("because"), 0..4);
        let figures = ProfileFigures { device: "cpu".into(), memory_bytes: 1, read_bytes_per_s: 2, layer_ns: 3 };
        let node = [
            NodeEvent::Met { key: Some([7; 32]) },
            NodeEvent::Met { key: None },
            NodeEvent::Joined { model: "tiny".into() },
            NodeEvent::Profiled(figures),
            NodeEvent::Assigned { generation: 1, layers: layers.clone(), of: 8 },
            NodeEvent::Loading(Progress { done_bytes: 1, total_bytes: 2 }),
            NodeEvent::Ready { layers, fetched_bytes: 1, layer_ns: 2 },
            NodeEvent::Unable { cause: cause.clone() },
            NodeEvent::Replaced { generation: 1 },
            NodeEvent::RequestFailed { request: 7, cause: cause.clone() },
            NodeEvent::Left { cause: cause.clone() },
        ];
        let host = [
            HostEvent::Device("computing on the CPU".into()),
            HostEvent::Connecting("tcp://localhost:7700".parse().unwrap()),
            HostEvent::Notice("mended".into()),
            HostEvent::Retrying { cause, pause: Duration::from_millis(1500) },
        ];
        host.into_iter().chain(node.map(HostEvent::Node)).collect()
    }

    #[test]
    fn every_event_but_loading_has_a_sentence_without_debug_output() {
        for event in events() {
            match sentence(&event) {
                Some(text) => assert!(!text.contains(['{', '"']) && text.len() > 5, "{text}"),
                None => assert!(matches!(event, HostEvent::Node(NodeEvent::Loading(_))), "{event:?}"),
            }
        }
    }

    #[test]
    fn every_event_has_a_kind_of_its_own_and_its_fields() {
        let objects: Vec<Value> = events().iter().map(|event| json(event).unwrap()).collect();
        let kinds: Vec<&str> = objects.iter().map(|object| object["event"].as_str().unwrap()).collect();
        let expected = [
            "device",
            "connecting",
            "notice",
            "retrying",
            "met",
            "met",
            "joined",
            "profiled",
            "assigned",
            "loading",
            "ready",
            "unable",
            "replaced",
            "request_failed",
            "left",
        ];
        assert_eq!(kinds, expected);
        assert!(objects.iter().all(|object| object.as_object().unwrap().len() > 1));
        assert_eq!(objects[3], json!({ "event": "retrying", "cause": "because", "pause_ms": 1500 }));
        assert_eq!(objects[8], json!({ "event": "assigned", "generation": 1, "layers": [0, 4], "of": 8 }));
    }
}
