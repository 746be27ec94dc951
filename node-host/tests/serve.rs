//! A whole node on this machine against a scripted coordinator: real TCP, real HTTP, the CPU engine on random weights.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use syn1_core::control::{Assign, Bye, Hello, Model, Open, Output};
use syn1_core::limits::MAX_CONTROL;
use syn1_core::{Codec, CodecSet, Control, Flags, Header, Kind, Limits, Link as _, Reason, Receive as _, Role};
use syn1_core::{LinkError as _, LinkErrorKind, Transmit as _};
use syn1_identity::Keys;
use syn1_model::manifest::Origin;
use syn1_model::{Digest, Manifest, ManifestPiece, Spec, WeightFormat, all_pieces, random_piece};
use syn1_node_host::{DeviceChoice, HostConfig, HostError, HostEvent, Trust, serve};
use syn1_transport_tcp::{TcpLink, TcpRx, TcpTx};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tower_http::services::ServeFile;

#[tokio::test]
async fn a_node_fetches_its_shard_serves_it_and_comes_back_with_its_cache() {
    let mut stage = Stage::new().await;
    let mut node = stage.node(|_| {});
    let mut peer = stage.accept().await;
    let loaded = peer.assign(&stage, 0..2).await;
    let all: u64 = stage.manifest.total_bytes();
    assert!(loaded.contains(&format!("Loaded {{ generation: 1, fetched_bytes: {all},")), "{loaded}");
    let open = Open { request: 1, epoch: 0, codec: Codec::F32 as u8, flags: 0, output: Output::Top(3), wanted_from: 0 };
    peer.tell(&Control::Open(open)).await;
    peer.tx.send(&Header::tokens(1, 0, 0, 1), &[5, 0, 0, 0]).await.unwrap();
    assert_eq!(peer.recv().await, format!("{:?}", Kind::Output));
    drop(peer);

    let mut peer = stage.accept().await;
    let loaded = peer.assign(&stage, 0..2).await;
    assert!(loaded.contains("fetched_bytes: 0,"), "{loaded}");
    peer.tell(&Control::Bye(Bye { reason: Reason::Refused, text: "the swarm is full" })).await;
    let err = node.ended().await.unwrap_err();
    assert!(matches!(err, HostError::Unwanted { .. }) && err.to_string().contains("the swarm is full"), "{err}");
    assert!(node.events().iter().any(|event| matches!(event, HostEvent::Retrying { .. })));
}

#[tokio::test]
async fn what_an_earlier_run_has_fetched_of_a_piece_is_not_fetched_again() {
    let mut stage = Stage::new().await;
    let piece = &stage.manifest.pieces[0];
    let bytes = std::fs::read(stage.dir.path().join(piece.file_name())).unwrap();
    let pieces = stage.cache.path().join("pieces");
    std::fs::create_dir_all(&pieces).unwrap();
    std::fs::write(pieces.join(format!("{}.part", piece.sha256)), &bytes[..1000]).unwrap();
    let mut node = stage.node(|_| {});
    let mut peer = stage.accept().await;
    let loaded = peer.assign(&stage, 0..2).await;
    let rest = stage.manifest.total_bytes() - 1000;
    assert!(loaded.contains(&format!("fetched_bytes: {rest},")), "{loaded}");
    node.stop();
    node.ended().await.unwrap();
}

#[tokio::test]
async fn a_stopped_node_says_goodbye() {
    let mut stage = Stage::new().await;
    let mut node = stage.node(|_| {});
    let mut peer = stage.accept().await;
    peer.assign(&stage, 1..2).await;
    node.stop();
    assert!(peer.recv().await.contains("reason: Shutdown"));
    node.ended().await.unwrap();
}

#[tokio::test]
async fn work_that_is_done_is_no_error() {
    let mut stage = Stage::new().await;
    let mut node = stage.node(|_| {});
    let mut peer = stage.accept().await;
    peer.tell(&Control::Bye(Bye { reason: Reason::Done, text: "done" })).await;
    node.ended().await.unwrap();
}

#[tokio::test]
async fn local_weights_of_another_model_are_named_and_the_node_stays() {
    let mut stage = Stage::new().await;
    let other = tempfile::tempdir().unwrap();
    write_model(other.path(), 2);
    let weights = other.path().to_owned();
    let mut node = stage.node(|config| config.weights = vec![weights]);
    let mut peer = stage.accept().await;
    let unable = peer.assign(&stage, 0..2).await;
    assert!(unable.contains("Unable") && unable.contains("not what the coordinator serves"), "{unable}");
    node.stop();
    node.ended().await.unwrap();
}

#[tokio::test]
async fn local_weights_are_taken_from_their_folder() {
    let mut stage = Stage::new().await;
    let weights = stage.dir.path().to_owned();
    let mut node = stage.node(|config| config.weights = vec![weights]);
    let mut peer = stage.accept().await;
    let loaded = peer.assign(&stage, 0..2).await;
    assert!(loaded.contains("Loaded") && loaded.contains("fetched_bytes: 0,"), "{loaded}");
    node.stop();
    node.ended().await.unwrap();
}

