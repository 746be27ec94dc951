//! Every combination of the features of the crates that others link, and those that need no operating system on a
//! microcontroller and in WebAssembly, where there is none to fall back on.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::setup::or_note;
use crate::toolchain::{Std, Toolchain};
use crate::{cargo, root, run};

/// Lints each combination alone, so that no other crate of the workspace switches a feature on. Says whether it had the
/// libraries of the targets without an operating system.
pub(crate) fn check() -> Result<bool> {
    let find = |(target, std)| or_note(target, Toolchain::find(target, std));
    let bare = BARE.into_iter().map(find).collect::<Result<Vec<_>>>()?;
    for (package, folder, targets) in PACKAGES {
        let manifest = root()?.join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        let features = features(&text);
        ensure!(!features.is_empty(), "{} names no feature", manifest.display());
        for combination in combinations(&features) {
            let list = combination.join(",");
            println!("{package} with {}", if list.is_empty() { "no feature" } else { &list });
            let args = ["--quiet", "--package", package, "--no-default-features", "--features", &list];
            cargo(&[&["clippy"][..], &args, &["--", "-D", "warnings"]].concat())?;
            if combination.iter().all(|feature| !HOSTED.contains(feature)) {
                for toolchain in bare.iter().flatten().filter(|toolchain| targets.contains(&toolchain.target)) {
                    run(toolchain.cargo("check", root()?).args(args))?;
                }
            }
        }
    }
    Ok(bare.iter().all(Option::is_some))
}

/// The features that a manifest declares, but for `default`, which only names others.
fn features(manifest: &str) -> Vec<&str> {
    let lines =
        manifest.lines().skip_while(|line| *line != "[features]").skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    names.filter(|name| *name != "default").collect()
}

fn combinations<'a>(features: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut all = vec![Vec::new()];
    for feature in features {
        let with = all.iter().map(|some: &Vec<&str>| [some, &[*feature][..]].concat());
        all.extend(with.collect::<Vec<_>>());
    }
    all
}

/// Each with its folder and where it is to work without an operating system.
const PACKAGES: [(&str, &str, &[&str]); 3] = [
    ("syn1-core", "syn1-core", &[CORTEX_M, WASM]),
    ("syn1-transport-tcp", "transport-tcp", &[CORTEX_M, WASM]),
    ("syn1-transport-ws", "transport-ws", &[WASM]),
];

/// Features that need an operating system.
const HOSTED: [&str; 4] = ["std", "testing", "tokio", "native"];

const BARE: [(&str, Std); 2] = [(CORTEX_M, Std::Core), (WASM, Std::All)];

const CORTEX_M: &str = "thumbv7m-none-eabi";
const WASM: &str = "wasm32-unknown-unknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_their_section() {
        let manifest = "[package]\nname = \"x\"\n\n[features]\ndefault = [\"a\"]\na = []\nb-c = [\"a\"]\n\n[dependencies]\nd = \"1\"\n";
        assert_eq!(features(manifest), ["a", "b-c"]);
        assert_eq!(features("[package]\nname = \"x\"\n"), [""; 0]);
    }

    #[test]
    fn every_combination_comes_once() {
        let all = combinations(&["a", "b", "c"]);
        assert_eq!(all.len(), 8);
        for wanted in [&[][..], &["a"], &["b", "c"], &["a", "b", "c"]] {
            assert_eq!(all.iter().filter(|some| *some == wanted).count(), 1, "{wanted:?}");
        }
    }
}
