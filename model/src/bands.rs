//! A matrix to its packed rows, band by band: whatever its size, a band is all that is in memory.

use crate::feedback::Feedback;
use crate::fold::{Fold, dot};
use crate::groups::GROUP;
use crate::pack::{PackError, Sink, read_checked};
use crate::plan::Matrix;
use crate::store::{Fidelity, put_int4, store};
use crate::threads::threads;
use crate::weights::{TensorView, Weights};

/// A matrix and where its weights come from.
pub(crate) struct Bands<'a> {
    pub(crate) weights: &'a Weights,
    /// The stored tensors that it consists of.
    pub(crate) views: Vec<TensorView<'a>>,
    /// Whether the (only) tensor is stored `[in][out]`, else all are `[out][in]`.
    pub(crate) transposed: bool,
    /// Which tensor holds an output, and as which row.
    pub(crate) place: &'a (dyn Fn(usize) -> (usize, usize) + Sync),
    pub(crate) matrix: &'a Matrix,
    /// The norm in front of the product.
    pub(crate) fold: Option<&'a Fold>,
    /// How int4 is rounded; without it, to the nearest.
    pub(crate) feedback: Option<&'a Feedback>,
}

/// What is known of a row when it is packed.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Of the fold.
    c: [f64; 2],
    fidelity: Fidelity,
}

