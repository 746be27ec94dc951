//! Which division of workgroups is the fastest for each shape of product, on one adapter with one driver.

use std::collections::BTreeMap;

use syn1_model::plan::{Gemv, Plan};

use super::device::GpuDevice;
use super::division::{Division, Room};

/// The choices for one adapter and driver: empty at first, filled by [`GpuEngine::tuned`](super::GpuEngine::tuned), and
/// kept as text by whoever has a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    adapter: String,
    choices: BTreeMap<String, Division>,
}

/// Why a text is not the tuning of a device. It is to be measured anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TuningError {
    /// It was written for other kernels, or it is something else.
    #[error("it begins with {got:?}, and {FIRST_LINE:?} is expected")]
    Version {
        /// Its first line.
        got: String,
    },
    /// It is another device's, or another driver's.
    #[error("it is of {got:?}, and the adapter and its driver are {want:?}")]
    Adapter {
        /// Whose it is.
        got: String,
        /// The device's.
        want: String,
    },
    /// A line is no choice.
    #[error("line {number} is {line:?}, and `SHAPE: DIVISION` is expected")]
    Line {
        /// Its number, counted from 1.
        number: usize,
        /// What it says.
        line: String,
    },
}

impl Tuning {
    /// No choices yet.
    pub fn new(device: &GpuDevice) -> Self {
        Self { adapter: device.identity(), choices: BTreeMap::new() }
    }

    /// Reads what [`Tuning::to_text`] wrote.
    ///
    /// # Errors
    /// [`TuningError`] for a text of another version, adapter or driver, and for lines that are no choices.
    pub fn from_text(device: &GpuDevice, text: &str) -> Result<Self, TuningError> {
        let mut tuning = Self::new(device);
        let mut lines = (1..).zip(text.lines());
        let mut next = || lines.next().map_or("", |(_, line)| line);
        let (first, adapter) = (next(), next());
        if first != FIRST_LINE {
            return Err(TuningError::Version { got: first.chars().take(MOST_QUOTED).collect() });
        }
        if adapter != tuning.adapter {
            return Err(TuningError::Adapter { got: adapter.to_owned(), want: tuning.adapter });
        }
        for (number, line) in lines {
            let choice = line.split_once(": ").and_then(|(shape, text)| Some((shape, text.parse().ok()?)));
            let Some((shape, division)) = choice else {
                return Err(TuningError::Line { number, line: line.to_owned() });
            };
            tuning.choices.insert(shape.to_owned(), division);
        }
        Ok(tuning)
    }

    /// All of it: a line that names its version, one that names the adapter and driver, and one for each shape.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n{}\n", self.adapter);
        for (shape, division) in &self.choices {
            text += &format!("{shape}: {division}\n");
        }
        text
    }

    /// Shapes whose division is chosen.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// The choice for `gemv`, where there is one that `room` allows; else the usual one.
    pub(super) fn division(&self, gemv: &Gemv, room: Room) -> Division {
        let chosen = self.choices.get(&Self::shape(gemv)).filter(|division| division.fits(&gemv.matrix, room));
        chosen.copied().unwrap_or_else(|| Division::usual(&gemv.matrix, room))
    }

    /// Remembers a choice.
    pub(super) fn choose(&mut self, gemv: &Gemv, division: Division) {
        self.choices.insert(Self::shape(gemv), division);
    }

    /// What a division depends on, as words without colons.
    pub(super) fn shape(gemv: &Gemv) -> String {
        let (matrix, norm) = (&gemv.matrix, if gemv.norm.is_some() { "normed" } else { "plain" });
        format!("{}x{} {} {norm}", matrix.rows, matrix.cols, matrix.format)
    }

    /// The products of `plan` whose shape has no choice, in groups of one shape.
    pub(super) fn missing<'a>(&self, plan: &'a Plan) -> Vec<Vec<&'a Gemv>> {
        let mut groups: BTreeMap<String, Vec<&Gemv>> = BTreeMap::new();
        for gemv in plan.ops.iter().filter_map(|op| op.gemv()) {
            groups.entry(Self::shape(gemv)).or_default().push(gemv);
        }
        groups.into_iter().filter(|(shape, _)| !self.choices.contains_key(shape)).map(|(_, group)| group).collect()
    }
}

/// Names the version of the divisions and of their kernels: to be raised when either changes.
const FIRST_LINE: &str = "syn1 tuning 1";

/// Characters of another file that an error quotes.
const MOST_QUOTED: usize = 40;
