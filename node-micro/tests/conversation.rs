//! A node against a coordinator that the tests play, over a link in memory.

use std::path::Path;
use std::time::Instant;

use syn1_core::control::{Assign, Bye, Hello, Model, Open, Output};
use syn1_core::testing::{MemoryRx, MemoryTx, block_on, join, memory_pair, yield_now};
use syn1_core::{
    Anonymous, Codec, CodecSet, Control, Event as SessionEvent, Flags, Header, Kind, Link, Millis, Reason, Receive,
    Role, Session, SessionConfig, Transmit, codec,
};
use syn1_kernels_int::{Activation, Block, Norm, Scratch, Shape};
use syn1_model::plan::{Piece, WeightFormat};
use syn1_node_micro::{Board, Ended, Event, FetchError, Memory, NodeConfig, flash, run};

const WIDTH: usize = 96;

/// The blocks of `fixtures/gpt2`.
const SHAPE: Shape = Shape {
    width: WIDTH,
    heads: 6,
    kv_heads: 6,
    head_dim: 16,
    ffn: 200,
    norm: Norm::Layer,
    eps: 1e-5,
    activation: Activation::GeluTanh,
    gated: false,
    rope: None,
};

/// A split model in memory, as a board has it in its flash.
struct Shelf {
    begun: Instant,
    store: Vec<u8>,
    manifest_sha256: [u8; 32],
    /// Block 1, for the tests' own sums.
    block: Vec<u8>,
}

impl Shelf {
    fn new() -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/gpt2");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shelf-{:?}", std::thread::current().id()));
        let manifest = syn1_model::split(&model, &folder, WeightFormat::Int8, &mut |_| {}).unwrap();
        let mut store = Vec::new();
        let mut put = |name: &str, bytes: &[u8]| {
            store.extend(flash::head(name, bytes.len()).unwrap());
            store.extend(name.as_bytes());
            store.extend(bytes);
        };
        put("manifest.json", &manifest.to_bytes());
        let piece = |layer| {
            let listed = manifest.find(Piece::Block(layer)).unwrap();
            (listed.sha256.to_string(), std::fs::read(folder.join(listed.file_name())).unwrap())
        };
        let (name, block) = piece(1);
        put(&name, &block);
        // Block 2 is damaged.
        let (name, mut damaged) = piece(2);
        damaged[5000] ^= 1;
        put(&name, &damaged);
        store.push(0);
        Self { begun: Instant::now(), store, manifest_sha256: *manifest.sha256().as_bytes(), block }
    }
}

impl Board for Shelf {
    fn now(&self) -> Millis {
        Millis(self.begun.elapsed().as_millis() as u64)
    }

    fn micros(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    async fn sleep_until(&self, time: Millis) {
        while self.now() < time {
            yield_now().await;
        }
    }

    async fn fetch(&self, _: u16, name: &str, from: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), FetchError> {
        let file = flash::find(&self.store, name).ok_or(FetchError::Absent)?;
        // Every transfer breaks off once.
        let half = file.len() / 2;
        if from < half {
            take(&file[from..half]);
            return Err(FetchError::Broken);
        }
        take(&file[from..]);
        Ok(())
    }

    fn event(&self, _: Event) {}
}

/// A coordinator's end of the link.
struct Coordinator {
    session: Session<Anonymous>,
    rx: MemoryRx,
    tx: MemoryTx,
}

/// What a node has said, without its frame.
#[derive(Debug, PartialEq)]
enum Said {
    Profile { memory_bytes: u64 },
    Loaded { generation: u32, slots: u16 },
    Unable(String),
    Failed { request: u32, text: String },
    Closed { request: u32 },
    Rows(Header, Vec<f32>),
    Other(&'static str),
}

impl Coordinator {
    async fn say(&mut self, message: &Control<'_>) {
        let mut payload = [0; 1024];
        let len = message.encode(&mut payload).unwrap();
        self.tx.send(&Header::control(len as u32), &payload[..len]).await.unwrap();
    }

    async fn flush(&mut self) {
        let mut frame = [0; 1048];
        while let Some(len) = self.session.poll_transmit(&mut frame) {
            let payload = &frame[Header::LEN..len];
            self.tx.send(&Header::control(payload.len() as u32), payload).await.unwrap();
        }
    }

