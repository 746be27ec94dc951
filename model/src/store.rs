//! Elements to their stored form.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::groups::{GROUP, Int4Group, Int8Group};
use crate::plan::WeightFormat;

/// How far stored weights are from the source's, in sums of squares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fidelity {
    /// The source's weights.
    pub(crate) signal: f64,
    /// What was changed by rounding.
    pub(crate) noise: f64,
}

impl Fidelity {
    /// Of a group; in f32, which is exact enough within one.
    pub(crate) fn of_group(exact: &[f32], stored: &[f32]) -> Self {
        let (mut signal, mut noise) = (0.0_f32, 0.0_f32);
        for (exact, stored) in exact.iter().zip(stored) {
            signal += exact * exact;
            noise += (exact - stored) * (exact - stored);
        }
        Self { signal: signal.into(), noise: noise.into() }
    }

    /// Signal over noise in dB; none if nothing was changed.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn sqnr_db(&self) -> Option<f32> {
        (self.noise > 0.0).then(|| (10.0 * (self.signal / self.noise).log10()) as f32)
    }
}

impl std::ops::AddAssign for Fidelity {
    fn add_assign(&mut self, other: Self) {
        self.signal += other.signal;
        self.noise += other.noise;
    }
}

/// Rounds elements `col..` of a row to what `format` holds and writes them into the row's bytes, if there are any. In
/// groups, `col` begins one, and what is missing at the end counts as zeros.
pub(crate) fn store(
    values: &mut [f32],
    format: WeightFormat,
    place: (usize, usize),
    row: Option<&mut [u8]>,
) -> Fidelity {
    store_by(Int4Group::nearest, values, format, place, row)
}

/// As [`store`], with groups of int4 rounded by `int4`.
pub(crate) fn store_by(
    int4: fn(&[f32; GROUP]) -> Int4Group,
    values: &mut [f32],
    format: WeightFormat,
    (col, stride): (usize, usize),
    mut row: Option<&mut [u8]>,
) -> Fidelity {
    let mut fidelity = Fidelity::default();
    for (index, chunk) in values.chunks_mut(GROUP).enumerate() {
        let mut exact = [0.0; GROUP];
        exact[..chunk.len()].copy_from_slice(chunk);
        let at = col + index * GROUP;
        let out = row.as_deref_mut();
        let stored = match format {
            WeightFormat::F32 => store_f32(&exact[..chunk.len()], at, out),
            WeightFormat::F16 => store_f16(&exact[..chunk.len()], at, out),
            WeightFormat::Int8 => store_int8(&exact, at, stride, out),
            WeightFormat::Int4 => store_int4(&int4(&exact), at, stride, out),
        };
        chunk.copy_from_slice(&stored[..chunk.len()]);
        fidelity += Fidelity::of_group(&exact[..chunk.len()], chunk);
    }
    fidelity
}

/// Writes a vector.
pub(crate) fn store_vector(values: &[f32], out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(values) {
        *bytes = value.to_le_bytes();
    }
}

fn store_f32(values: &[f32], at: usize, row: Option<&mut [u8]>) -> [f32; GROUP] {
    if let Some(row) = row {
        store_vector(values, &mut row[4 * at..]);
    }
    let mut stored = [0.0; GROUP];
    stored[..values.len()].copy_from_slice(values);
    stored
}

fn store_f16(values: &[f32], at: usize, row: Option<&mut [u8]>) -> [f32; GROUP] {
    let mut halves = [f16::ZERO; GROUP];
    halves[..values.len()].convert_from_f32_slice(values);
    if let Some(row) = row {
        for (bytes, half) in row[2 * at..].as_chunks_mut().0.iter_mut().zip(&halves[..values.len()]) {
            *bytes = half.to_le_bytes();
        }
    }
    let mut stored = [0.0; GROUP];
    halves.convert_to_f32_slice(&mut stored);
    stored
}

