//! What the wire codecs do to the bundled model, by the command that people run.

use crate::support::syn1;
use serde_json::Value;

#[test]
fn the_wire_is_as_small_and_as_faithful_as_promised() {
    let cache = tempfile::tempdir().unwrap();
    let args = ["bench", "wire", "--json", "--nodes", "2", "--positions", "400"];
    let output = syn1(cache.path()).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["header_bytes"].as_u64(), report["positions"].as_u64()), (Some(24), Some(400)));

    let bytes = |form: &str| {
        let sizes = report["sizes"].as_array().unwrap();
        sizes.iter().find(|size| size["width"] == 768 && size["form"] == form).unwrap()["payload_bytes"].as_u64()
    };
    assert_eq!([bytes("f32"), bytes("f16"), bytes("q8"), bytes("q4")], [3072, 1536, 804, 464].map(Some));

    let quality = |form: &str, figure: &str| {
        let lines = report["chains"].as_array().unwrap();
        lines.iter().find(|line| line["form"] == form).unwrap()[figure].as_f64().unwrap()
    };
    assert_eq!((quality("f32", "agreement"), quality("f32", "worst_kl")), (1.0, 0.0));
    assert!(quality("f16", "agreement") >= 0.995 && quality("f16", "mean_kl") < 1e-5);
    assert!(quality("q8", "agreement") >= 0.98 && quality("q8", "mean_kl") < 1e-3);
    // An entropy code loses nothing, and what delta sends is never worse by much than what it replaces.
    assert_eq!(quality("q8", "mean_kl"), quality("q8+compressed", "mean_kl"));
    assert!(quality("q8+compressed", "bits_per_element") <= quality("q8", "bits_per_element"));
    assert!(quality("q8+delta", "mean_kl") < 1e-3);

    // Every boundary has every form, and of those that keep to the gate none with clearly fewer bytes was passed over.
    let (boundaries, picked) = (report["boundaries"].as_array().unwrap(), &report["picked"]);
    assert_eq!((boundaries.len(), picked["boundaries"].as_array().unwrap().len()), (7 * 8, 7));
    let passes = |line: &&Value| {
        line["agreement"].as_f64() >= picked["gate"]["agreement"].as_f64()
            && line["mean_kl"].as_f64() <= picked["gate"]["mean_kl"].as_f64()
    };
    for choice in picked["boundaries"].as_array().unwrap() {
        let here = boundaries.iter().filter(|line| line["layer"] == choice["before_layer"]);
        let bits = |line: &Value| line["bits_per_element"].as_f64().unwrap();
        let fewest = here.filter(passes).map(bits).fold(f64::INFINITY, f64::min);
        assert!(bits(choice) <= fewest / 0.98, "{choice}: {fewest} bits would do");
    }
}