    /// The next thing that the node says and that is not the session's or a report of progress.
    async fn hear(&mut self) -> Said {
        loop {
            self.flush().await;
            let frame = self.rx.recv().await.unwrap();
            let control = frame.header.kind == Kind::Control;
            let said = match self.session.handle(Millis(0), frame).unwrap() {
                SessionEvent::Control(Control::Profile(profile)) => {
                    Some(Said::Profile { memory_bytes: profile.memory_bytes })
                }
                SessionEvent::Control(Control::Loaded(loaded)) => {
                    Some(Said::Loaded { generation: loaded.generation, slots: loaded.slots })
                }
                SessionEvent::Control(Control::Unable(unable)) => Some(Said::Unable(unable.text.to_owned())),
                SessionEvent::Control(Control::Failed(failed)) => {
                    Some(Said::Failed { request: failed.request, text: failed.text.to_owned() })
                }
                SessionEvent::Control(Control::Closed(closed)) => Some(Said::Closed { request: closed.request }),
                SessionEvent::Control(Control::Loading(_)) => None,
                SessionEvent::Control(other) => Some(Said::Other(other.name())),
                SessionEvent::Data(frame) => {
                    let mut rows = vec![0.0; usize::from(frame.header.rows) * WIDTH];
                    codec::decode(frame.header.codec, frame.payload, frame.header.rows, WIDTH as u16, &mut rows)
                        .unwrap();
                    Some(Said::Rows(frame.header, rows))
                }
                _ => None,
            };
            if control {
                self.rx.set_limits(self.session.limits());
            }
            if let Some(said) = said {
                return said;
            }
        }
    }

    async fn announce(&mut self, shelf: &Shelf) {
        let model = Model {
            name: "fixture",
            manifest_sha256: shelf.manifest_sha256,
            http_port: 1,
            width: WIDTH as u16,
            vocab: 1000,
            layers: 4,
        };
        self.session.set_model(model.width, model.vocab);
        self.flush().await;
        self.say(&Control::Model(model)).await;
    }

    async fn assign(&mut self, generation: u32, first_layer: u16, end_layer: u16, slots: u16) {
        let assign = Assign { generation, first_layer, end_layer, max_positions: 64, slots, max_rows: 4 };
        self.say(&Control::Assign(assign)).await;
    }

    async fn open(&mut self, request: u32, epoch: u8, codec: Codec) {
        let open = Open { request, epoch, codec: codec as u8, flags: 0, output: Output::Top(1), wanted_from: 0 };
        self.say(&Control::Open(open)).await;
    }

    async fn send(&mut self, request: u32, epoch: u8, position: u32, rows: &[f32]) {
        let count = (rows.len() / WIDTH) as u16;
        let header = Header::activation(request, epoch, position, Codec::F32, count, WIDTH as u16).unwrap();
        let mut payload = vec![0; header.payload_len as usize];
        codec::encode(Codec::F32, rows, WIDTH as u16, &mut payload).unwrap();
        while !self.session.take_credit() {
            let frame = self.rx.recv().await.unwrap();
            let event = self.session.handle(Millis(0), frame).unwrap();
            assert!(matches!(event, SessionEvent::Granted | SessionEvent::Nothing), "{event:?}");
        }
        self.tx.send(&header, &payload).await.unwrap();
    }

    /// Has a node with block 1 ready.
    async fn loaded(&mut self, shelf: &Shelf) {
        self.announce(shelf).await;
        assert!(matches!(self.hear().await, Said::Profile { .. }));
        self.assign(1, 1, 2, 2).await;
        assert_eq!(self.hear().await, Said::Loaded { generation: 1, slots: 2 });
    }

