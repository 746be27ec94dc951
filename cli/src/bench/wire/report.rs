//! What is printed, as JSON and as tables.

use serde::Serialize;
use syn1_core::Form;

use super::super::agreement::Quality;
use super::super::coding::Figures;
use crate::wire::{Gate, Measured};

#[derive(Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) positions: usize,
    pub(super) header_bytes: usize,
    pub(super) sizes: Vec<SizeReport>,
    pub(super) boundaries: Vec<BoundaryReport>,
    pub(super) chains: Vec<ChainReport>,
    pub(super) picked: Measured,
}

/// Bytes of one row, which do not depend on what is in it.
#[derive(Serialize)]
pub(super) struct SizeReport {
    pub(super) width: u16,
    pub(super) form: String,
    pub(super) payload_bytes: u32,
}

/// One form at one boundary, all others exact.
#[derive(Serialize)]
pub(super) struct BoundaryReport {
    /// The layer that receives.
    pub(super) layer: usize,
    pub(super) form: String,
    pub(super) bits_per_element: f64,
    /// Null where nothing is lost.
    pub(super) sqnr_db: Option<f64>,
    pub(super) worst_row_db: Option<f64>,
    pub(super) agreement: f64,
    pub(super) mean_kl: f64,
    pub(super) worst_kl: f64,
    pub(super) encode_ns: f64,
    pub(super) decode_ns: f64,
}

impl BoundaryReport {
    pub(super) fn new(layer: usize, form: Form, figures: Figures, quality: &Quality) -> Self {
        let finite = |db: f64| db.is_finite().then_some(db);
        Self {
            layer,
            form: form.to_string(),
            bits_per_element: figures.bits_per_element,
            sqnr_db: finite(figures.sqnr_db),
            worst_row_db: finite(figures.worst_row_db),
            agreement: quality.agreement(),
            mean_kl: quality.mean_kl(),
            worst_kl: quality.worst_kl(),
            encode_ns: figures.encode_ns,
            decode_ns: figures.decode_ns,
        }
    }

    /// Whether the form may be picked here.
    pub(super) fn passes(&self, gate: &Gate) -> bool {
        self.agreement >= gate.agreement && self.mean_kl <= gate.mean_kl
    }
}

/// One form, or the picked ones, at every boundary between so many nodes.
#[derive(Serialize)]
pub(super) struct ChainReport {
    pub(super) nodes: usize,
    pub(super) form: String,
    pub(super) bits_per_element: f64,
    pub(super) agreement: f64,
    pub(super) mean_kl: f64,
    pub(super) worst_kl: f64,
}

impl ChainReport {
    pub(super) fn new(nodes: usize, form: String, bits_per_element: f64, quality: &Quality) -> Self {
        let (agreement, mean_kl, worst_kl) = (quality.agreement(), quality.mean_kl(), quality.worst_kl());
        Self { nodes, form, bits_per_element, agreement, mean_kl, worst_kl }
    }
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = format!("a frame's header: {} bytes; the payload of one row:\n", self.header_bytes);
        for size in &self.sizes {
            text += &format!("  width {:5} in {:4} {:6} bytes\n", size.width, size.form, size.payload_bytes);
        }
        text += &format!(
            "\n{}: {} teacher-forced positions, one form at one boundary, row by row, against exact activations\n",
            self.model, self.positions
        );
        text += "before layer  form                 bits/elem  SQNR dB  worst row  same next   mean KL  worst KL  \
                 encode ns  decode ns\n";
        for line in &self.boundaries {
            let db = |db: Option<f64>| db.map_or_else(|| "exact".into(), |db| format!("{db:.1}"));
            let mark = if self.is_picked(line) { "*" } else { " " };
            text += &format!(
                "{:>11} {mark} {:20} {:9.2} {:>8} {:>10} {:8.2} % {:9.1e} {:9.1e} {:10.0} {:10.0}\n",
                line.layer,
                line.form,
                line.bits_per_element,
                db(line.sqnr_db),
                db(line.worst_row_db),
                line.agreement * 100.0,
                line.mean_kl,
                line.worst_kl,
                line.encode_ns,
                line.decode_ns
            );
        }
        let Gate { agreement, mean_kl } = self.picked.gate;
        text += &format!(
            "* picked for --wire auto: the fewest bytes (by 2 %) with {:.1} % same next token and mean KL up to {mean_kl}\n",
            agreement * 100.0
        );
        text += "\nevery boundary between nodes in one form\n";
        text += "nodes  form                 bits/elem  same next   mean KL  worst KL\n";
        for line in &self.chains {
            text += &format!(
                "{:5}  {:20} {:9.2} {:8.2} % {:9.1e} {:9.1e}\n",
                line.nodes,
                line.form,
                line.bits_per_element,
                line.agreement * 100.0,
                line.mean_kl,
                line.worst_kl
            );
        }
        text
    }

    fn is_picked(&self, line: &BoundaryReport) -> bool {
        self.picked.boundaries.iter().any(|picked| picked.before_layer == line.layer && picked.wire == line.form)
    }
}
