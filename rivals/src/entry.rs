//! What was measured, as JSON and as a line of the table.

use serde::Serialize;

/// One arm of one work.
#[derive(Serialize)]
pub(crate) struct Entry {
    /// Shape and weights: those with the same are rivals.
    work: String,
    name: String,
    /// The median of the runs.
    tokens_per_second: f64,
    runs: usize,
    /// The lowest and the highest of the runs, tokens per second.
    spread: [f64; 2],
    device: String,
    /// Weights only for rivals, weights and KV cache for syn1.
    pub(crate) read_gb_per_second: f64,
    /// syn1's share of what reading as many bytes takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share_of_limit: Option<f64>,
    /// A rival's pace over syn1's in the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of_syn1: Option<f64>,
    #[serde(flatten)]
    pub(crate) compared: Option<Compared>,
}

/// A rival's answers beside syn1's.
#[derive(Serialize)]
pub(crate) struct Compared {
    /// Greedy ids before the first that differs.
    pub(crate) same_ids: usize,
    /// Of how many.
    pub(crate) of_ids: usize,
    /// Of 26 logits behind the prompt.
    pub(crate) largest_logit_difference: f64,
}

impl Entry {
    /// From the paces of all runs.
    pub(crate) fn new(work: &str, name: &str, paces: &[f64], device: &str) -> Self {
        Self {
            work: work.to_owned(),
            name: name.to_owned(),
            tokens_per_second: median(paces.iter().copied()),
            runs: paces.len(),
            spread: paces.iter().fold([f64::INFINITY, 0.0], |[low, high], pace| [low.min(*pace), high.max(*pace)]),
            device: device.to_owned(),
            read_gb_per_second: f64::NAN,
            share_of_limit: None,
            of_syn1: None,
            compared: None,
        }
    }

    /// Its line of the table.
    pub(crate) fn print(&self) {
        let spread = format!("{:.1} to {:.1}", self.spread[0], self.spread[1]);
        let share = self.share_of_limit.map(|share| format!("{:.0} % of the limit", share * 100.0));
        let ratio = self.of_syn1.map(|ratio| format!("{ratio:.2} of syn1"));
        let same = self.compared.as_ref().map(|compared| {
            let Compared { same_ids, of_ids, largest_logit_difference } = compared;
            format!("{same_ids} of {of_ids} ids the same, logits within {largest_logit_difference:.1e}")
        });
        let notes: Vec<String> = [share, ratio, same].into_iter().flatten().collect();
        eprintln!(
            "{:16}{:40}{:>9.1}  {spread:18}{:>7.1}  {}",
            self.work,
            self.name,
            self.tokens_per_second,
            self.read_gb_per_second,
            notes.join(", ")
        );
    }
}

/// The table's first line.
pub(crate) fn print_head() {
    eprintln!("{:16}{:40}{:>9}  {:18}{:>7}", "work", "name", "tok/s", "from run to run", "GB/s");
}

/// The middle of an odd number of measurements, the lower middle of an even one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}
