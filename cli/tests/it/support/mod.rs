//! A swarm in the test's process, and the program as a user starts it.

pub(crate) mod chat_model;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use syn1_coordinator::access::Access;
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::request::Generate;
use syn1_coordinator::sample::Sampling;
use syn1_coordinator::server::{Generation, Server, ServerConfig};
use syn1_coordinator::update::{Finished, Update};
use syn1_coordinator::wire::Wire;
use syn1_core::Form;
use syn1_identity::{Key, Keys};
use syn1_model::folder::ModelFolder;
use syn1_model::manifest::Manifest;
use syn1_model::plan::WeightFormat;
use syn1_model::split::split;
use syn1_node_host::{DeviceChoice, HostConfig, Trust};
use tokio::sync::oneshot;

/// A folder of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// What transformers says of a model.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) ids: Vec<u32>,
    pub(crate) prompt: Option<String>,
    pub(crate) text: Option<String>,
    #[serde(alias = "greedy_24", alias = "greedy_64")]
    pub(crate) greedy: Vec<u32>,
}

impl Golden {
    pub(crate) fn of(model: &str) -> Self {
        let text = std::fs::read_to_string(repository(model).join("golden.json")).expect("a golden.json");
        serde_json::from_str(&text).expect("a golden.json of the known form")
    }
}

/// A model split into a folder that lasts as long as this does.
pub(crate) struct Model {
    pub(crate) folder: ModelFolder,
    pub(crate) manifest: Manifest,
    pub(crate) shards: tempfile::TempDir,
    pub(crate) format: WeightFormat,
    /// For the servers that are started.
    pub(crate) prefix_cache: PrefixCache,
}

impl Model {
    pub(crate) fn split(model: &str, format: WeightFormat) -> Self {
        let dir = repository(model);
        let shards = tempfile::tempdir().expect("a folder");
        let manifest = split(&dir, shards.path(), format, &mut |_| {}).expect("a split");
        let folder = ModelFolder::open(&dir).expect("a model");
        Self { folder, manifest, shards, format, prefix_cache: PrefixCache::Own }
    }

    pub(crate) fn server(&self, policy: Policy, wire: Form, slots: usize) -> Server {
        self.server_for(policy, wire, slots, Vec::new())
    }

    /// A server that lets in the nodes with the keys of `allow`; any if there are none.
    pub(crate) fn server_for(&self, policy: Policy, wire: Form, slots: usize, allow: Vec<Key>) -> Server {
        self.server_with(policy, wire, slots, allow, Front::default(), Access::default())
    }

    /// The same, whose HTTP port meets the world so.
    pub(crate) fn server_with(
        &self,
        policy: Policy,
        wire: Form,
        slots: usize,
        allow: Vec<Key>,
        front: Front,
        access: Access,
    ) -> Server {
        let spec = self.folder.spec().clone();
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let core = CoreConfig {
            name: self.folder.name().to_owned(),
            max_positions: spec.max_positions,
            spec,
            format: self.format,
            manifest_sha256: *self.manifest.sha256().as_bytes(),
            smaller: Vec::new(),
            http_port: 0,
            policy,
            wire: Wire::everywhere(wire),
            slots,
            chunk: 16,
            relay_bytes: 16 << 20,
            prefix_cache: self.prefix_cache,
            tokenizer: self.folder.tokenizer().cloned(),
        };
        let shards = self.shards.path().to_owned();
        let keys = coordinator_keys();
        let pack = Arc::new(|format| Err(format!("{format} was not to be packed")));
        Server::start(ServerConfig {
            core,
            shards,
            pack,
            tcp: local,
            http: local,
            front,
            keys,
            allow,
            access,
            state: None,
        })
        .expect("free ports")
    }
}

/// What every node of these tests expects of its coordinator.
pub(crate) fn coordinator_keys() -> Keys {
    Keys::from_secret(&[1; 32])
}

/// A node in this process; it leaves when this is dropped.
pub(crate) struct Node {
    _stop: oneshot::Sender<()>,
}

impl Node {
    pub(crate) fn join(
        server: &Server,
        name: &str,
        device: &DeviceChoice,
        weights: Option<PathBuf>,
        cache: &Path,
    ) -> Self {
        let join = format!("tcp://{}", server.tcp());
        Self::start(node(&join, Trust::System, name, device, weights, cache))
    }

    pub(crate) fn start(config: HostConfig) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let name = config.name.clone();
        tokio::spawn(async move {
            if let Err(error) = syn1_node_host::serve(config, |_| {}, shutdown).await {
                eprintln!("{name}: {error}");
            }
        });
        Self { _stop: stop }
    }
}

/// A node that joins at an address.
pub(crate) fn node(
    join: &str,
    trust: Trust,
    name: &str,
    device: &DeviceChoice,
    weights: Option<PathBuf>,
    cache: &Path,
) -> HostConfig {
    HostConfig {
        join: join.parse().expect("an address"),
        trust,
        name: name.into(),
        keys: Keys::generate().expect("random numbers"),
        expect: Some(coordinator_keys().public()),
        device: device.clone(),
        threads: Some(2),
        tune: true,
        weights: weights.into_iter().collect(),
        cache: Some(cache.to_owned()),
        memory_limit_bytes: None,
        reconnect: false,
    }
}

pub(crate) async fn ready(server: &Server) {
    let begun = std::time::Instant::now();
    while !server.topology().ready {
        assert!(begun.elapsed() < PATIENCE, "not ready: {:?}", server.topology());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn greedy(prompt: &[u32], max_tokens: usize) -> Generate {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    Generate { prompt: prompt.to_vec(), max_tokens, sampling, stop: Vec::new(), ignore_eos: true, speculate: 0 }
}

/// All of an answer.
pub(crate) async fn collect(mut generation: Generation) -> Result<(Vec<u32>, String, Finished), String> {
    let (mut ids, mut answer) = (Vec::new(), String::new());
    loop {
        let update = tokio::time::timeout(PATIENCE, generation.next()).await.expect("an update in time");
        match update.expect("an end before the end of updates") {
            Update::Token { id, text, .. } => {
                ids.push(id);
                answer.push_str(&text);
            }
            Update::Finished(end) => {
                answer.push_str(&end.text);
                return Ok((ids, answer, end));
            }
            Update::Again => (ids, answer) = (Vec::new(), String::new()),
            Update::Failed(why) => return Err(why),
        }
    }
}

/// The program, with a cache of its own.
pub(crate) fn syn1(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syn1"));
    command.env("SYN1_CACHE", cache).env("SYN1_DATA", cache).current_dir(repository("."));
    command
}

/// A started program. Dropping it is `kill -9`: no goodbye, and nothing is left behind, also when a test fails.
pub(crate) struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a program that has ended, as it should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Far beyond what anything here takes; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