fn store_int8(values: &[f32; GROUP], at: usize, stride: usize, row: Option<&mut [u8]>) -> [f32; GROUP] {
    let group = Int8Group::nearest(values);
    if let Some(row) = row {
        row[at..][..GROUP].copy_from_slice(&group.steps.map(|step| step as u8));
        row[stride + 2 * (at / GROUP)..][..2].copy_from_slice(&group.scale.to_le_bytes());
    }
    group.values()
}

fn store_int4(group: &Int4Group, at: usize, stride: usize, row: Option<&mut [u8]>) -> [f32; GROUP] {
    if let Some(row) = row {
        put_int4(group, at, stride, row);
    }
    group.values()
}

/// Writes the group that begins at element `at` of a row.
pub(crate) fn put_int4(group: &Int4Group, at: usize, stride: usize, row: &mut [u8]) {
    for (eight, out) in group.steps.as_chunks::<8>().0.iter().zip(row[at / 2..].as_chunks_mut::<4>().0) {
        *out = std::array::from_fn(|j| eight[j] | eight[j + 4] << 4);
    }
    let line = &mut row[stride / 2 + 4 * (at / GROUP)..][..4];
    line[..2].copy_from_slice(&group.line.scale.to_le_bytes());
    line[2..].copy_from_slice(&group.line.low.to_le_bytes());
}

/// Reads a stored row back: the naive form of what every engine does.
#[cfg(test)]
pub(crate) fn read_row(format: WeightFormat, stride: usize, row: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([row[at], row[at + 1]]).to_f32();
    let element = |at: usize| match format {
        WeightFormat::F32 => f32::from_le_bytes([0, 1, 2, 3].map(|byte| row[4 * at + byte])),
        WeightFormat::F16 => half(2 * at),
        WeightFormat::Int8 => f32::from(row[at] as i8) * half(stride + 2 * (at / GROUP)),
        WeightFormat::Int4 => {
            let byte = row[at / 8 * 4 + at % 4];
            let step = if at % 8 < 4 { byte & 15 } else { byte >> 4 };
            let line = stride / 2 + 4 * (at / GROUP);
            f32::from(step) * half(line) + half(line + 2)
        }
    };
    (0..stride).map(element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_is_what_was_left_in_place_whole_or_in_parts() {
        let (cols, stride) = (150, 160);
        let exact: Vec<f32> = (0..cols).map(|index| ((index * 37 % 101) as f32 - 50.0) / 313.0).collect();
        for format in WeightFormat::ALL {
            let mut whole = vec![0; format.row_bytes(stride)];
            let mut stored = exact.clone();
            let fidelity = store(&mut stored, format, (0, stride), Some(&mut whole));
            assert_eq!(read_row(format, stride, &whole)[..cols], stored, "{format}");

            let mut parts = vec![0; format.row_bytes(stride)];
            let mut sum = Fidelity::default();
            for (index, part) in exact.chunks(2 * GROUP).enumerate() {
                sum += store(&mut part.to_vec(), format, (2 * GROUP * index, stride), Some(&mut parts));
            }
            assert_eq!((&parts, sum), (&whole, fidelity), "{format}");
            assert_eq!(store(&mut exact.clone(), format, (0, stride), None), fidelity, "{format}");

            let noise: f64 = exact.iter().zip(&stored).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            assert!((fidelity.noise - noise).abs() <= 1e-6 * noise, "{format}: {} {noise}", fidelity.noise);
            let expected = match format {
                WeightFormat::F32 => None,
                WeightFormat::F16 => Some(70.0..80.0),
                WeightFormat::Int8 => Some(42.0..52.0),
                WeightFormat::Int4 => Some(18.0..28.0),
            };
            let inside = fidelity.sqnr_db().zip(expected.clone()).is_none_or(|(db, range)| range.contains(&db));
            assert!(inside && fidelity.sqnr_db().is_some() == expected.is_some(), "{format}: {fidelity:?}");
        }
    }
}
