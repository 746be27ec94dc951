//! What the wire codecs do to the bundled model, by the command that people run.

mod support;

use serde_json::Value;
use support::syn1;

#[test]
fn the_wire_is_as_small_and_as_faithful_as_promised() {
    let cache = tempfile::tempdir().unwrap();
    let output = syn1(cache.path()).args(["bench", "wire", "--json", "--nodes", "2"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["header_bytes"].as_u64(), report["positions"].as_u64()), (Some(24), Some(2000)));

    let bytes = |codec: &str| {
        let rows = report["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["width"] == 768 && row["codec"] == codec).unwrap();
        row["payload_bytes"].as_u64().unwrap()
    };
    assert_eq!((bytes("f32"), bytes("f16"), bytes("q8")), (3072, 1536, 804));

    let quality = |codec: &str, figure: &str| {
        let lines = report["quality"].as_array().unwrap();
        lines.iter().find(|line| line["codec"] == codec).unwrap()[figure].as_f64().unwrap()
    };
    assert_eq!((quality("f32", "agreement"), quality("f32", "worst_kl")), (1.0, 0.0));
    assert!(quality("f16", "agreement") >= 0.999 && quality("f16", "mean_kl") < 1e-5);
    assert!(quality("q8", "agreement") >= 0.99 && quality("q8", "mean_kl") < 1e-3);
}
