//! The program as a user meets it: what it prints, where, and what it leaves behind.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Output, Stdio};

use crate::support::{Golden, Running, repository, syn1};

fn run(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    syn1(cache.path()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn generate_prints_the_golden_text_and_nothing_else_on_standard_output() {
    let golden = Golden::of("models/tiny-rust-docs");
    let case = golden.cases.iter().find(|case| case.prompt.as_deref() == Some("How do I use a HashMap?")).unwrap();
    let prompt = case.prompt.as_deref().unwrap();
    let args = ["generate", prompt, "--nodes", "2", "--max-tokens", "64", "--temperature", "0", "--device", "cpu"];
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), case.text.clone().unwrap() + "\n");
    let said = text(&output.stderr);
    assert!(said.contains("context 512 needs 4.2 MB of KV on 2 nodes\n"), "{said}");
    assert!(said.contains("64 tokens on 2 nodes"), "{said}");
}

#[test]
fn json_has_every_promised_field() {
    let golden = Golden::of("fixtures/gpt2");
    let case = &golden.cases[1];
    let ids = case.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let model = repository("fixtures/gpt2");
    let model = model.to_str().unwrap();
    let args = ["generate", "--ids", &ids, "--model", model, "--nodes", "3", "--device", "cpu", "--temperature", "0"];
    let more = ["--max-tokens", "24", "--ignore-eos", "--wire", "f32", "--json"];
    let output = run(&[&args[..], &more].concat());
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["prompt_ids"], serde_json::json!(case.ids));
    assert_eq!(report["ids"], serde_json::json!(case.greedy));
    assert!(report["text"].is_null());
    assert!(report["timings"]["first_token_ms"].as_f64().unwrap() > 0.0);
    let layers = report["nodes"].as_array().unwrap().iter().map(|node| node["layers"].clone());
    let mut layers: Vec<_> = layers.map(|layers| layers[1].as_u64().unwrap() - layers[0].as_u64().unwrap()).collect();
    layers.sort_unstable();
    assert_eq!((layers.len(), layers.iter().sum::<u64>()), (3, 4));

    // Each position crosses two boundaries there and back, comes in as an id, and goes out as one candidate.
    let positions = (case.ids.len() + case.greedy.len() - 1) as u64;
    let activations = positions * 96 * 4 * 4;
    let wire = &report["wire"];
    let frames = wire["frames"].as_u64().unwrap();
    let outputs = case.greedy.len() as u64 * 16;
    assert_eq!(wire["bytes"].as_u64().unwrap(), frames * 24 + positions * 4 + activations + outputs);
}

#[test]
fn one_device_and_a_chain_write_the_same_greedy_text_and_end_it_alike() {
    let report = |args: &[&str], more: &[&str]| -> serde_json::Value {
        let fixed = ["generate", "--temperature", "0", "--device", "cpu", "--json"];
        let output = run(&[&fixed[..], args, more].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    for args in [
        &["How do I use a HashMap?", "--max-tokens", "40"][..],
        &["A workspace", "--stop", "Package"],
        &["fn main", "--context", "24", "--max-tokens", "100", "--ignore-eos"],
        &["# Ownership", "--max-tokens", "1"],
        &["--ids", "5", "--max-tokens", "300"],
    ] {
        let (alone, chain) = (report(args, &[]), report(args, &["--nodes", "2", "--wire", "f32"]));
        for same in ["prompt_ids", "ids", "text", "completion", "finish"] {
            assert_eq!(alone[same], chain[same], "{args:?} {same}");
        }
        assert_eq!((&alone["by"], &chain["by"]), (&"device".into(), &"coordinator".into()));
        assert!(alone["device"].as_str().unwrap().starts_with("cpu ("), "{alone}");
        assert!(alone["wire"].is_null() && alone["nodes"].as_array().unwrap().is_empty(), "{alone}");
        let times = ["first_token_ms", "compute_ms", "total_ms"].map(|name| alone["timings"][name].as_f64().unwrap());
        assert!(0.0 < times[0] && times[0] <= times[2] && 0.0 < times[1] && times[1] <= times[2], "{alone}");
    }
}

#[test]
fn what_the_device_cannot_draw_is_drawn_by_a_coordinator_and_said() {
    for (option, value) in [("--min-p", "0.05"), ("--repetition-penalty", "1.2")] {
        let args = ["generate", "fn main", "--max-tokens", "4", "--device", "cpu", "--json", option, value];
        let output = run(&args);
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["by"], report["nodes"].as_array().unwrap().len()), (&"coordinator".into(), 1));
        assert!(text(&output.stderr).contains("the device's own sampler cannot do what is asked"), "{output:?}");
    }
    let alone = run(&["generate", "fn main", "--max-tokens", "4", "--device", "cpu", "--speculate", "4"]);
    let said = text(&alone.stderr);
    assert!(said.starts_with("one device for the whole model") && said.contains("nothing is guessed ahead"), "{said}");
}

#[test]
fn a_stop_string_ends_the_text_in_front_of_it() {
    let args = ["generate", "A workspace", "--temperature", "0", "--device", "cpu", "--stop", "Package"];
    let output = run(&args);
    assert_eq!(text(&output.stdout), "A workspace\n\n## Summary\n\n- [\n");
}

#[test]
fn a_seed_gives_the_same_text_again() {
    let args = ["generate", "fn main", "--seed", "5", "--max-tokens", "24", "--device", "cpu", "--temperature", "1"];
    let (first, second) = (run(&args), run(&args));
    assert!(first.status.success() && first.stdout == second.stdout, "{first:?} {second:?}");
    let full = [&args[..], &["--top-k", "0", "--top-p", "1"]].concat();
    assert!(run(&full).status.success());
}

