//! Which fields each message has, in the order in which they travel.

use super::bytes::Wire;
use super::{
    Assign, Bye, Closed, Control, Failed, Hello, Loaded, Loading, Model, Open, Output, Profile, Reason, Role, Unable,
};

impl<'a> Control<'a> {
    /// Message `number` before its fields are read, or `None` if there is no such message.
    pub(super) fn blank(number: u32) -> Option<Self> {
        let hash = [0; 32];
        Some(match number {
            0 => Self::Hello(Hello {
                minor_min: 0,
                minor_max: 0,
                role: Role::Coordinator,
                flags: 0,
                codecs: 0,
                max_payload: 0,
                max_rows: 0,
                credit: 0,
                model: hash,
                key: hash,
                nonce: hash,
                agent: "",
            }),
            1 => Self::Bye(Bye { reason: Reason::Done, text: "" }),
            2 => Self::Ping(0),
            3 => Self::Pong(0),
            4 => Self::Model(Model { name: "", manifest_sha256: hash, http_port: 0, width: 0, vocab: 0, layers: 0 }),
            5 => Self::Profile(Profile { name: "", device: "", memory_bytes: 0, read_bytes_per_s: 0, layer_ns: 0 }),
            6 => Self::Assign(Assign {
                generation: 0,
                first_layer: 0,
                end_layer: 0,
                max_positions: 0,
                slots: 0,
                max_rows: 0,
            }),
            7 => Self::Loading(Loading { generation: 0, done_bytes: 0, total_bytes: 0 }),
            8 => Self::Loaded(Loaded { generation: 0, fetched_bytes: 0, layer_ns: 0, slots: 0 }),
            9 => Self::Open(Open { request: 0, epoch: 0, codec: 0, flags: 0, output: Output::Full, wanted_from: 0 }),
            10 => Self::Close { request: 0 },
            11 => Self::Failed(Failed { request: 0, epoch: 0, text: "" }),
            12 => Self::Unable(Unable { generation: 0, text: "" }),
            13 => Self::Closed(Closed { request: 0, compute_us: 0 }),
            14 => Self::Prove { signature: [0; 64] },
            15 => Self::Grant { frames: 0 },
            _ => return None,
        })
    }

    /// The message's number.
    pub(super) const fn number(&self) -> u32 {
        match self {
            Self::Hello(_) => 0,
            Self::Bye(_) => 1,
            Self::Ping(_) => 2,
            Self::Pong(_) => 3,
            Self::Model(_) => 4,
            Self::Profile(_) => 5,
            Self::Assign(_) => 6,
            Self::Loading(_) => 7,
            Self::Loaded(_) => 8,
            Self::Open(_) => 9,
            Self::Close { .. } => 10,
            Self::Failed(_) => 11,
            Self::Unable(_) => 12,
            Self::Closed(_) => 13,
            Self::Prove { .. } => 14,
            Self::Grant { .. } => 15,
        }
    }

    /// Reads or writes all fields.
    #[inline(never)]
    pub(super) fn fields(&mut self, wire: &mut Wire<'a, '_>) {
        match self {
            Self::Hello(m) => {
                wire.u8(&mut m.minor_min);
                wire.u8(&mut m.minor_max);
                wire.choice(&mut m.role, &ROLES);
                wire.u8(&mut m.flags);
                wire.u32(&mut m.codecs);
                wire.u32(&mut m.max_payload);
                wire.u16(&mut m.max_rows);
                wire.u16(&mut m.credit);
                wire.bytes(&mut m.model);
                wire.bytes(&mut m.key);
                wire.bytes(&mut m.nonce);
                wire.text(&mut m.agent);
            }
            Self::Bye(m) => {
                wire.choice(&mut m.reason, &REASONS);
                wire.text(&mut m.text);
            }
            Self::Ping(number) | Self::Pong(number) => wire.u64(number),
            Self::Model(m) => {
                wire.text(&mut m.name);
                wire.bytes(&mut m.manifest_sha256);
                wire.u16(&mut m.http_port);
                wire.u16(&mut m.width);
                wire.u32(&mut m.vocab);
                wire.u16(&mut m.layers);
            }
            Self::Profile(m) => {
                wire.text(&mut m.name);
                wire.text(&mut m.device);
                wire.u64(&mut m.memory_bytes);
                wire.u64(&mut m.read_bytes_per_s);
                wire.u64(&mut m.layer_ns);
            }
            Self::Assign(m) => {
                wire.u32(&mut m.generation);
                wire.u16(&mut m.first_layer);
                wire.u16(&mut m.end_layer);
                wire.u32(&mut m.max_positions);
                wire.u16(&mut m.slots);
                wire.u16(&mut m.max_rows);
            }
            Self::Loading(m) => {
                wire.u32(&mut m.generation);
                wire.u64(&mut m.done_bytes);
                wire.u64(&mut m.total_bytes);
            }
            Self::Loaded(m) => {
                wire.u32(&mut m.generation);
                wire.u64(&mut m.fetched_bytes);
                wire.u64(&mut m.layer_ns);
                wire.u16(&mut m.slots);
            }
            Self::Open(m) => {
                wire.u32(&mut m.request);
                wire.u8(&mut m.epoch);
                wire.u8(&mut m.codec);
                wire.u8(&mut m.flags);
                wire.output(&mut m.output);
                wire.u32(&mut m.wanted_from);
            }
            Self::Close { request } => wire.u32(request),
            Self::Failed(m) => {
                wire.u32(&mut m.request);
                wire.u8(&mut m.epoch);
                wire.text(&mut m.text);
            }
            Self::Unable(m) => {
                wire.u32(&mut m.generation);
                wire.text(&mut m.text);
            }
            Self::Closed(m) => {
                wire.u32(&mut m.request);
                wire.u64(&mut m.compute_us);
            }
            Self::Prove { signature } => wire.bytes(signature),
            Self::Grant { frames } => wire.u16(frames),
        }
    }
}

impl Wire<'_, '_> {
    /// An enum with a field: its number, and then the field of that variant.
    fn output(&mut self, field: &mut Output) {
        let (mut full, mut k) = match *field {
            Output::Top(k) => (false, k),
            Output::Full => (true, 0),
        };
        self.choice(&mut full, &[false, true]);
        *field = if full {
            Output::Full
        } else {
            self.u16(&mut k);
            Output::Top(k)
        };
    }
}

const ROLES: [Role; 2] = [Role::Coordinator, Role::Node];

const REASONS: [Reason; 8] = [
    Reason::Done,
    Reason::Version,
    Reason::Protocol,
    Reason::Timeout,
    Reason::Refused,
    Reason::Replaced,
    Reason::Shutdown,
    Reason::Internal,
];
