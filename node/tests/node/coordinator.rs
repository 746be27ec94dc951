//! The other end of the link: says what a test tells it to, and shows what the node answers.

use std::future::Future;
use std::ops::Range;

use syn1_core::codec::{decode, encode, encode_ids};
use syn1_core::control::{Assign, Hello, Model, Open, Output};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::output::full_decode;
use syn1_core::testing::{MemoryError, MemoryRx, MemoryTx, block_on, join, memory_pair};
use syn1_core::{Codec, CodecSet, Control, Flags, Header, Kind, Limits, Link as _, Receive as _, Role, Transmit as _};
use syn1_node::{Ended, NodeConfig, NodeError, run};

use crate::machine::{LAYERS, Machine, VOCAB, WIDTH};

/// A scripted coordinator.
pub(crate) struct Coordinator {
    rx: MemoryRx,
    tx: MemoryTx,
}

/// A frame from the node. Control messages are in their debug form, so that tests can look for what matters to them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Got {
    Control(String),
    Data(Header, Vec<u8>),
}

/// Runs a node on `machine` against `script`; gives how the node ended.
pub(crate) fn play<F: Future<Output = ()>>(
    machine: &Machine,
    script: impl FnOnce(Coordinator) -> F,
) -> Result<Ended, NodeError> {
    play_expecting(machine, None, script)
}

/// The same for a node that joins only the coordinator with the key `expect`.
pub(crate) fn play_expecting<F: Future<Output = ()>>(
    machine: &Machine,
    expect: Option<[u8; 32]>,
    script: impl FnOnce(Coordinator) -> F,
) -> Result<Ended, NodeError> {
    let (node, coordinator) = memory_pair(MAX_PAYLOAD, 1 << 20);
    let (rx, tx) = coordinator.split();
    let config = NodeConfig {
        name: "testbench".into(),
        agent: "test",
        max_payload: MAX_PAYLOAD,
        max_rows: 16,
        credit: 4,
        expect,
    };
    let (ended, ()) = block_on(join(run(node, machine, &config), script(Coordinator { rx, tx })));
    ended
}

impl Coordinator {
    /// Hello and Model; ends when the node's Profile is here.
    pub(crate) async fn greet(&mut self) {
        self.hello().await;
        self.model().await;
        let profile = self.control().await;
        assert!(profile.starts_with("Profile") && profile.contains("testbench"), "{profile}");
    }

    /// Stops the node and waits for its goodbye.
    pub(crate) async fn leave(&mut self, machine: &Machine) {
        machine.stop();
        let bye = self.control().await;
        assert!(bye.starts_with("Bye { reason: Shutdown"), "{bye}");
    }

    pub(crate) async fn hello(&mut self) {
        self.say_hello().await;
        let hello = self.control().await;
        assert!(hello.starts_with("Hello") && hello.contains("role: Node"), "{hello}");
        self.rx.set_limits(Limits {
            max_payload: MAX_PAYLOAD,
            max_rows: 16,
            width: WIDTH,
            vocab: VOCAB,
            flags: Flags::NEGOTIABLE,
        });
    }

    pub(crate) async fn say_hello(&mut self) {
        self.tell(&Control::Hello(Hello {
            minor_min: 0,
            minor_max: 0,
            role: Role::Coordinator,
            flags: Flags::NEGOTIABLE.bits(),
            codecs: CodecSet::ACTIVATIONS.0,
            max_payload: MAX_PAYLOAD,
            max_rows: 16,
            credit: 0,
            model: [0; 32],
            key: [0; 32],
            nonce: [8; 32],
            agent: "script",
        }))
        .await;
    }

    pub(crate) async fn model(&mut self) {
        self.other_model(7, WIDTH).await;
    }

    /// A model whose manifest has the SHA-256 of so many `manifest` bytes.
    pub(crate) async fn other_model(&mut self, manifest: u8, width: u16) {
        let (manifest_sha256, layers) = ([manifest; 32], LAYERS as u16);
        let model = Model { name: "tiny", manifest_sha256, http_port: 80, width, vocab: VOCAB, layers };
        self.tell(&Control::Model(model)).await;
    }

    pub(crate) async fn assign(&mut self, generation: u32, layers: Range<u16>) {
        let (first_layer, end_layer) = (layers.start, layers.end);
        let assign = Assign { generation, first_layer, end_layer, max_positions: 32, slots: 2, max_rows: 8 };
        self.tell(&Control::Assign(assign)).await;
    }

    /// Assigns and waits until the node is ready.
    pub(crate) async fn ready(&mut self, generation: u32, layers: Range<u16>) {
        self.assign(generation, layers).await;
        let loaded = self.control().await;
        assert!(loaded.starts_with("Loaded") && loaded.contains(&format!("generation: {generation}")), "{loaded}");
    }