impl Bands<'_> {
    /// Writes the rows, if they are to be written; gives every output's fold and what rounding has changed.
    ///
    /// The result does not depend on the number of threads: sums are kept by row.
    pub(crate) fn pack(&self, mut out: Option<&mut dyn Sink>) -> Result<(Vec<[f64; 2]>, Fidelity), PackError> {
        let (matrix, row_bytes) = (self.matrix, self.matrix.row_bytes());
        let band = (BAND_BYTES / row_bytes).next_multiple_of(TILE).min(matrix.rows.next_multiple_of(TILE));
        let threads = if band * matrix.cols < PARALLEL { 1 } else { threads() };
        let share = band.div_ceil(threads).next_multiple_of(TILE);
        let mut sums = vec![Sums::default(); matrix.rows];
        let mut bytes = vec![0; if out.is_some() { band.min(matrix.rows) * row_bytes } else { 0 }];
        for (index, sums) in sums.chunks_mut(band).enumerate() {
            let first = index * band;
            let bytes = if bytes.is_empty() { &mut [] } else { &mut bytes[..sums.len() * row_bytes] };
            self.share_out(first, share, sums, bytes)?;
            if let Some(out) = &mut out {
                let (offset, piece) = (matrix.data.offset + (first * row_bytes) as u64, matrix.data.piece);
                out.put(offset, bytes).map_err(|error| PackError::Write { piece, error })?;
            }
            if !self.transposed {
                self.release();
            }
        }
        self.release();
        let mut fidelity = Fidelity::default();
        sums.iter().for_each(|sums| fidelity += sums.fidelity);
        Ok((sums.into_iter().map(|sums| sums.c).collect(), fidelity))
    }

    /// Packs the rows from `first` on, `share` of them to a thread.
    fn share_out(&self, first: usize, share: usize, sums: &mut [Sums], bytes: &mut [u8]) -> Result<(), PackError> {
        if sums.len() <= share {
            return self.part(first, sums, bytes);
        }
        let share_bytes = if bytes.is_empty() { 0 } else { share * self.matrix.row_bytes() };
        let mut bytes = bytes;
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for (index, sums) in sums.chunks_mut(share).enumerate() {
                let (own, rest) = bytes.split_at_mut(share_bytes.min(bytes.len()));
                bytes = rest;
                workers.push(scope.spawn(move || self.part(first + index * share, sums, own)));
            }
            // The first in order of rows is told, however the threads ran.
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn part(&self, first: usize, sums: &mut [Sums], bytes: &mut [u8]) -> Result<(), PackError> {
        match self.feedback {
            Some(feedback) => self.fed_back(feedback, first, sums, bytes),
            None if self.transposed => self.turned(first, sums, bytes),
            None => self.straight(first, sums, bytes),
        }
    }

    /// Rows that are stored as such.
    fn straight(&self, first: usize, sums: &mut [Sums], bytes: &mut [u8]) -> Result<(), PackError> {
        let matrix = self.matrix;
        let mut row = vec![0.0; matrix.cols];
        let mut rows = bytes.chunks_exact_mut(matrix.row_bytes());
        for (index, sums) in sums.iter_mut().enumerate() {
            let (view, stored) = (self.place)(first + index);
            read_checked(&self.views[view], stored * matrix.cols, matrix.format, &mut row)?;
            if let Some(fold) = self.fold {
                fold.add_exact(&mut sums.c, 0, &row);
            }
            sums.fidelity = store(&mut row, matrix.format, (0, matrix.stride), rows.next());
            if let Some(fold) = self.fold {
                fold.add_stored(&mut sums.c, 0, &row);
            }
        }
        Ok(())
    }

    /// Rows that are stored as columns: turned tile by tile, so that reads and writes both stay within the cache.
    fn turned(&self, first: usize, sums: &mut [Sums], bytes: &mut [u8]) -> Result<(), PackError> {
        let matrix = self.matrix;
        let mut tile = vec![0.0; TILE * TILE];
        let mut rows = bytes.chunks_mut(TILE * matrix.row_bytes());
        for (index, sums) in sums.chunks_mut(TILE).enumerate() {
            let row = first + index * TILE;
            let mut bytes = rows.next();
            for col in (0..matrix.cols).step_by(TILE) {
                let cols = TILE.min(matrix.cols - col);
                self.turn((row, sums.len()), (col, cols), &mut tile, TILE)?;
                let mut outs = bytes.as_deref_mut().map(|bytes| bytes.chunks_exact_mut(matrix.row_bytes()));
                for (turned, sums) in tile.chunks_exact_mut(TILE).zip(sums.iter_mut()) {
                    let (out, turned) = (outs.as_mut().and_then(Iterator::next), &mut turned[..cols]);
                    if let Some(fold) = self.fold {
                        fold.add_exact(&mut sums.c, col, turned);
                    }
                    sums.fidelity += store(turned, matrix.format, (col, matrix.stride), out);
                    if let Some(fold) = self.fold {
                        fold.add_stored(&mut sums.c, col, turned);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a tile of rows that are stored as columns, `stride` elements from one to the next in `tile`.
    fn turn(
        &self,
        (row, rows): (usize, usize),
        (col, cols): (usize, usize),
        tile: &mut [f32],
        stride: usize,
    ) -> Result<(), PackError> {
        let (matrix, mut line) = (self.matrix, [0.0; TILE]);
        for k in 0..cols {
            let line = &mut line[..rows];
            read_checked(&self.views[0], (col + k) * matrix.rows + row, matrix.format, line)?;
            for (turned, value) in tile.chunks_mut(stride).zip(line) {
                turned[k] = *value;
            }
        }
        Ok(())
    }

    /// Rows rounded with feedback, a tile's at a time and whole: what is rounded first has an effect on all that follows.
    fn fed_back(
        &self,
        feedback: &Feedback,
        first: usize,
        sums: &mut [Sums],
        bytes: &mut [u8],
    ) -> Result<(), PackError> {
        let (matrix, cols) = (self.matrix, self.matrix.cols);
        let mut bytes = bytes.chunks_mut(TILE * matrix.row_bytes());
        let mut exact = vec![0.0; TILE * cols];
        for (index, sums) in sums.chunks_mut(TILE).enumerate() {
            let (row, exact) = (first + index * TILE, &mut exact[..sums.len() * cols]);
            if self.transposed {
                for col in (0..cols).step_by(TILE) {
                    self.turn((row, sums.len()), (col, TILE.min(cols - col)), &mut exact[col..], cols)?;
                }
            } else {
                for (index, exact) in exact.chunks_exact_mut(cols).enumerate() {
                    let (view, stored) = (self.place)(row + index);
                    read_checked(&self.views[view], stored * cols, matrix.format, exact)?;
                }
            }
            let (mut stored, mut bytes) = (exact.to_vec(), bytes.next());
            feedback.round(exact, &mut stored, |row, col, group| {
                if let Some(bytes) = bytes.as_deref_mut() {
                    put_int4(group, col, matrix.stride, &mut bytes[row * matrix.row_bytes()..][..matrix.row_bytes()]);
                }
            });
            for ((exact, stored), sums) in exact.chunks_exact(cols).zip(stored.chunks_exact(cols)).zip(sums) {
                for (exact, stored) in exact.chunks(GROUP).zip(stored.chunks(GROUP)) {
                    sums.fidelity += Fidelity::of_group(exact, stored);
                }
                if let Some(fold) = self.fold {
                    fold.add_exact(&mut sums.c, 0, exact);
                    fold.add_stored(&mut sums.c, 0, stored);
                }
                sums.c[1] += dot(exact, &feedback.mean) - dot(stored, &feedback.mean);
            }
        }
        Ok(())
    }

    /// Gives the pages of the source back to the system, which counts them as this program's while they are mapped.
    fn release(&self) {
        self.views.iter().for_each(|view| self.weights.release(view));
    }
}

/// Bytes of packed rows at a time.
const BAND_BYTES: usize = 8 << 20;

/// Elements of a band from which on threads are worth their start.
const PARALLEL: usize = 1 << 18;

/// Elements of a tile's side: two tiles of f32 and the rows they touch fit the first-level cache; whole groups.
const TILE: usize = 64;

const _: () = assert!(TILE.is_multiple_of(crate::groups::GROUP));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Model;
    use crate::moments::Moments;
    use crate::plan::{Piece, Tensor, WeightFormat};
    use safetensors::Dtype;

    #[test]
    fn rows_rounded_with_feedback_do_not_depend_on_threads_or_on_how_they_are_stored() {
        let (rows, cols, stride) = (200, 150, 160);
        let value = |row: usize, col: usize| ((row * 37 + col * 101 + row * col % 17) % 257) as f32 / 257.0 - 0.5;
        let matrix_of = |element: &dyn Fn(usize) -> f32| (0..rows * cols).map(element).collect::<Vec<f32>>();
        let mut model = Model::fixture();
        model.tensors.clear();
        let straight = matrix_of(&|at| value(at / cols, at % cols));
        let turned = matrix_of(&|at| value(at % rows, at / rows));
        model.tensors.insert("straight".into(), (vec![rows, cols], straight));
        model.tensors.insert("turned".into(), (vec![cols, rows], turned));
        let folder = model.write(Dtype::F32);
        let weights = Weights::open(folder.path()).expect("weights");

        let mut moments = Moments::new(cols).expect("room");
        let inputs: Vec<f32> = (0..500 * cols).map(|at| value(at / cols, at % cols / 3)).collect();
        moments.add(&inputs);
        let feedback = Feedback::new(moments);
        let fold = Fold { gamma: vec![1.5; cols], beta: vec![0.25; cols] };
        let format = WeightFormat::Int4;
        let bytes = (rows * format.row_bytes(stride)) as u64;
        let data = Tensor { piece: Piece::Block(0), offset: 0, bytes };
        let matrix = Matrix { data, rows, cols, stride, format };
        let pack = |name: &str, transposed: bool, share: usize| {
            let shape = if transposed { [cols, rows] } else { [rows, cols] };
            let bands = Bands {
                weights: &weights,
                views: vec![weights.shaped(name, &shape).expect("tensor")],
                transposed,
                place: &|row| (0, row),
                matrix: &matrix,
                fold: Some(&fold),
                feedback: Some(&feedback),
            };
            let (mut sums, mut out) = (vec![Sums::default(); rows], vec![0; bytes as usize]);
            bands.share_out(0, share, &mut sums, &mut out).expect("packed");
            (out, sums.iter().map(|sums| sums.c).collect::<Vec<_>>())
        };
        let alone = pack("straight", false, 256);
        assert_eq!(pack("straight", false, TILE), alone);
        assert_eq!(pack("turned", true, 256), alone);
        assert_eq!(pack("turned", true, TILE), alone);

        // The constant takes back what rounding does to the mean input.
        let (out, sums) = alone;
        for (row, (bytes, [c1, c2])) in out.chunks_exact(matrix.row_bytes()).zip(sums).enumerate() {
            let stored = crate::store::read_row(format, stride, bytes);
            let exact: Vec<f32> = (0..cols).map(|col| value(row, col)).collect();
            let known: f64 = dot(&exact, &fold.beta) + dot(&exact, &feedback.mean);
            assert!((c1 - dot(&stored[..cols], &fold.gamma)).abs() < 1e-9);
            assert!((c2 + dot(&stored[..cols], &feedback.mean) - known).abs() < 1e-9);
        }
    }
}
