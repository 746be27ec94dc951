//! One shard of a chain, measured by the command that people run. No test asserts a time.

use crate::support::syn1;
use serde_json::Value;

fn report(args: &[&str]) -> Value {
    let cache = tempfile::tempdir().unwrap();
    let output =
        syn1(cache.path()).args(["bench", "hop", "--json", "--device", "cpu", "--hops", "10"]).args(args).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_codec_and_position_is_a_line_whose_answer_has_the_codecs_length() {
    let report = report(&["--layers", "2..4", "--at", "4,80", "--codec", "f32,q8"]);
    assert_eq!((report["layers"]["start"].as_u64(), report["layers"]["end"].as_u64()), (Some(2), Some(4)));
    assert!(report["floor"].is_null(), "the CPU has no submit");
    let arms = report["arms"].as_array().unwrap();
    let line = |arm: &Value| {
        let median = |part: &str| arm[part]["median"].as_f64().unwrap();
        assert!(median("engine") > 0.0 && median("hop") >= median("engine") && arm["step"].is_null(), "{arm}");
        (arm["codec"].as_str().unwrap().to_owned(), arm["position"].as_u64(), arm["payload_bytes"].as_u64())
    };
    let lines: Vec<_> = arms.iter().map(line).collect();
    let want = [("f32", 4, 1024), ("f32", 80, 1024), ("q8", 4, 292), ("q8", 80, 292)];
    assert_eq!(lines, want.map(|(codec, position, bytes)| (codec.to_owned(), Some(position), Some(bytes))));
}

#[test]
fn the_first_shard_takes_tokens_and_the_last_gives_the_likeliest() {
    let whole = report(&["--layers", "0..8", "--at", "0", "--codec", "f16", "--rows", "3"]);
    // A header of 8 bytes a row, and 8 bytes for each of 8 logits.
    assert_eq!(whole["arms"][0]["payload_bytes"].as_u64(), Some(3 * 72));
}
