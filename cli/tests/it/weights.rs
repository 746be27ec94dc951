//! How the weights are stored follows from the memory that nodes offer.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;

use crate::support::{Model, Running, collect, coordinator_keys, greedy, ready, repository, syn1};
use syn1_coordinator::access::Access;
use syn1_coordinator::core::CoreConfig;
use syn1_coordinator::front::Front;
use syn1_coordinator::placement::Policy;
use syn1_coordinator::prefix::PrefixCache;
use syn1_coordinator::server::{Packed, Server, ServerConfig};
use syn1_coordinator::update::Event;
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use syn1_model::plan::WeightFormat;
use syn1_model::split::split;
use syn1_node_host::{DeviceChoice, HostConfig, Trust};

#[test]
fn weights_that_do_not_fit_are_packed_smaller_and_the_text_is_that_of_the_smaller_ones() {
    let cache = tempfile::tempdir().unwrap();
    let mut coordinator = syn1(cache.path());
    coordinator.args(["coordinator", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    coordinator.args(["--weights", "auto", "--context", "64", "--slots", "1"]);
    let mut coordinator = Running(coordinator.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(coordinator.0.stdout.take().unwrap()).lines().map_while(Result::ok).take(3);
    let addresses: Vec<String> = lines.collect();
    let address = |before: &str| {
        let rest = addresses.iter().find_map(|line| Some(line.split_once(before)?.1)).unwrap();
        rest.split([' ', '/']).find(|part| !part.is_empty()).unwrap().to_owned()
    };
    let (join, http) = (format!("tcp://{}", address("tcp://")), address("http://"));

    // The bundled model takes 15 MB in f16 and 8 MB in int8.
    let mut node = syn1(cache.path());
    node.args(["node", "--quiet", "--device", "cpu", "--memory", "10", "--join", &join]);
    let _node = Running(node.spawn().unwrap());
    let lines = BufReader::new(coordinator.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    for line in lines {
        said += &(line + "\n");
        if said.contains("ready: a token") || said.contains("error") {
            break;
        }
    }
    assert!(
        said.contains("context 64 needs ") && said.contains("(f16), the node offers 10.0 MB: packing int8"),
        "{said}"
    );

    let topology =
        ureq::get(&format!("http://{http}/api/topology")).call().unwrap().body_mut().read_to_string().unwrap();
    let topology: serde_json::Value = serde_json::from_str(&topology).unwrap();
    assert_eq!(topology["weights"], "int8");
    let ask = serde_json::json!({ "prompt": "fn main", "max_tokens": 16, "sampling": { "temperature": 0.0 } });
    let post = ureq::post(&format!("http://{http}/api/generate")).header("content-type", "application/json");
    let answer = post.send(ask.to_string()).unwrap().body_mut().read_to_string().unwrap();
    let mut text = String::from("fn main");
    for line in answer.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        text += line["token"]["text"].as_str().or(line["finished"]["text"].as_str()).unwrap();
    }
    let mut generate = syn1(cache.path());
    generate.args(["generate", "fn main", "--max-tokens", "16", "--temperature", "0", "--device", "cpu"]);
    let alone = generate.args(["--weights", "int8"]).output().unwrap();
    assert_eq!(String::from_utf8(alone.stdout).unwrap(), text + "\n");
}

/// Two nodes in this process that find the smaller weights beside the ones that they began with.
#[tokio::test]
async fn nodes_with_weights_on_this_machine_take_the_smaller_ones_from_there() {
    let (model, cache) = (Model::split("models/tiny-rust-docs", WeightFormat::F16), tempfile::tempdir().unwrap());
    let smaller = cache.path().join("int4");
    let core = CoreConfig {
        name: "tiny".into(),
        spec: model.folder.spec().clone(),
        format: WeightFormat::F16,
        manifest_sha256: *model.manifest.sha256().as_bytes(),
        smaller: vec![WeightFormat::Int8, WeightFormat::Int4],
        http_port: 0,
        policy: Policy::Exactly(2),
        wire: Wire::everywhere(Form::plain(Codec::F32)),
        max_positions: 64,
        slots: 1,
        chunk: 16,
        relay_bytes: 16 << 20,
        prefix_cache: PrefixCache::Own,
        tokenizer: None,
    };
    let (shards, out) = (model.shards.path().to_owned(), smaller.clone());
    let pack = Arc::new(move |format| {
        let manifest =
            split(&repository("models/tiny-rust-docs"), &out, format, &mut |_| {}).map_err(|e| e.to_string())?;
        Ok(Packed { shards: out.clone(), manifest_sha256: *manifest.sha256().as_bytes() })
    });
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (keys, allow) = (coordinator_keys(), Vec::new());
    let server = Server::start(ServerConfig {
        core,
        shards,
        pack,
        tcp: local,
        http: local,
        front: Front::default(),
        keys,
        allow,
        access: Access::default(),
        state: None,
    })
    .unwrap();
    let mut events = server.events();
    for name in ["a", "b"] {
        let config = HostConfig {
            join: format!("tcp://{}", server.tcp()).parse().unwrap(),
            trust: Trust::System,
            name: name.into(),
            keys: Keys::generate().unwrap(),
            expect: None,
            device: DeviceChoice::Cpu,
            threads: Some(1),
            tune: true,
            weights: vec![model.shards.path().to_owned(), smaller.clone()],
            cache: Some(cache.path().join("cache")),
            // Either holds four layers in int4; in int8 both together hold five of the eight.
            memory_limit_bytes: Some(4_000_000),
            reconnect: false,
        };
        tokio::spawn(syn1_node_host::serve(config, |_| {}, std::future::pending()));
    }
    ready(&server).await;
    assert_eq!(server.topology().weights, WeightFormat::Int4);
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, Event::Loaded { fetched_bytes: 1.., .. }), "{event:?}");
    }
    let (ids, _, _) = collect(server.generate(greedy(&[1, 2, 3], 8)).unwrap()).await.unwrap();
    assert_eq!(ids.len(), 8);
}