#[tokio::test]
async fn pieces_without_a_manifest_are_taken_from_their_folder_and_the_others_are_fetched() {
    let mut stage = Stage::new().await;
    let some = tempfile::tempdir().unwrap();
    let pieces = &stage.manifest.pieces;
    for piece in [&pieces[0], &pieces[2], &pieces[3]] {
        std::fs::copy(stage.dir.path().join(piece.file_name()), some.path().join(piece.file_name())).unwrap();
    }
    // One of the three is damaged.
    std::fs::write(some.path().join(pieces[3].file_name()), vec![1; pieces[3].bytes as usize]).unwrap();
    let rest = stage.manifest.total_bytes() - pieces[0].bytes - pieces[2].bytes;
    let weights = some.path().to_owned();
    let mut node = stage.node(|config| config.weights = vec![weights]);
    let mut peer = stage.accept().await;
    let loaded = peer.assign(&stage, 0..2).await;
    assert!(loaded.contains("Loaded") && loaded.contains(&format!("fetched_bytes: {rest},")), "{loaded}");
    node.stop();
    node.ended().await.unwrap();
    let told = |event: &HostEvent| matches!(event, HostEvent::Notice(text) if text.contains("is damaged"));
    assert!(node.events().iter().any(told));
}

#[tokio::test]
async fn a_shard_beyond_the_memory_limit_is_declined_with_both_numbers() {
    let mut stage = Stage::new().await;
    let mut node = stage.node(|config| config.memory_limit_bytes = Some(1000));
    let mut peer = stage.accept().await;
    let unable = peer.assign(&stage, 0..2).await;
    assert!(unable.contains("Unable") && unable.contains("this node offers 1000"), "{unable}");
    node.stop();
    node.ended().await.unwrap();
}

#[tokio::test]
async fn a_first_connection_that_fails_ends_the_node_with_its_cause() {
    let stage = Stage::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let err = stage.node(|config| config.join = format!("tcp://{closed}").parse().unwrap()).ended().await.unwrap_err();
    assert!(matches!(err, HostError::Refused(_)), "{err}");
    assert!(err.to_string().contains(&format!("nothing listens at tcp://{closed}")), "{err}");
    let nowhere = "tcp://no-such-host.invalid:1".parse().unwrap();
    let err = stage.node(|config| config.join = nowhere).ended().await.unwrap_err();
    assert!(err.to_string().starts_with("cannot resolve no-such-host.invalid"), "{err}");
}

#[tokio::test]
async fn a_coordinator_of_another_major_is_named_and_not_tried_again() {
    let stage = Stage::new().await;
    let mut node = stage.node(|_| {});
    let (mut stream, _) = stage.tcp.accept().await.unwrap();
    let mut header = Header::control(8).emit();
    header[3] = b'2';
    stream.write_all(&header).await.unwrap();
    let err = node.ended().await.unwrap_err().to_string();
    assert_eq!(err, "the coordinator speaks SYN2, this node speaks SYN1: update the older one");
    let mut seen = [0; 4];
    stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"SYN1");
}

#[tokio::test]
async fn a_manifest_other_than_announced_is_refused() {
    let mut stage = Stage::new().await;
    let mut node = stage.node(|_| {});
    stage.manifest.name = "another".to_owned();
    let mut peer = stage.accept().await;
    let bye = peer.recv().await;
    assert!(bye.contains("Bye") && bye.contains("the coordinator announced"), "{bye}");
    let err = node.ended().await.unwrap_err().to_string();
    assert!(err.contains(&stage.manifest.sha256().to_string()), "{err}");
}

/// A coordinator's two ports, and the model behind them.
struct Stage {
    dir: tempfile::TempDir,
    cache: tempfile::TempDir,
    manifest: Manifest,
    tcp: TcpListener,
    http_port: u16,
}

