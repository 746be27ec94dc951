//! Whatever is wrong gets one line that names it, an exit code that is not 0, and no panic.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::{repository, syn1};
use tempfile::TempDir;

/// Runs the program and checks that it fails in one line with every one of `words`.
fn fails(args: &[&str], words: &[&str]) {
    let cache = tempfile::tempdir().unwrap();
    fails_with(&cache, args, words);
}

fn fails_with(cache: &TempDir, args: &[&str], words: &[&str]) {
    let output = syn1(cache.path()).args(args).output().unwrap();
    let error = error_line(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
    for word in words {
        assert!(error.contains(word), "{args:?} says {error:?}, which does not name {word:?}");
    }
}

/// The one line that begins with `error:`; progress of a node may stand above it.
fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ") && !line.contains(NOISE)).collect();
    assert_eq!(errors.len(), 1, "{text}");
    assert_eq!(text.lines().rfind(|line| !line.is_empty()), Some(errors[0]), "{text}");
    errors[0].to_owned()
}

/// A copy of a model folder that a test may break.
fn copy(model: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(repository(model)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

#[test]
fn a_missing_folder() {
    fails(&["generate", "hi", "--model", "no/such/folder"], &["no/such/folder"]);
}

#[test]
fn a_truncated_safetensors() {
    let model = copy("fixtures/gpt2");
    let file = fs::OpenOptions::new().write(true).open(model.path().join("model.safetensors")).unwrap();
    file.set_len(400_000).unwrap();
    fails(&["generate", "--ids", "1", "--model", path(model.path())], &["model.safetensors", "truncated", "400000"]);
}

#[test]
fn an_unknown_architecture() {
    let model = copy("fixtures/gpt2");
    let config = model.path().join("config.json");
    let text = fs::read_to_string(&config).unwrap().replace("GPT2LMHeadModel", "MambaForCausalLM");
    fs::write(config, text.replace("\"gpt2\"", "\"mamba\"")).unwrap();
    fails(&["generate", "--ids", "1", "--model", path(model.path())], &["MambaForCausalLM", "not supported"]);
}

#[test]
fn a_tokenizer_of_another_model() {
    let model = copy("fixtures/gpt2");
    let tokenizer = repository("models/tiny-rust-docs/tokenizer.json");
    fs::copy(tokenizer, model.path().join("tokenizer.json")).unwrap();
    fails(&["generate", "hi", "--model", path(model.path())], &["tokenizer", "4096", "1000"]);
}

#[test]
fn a_model_without_a_tokenizer_asked_for_text() {
    fails(&["generate", "hi", "--model", path(&repository("fixtures/gpt2"))], &["tokenizer.json", "--ids"]);
}

#[test]
fn what_is_cheap_to_check_is_checked_before_anything_is_loaded() {
    // The device is not there either; whoever opens it first would say so.
    let nowhere = ["--device", "no-such-gpu"];
    let long = "word ".repeat(600);
    let cases: [(&[&str], &[&str]); 8] = [
        (&["generate", "hi", "--nodes", "9"], &["9 nodes", "8 layers"]),
        (&["generate", "hi", "--top-p", "2"], &["top_p is 2"]),
        (&["generate", &long], &["601 tokens", "512"]),
        (&["generate", "hi", "--context", "513"], &["--context 513", "512"]),
        (&["demo", "--once", "--temperature", "1000"], &["temperature is 1000"]),
        (&["bench", "decode", "--nodes", "1,9"], &["9 nodes", "8 layers"]),
        (&["bench", "hop", "--layers", "5..9"], &["5..9", "0..8"]),
        (&["bench", "hop", "--at", "500"], &["517 positions", "512"]),
    ];
    for (args, words) in cases {
        fails(&[args, &nowhere].concat(), words);
    }
    fails(&["coordinator", "--nodes", "99"], &["99 nodes", "8 layers"]);
}

#[test]
fn a_device_that_is_not_there() {
    fails(&["generate", "hi", "--device", "no-such-gpu"], &["no-such-gpu", "--device cpu"]);
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fails(&["coordinator", "--tcp", &address, "--http", "127.0.0.1:0"], &[&address, "--tcp", "another port"]);
    fails(&["coordinator", "--http", &address, "--tcp", "127.0.0.1:0"], &[&address, "--http", "another port"]);
    fails(&["demo", "--once", "--http", &address], &[&address, "--http", "another port"]);
}

#[test]
fn a_coordinator_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let join = format!("tcp://{free}");
    fails(&["node", "--join", &join, "--device", "cpu"], &[&join, "syn1 coordinator"]);
}

#[test]
fn a_coordinator_of_another_protocol_major() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let join = format!("tcp://{}", listener.local_addr().unwrap());
    let future = std::thread::spawn(move || {
        let (mut link, _) = listener.accept().unwrap();
        let mut header = [0u8; 24];
        header[..4].copy_from_slice(b"SYN2");
        link.write_all(&header).unwrap();
        // Until the node has gone.
        let _ = std::io::copy(&mut link, &mut std::io::sink());
    });
    fails(&["node", "--join", &join, "--device", "cpu"], &["SYN2", "SYN1"]);
    future.join().unwrap();
}

#[test]
fn a_shard_with_one_flipped_byte() {
    let cache = tempfile::tempdir().unwrap();
    let shards = tempfile::tempdir().unwrap();
    let out = shards.path().join("out");
    let model = repository("fixtures/gpt2");
    let split = syn1(cache.path()).args(["split", "--model", path(&model), "--out", path(&out)]).output().unwrap();
    assert!(split.status.success(), "{split:?}");
    let piece = largest(&out);
    let mut bytes = fs::read(&piece).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&piece, bytes).unwrap();
    let name = piece.file_stem().unwrap().to_str().unwrap();
    fails_with(&cache, &["generate", "--ids", "1,2", "--model", path(&out), "--device", "cpu"], &[&name[..12]]);
}

fn largest(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pieces = files.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    pieces.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let cache = tempfile::tempdir().unwrap();
    for args in [&["generate", "--nodes", "0"][..], &["node", "--join", "there"], &["nonsense"]] {
        let output = syn1(cache.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

/// Mesa's Vulkan layers say this on machines without a display, whatever the program does.
const NOISE: &str = "XDG_RUNTIME_DIR";
