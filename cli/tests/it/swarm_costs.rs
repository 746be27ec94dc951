//! What a coordinator costs, by the commands that people run. No test asserts a time.
#![cfg(target_os = "linux")]

use crate::support::syn1;
use serde_json::Value;

fn report(args: &[&str]) -> Value {
    let cache = tempfile::tempdir().unwrap();
    let output = syn1(cache.path()).arg("bench").args(args).arg("--json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn idle_nodes_join_by_themselves_stay_and_take_memory() {
    let report = report(&["idle", "--nodes", "100", "--seconds", "1"]);
    assert_eq!(report["nodes"], 100);
    let of_node = report["resident_bytes_per_node"].as_f64().unwrap();
    // The benchmark with thousands of nodes is far below; a buffer for each link would be above.
    assert!(of_node > 0.0 && of_node < 65_536.0, "{of_node}");
}

#[test]
fn every_frame_of_a_token_is_relayed() {
    let report = report(&["relay", "--nodes", "3", "--streams", "4", "--width", "64", "--seconds", "1", "--runs", "1"]);
    let of = |name: &str| report[name].as_f64().unwrap();
    assert!(of("tokens_per_second") > 0.0 && of("cpu_share") > 0.0);
    assert!((of("frames_per_second") - 3.0 * of("tokens_per_second")).abs() < 1e-3);
}

#[test]
fn more_nodes_than_files_may_be_open_are_refused_with_the_remedy() {
    let cache = tempfile::tempdir().unwrap();
    let program = syn1(cache.path()).get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    let output =
        shell.args(["-c", "ulimit -n 200 && exec \"$0\" bench idle --nodes 1000"]).arg(program).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the system allows 200") && said.contains("ulimit"), "{said}");
}
