//! How activations travel: what `--wire` asks for, and the measurement that `auto` goes by.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use syn1_coordinator::wire::Wire;
use syn1_core::{Codec, Form};

use crate::model::Prepared;

/// What `--wire` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireChoice {
    /// What was measured for the model, else f16.
    Auto,
    /// The same form at every boundary.
    Form(Form),
}

impl WireChoice {
    /// A form for every boundary of a model, and where it comes from if nobody asked for it.
    pub(crate) fn resolve(self, model: &Prepared) -> Result<(Wire, Option<String>)> {
        match self {
            Self::Form(form) => Ok((Wire::everywhere(form), None)),
            Self::Auto => measured(model.folder.as_deref(), model.spec.layers, &model.manifest.sha256().to_string()),
        }
    }
}

/// What the measurement in `folder` picked for the weights with this manifest; f16 without one.
fn measured(folder: Option<&Path>, layers: usize, manifest_sha256: &str) -> Result<(Wire, Option<String>)> {
    let why = match folder.map(|folder| Measured::load(folder, layers)).transpose()?.flatten() {
        Some(measured) if measured.manifest_sha256 == manifest_sha256 => {
            return Ok((measured.wire()?, Some(format!("measured on {} positions", measured.positions))));
        }
        Some(_) => "wire.json was measured with other weights: see `syn1 bench wire --save`",
        None => "not measured for this model: see `syn1 bench wire --save`",
    };
    Ok((Wire::everywhere(UNMEASURED), Some(why.into())))
}

impl FromStr for WireChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let names: Vec<String> = Form::ALL.iter().map(ToString::to_string).collect();
        Form::from_name(text).map(Self::Form).ok_or_else(|| format!("it is auto or one of {}", names.join(", ")))
    }
}

/// What `syn1 bench wire --save` measured and picked for a model: the file `wire.json` beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    version: u32,
    /// The weights that it was measured with.
    manifest_sha256: String,
    /// Layers of the model.
    layers: usize,
    /// Positions of text that it was measured on.
    pub(crate) positions: usize,
    /// What a form had to keep to, to be picked.
    pub(crate) gate: Gate,
    pub(crate) boundaries: Vec<Boundary>,
}

/// The quality that a form must keep at one boundary, all others being exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gate {
    /// The least part of the positions at which the most likely next token stays the same.
    pub(crate) agreement: f64,
    /// The largest mean Kullback-Leibler divergence from the exact distribution, in nats.
    pub(crate) mean_kl: f64,
}

/// What was picked for one boundary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boundary {
    /// The layer that receives.
    pub(crate) before_layer: usize,
    pub(crate) wire: String,
    pub(crate) bits_per_element: f64,
    pub(crate) agreement: f64,
    pub(crate) mean_kl: f64,
}

impl Measured {
    /// The file's name.
    pub(crate) const FILE: &str = "wire.json";

    pub(crate) fn new(
        manifest_sha256: String,
        layers: usize,
        positions: usize,
        gate: Gate,
        boundaries: Vec<Boundary>,
    ) -> Self {
        Self { version: VERSION, manifest_sha256, layers, positions, gate, boundaries }
    }

    /// What was measured for the model of `layers` layers in `folder`, if anything was.
    fn load(folder: &Path, layers: usize) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let remedy = || format!("{} is not as `syn1 bench wire --save` writes it: write it anew", path.display());
        let measured: Self = serde_json::from_str(&text).with_context(remedy)?;
        if (measured.version, measured.layers) != (VERSION, layers) {
            bail!(
                "{} is version {} for {} layers, the model has {layers}: write it anew with `syn1 bench wire --save`",
                path.display(),
                measured.version,
                measured.layers
            );
        }
        measured.wire().with_context(remedy)?;
        Ok(Some(measured))
    }

    /// Writes it beside the model.
    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What it picked.
    pub(crate) fn wire(&self) -> Result<Wire> {
        let forms = self.boundaries.iter().map(|boundary| {
            let name = &boundary.wire;
            let form = Form::from_name(name).with_context(|| format!("{name} is no form that this version knows"))?;
            Ok((boundary.before_layer, form))
        });
        Ok(Wire::chosen(UNMEASURED, forms.collect::<Result<BTreeMap<_, _>>>()?))
    }
}

/// Half the bytes of f32 and hardly ever another token, whatever the model.
const UNMEASURED: Form = Form::plain(Codec::F16);

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let boundary = |before_layer, wire: &str| Boundary {
            before_layer,
            wire: wire.into(),
            bits_per_element: 8.0,
            agreement: 1.0,
            mean_kl: 0.0,
        };
        let gate = Gate { agreement: 0.99, mean_kl: 1e-3 };
        Measured::new("ab".into(), 3, 100, gate, vec![boundary(1, "q8"), boundary(2, "q8+compressed")])
    }

    #[test]
    fn auto_takes_what_was_measured_and_else_f16() {
        let folder = tempfile::tempdir().unwrap();
        let auto = |sha256| super::measured(Some(folder.path()), 3, sha256).unwrap();
        let (wire, why) = auto("ab");
        assert!(wire.to_string() == "f16" && why.unwrap().contains("not measured"));
        measured().save(folder.path()).unwrap();
        let (wire, why) = auto("ab");
        assert_eq!((wire.before(1).to_string(), wire.before(2).to_string()), ("q8".into(), "q8+compressed".into()));
        assert!(why.unwrap().contains("100 positions"));
        let (wire, why) = auto("cd");
        assert!(wire.to_string() == "f16" && why.unwrap().contains("other weights"));
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let error = "q7".parse::<WireChoice>().unwrap_err();
        assert!(error.contains("auto") && error.contains("q8+delta+compressed"), "{error}");
    }

    #[test]
    fn the_file_is_read_back_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Measured::load(folder.path(), 3).unwrap(), None);
        measured().save(folder.path()).unwrap();
        assert_eq!(Measured::load(folder.path(), 3).unwrap(), Some(measured()));
        let error = Measured::load(folder.path(), 4).unwrap_err().to_string();
        assert!(error.contains("the model has 4"), "{error}");
        std::fs::write(folder.path().join(Measured::FILE), "{").unwrap();
        assert!(format!("{:#}", Measured::load(folder.path(), 3).unwrap_err()).contains("write it anew"));
    }
}
