//! `syn1 bench pipeline` and `syn1 plan`, as people run them. No test asserts a time.

use std::process::Output;

use crate::support::syn1;
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    syn1(cache.path()).args(args).output().unwrap()
}

fn report(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_chain_behind_slow_links_says_where_a_tokens_time_goes() {
    let rig = ["--device", "cpu", "--threads", "1", "--stages", "2", "--rtt", "2", "--up", "100"];
    let size = ["--streams", "3", "--tokens", "6", "--runs", "1", "--wire", "f32", "--json"];
    let report = report(&[&["bench", "pipeline"][..], &rig, &size].concat());
    assert!(report["round_trip_here_ms"].as_f64().unwrap() >= 2.0, "{report}");
    for predicted in ["predicted_first_ms", "predicted_ms"] {
        assert!(report[predicted].as_f64().unwrap() > 4.0, "two round trips: {report}");
    }
    let arms = report["arms"].as_array().unwrap();
    assert_eq!(arms.iter().map(|arm| arm["streams"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(3)]);
    for arm in arms {
        let figure = |name: &str| arm[name].as_f64().unwrap_or_else(|| panic!("{name} of {arm}"));
        assert!(figure("link_ms") >= 4.0 && figure("compute_ms") > 0.0 && figure("tokens_per_second") > 0.0);
        // 28 bytes and a row of 256 floats; the row again, and the likeliest token.
        assert!((1000.0..1400.0).contains(&figure("bytes_per_hop")), "{arm}");
        let parts = figure("compute_ms") + figure("link_ms") + figure("rest_ms");
        assert!((parts - figure("token_ms")).abs() < 1e-6, "{arm}");
    }
    assert!(arms[0]["added_ms_per_hop"].is_number() && arms[1]["added_ms_per_hop"].is_null());
}

#[test]
fn a_plan_for_devices_that_are_not_there_says_who_is_left_out_and_why() {
    let plan = report(&["plan", "--fleet", "docs/fleets/home.json", "--shape", "llama-1b", "--json"]);
    let names = |list: &str| {
        let list = plan[list].as_array().unwrap().iter();
        list.map(|device| device["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("taken").iter().chain(&names("left_out")).count(), 5);
    assert!(names("left_out").contains(&"watch".to_owned()), "{plan}");
    let sum = plan["compute_us"].as_f64().unwrap() + plan["link_us"].as_f64().unwrap();
    assert!((sum - plan["token_us"].as_f64().unwrap()).abs() < 1e-3);
    let text = run(&["plan", "--fleet", "docs/fleets/home.json", "--shape", "llama-1b"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("left out: watch: it has no room for a single layer"), "{text}");
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    let output = run(&["plan", "--coordinator", "http://127.0.0.1:1"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("no coordinator answers at http://127.0.0.1:1/api/plan"),
        "{text}"
    );
}