#[test]
fn the_demo_ends_without_a_complaint() {
    let output = run(&["demo", "--once", "--max-tokens", "8", "--seed", "1", "--device", "cpu"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("# Ownership"));
    let complaints = said.lines().filter(|line| line.contains("error") && !line.contains("XDG_RUNTIME_DIR"));
    assert_eq!(complaints.count(), 0, "{said}");
    assert!(said.contains("needs 16.8 MB of KV on 2 nodes (4 requests at a time, 4.2 MB each)\n"), "{said}");
    assert!(said.contains("ready: a token went through every layer"), "{said}");
}

#[test]
fn the_demo_prints_one_object_as_json() {
    let output = run(&["demo", "--once", "--json", "--max-tokens", "4", "--device", "cpu", "--threads", "1"]);
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ids"].as_array().unwrap().len(), 4);
    assert_eq!(report["nodes"].as_array().unwrap().len(), 2);
    assert!(report["text"].as_str().unwrap().starts_with("# Ownership"));
    assert!(text(&output.stderr).contains("computing on the CPU, 1 thread\n"), "{output:?}");
}

#[test]
fn strangers_on_the_node_port_do_not_end_the_demo() {
    let cache = tempfile::tempdir().unwrap();
    let mut demo = syn1(cache.path());
    demo.args(["demo", "--once", "--max-tokens", "2", "--device", "cpu"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut demo = Running(demo.spawn().unwrap());
    let lines = BufReader::new(demo.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = String::new();
    for line in lines {
        if let Some((_, address)) = line.split_once("nodes join at tcp://") {
            for _ in 0..10 {
                drop(TcpStream::connect(address).unwrap());
            }
        }
        said += &(line + "\n");
    }
    assert!(demo.0.wait().unwrap().success(), "{said}");
    let (stranger, ready) = (said.find("was turned away"), said.find("ready: a token"));
    assert!(stranger.is_some() && stranger < ready, "{said}");
}

#[test]
fn the_device_and_the_seed_of_a_sampled_text_are_told() {
    let sampled =
        run(&["generate", "fn main", "--max-tokens", "2", "--device", "cpu", "--threads", "1", "--seed", "77"]);
    let said = text(&sampled.stderr);
    assert!(said.contains("computing on the CPU, 1 thread\n") && said.contains(", seed 77]"), "{said}");
    let greedy = run(&["generate", "fn main", "--max-tokens", "2", "--device", "cpu", "--temperature", "0"]);
    assert!(!text(&greedy.stderr).contains("seed"), "{greedy:?}");
}

#[test]
fn the_weights_of_a_split_folder_are_taken_as_they_are_unless_others_are_demanded() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (repository("fixtures/gpt2"), folder.path().join("out"));
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let split = run(&["split", "--model", model, "--out", out, "--weights", "f32"]);
    assert!(split.status.success(), "{split:?}");
    let generate = ["generate", "--ids", "1,2", "--max-tokens", "2", "--device", "cpu", "--model", out];
    let as_it_is = run(&generate);
    assert!(as_it_is.status.success(), "{as_it_is:?}");
    let other = run(&[&generate[..], &["--weights", "f16"]].concat());
    assert!(text(&other.stderr).contains("is split with f32 weights: use --weights f32"), "{other:?}");
}

#[test]
fn a_split_tells_its_size_its_fidelity_and_what_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let split = ["split", "--weights", "int8", "--out", out.to_str().unwrap()];
    let (first, again) = (run(&split), run(&[&split[..], &["--json"]].concat()));
    let said = text(&first.stdout);
    assert!(said.contains("tiny-rust-docs: 11 pieces of int8 weights, "), "{first:?}");
    assert!(said.contains(" bits a weight, SQNR 4") && said.contains("peak memory "), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let manifest = std::fs::read(out.join("syn1.json")).unwrap();
    assert_eq!(report["manifest"], serde_json::from_slice::<serde_json::Value>(&manifest).unwrap());
    assert!((8.5..9.5).contains(&report["bits_per_weight"].as_f64().unwrap()), "{report}");
    let (worst, mean) = (&report["sqnr_db"]["worst"], &report["sqnr_db"]["mean"]);
    assert!(worst.as_f64().unwrap() <= mean.as_f64().unwrap(), "{report}");
    assert_eq!(report["peak_memory_bytes"].as_u64().is_some(), cfg!(target_os = "linux"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = syn1(cache.path());
    command.args(["generate", "fn main", "--max-tokens", "4", "--device", "cpu"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("error: ") && !line.contains("XDG_RUNTIME_DIR")), "{said}");
}

#[test]
fn a_name_cannot_reach_into_the_terminal_of_others() {
    let cache = tempfile::tempdir().unwrap();
    let mut coordinator = syn1(cache.path());
    coordinator.args(["coordinator", "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let mut coordinator = Running(coordinator.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(coordinator.0.stdout.take().unwrap()).lines();
    let join = lines.map_while(Result::ok).find_map(|line| {
        let (address, _) = line.split_once("--join ")?.1.split_once(' ')?;
        Some(address.to_owned())
    });
    let join = join.unwrap();
    let mut node = syn1(cache.path());
    node.args(["node", "--once", "--quiet", "--device", "cpu", "--join", &join, "--name", "\u{1b}[31mred"]);
    let _node = Running(node.spawn().unwrap());
    let mut said = BufReader::new(coordinator.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let joined = said.find(|line| line.contains(" joined: ")).unwrap();
    assert!(joined.contains("[31mred joined: ") && !joined.contains(char::is_control), "{joined:?}");
}
