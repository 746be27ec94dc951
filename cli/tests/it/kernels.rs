//! Where a token's time goes, by the command that people run. No test asserts a time.

use crate::support::syn1;
use serde_json::Value;

#[test]
fn every_op_of_a_plan_is_a_line_and_the_dispatches_add_up() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = syn1(cache.path());
    command.args(["bench", "kernels", "--shape", "tiny-32", "--device", "gpu", "--runs", "1", "--json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["weights"], "f32");
    let ops = report["ops"].as_array().unwrap();
    let names: Vec<_> = ops.iter().map(|op| (op["op"].as_str().unwrap(), op["ops"].as_u64().unwrap())).collect();
    let want = [("embed", 1), ("qkv", 4), ("attend", 4), ("out", 4), ("up", 4), ("down", 4), ("head", 1), ("step", 1)];
    assert_eq!(names, want);
    assert_eq!(report["dispatches"].as_u64(), Some(5 * 4 + 2));
    // 4 layers of 32 x 32 f32 weights, with a constant and a factor for each row.
    assert_eq!(ops[3]["bytes"].as_u64(), Some(4 * (32 * 32 * 4 + 32 * 8)));
}

#[test]
fn on_the_cpu_a_tokens_ops_add_up_to_the_token() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = syn1(cache.path());
    command.args(["bench", "kernels", "--shape", "tiny-32", "--device", "cpu", "--runs", "5", "--json"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["dispatches"].as_u64(), Some(5 * 4 + 1));
    let times: Vec<_> = report["ops"].as_array().unwrap().iter().map(|op| op["us"].as_f64().unwrap()).collect();
    assert!(times.len() == 8 && times.iter().all(|us| *us > 0.0), "{times:?}");
    // All but the embedding, which the turn has once more.
    let sum: f64 = times[1..].iter().sum();
    assert!((report["sum_us"].as_f64().unwrap() - sum).abs() < 1e-6);
}

#[test]
fn a_loop_of_many_dispatches_is_refused_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = syn1(cache.path());
    // The CPU has no dispatches at all.
    let output =
        command.args(["bench", "kernels", "--loop", "--shape", "tiny-32", "--device", "cpu"]).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cpu (") && text.contains("without --loop"), "{text}");
}
