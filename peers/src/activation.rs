//! What is sent.

/// Rows of as many values as a model is wide.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Positions.
    pub rows: u16,
    /// Values per position.
    pub cols: u16,
    /// Row after row.
    pub values: Vec<f32>,
}

impl Activation {
    /// Values that look like a transformer's: bell-shaped, with two massive ones per row. The same at each call.
    #[must_use]
    pub fn sample(rows: u16, cols: u16) -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let width = usize::from(cols);
        let values = (0..usize::from(rows) * width).map(|at| match at % width {
            5 => 90.0,
            17 => -250.0,
            _ => (0..4).map(|_| uniform()).sum::<f32>() * 2.0,
        });
        Self { rows, cols, values: values.collect() }
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.cols.into())
    }
}
