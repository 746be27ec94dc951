//! Weights in the order in which threads read them (`tape.wgsl`).

use crate::model::{Layer, Model};

/// How threads share a product of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sharing {
    /// Threads that share four rows, a power of two.
    pub(crate) parts: usize,
    /// Times that all threads take rows.
    pub(crate) rounds: usize,
    /// Fours of inputs that a thread takes in a round.
    pub(crate) steps: usize,
}

/// Threads, and how far they can add up together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    pub(crate) workgroups: usize,
    /// Of a workgroup, a power of two.
    pub(crate) each: usize,
    /// Threads that add up by shuffles; 1 where there are none.
    pub(crate) lanes: usize,
}

impl Threads {
    pub(crate) fn all(self) -> usize {
        self.workgroups * self.each
    }

    /// The sharing of the fewest instructions for `rows` rows of `inputs` inputs.
    pub(crate) fn share(self, rows: usize, inputs: usize) -> Sharing {
        let (fours, quads) = (rows / 4, inputs / 4);
        let of = |parts: usize| {
            let sharing = Sharing { parts, rounds: fours.div_ceil(self.all() / parts), steps: quads / parts };
            let shuffles = parts.min(self.lanes).ilog2() as usize;
            // Workgroup memory costs two barriers.
            let memory = if parts > self.lanes { 8 + parts / self.lanes } else { 0 };
            (sharing, sharing.rounds * (4 * sharing.steps + 4 * shuffles + memory))
        };
        let most = self.each.min(quads);
        let options = (0..=most.ilog2()).map(|log| of(1 << log));
        options.min_by_key(|(_, cost)| *cost).map_or(of(1).0, |(sharing, _)| sharing)
    }
}

/// The sharing of the four products of a layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sharings {
    pub(crate) qkv: Sharing,
    pub(crate) out: Sharing,
    pub(crate) up: Sharing,
    pub(crate) down: Sharing,
}

impl Sharings {
    pub(crate) fn new(threads: Threads, width: usize) -> Self {
        Self {
            qkv: threads.share(3 * width, width),
            out: threads.share(width, width),
            up: threads.share(4 * width, width),
            down: threads.share(width, 4 * width),
        }
    }

    /// Their overrides.
    pub(crate) fn overrides(&self) -> Vec<(&'static str, f64)> {
        let of = |names: [&'static str; 3], sharing: Sharing| {
            let numbers = [sharing.parts, sharing.rounds, sharing.steps];
            names.into_iter().zip(numbers.map(|number| number as f64))
        };
        let qkv = of(["QKV_PARTS", "QKV_ROUNDS", "QKV_STEPS"], self.qkv);
        let out = of(["OUT_PARTS", "OUT_ROUNDS", "OUT_STEPS"], self.out);
        let up = of(["UP_PARTS", "UP_ROUNDS", "UP_STEPS"], self.up);
        let down = of(["DOWN_PARTS", "DOWN_ROUNDS", "DOWN_STEPS"], self.down);
        qkv.chain(out).chain(up).chain(down).collect()
    }
}

/// The tape of a model: `[layer][step][4 inputs][thread]`, four rows each, and a step of zeros, which is loaded ahead and
/// never used.
pub(crate) fn tape(model: &Model, threads: Threads, sharings: &Sharings) -> Vec<f32> {
    let width = model.shape.width;
    let mut tape = Vec::new();
    for layer in &model.layers {
        let Layer { qkv, out, up, down } = layer.folded(model.shape);
        append(&mut tape, threads, sharings.qkv, &qkv, width);
        append(&mut tape, threads, sharings.out, &out, width);
        append(&mut tape, threads, sharings.up, &up, width);
        append(&mut tape, threads, sharings.down, &down, 4 * width);
    }
    tape.extend(std::iter::repeat_n(0.0, 16 * threads.all()));
    tape
}

fn append(tape: &mut Vec<f32>, threads: Threads, sharing: Sharing, matrix: &[f32], inputs: usize) {
    let Sharing { parts, rounds, steps } = sharing;
    for (round, step) in (0..rounds).flat_map(|round| (0..steps).map(move |step| (round, step))) {
        for (input, thread) in (0..4).flat_map(|input| (0..threads.all()).map(move |thread| (input, thread))) {
            let four = round * (threads.all() / parts) + thread / parts;
            let column = 4 * (thread % parts + step * parts) + input;
            let weight = |row: usize| matrix.get(row * inputs + column).copied().unwrap_or(0.0);
            tape.extend((4 * four..4 * four + 4).map(weight));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::WIDTHS;

    #[test]
    fn every_sharing_covers_every_row_and_input_once() {
        for width in WIDTHS {
            for (workgroups, each, lanes) in [(1, 64, 1), (1, 256, 32), (1, 1024, 32), (13, 128, 32), (128, 256, 4)] {
                let threads = Threads { workgroups, each, lanes };
                for (rows, inputs) in [(3 * width, width), (width, 4 * width)] {
                    let sharing = threads.share(rows, inputs);
                    assert_eq!(sharing.steps * sharing.parts * 4, inputs, "{threads:?} {sharing:?}");
                    assert!(sharing.rounds * (threads.all() / sharing.parts) >= rows / 4, "{threads:?} {sharing:?}");
                    assert!(each % sharing.parts == 0);
                    let matrix: Vec<f32> = (1..=rows * inputs).map(|weight| weight as f32).collect();
                    let mut tape = Vec::new();
                    append(&mut tape, threads, sharing, &matrix, inputs);
                    assert_eq!(tape.len(), 16 * sharing.rounds * sharing.steps * threads.all());
                    let mut found: Vec<f32> = tape.into_iter().filter(|&weight| weight != 0.0).collect();
                    found.sort_by(f32::total_cmp);
                    assert!(found == matrix, "{threads:?} {sharing:?}");
                }
            }
        }
    }
}
