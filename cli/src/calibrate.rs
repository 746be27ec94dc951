//! Whether int4 weights are calibrated, with which text, and a split that is.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use syn1_calibrate::{CalibrateError, Calibrator, Text};
use syn1_model::manifest::Manifest;
use syn1_model::plan::{Piece, WeightFormat, piece_bytes};
use syn1_model::split::{Calibrated, split, split_with};
use syn1_model::{BlockFeedback, Calibration, Digest, ModelFolder, Source};

use crate::progress::{ByteBar, CountBar};
use crate::show;

/// What int4 weights are calibrated with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CalibrateWith {
    /// With a text of the model's own, if that is a matter of seconds.
    Auto,
    /// With a text of the model's own.
    Own,
    /// Not at all: every weight is rounded to the nearest.
    Nothing,
    /// With the text of a file.
    File(PathBuf),
}

impl FromStr for CalibrateWith {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "own" => Self::Own,
            "none" => Self::Nothing,
            path => Self::File(path.into()),
        })
    }
}

/// A text to calibrate with, which may have to be written first.
pub(crate) struct Choice {
    /// How the manifest describes it.
    pub(crate) with: Calibration,
    /// Its tokens, if it is there already.
    ids: Option<Vec<u32>>,
}

impl CalibrateWith {
    /// The text for the weights of `folder` in `format`; none where they are to be rounded to the nearest.
    ///
    /// # Errors
    /// A file that cannot be read or is too short, and one for weights that are not calibrated.
    pub(crate) fn choose(&self, folder: &ModelFolder, format: WeightFormat) -> Result<Option<Choice>> {
        let int4 = format == WeightFormat::Int4;
        let own = || Some(Choice { with: Calibration { positions: OWN_POSITIONS, text_sha256: None }, ids: None });
        match self {
            Self::Nothing => Ok(None),
            Self::Auto if !int4 => Ok(None),
            Self::Own | Self::File(_) if !int4 => {
                bail!("{format} weights are always rounded to the nearest: --calibrate is for int4")
            }
            Self::Auto => {
                let spec = folder.spec();
                let bytes = spec.layers as u64 * piece_bytes(spec, format, Piece::Block(0));
                if bytes <= AUTO_BYTES {
                    return Ok(own());
                }
                show::say(&format!(
                    "{}: int4 weights are rounded to the nearest, because calibrating a model of this size takes minutes to \
                     hours; syn1 split --weights int4 --calibrate own makes better ones",
                    folder.name()
                ));
                Ok(None)
            }
            Self::Own => Ok(own()),
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the text {} to calibrate with", path.display()))?;
                let tokenizer = folder.tokenizer();
                let tokenizer = tokenizer
                    .with_context(|| format!("{} has no tokenizer.json to read a text with", folder.name()))?;
                let mut ids = tokenizer.encode(&text)?;
                ids.truncate(FILE_POSITIONS);
                if ids.len() < LEAST_POSITIONS {
                    let (path, found) = (path.display(), ids.len());
                    bail!("{path} has {found} tokens, calibration needs {LEAST_POSITIONS} (and uses {FILE_POSITIONS})");
                }
                let with = Calibration { positions: ids.len(), text_sha256: Some(Digest::of(text.as_bytes())) };
                Ok(Some(Choice { with, ids: Some(ids) }))
            }
        }
    }
}

impl Choice {
    /// The model in front of its first block, with the text; with a bar, if that has to be written.
    pub(crate) fn calibrator<'a>(&self, source: &'a Source) -> Result<Calibrator<'a>, CalibrateError> {
        let text = match &self.ids {
            Some(ids) => Text::of_ids(source, ids)?,
            None => {
                let bar = CountBar::new("writing a text", self.with.positions);
                Text::written(source, self.with.positions, SEED, &mut || bar.step())?
            }
        };
        Ok(Calibrator::new(source, text))
    }
}

/// Cuts the model in `dir` into shards in `out`, with a bar. Blocks for as long as it takes.
pub(crate) fn split_calibrated(
    dir: &Path,
    out: &Path,
    format: WeightFormat,
    calibrate: &CalibrateWith,
) -> Result<Manifest> {
    let folder = ModelFolder::open(dir)?;
    let bar = ByteBar::new();
    let mut packing = |at| bar.packing(at);
    let (Some(choice), Some(source)) = (calibrate.choose(&folder, format)?, folder.source()) else {
        return Ok(split(dir, out, format, &mut packing)?);
    };
    // The text is written, and the model passed through, only if there is a block to be packed.
    let mut calibrator = None;
    let mut feedback = |index: usize| -> Result<BlockFeedback, Box<dyn std::error::Error + Send + Sync>> {
        let calibrator = match &mut calibrator {
            Some(calibrator) => calibrator,
            None => calibrator.insert(choice.calibrator(source)?),
        };
        Ok(calibrator.block(index)?)
    };
    let calibrated = Calibrated { with: choice.with.clone(), feedback: &mut feedback };
    Ok(split_with(dir, out, format, Some(calibrated), &mut packing)?)
}

/// Tokens of a text that a model writes to be calibrated with. On the bundled model the mean KL falls from 2.1e-2 without any
/// to 1.6e-2 with 2,048, 1.3e-2 with 8,192 and 1.1e-2 with these; more cost more time than they are worth.
const OWN_POSITIONS: usize = 65_536;

/// Tokens used of a file.
const FILE_POSITIONS: usize = 16_384;

/// Tokens that a file must have: a few pages.
const LEAST_POSITIONS: usize = 1024;

/// The seed of the text that a model writes.
const SEED: u64 = 1;

/// Bytes of int4 blocks up to which a model is calibrated without being asked: about 13 million weights, with which a text
/// is written in less than a minute.
const AUTO_BYTES: u64 = 8 << 20;