    pub(crate) async fn open(&mut self, request: u32, epoch: u8, output: Output, wanted_from: u32) {
        let codec = Codec::F32 as u8;
        self.tell(&Control::Open(Open { request, epoch, codec, flags: 0, output, wanted_from })).await;
    }

    /// Closes a request; gives the microseconds that the engine has spent on it.
    pub(crate) async fn close(&mut self, request: u32) -> u64 {
        self.tell(&Control::Close { request }).await;
        let closed = self.control().await;
        let us = closed.strip_prefix(&format!("Closed {{ request: {request}, compute_us: "));
        us.and_then(|us| us.strip_suffix(" }")?.parse().ok()).unwrap_or_else(|| panic!("{closed}"))
    }

    pub(crate) async fn tokens(&mut self, request: u32, epoch: u8, position: u32, ids: &[u32]) {
        let mut payload = vec![0; 4 * ids.len()];
        encode_ids(ids, &mut payload);
        let header = Header::tokens(request, epoch, position, ids.len() as u16);
        self.send(&header, &payload).await;
    }

    pub(crate) async fn rows(&mut self, request: u32, epoch: u8, position: u32, rows: &[f32]) {
        let count = (rows.len() / usize::from(WIDTH)) as u16;
        let header = Header::activation(request, epoch, position, Codec::F32, count, WIDTH).unwrap();
        let mut payload = vec![0; 4 * rows.len()];
        encode(Codec::F32, rows, WIDTH, &mut payload).unwrap();
        self.send(&header, &payload).await;
    }

    /// The logits that the node answers with.
    pub(crate) async fn logits(&mut self) -> Vec<f32> {
        self.output().await.1
    }

    /// The same with their header.
    pub(crate) async fn output(&mut self) -> (Header, Vec<f32>) {
        let (header, payload) = self.data().await;
        assert_eq!((header.kind, header.codec), (Kind::Output, Codec::F32));
        let mut logits = vec![0.0; VOCAB as usize];
        full_decode(&payload, &mut logits).unwrap();
        (header, logits)
    }

    /// The activations that the node answers with.
    pub(crate) async fn activations(&mut self) -> Vec<f32> {
        let (header, payload) = self.data().await;
        assert_eq!((header.kind, header.codec), (Kind::Activation, Codec::F32));
        let mut rows = vec![0.0; usize::from(header.rows) * usize::from(header.cols)];
        decode(header.codec, &payload, header.rows, header.cols, &mut rows).unwrap();
        rows
    }

    pub(crate) async fn data(&mut self) -> (Header, Vec<u8>) {
        match self.recv().await.unwrap() {
            Got::Data(header, payload) => (header, payload),
            other @ Got::Control(_) => panic!("{other:?} where data was due"),
        }
    }

    pub(crate) async fn control(&mut self) -> String {
        match self.recv().await.unwrap() {
            Got::Control(text) => text,
            other @ Got::Data(..) => panic!("{other:?} where a message was due"),
        }
    }

    /// The next frame that is no Ping and no Grant; pings are left unanswered.
    pub(crate) async fn recv(&mut self) -> Result<Got, MemoryError> {
        loop {
            let frame = self.rx.recv().await?;
            if frame.header.kind != Kind::Control {
                return Ok(Got::Data(frame.header, frame.payload.to_vec()));
            }
            let control = Control::decode(frame.payload).unwrap();
            if !matches!(control, Control::Ping(_) | Control::Grant { .. }) {
                // The variant's own name is shown twice by derived Debug: `Bye(Bye { .. })`.
                let text = format!("{control:?}");
                let inner = text.split_once('(').map_or(text.as_str(), |(_, inner)| inner.trim_end_matches(')'));
                return Ok(Got::Control(if text.starts_with("Pong") { text.clone() } else { inner.to_owned() }));
            }
        }
    }

    pub(crate) async fn tell(&mut self, control: &Control<'_>) {
        let mut payload = [0; MAX_CONTROL as usize];
        let len = control.encode(&mut payload).unwrap();
        self.send(&Header::control(len as u32), &payload[..len]).await;
    }

    pub(crate) async fn send(&mut self, header: &Header, payload: &[u8]) {
        self.tx.send(header, payload).await.unwrap();
    }

    /// The half that receives and the half that sends, for a script that does more than this one.
    pub(crate) fn halves(&mut self) -> (&mut MemoryRx, &mut MemoryTx) {
        (&mut self.rx, &mut self.tx)
    }
}

pub(crate) const MAX_PAYLOAD: u32 = 4096;
