//! Any cut of the model, on either engine, gives the tokens that transformers gives.

use crate::support::{Golden, Model, Node, collect, greedy, ready};
use syn1_coordinator::placement::Policy;
use syn1_core::{Codec, Form};
use syn1_model::ModelFolder;
use syn1_model::plan::WeightFormat;
use syn1_node_host::DeviceChoice;

/// Every golden prompt on `counts` nodes each, all at the same time as far as there are slots.
async fn every_prompt(model: &str, format: WeightFormat, device: DeviceChoice, counts: &[usize], wires: &[Form]) {
    let (golden, split) = (Golden::of(model), Model::split(model, format));
    let cache = tempfile::tempdir().unwrap();
    for &nodes in counts {
        for &wire in wires {
            let server = split.server(Policy::Exactly(nodes), wire, 4);
            let weights = Some(split.shards.path().to_owned());
            let join = |number| Node::join(&server, &format!("node-{number}"), &device, weights.clone(), cache.path());
            let _nodes: Vec<Node> = (1..=nodes).map(join).collect();
            ready(&server).await;
            let asked: Vec<_> = golden
                .cases
                .iter()
                .map(|case| server.generate(greedy(&case.ids, case.greedy.len())).unwrap())
                .collect();
            for (case, generation) in golden.cases.iter().zip(asked) {
                let (ids, text, _) = collect(generation).await.unwrap();
                assert_eq!(ids, case.greedy, "{model} {nodes} nodes, wire {wire:?}, prompt {:?}", case.ids);
                if let (Some(prompt), Some(whole)) = (&case.prompt, &case.text) {
                    assert_eq!(prompt.clone() + &text, *whole);
                }
            }
        }
    }
}

/// A random model of the repository.
struct Fixture {
    folder: String,
    layers: usize,
}

impl Fixture {
    /// All of them.
    fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(crate::support::repository("fixtures")).unwrap().map(|entry| entry.unwrap());
        let fixture = |entry: std::fs::DirEntry| {
            let layers = ModelFolder::open(&entry.path()).unwrap().spec().layers;
            Self { folder: format!("fixtures/{}", entry.file_name().display()), layers }
        };
        entries.filter(|entry| entry.path().join("config.json").is_file()).map(fixture).collect()
    }
}

const WIRES: [Form; 2] = [Form::plain(Codec::F32), Form::plain(Codec::F16)];

fn software_gpu() -> DeviceChoice {
    DeviceChoice::Adapter("llvmpipe".into())
}

#[tokio::test]
async fn the_bundled_model_on_the_cpu() {
    every_prompt("models/tiny-rust-docs", WeightFormat::F16, DeviceChoice::Cpu, &[1, 2, 3, 8], &WIRES).await;
}

#[tokio::test]
async fn the_bundled_model_on_the_cpu_with_f32_weights() {
    every_prompt("models/tiny-rust-docs", WeightFormat::F32, DeviceChoice::Cpu, &[2], &WIRES).await;
}

#[tokio::test]
async fn every_random_model_on_the_cpu() {
    for fixture in Fixture::all() {
        for format in [WeightFormat::F16, WeightFormat::F32] {
            every_prompt(&fixture.folder, format, DeviceChoice::Cpu, &[1, 2, fixture.layers], &WIRES).await;
        }
    }
}

#[tokio::test]
async fn the_bundled_model_on_software_vulkan_gpu() {
    every_prompt("models/tiny-rust-docs", WeightFormat::F16, software_gpu(), &[1, 2, 3, 8], &WIRES).await;
}

#[tokio::test]
async fn every_random_model_on_software_vulkan_gpu() {
    for fixture in Fixture::all() {
        every_prompt(&fixture.folder, WeightFormat::F32, software_gpu(), &[1, 2, fixture.layers], &WIRES).await;
        every_prompt(&fixture.folder, WeightFormat::F16, software_gpu(), &[2], &WIRES[1..]).await;
    }
}
