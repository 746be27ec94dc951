//! What the weight formats do to the bundled model, and what the fixtures' references say, by the commands that people run.

use crate::support::syn1;
use serde_json::Value;

#[test]
fn int8_and_int4_are_as_faithful_as_promised() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["bench", "quality", "--json", "--positions", "1000", "--calibrate", "none"];
    let output = syn1(cache.path()).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |weights: &str, wire: &str, figure: &str| {
        let lines = report["lines"].as_array().unwrap();
        lines.iter().find(|line| line["weights"] == weights && line["wire"] == wire).unwrap()[figure].as_f64().unwrap()
    };
    assert_eq!((figure("f32", "f32", "agreement"), figure("f32", "f32", "worst_kl")), (1.0, 0.0));
    assert!(figure("f16", "f32", "agreement") >= 0.999 && figure("f16", "f32", "mean_kl") < 1e-6);
    assert!(figure("int8", "f32", "agreement") >= 0.99 && figure("int8", "f32", "mean_kl") < 5e-4);
    // To the nearest; how much calibration, which takes a minute here, gains is a test of `syn1-calibrate`.
    assert!(figure("int4", "f32", "agreement") >= 0.9 && figure("int4", "f32", "mean_kl") < 3e-2);
    // Each step down costs something, and the text is still predicted about as well.
    let perplexities = ["f32", "int8", "int4"].map(|weights| figure(weights, "f32", "perplexity"));
    assert!(perplexities.is_sorted() && perplexities[2] < 1.05 * perplexities[0], "{perplexities:?}");
    let bytes = ["f32", "f16", "int8", "int4"].map(|weights| figure(weights, "f32", "weight_bytes"));
    assert!(bytes.is_sorted_by(|more, fewer| more > fewer), "{bytes:?}");
    // Beside coarser weights the wire's share is lost in theirs.
    for weights in ["f32", "f16"] {
        assert!(figure(weights, "q8", "mean_kl") >= figure(weights, "f16", "mean_kl"), "{weights}");
    }
}

#[test]
fn a_reference_s_answers_are_confirmed_and_wrong_ones_fail_by_name() {
    let cache = tempfile::tempdir().unwrap();
    let model = crate::support::repository("fixtures/mistral");
    let bench = |golden: &std::path::Path| {
        let mut command = syn1(cache.path());
        command.args(["bench", "golden", "--device", "cpu", "--nodes", "1,3", "--json", "--model"]).arg(&model);
        command.arg("--golden").arg(golden).output().unwrap()
    };
    let output = bench(&model.join("golden.json"));
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["largest_logit_error"].as_f64().unwrap() < 3e-3, "{report}");
    assert!(report["arms"].as_array().unwrap().iter().all(|arm| arm["tokens"] == 72 && arm["same"] == 72), "{report}");

    let mut golden: Value = serde_json::from_slice(&std::fs::read(model.join("golden.json")).unwrap()).unwrap();
    let last = &mut golden["cases"][0]["greedy_24"][23];
    *last = (last.as_u64().unwrap() ^ 1).into();
    let wrong = cache.path().join("wrong.json");
    std::fs::write(&wrong, golden.to_string()).unwrap();
    let output = bench(&wrong);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("1 of 72 greedy tokens differ"), "{told}");

    golden["cases"][0]["ids"][0] = 997.into();
    std::fs::write(&wrong, golden.to_string()).unwrap();
    let told = String::from_utf8(bench(&wrong).stderr).unwrap();
    assert!(told.contains("names token 997") && told.contains("another model's"), "{told}");
}
