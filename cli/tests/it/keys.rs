//! Who may join whom, and that it is said.

use std::path::Path;

use crate::support::Model;
use syn1_coordinator::placement::Policy;
use syn1_core::{Codec, Form};
use syn1_identity::Keys;
use syn1_model::plan::WeightFormat;
use syn1_node_host::{DeviceChoice, HostConfig, Trust};

fn node(join: &str, cache: &Path) -> HostConfig {
    HostConfig {
        join: join.parse().unwrap(),
        trust: Trust::System,
        name: "stranger".into(),
        keys: Keys::generate().unwrap(),
        expect: None,
        device: DeviceChoice::Cpu,
        threads: Some(1),
        tune: true,
        weights: Vec::new(),
        cache: Some(cache.to_owned()),
        memory_limit_bytes: None,
        reconnect: true,
    }
}

#[tokio::test]
async fn a_node_that_is_turned_away_hears_why_every_time() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F32);
    let friend = Keys::generate().unwrap().public();
    let server = model.server_for(Policy::Auto, Form::plain(Codec::F32), 1, vec![friend]);
    let cache = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let config = node(&format!("tcp://{}", server.tcp()), cache.path());
        let key = config.keys.public().to_string();
        let error = syn1_node_host::serve(config, |_| {}, std::future::pending()).await.unwrap_err().to_string();
        assert!(error.contains("may not join") && error.contains(&key), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_expects_another_coordinator_leaves_with_its_key() {
    let model = Model::split("fixtures/gpt2", WeightFormat::F32);
    let server = model.server(Policy::Auto, Form::plain(Codec::F32), 1);
    let cache = tempfile::tempdir().unwrap();
    let config = node(&format!("tcp://{}", server.tcp()), cache.path());
    let config = HostConfig { expect: Some(Keys::generate().unwrap().public()), ..config };
    let error = syn1_node_host::serve(config, |_| {}, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains(&crate::support::coordinator_keys().public().to_string()), "{error}");
}