impl Stage {
    async fn new() -> Self {
        let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let manifest = write_model(dir.path(), 1);
        let file = |name: &str| ServeFile::new(dir.path().join(name));
        let mut router = Router::new().route_service("/shards/manifest.json", file(Manifest::FILE));
        for piece in &manifest.pieces {
            router = router.route_service(&format!("/shards/{}", piece.sha256), file(&piece.file_name()));
        }
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http_port = http.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(http, router).await });
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { dir, cache, manifest, tcp, http_port }
    }

    fn node(&self, change: impl FnOnce(&mut HostConfig)) -> Node {
        let mut config = HostConfig {
            join: format!("tcp://{}", self.tcp.local_addr().unwrap()).parse().unwrap(),
            trust: Trust::System,
            name: "testbench".into(),
            keys: Keys::from_secret(&[3; 32]),
            expect: None,
            device: DeviceChoice::Cpu,
            threads: Some(1),
            tune: true,
            weights: Vec::new(),
            cache: Some(PathBuf::from(self.cache.path())),
            memory_limit_bytes: None,
            reconnect: true,
        };
        change(&mut config);
        let (tell, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            // A test that forgets its node does not stop it.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let tell = move |event| drop(tell.send(event));
        Node { task: Some(tokio::spawn(serve(config, tell, shutdown))), stop: Some(stop), events }
    }

    /// The next connection, after Hello, Model and Profile.
    async fn accept(&mut self) -> Peer {
        let (stream, _) = tokio::time::timeout(PATIENCE, self.tcp.accept()).await.unwrap().unwrap();
        let (rx, tx) = TcpLink::from_stream(stream, MAX_PAYLOAD).unwrap().split();
        let mut peer = Peer { rx, tx };
        peer.tell(&Control::Hello(Hello {
            minor_min: 0,
            minor_max: 0,
            role: Role::Coordinator,
            flags: 0,
            codecs: CodecSet::ACTIVATIONS.0,
            max_payload: MAX_PAYLOAD,
            max_rows: 16,
            credit: 0,
            model: [0; 32],
            key: [0; 32],
            nonce: [9; 32],
            agent: "script",
        }))
        .await;
        assert!(peer.recv().await.contains("Hello"));
        // It has a key, so it proves it, whoever asks.
        assert!(peer.recv().await.contains("Prove"));
        let Spec { layers, width, vocab, .. } = self.manifest.spec;
        let (width, vocab) = (width as u16, vocab as u32);
        peer.rx.set_limits(Limits { max_payload: MAX_PAYLOAD, max_rows: 16, width, vocab, flags: Flags::NONE });
        peer.tell(&Control::Model(Model {
            name: "tiny",
            manifest_sha256: self.manifest.sha256().0,
            http_port: self.http_port,
            width,
            vocab,
            layers: layers as u16,
        }))
        .await;
        peer
    }
}

/// A node that runs.
struct Node {
    task: Option<JoinHandle<Result<(), HostError>>>,
    stop: Option<oneshot::Sender<()>>,
    events: mpsc::UnboundedReceiver<HostEvent>,
}

impl Node {
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(&mut self) -> Result<(), HostError> {
        tokio::time::timeout(PATIENCE, self.task.take().unwrap()).await.unwrap().unwrap()
    }

    fn events(&mut self) -> Vec<HostEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// The coordinator's end of a connection.
struct Peer {
    rx: TcpRx,
    tx: TcpTx,
}

impl Peer {
    /// Waits for the Profile, assigns, and gives the node's answer.
    async fn assign(&mut self, stage: &Stage, layers: std::ops::Range<u16>) -> String {
        let profile = self.recv().await;
        assert!(profile.contains("Profile") && profile.contains("testbench") && profile.contains("cpu"), "{profile}");
        assert!(usize::from(layers.end) <= stage.manifest.spec.layers);
        let (first_layer, end_layer) = (layers.start, layers.end);
        let assign = Assign { generation: 1, first_layer, end_layer, max_positions: 32, slots: 1, max_rows: 8 };
        self.tell(&Control::Assign(assign)).await;
        self.recv().await
    }

    async fn tell(&mut self, control: &Control<'_>) {
        let mut payload = [0; MAX_CONTROL as usize];
        let len = control.encode(&mut payload).unwrap();
        self.tx.send(&Header::control(len as u32), &payload[..len]).await.unwrap();
    }

    /// The next message in its debug form, or a data frame's kind. Pings and progress are passed over.
    async fn recv(&mut self) -> String {
        loop {
            match tokio::time::timeout(PATIENCE, self.rx.recv()).await.unwrap() {
                Ok(frame) if frame.header.kind != Kind::Control => return format!("{:?}", frame.header.kind),
                Ok(frame) => match Control::decode(frame.payload).unwrap() {
                    Control::Ping(_) | Control::Loading(_) => {}
                    control => return format!("{control:?}"),
                },
                Err(err) => {
                    assert_eq!(err.kind(), LinkErrorKind::Closed);
                    return "closed".to_owned();
                }
            }
        }
    }
}

/// A split model of random weights.
fn write_model(folder: &Path, seed: u64) -> Manifest {
    let spec = Spec {
        layers: 2,
        width: 32,
        heads: 2,
        kv_heads: 2,
        head_dim: 16,
        ffn: 64,
        vocab: 97,
        max_positions: 32,
        eos: vec![0],
        ..Spec::gpt2_124m()
    };
    let format = WeightFormat::F16;
    let pieces = all_pieces(&spec, format).into_iter().map(|piece| {
        let bytes = random_piece(&spec, format, piece, seed);
        let (sha256, len) = (Digest::of(bytes.as_slice()), bytes.as_slice().len() as u64);
        let listed = ManifestPiece { name: piece.to_string(), sha256, bytes: len, sqnr_db: None };
        std::fs::write(folder.join(listed.file_name()), bytes.as_slice()).unwrap();
        listed
    });
    let pieces = pieces.collect();
    let origin = Origin { config_sha256: Digest::of(b"{}"), files: Vec::new(), calibration: None };
    let (version, name) = (Manifest::VERSION, "tiny".into());
    let manifest = Manifest { version, name, spec, format, origin, pieces, tokenizer: false };
    std::fs::write(folder.join(Manifest::FILE), manifest.to_bytes()).unwrap();
    manifest
}

const MAX_PAYLOAD: u32 = 1 << 20;
/// Long enough for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);
