//! The models' published outputs (transformers, f32).

use serde_json::Value;
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, Input, Step};
use syn1_kernels::gpu::GpuOptions;
use syn1_model::plan::WeightFormat;

use crate::setup::*;

/// Greedy ids identical, the last position's logits within a bound: 1e-3 in f32, 3e-3 in f16, whose keys and
/// values are rounded to f16 in the cache (the reference's are not).
fn check(path: &str, greedy_key: &str) {
    let folder = model(path);
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.path().join("golden.json")).unwrap()).unwrap();
    let device = device();
    for format in FORMATS {
        let bound = if format == WeightFormat::F32 { 1e-3 } else { 3e-3 };
        let (plan, pieces) = packed(&folder, format);
        for options in twins() {
            let mut engine = engine(&device, &plan, &pieces, options);
            let slot = engine.open().unwrap();
            // A software adapter is slow at barriers: the twin without subgroups proves itself on two prompts.
            let cases = golden["cases"].as_array().unwrap();
            let cases = if options.subgroups { &cases[..] } else { &cases[..2] };
            for (number, case) in cases.iter().enumerate() {
                let what = format!("{path}, case {number}, {format:?}, {options:?}");
                let prompt = numbers(&case["ids"]);
                let logits = feed(&mut engine, slot, 0, &prompt, prompt.len() - 1);
                let first = case["last_logits_first16"].as_array().unwrap();
                let near = |id: usize, want: &Value| {
                    let error = (f64::from(logits[id]) - want.as_f64().unwrap()).abs();
                    assert!(error <= bound, "{what}: logit {id} is {}, not {want}", logits[id]);
                };
                first.iter().enumerate().for_each(|(id, want)| near(id, want));
                for pair in case["last_logits_top"].as_array().unwrap() {
                    near(pair[0].as_u64().unwrap() as usize, &pair[1]);
                }
                let want = numbers(&case[greedy_key]);
                let got = greedy(&mut engine, slot, prompt.len() - 1, prompt[prompt.len() - 1], want.len());
                assert_eq!(got, want, "{what}");
            }
        }
    }
}

fn numbers(array: &Value) -> Vec<u32> {
    array.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn the_bundled_model_writes_what_its_publisher_says() {
    check("models/tiny-rust-docs", "greedy_64");
}

#[test]
fn grouped_weights_give_the_same_ids_as_on_the_cpu() {
    let device = device();
    for path in ["models/tiny-rust-docs", "fixtures/gemma3", "fixtures/llama3", "fixtures/qwen2"] {
        let folder = model(path);
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let (plan, pieces) = packed(&folder, format);
            let config = config(&plan.spec);
            let mut gpu = engine(&device, &plan, &pieces, GpuOptions::default());
            let mut cpu = CpuEngine::new(plan, &pieces, config, Some(2)).unwrap();
            let ids = [1, 5, 9, 13, 17, 21, 25];
            let (slot, mut unused) = (cpu.open().unwrap(), Vec::new());
            let prompt = Step { slot, position: 0, input: Input::Tokens(&ids), wanted: ids.len() };
            pollster::block_on(cpu.run(prompt, &mut unused)).unwrap();
            let want = decode(&mut cpu, Decode::greedy(slot, 6, 25, 24)).unwrap();
            let slot = gpu.open().unwrap();
            feed(&mut gpu, slot, 0, &ids, ids.len());
            assert_eq!(greedy(&mut gpu, slot, 6, 25, 24), want, "{path} {format}");
        }
    }
}

/// One test for each fixture, so that they run side by side.
macro_rules! fixtures {
    ($($name:ident: $folder:literal),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(concat!("fixtures/", $folder), "greedy_24");
        })*

        #[test]
        fn no_fixture_is_without_its_test() {
            let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
            let entries = std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap());
            for entry in entries.filter(|entry| entry.path().join("config.json").is_file()) {
                let name = entry.file_name();
                assert!([$($folder),*].iter().any(|folder| name == *folder), "{name:?}");
            }
        }
    };
}

fixtures! {
    the_gemma2_fixture_gives_its_golden_ids_and_logits: "gemma2",
    the_gemma3_fixture_gives_its_golden_ids_and_logits: "gemma3",
    the_gpt2_fixture_gives_its_golden_ids_and_logits: "gpt2",
    the_llama_fixture_gives_its_golden_ids_and_logits: "llama",
    the_llama3_fixture_gives_its_golden_ids_and_logits: "llama3",
    the_mistral_fixture_gives_its_golden_ids_and_logits: "mistral",
    the_phi3_fixture_gives_its_golden_ids_and_logits: "phi3",
    the_qwen2_fixture_gives_its_golden_ids_and_logits: "qwen2",
    the_qwen3_fixture_gives_its_golden_ids_and_logits: "qwen3",
    the_smollm3_fixture_gives_its_golden_ids_and_logits: "smollm3",
}