    /// Says goodbye, if the node is still there.
    async fn leave(&mut self) {
        let mut payload = [0; 64];
        let len = Control::Bye(Bye { reason: Reason::Done, text: "enough" }).encode(&mut payload).unwrap();
        let _ = self.tx.send(&Header::control(len as u32), &payload[..len]).await;
    }
}

/// Runs a node with 256 KiB against a coordinator's script.
fn converse(script: impl AsyncFnOnce(&mut Coordinator, &Shelf)) -> Ended {
    let shelf = Shelf::new();
    let (node, coordinator) = memory_pair(1 << 16, 1 << 16);
    let config = NodeConfig { name: "test", device: "test", agent: "test", max_payload: 1 << 13, max_rows: 4 };
    let mut words = vec![0; 1 << 16];
    let mut memory = Memory::new(&mut words);
    let session = SessionConfig {
        role: Role::Coordinator,
        agent: "test",
        codecs: CodecSet::ACTIVATIONS,
        flags: Flags::NEGOTIABLE,
        max_payload: 1 << 16,
        max_rows: 64,
        credit: 1,
        model: [0; 32],
        prove: false,
    };
    let (rx, tx) = coordinator.split();
    let mut coordinator = Coordinator { session: Session::new(session, Anonymous, [0; 32], Millis(0)), rx, tx };
    let script = async {
        script(&mut coordinator, &shelf).await;
        coordinator.leave().await;
    };
    block_on(join(run(node, &shelf, &config, &mut memory), script)).0
}

fn rows(first: usize, count: usize) -> Vec<f32> {
    (first * WIDTH..(first + count) * WIDTH).map(|i| (i as f32 * 0.37).sin()).collect()
}

/// What the kernels make of rows 0, 1, ..
fn computed(shelf: &Shelf, count: usize) -> Vec<f32> {
    let block = Block::new(SHAPE, &shelf.block).unwrap();
    let (floats, words) = Scratch::words(&SHAPE);
    let (mut floats, mut row, mut weights) = (vec![0.0; floats], vec![0; words], vec![0; count]);
    let mut scratch = Scratch::new(&SHAPE, &mut floats, &mut row, &mut weights).unwrap();
    let mut cache = vec![0; count * SHAPE.kv_words()];
    let mut rows = rows(0, count);
    for (position, x) in rows.chunks_exact_mut(WIDTH).enumerate() {
        block.attention(x, position, &mut cache, &mut scratch).unwrap();
        block.mlp(x, &mut scratch).unwrap();
    }
    rows
}

#[test]
fn a_node_answers_what_the_kernels_compute_also_after_a_rollback() {
    let ended = converse(async |coordinator, shelf| {
        coordinator.loaded(shelf).await;
        let wanted = computed(shelf, 5);
        coordinator.open(7, 0, Codec::F32).await;
        for (first, count) in [(0, 3), (3, 2), (1, 2), (3, 1)] {
            coordinator.send(7, 0, first as u32, &rows(first, count)).await;
            let Said::Rows(header, got) = coordinator.hear().await else { panic!("no rows") };
            assert_eq!((header.request, header.position, header.rows), (7, first as u32, count as u16));
            assert!(got == wanted[first * WIDTH..(first + count) * WIDTH], "rows {first} to {}", first + count);
        }
        coordinator.say(&Control::Close { request: 7 }).await;
        assert_eq!(coordinator.hear().await, Said::Closed { request: 7 });
    });
    assert_eq!(ended, Ended::Bye(Reason::Done));
}

#[test]
fn two_requests_have_caches_of_their_own_and_a_third_is_told_to_wait() {
    converse(async |coordinator, shelf| {
        coordinator.loaded(shelf).await;
        let wanted = computed(shelf, 2);
        for request in [1, 2] {
            coordinator.open(request, 0, Codec::F32).await;
        }
        coordinator.open(3, 0, Codec::F32).await;
        let Said::Failed { request: 3, text } = coordinator.hear().await else { panic!("no refusal") };
        assert!(text.contains("all 2 KV caches"), "{text}");
        for position in 0..2 {
            for request in [1, 2] {
                coordinator.send(request, 0, position as u32, &rows(position, 1)).await;
                let Said::Rows(_, got) = coordinator.hear().await else { panic!("no rows") };
                assert!(got == wanted[position * WIDTH..(position + 1) * WIDTH]);
            }
        }
        coordinator.say(&Control::Close { request: 1 }).await;
        assert_eq!(coordinator.hear().await, Said::Closed { request: 1 });
        coordinator.open(3, 0, Codec::Q8).await;
        coordinator.send(3, 0, 0, &rows(0, 1)).await;
        let Said::Rows(header, _) = coordinator.hear().await else { panic!("no rows") };
        assert_eq!(header.codec, Codec::Q8);
    });
}

#[test]
fn a_new_route_keeps_the_cache_and_frames_of_the_old_one_are_dropped() {
    converse(async |coordinator, shelf| {
        coordinator.loaded(shelf).await;
        let wanted = computed(shelf, 3);
        coordinator.open(7, 0, Codec::F32).await;
        coordinator.send(7, 0, 0, &rows(0, 2)).await;
        coordinator.hear().await;
        coordinator.open(7, 1, Codec::F32).await;
        coordinator.send(7, 0, 2, &rows(2, 1)).await;
        coordinator.send(7, 1, 2, &rows(2, 1)).await;
        let Said::Rows(header, got) = coordinator.hear().await else { panic!("no rows") };
        assert_eq!((header.epoch, header.position), (1, 2));
        assert!(got == wanted[2 * WIDTH..]);
    });
}

#[test]
fn what_it_cannot_take_it_refuses_by_name_and_goes_on() {
    converse(async |coordinator, shelf| {
        coordinator.announce(shelf).await;
        let Said::Profile { memory_bytes } = coordinator.hear().await else { panic!("no profile") };
        assert!(memory_bytes > shelf.block.len() as u64 && memory_bytes < 1 << 18);
        for (generation, (first, end, slots), says) in [
            (1, (0, 2, 1), "neither embedding nor head"),
            (2, (1, 4, 1), "neither embedding nor head"),
            (3, (1, 3, 8), "bytes, this node has"),
            (4, (2, 3, 1), "SHA-256"),
            (5, (1, 2, 9), "9 requests at a time"),
            (6, (3, 2, 1), "no range"),
        ] {
            coordinator.assign(generation, first, end, slots).await;
            let Said::Unable(text) = coordinator.hear().await else { panic!("it took {first}..{end}") };
            assert!(text.contains(says), "{text}");
        }
        // An assignment of an older generation is no news.
        coordinator.assign(3, 1, 2, 1).await;
        coordinator.assign(9, 1, 2, 1).await;
        assert_eq!(coordinator.hear().await, Said::Loaded { generation: 9, slots: 1 });
        coordinator.send(5, 0, 0, &rows(0, 1)).await;
        let Said::Failed { request: 5, text } = coordinator.hear().await else { panic!("no refusal") };
        assert!(text.contains("not open"), "{text}");
        coordinator.open(5, 0, Codec::F32).await;
        for (position, count, says) in
            [(1, 1, "holds 0"), (62, 4, "holds 0"), (0, 4, ""), (2, 4, ""), (61, 4, "holds 6")]
        {
            coordinator.send(5, 0, position, &rows(0, count)).await;
            match coordinator.hear().await {
                Said::Failed { text, .. } => assert!(!says.is_empty() && text.contains(says), "{text}"),
                Said::Rows(..) => assert_eq!(says, ""),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_message_that_no_node_takes_ends_the_conversation() {
    let shelf_free = |message: fn() -> Control<'static>| {
        converse(async move |coordinator, shelf| {
            coordinator.announce(shelf).await;
            coordinator.hear().await;
            coordinator.say(&message()).await;
        })
    };
    let assigned_first = converse(async |coordinator, _| {
        coordinator.flush().await;
        coordinator.assign(1, 1, 2, 1).await;
    });
    assert!(matches!(assigned_first, Ended::Unexpected(_)), "{assigned_first:?}");
    let hello = || {
        Control::Hello(Hello {
            minor_min: 0,
            minor_max: 0,
            role: Role::Coordinator,
            flags: 0,
            codecs: 7,
            max_payload: 1 << 16,
            max_rows: 1,
            credit: 1,
            model: [0; 32],
            key: [0; 32],
            nonce: [0; 32],
            agent: "again",
        })
    };
    assert!(matches!(shelf_free(hello), Ended::Session(_)));
}
