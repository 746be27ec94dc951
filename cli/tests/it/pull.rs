//! `syn1 pull` as a user meets it, against a hub on this machine.

#[path = "../../../hub/tests/support/mod.rs"]
mod hub;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{Golden, Running, repository, syn1};
use hub::{COMMIT, Fault, Hub, TOKEN};

const WEIGHTS: &str = "model.safetensors";

/// The program, for somebody whose hub this is.
fn program(hub: &Hub, home: &Path) -> Command {
    let mut command = syn1(home);
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", home.join("huggingface"));
    command
}

fn run(hub: &Hub, home: &Path, args: &[&str]) -> Output {
    program(hub, home).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the program says when it fails.
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    text(&output.stderr)
}

/// That the model gives the golden ids.
fn is_golden(hub: &Hub, home: &Path, model: &str) {
    let golden = Golden::of("fixtures/llama");
    let case = &golden.cases[1];
    let ids = case.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let args = ["generate", "--ids", &ids, "--model", model, "--device", "cpu", "--temperature", "0"];
    let output = run(hub, home, &[&args[..], &["--max-tokens", "24", "--ignore-eos", "--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ids"], serde_json::json!(case.greedy));
}

#[test]
fn a_pulled_model_gives_the_golden_ids_by_its_folder_and_by_its_name() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    let output = run(&hub, home.path(), &["pull", "org/small"]);
    assert!(output.status.success(), "{output:?}");
    let folder = text(&output.stdout);
    let wanted = home.path().join("huggingface/hub/models--org--small/snapshots").join(COMMIT);
    assert_eq!(folder, format!("{}\n", wanted.display()));
    let said = text(&output.stderr);
    assert!(said.contains("3 files: 1.2 MB fetched") && said.contains("has no tokenizer.json"), "{said}");
    is_golden(&hub, home.path(), folder.trim_end());
    let asked = hub.seen().len();
    is_golden(&hub, home.path(), "org/small");
    is_golden(&hub, home.path(), &format!("org/small@{COMMIT}"));
    assert_eq!(hub.seen().len(), asked, "nothing is fetched but by pull");
}

#[test]
fn a_model_that_was_not_pulled_is_named_with_the_command_that_does_it() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    for command in [&["generate", "--ids", "1"][..], &["split", "--out", "nowhere"]] {
        let said = failure(&run(&hub, home.path(), &[command, &["--model", "org/small@v1"]].concat()));
        assert!(said.contains("there is no folder org/small@v1"), "{said}");
        assert!(said.contains("`syn1 pull org/small@v1`"), "{said}");
    }
    assert!(hub.seen().is_empty());
}

#[test]
fn json_has_every_promised_field_and_a_second_pull_fetches_nothing() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    let report = || -> serde_json::Value {
        let output = program(&hub, home.path()).env("HF_TOKEN", TOKEN).args(["pull", "org/small", "--json"]).output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    };
    hub.gate();
    let (first, second) = (report(), report());
    assert_eq!((&first["repo"], &first["commit"]), (&"org/small".into(), &COMMIT.into()));
    assert_eq!(first["files"], serde_json::json!(["config.json", "generation_config.json", WEIGHTS]));
    assert_eq!(first["unhashed"], serde_json::json!([]));
    assert!(Path::new(first["folder"].as_str().unwrap()).join(WEIGHTS).is_file());
    assert!(first["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!((&first["reused_bytes"], &second["fetched_bytes"]), (&0.into(), &0.into()));
    assert_eq!(first["fetched_bytes"], second["reused_bytes"]);
}

#[test]
fn layers_come_into_the_folder_that_is_named_and_it_is_said_what_was_not_checked() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    let out = home.path().join("part");
    let output = run(&hub, home.path(), &["pull", "org/small", "--layers", "1..3", "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), format!("{}\n", out.display()));
    assert!(text(&output.stderr).contains("SHA-256 cannot be checked"), "{output:?}");
    let size = fs::metadata(out.join(WEIGHTS)).unwrap().len();
    assert!(size < hub.bytes(WEIGHTS).len() as u64 / 2, "{size}");
    assert!(!home.path().join("huggingface").exists());

    // The pieces of the part are those of the whole, so a node may mix them with the coordinator's.
    let pieces = |model: &Path, layers: &str| -> serde_json::Value {
        let shards = home.path().join(format!("pieces-{}", model.file_name().unwrap().to_str().unwrap()));
        let [model, shards] = [model, &shards].map(|path| path.to_str().unwrap());
        let args = ["split", "--model", model, "--layers", layers, "--out", shards, "--json"];
        let output = run(&hub, home.path(), &args);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let part = pieces(&out, "1..3");
    assert_eq!(part.as_array().unwrap().len(), 2);
    assert_eq!(part, pieces(&repository("fixtures/llama"), "1..3"));
}

#[test]
fn a_web_server_and_a_folder_can_take_the_hub_s_place() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    let fixture = repository("fixtures/llama");
    for (name, from) in [("web", hub.web()), ("folder", fixture.to_str().unwrap().to_owned())] {
        let out = home.path().join(name);
        let output = run(&hub, home.path(), &["pull", "--from", &from, "--out", out.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stderr).contains("no hash is known of config.json"), "{output:?}");
        is_golden(&hub, home.path(), out.to_str().unwrap());
    }
}

#[test]
fn refusals_are_one_line_and_wrong_usage_is_told_from_failure() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    hub.gate();
    let said = failure(&run(&hub, home.path(), &["pull", "org/small"]));
    let error: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(error.len() == 1 && error[0].contains("licence") && error[0].contains("HF_TOKEN"), "{said}");
    let said = program(&hub, home.path()).env("HF_HUB_OFFLINE", "1").args(["pull", "org/small"]).output().unwrap();
    let asked = hub.seen().len();
    assert!(failure(&said).contains("HF_HUB_OFFLINE"), "{said:?}");
    assert_eq!(hub.seen().len(), asked);
    for wrong in [
        &["pull"][..],
        &["pull", "../small"],
        &["pull", "org/small", "--layers", "0..2"],
        &["pull", "org/small", "--layers", "2..0", "--out", "x"],
        &["pull", "--from", "x"],
        &["pull", "org/small", "--from", "x", "--out", "y"],
    ] {
        let output = run(&hub, home.path(), wrong);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_came_before_ctrl_c_is_not_fetched_again() {
    let (hub, home) = (Hub::serve("fixtures/llama"), tempfile::tempdir().unwrap());
    hub.fail(WEIGHTS, &[Fault::Cut(700_000), Fault::Later(200)]);
    let mut command = program(&hub, home.path());
    command.args(["pull", "org/small"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("asks to wait 200 s")));
    let sent = Command::new("kill").args(["-INT", &running.0.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(running.0.wait().unwrap().code(), Some(130));
    assert!(lines.all(|line| !line.contains("panicked")));

    let output = run(&hub, home.path(), &["pull", "org/small", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["reused_bytes"].as_u64().unwrap() >= 700_000, "{report}");
    assert!(hub.ranges(WEIGHTS).contains(&format!("700000-{}", hub.bytes(WEIGHTS).len() - 1)));
    is_golden(&hub, home.path(), "org/small");
}
