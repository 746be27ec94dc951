//! The messages once more, as postcard and serde have them: what the hand-written bytes are compared with.

use serde::{Deserialize, Serialize};

use super::Control;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mirror<'a> {
    Hello {
        minor_min: u8,
        minor_max: u8,
        role: Role,
        flags: u8,
        codecs: u32,
        max_payload: u32,
        max_rows: u16,
        credit: u16,
        model: [u8; 32],
        key: [u8; 32],
        nonce: [u8; 32],
        agent: &'a str,
    },
    Bye {
        reason: Reason,
        text: &'a str,
    },
    Ping(u64),
    Pong(u64),
    Model {
        name: &'a str,
        manifest_sha256: [u8; 32],
        http_port: u16,
        width: u16,
        vocab: u32,
        layers: u16,
    },
    Profile {
        name: &'a str,
        device: &'a str,
        memory_bytes: u64,
        read_bytes_per_s: u64,
        layer_ns: u64,
    },
    Assign {
        generation: u32,
        first_layer: u16,
        end_layer: u16,
        max_positions: u32,
        slots: u16,
        max_rows: u16,
    },
    Loading {
        generation: u32,
        done_bytes: u64,
        total_bytes: u64,
    },
    Loaded {
        generation: u32,
        fetched_bytes: u64,
        layer_ns: u64,
        slots: u16,
    },
    Open {
        request: u32,
        epoch: u8,
        codec: u8,
        flags: u8,
        output: Output,
        wanted_from: u32,
    },
    Close {
        request: u32,
    },
    Failed {
        request: u32,
        epoch: u8,
        text: &'a str,
    },
    Unable {
        generation: u32,
        text: &'a str,
    },
    Closed {
        request: u32,
        compute_us: u64,
    },
    /// Serde has no arrays of 64; two halves are the same bytes.
    Prove {
        signature: [[u8; 32]; 2],
    },
    Grant {
        frames: u16,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Coordinator,
    Node,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reason {
    Done,
    Version,
    Protocol,
    Timeout,
    Refused,
    Replaced,
    Shutdown,
    Internal,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Output {
    Top(u16),
    Full,
}

impl<'a> From<Control<'a>> for Mirror<'a> {
    fn from(message: Control<'a>) -> Self {
        match message {
            Control::Hello(m) => Self::Hello {
                minor_min: m.minor_min,
                minor_max: m.minor_max,
                role: match m.role {
                    super::Role::Coordinator => Role::Coordinator,
                    super::Role::Node => Role::Node,
                },
                flags: m.flags,
                codecs: m.codecs,
                max_payload: m.max_payload,
                max_rows: m.max_rows,
                credit: m.credit,
                model: m.model,
                key: m.key,
                nonce: m.nonce,
                agent: m.agent,
            },
            Control::Bye(m) => Self::Bye {
                reason: match m.reason {
                    super::Reason::Done => Reason::Done,
                    super::Reason::Version => Reason::Version,
                    super::Reason::Protocol => Reason::Protocol,
                    super::Reason::Timeout => Reason::Timeout,
                    super::Reason::Refused => Reason::Refused,
                    super::Reason::Replaced => Reason::Replaced,
                    super::Reason::Shutdown => Reason::Shutdown,
                    super::Reason::Internal => Reason::Internal,
                },
                text: m.text,
            },
            Control::Ping(number) => Self::Ping(number),
            Control::Pong(number) => Self::Pong(number),
            Control::Model(m) => Self::Model {
                name: m.name,
                manifest_sha256: m.manifest_sha256,
                http_port: m.http_port,
                width: m.width,
                vocab: m.vocab,
                layers: m.layers,
            },
            Control::Profile(m) => Self::Profile {
                name: m.name,
                device: m.device,
                memory_bytes: m.memory_bytes,
                read_bytes_per_s: m.read_bytes_per_s,
                layer_ns: m.layer_ns,
            },
            Control::Assign(m) => Self::Assign {
                generation: m.generation,
                first_layer: m.first_layer,
                end_layer: m.end_layer,
                max_positions: m.max_positions,
                slots: m.slots,
                max_rows: m.max_rows,
            },
            Control::Loading(m) => {
                Self::Loading { generation: m.generation, done_bytes: m.done_bytes, total_bytes: m.total_bytes }
            }
            Control::Loaded(m) => Self::Loaded {
                generation: m.generation,
                fetched_bytes: m.fetched_bytes,
                layer_ns: m.layer_ns,
                slots: m.slots,
            },
            Control::Open(m) => Self::Open {
                request: m.request,
                epoch: m.epoch,
                codec: m.codec,
                flags: m.flags,
                output: match m.output {
                    super::Output::Top(k) => Output::Top(k),
                    super::Output::Full => Output::Full,
                },
                wanted_from: m.wanted_from,
            },
            Control::Close { request } => Self::Close { request },
            Control::Failed(m) => Self::Failed { request: m.request, epoch: m.epoch, text: m.text },
            Control::Unable(m) => Self::Unable { generation: m.generation, text: m.text },
            Control::Closed(m) => Self::Closed { request: m.request, compute_us: m.compute_us },
            Control::Prove { signature } => {
                let (halves, _) = signature.as_chunks();
                Self::Prove { signature: [halves[0], halves[1]] }
            }
            Control::Grant { frames } => Self::Grant { frames },
        }
    }
}
