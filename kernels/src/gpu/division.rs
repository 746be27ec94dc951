//! How the workgroups of a product for one token row are divided: what [`Tuning`](super::Tuning) chooses from.

use std::fmt;
use std::str::FromStr;

use syn1_model::plan::{Matrix, WeightFormat};

use super::device::GpuDevice;
use super::gemv::ALONE;

/// A division of a workgroup of gemv.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Division {
    /// Threads of a group, which takes some rows of the matrix.
    pub(super) lanes: u32,
    /// Groups in a workgroup.
    pub(super) groups: u32,
    /// Fours of rows that a group takes: 1 or 2.
    pub(super) quads: u32,
    /// Whether inputs come through workgroup memory.
    pub(super) staged: bool,
}

/// What a device has for a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Threads of the smallest and the largest subgroup, where kernels use them.
    pub(super) subgroups: Option<(u32, u32)>,
    /// Bytes of workgroup memory.
    pub(super) memory: u32,
}

impl Room {
    /// That of `device`.
    pub(super) fn of(device: &GpuDevice, subgroups: Option<(u32, u32)>) -> Self {
        Self { subgroups, memory: device.limits.max_compute_workgroup_storage_size }
    }

    /// A group of threads must hold whole subgroups.
    fn fewest_lanes(self) -> u32 {
        self.subgroups.map_or(32, |(_, largest)| largest.max(32))
    }
}

impl Division {
    /// A thread for each four rows: one that decodes waits for no other. For devices whose threads are the turns of a loop.
    pub(super) fn alone() -> Self {
        Self { lanes: 1, groups: ALONE, quads: 1, staged: false }
    }

    /// The one that is taken unmeasured: enough threads to keep many loads on their way, but no more per row than it has
    /// vec4s to read. Where threads take many inputs at a time, these lie ready in workgroup memory.
    pub(super) fn usual(matrix: &Matrix, room: Room) -> Self {
        let (chunks, quads) = (chunks(matrix), matrix.rows.div_ceil(4) as u32);
        let mut lanes = room.fewest_lanes();
        while lanes < chunks && lanes < MOST_THREADS && quads.saturating_mul(lanes) < BUSY_THREADS {
            lanes *= 2;
        }
        let groups = (USUAL_THREADS / lanes).max(1);
        let direct = Self { lanes, groups, quads: 1, staged: false };
        let staged = Self { staged: true, ..direct };
        let converts = matches!(matrix.format, WeightFormat::Int8 | WeightFormat::Int4);
        // Every workgroup stages all inputs, which must be few beside its weights: by a fifth at least.
        let (weights, inputs) = (u64::from(direct.rows()) * matrix.row_bytes() as u64, 4 * matrix.stride as u64);
        if converts && 5 * weights >= 6 * inputs && staged.fits(matrix, room) { staged } else { direct }
    }

    /// Those worth measuring: [`Self::usual`] first, then what differs from it in one way, the most promising first, then in two.
    pub(super) fn candidates(matrix: &Matrix, room: Room) -> Vec<Self> {
        let usual = Self::usual(matrix, room);
        let Self { lanes, groups, quads, staged } = usual;
        let flipped = Self { staged: !staged, ..usual };
        let doubled = Self { groups: 2 * groups, ..usual };
        let narrow = Self { lanes: lanes / 2, groups: 2 * groups, ..usual };
        let broad = Self { lanes: 2 * lanes, groups: (groups / 2).max(1), ..usual };
        let tall = Self { quads: 3 - quads, ..usual };
        let all = [
            usual,
            doubled,
            narrow,
            flipped,
            tall,
            broad,
            Self { quads: tall.quads, ..doubled },
            Self { quads: tall.quads, ..narrow },
            Self { groups: 2 * narrow.groups, ..narrow },
            Self { staged: !staged, ..narrow },
            Self { staged: !staged, ..doubled },
        ];
        let mut candidates = Vec::new();
        for division in all {
            if division.fits(matrix, room) && !candidates.contains(&division) {
                candidates.push(division);
            }
        }
        candidates
    }

    /// Whether a device has room for it: a choice may have been made with other subgroups, or by hand.
    pub(super) fn fits(self, matrix: &Matrix, room: Room) -> bool {
        let Self { lanes, groups, quads, staged } = self;
        let fewest = room.fewest_lanes();
        let whole = lanes.is_power_of_two() && lanes >= fewest && lanes <= MOST_THREADS;
        if !whole || !(1..=2).contains(&quads) || groups == 0 || groups > MOST_THREADS / lanes {
            return false;
        }
        let inputs = if staged { matrix.stride as u64 * 4 } else { 0 };
        // Beside them sums of four outputs and two statistics, and each four rows' largest logit.
        inputs + u64::from(self.sums(room) * 24 + groups * quads * 8) <= u64::from(room.memory)
    }

    /// Threads of a workgroup.
    pub(super) fn threads(self) -> u32 {
        self.lanes * self.groups
    }

    /// Rows of a workgroup.
    pub(super) fn rows(self) -> u32 {
        4 * self.quads * self.groups
    }

    /// Workgroups for `rows` rows.
    pub(super) fn blocks(self, rows: usize) -> u32 {
        (rows as u32).div_ceil(self.rows())
    }

    /// Sums that a workgroup exchanges.
    pub(super) fn sums(self, room: Room) -> u32 {
        self.quads * room.subgroups.map_or(self.threads(), |(smallest, _)| self.threads().div_ceil(smallest))
    }
}

impl fmt::Display for Division {
    /// What [`FromStr`] reads back: `64 lanes, 2 groups, 8 rows, staged`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lanes, groups, quads, staged } = self;
        let inputs = if *staged { "staged" } else { "direct" };
        write!(f, "{lanes} lanes, {groups} groups, {} rows, {inputs}", 4 * quads)
    }
}

impl FromStr for Division {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.split(", ").collect();
        let [lanes, groups, rows, inputs] = parts[..] else { return Err(()) };
        let number = |part: &str, unit: &str| -> Result<u32, ()> {
            part.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or(())
        };
        let rows = number(rows, " rows")?;
        let staged = match inputs {
            "staged" => true,
            "direct" => false,
            _ => return Err(()),
        };
        let read =
            Self { lanes: number(lanes, " lanes")?, groups: number(groups, " groups")?, quads: rows / 4, staged };
        if rows.is_multiple_of(4) { Ok(read) } else { Err(()) }
    }
}

/// vec4s of weights in a row.
pub(super) fn chunks(matrix: &Matrix) -> u32 {
    (matrix.stride / (4 * parts(matrix.format))) as u32
}

/// Fours of inputs in such a vec4.
pub(super) fn parts(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 => 1,
        WeightFormat::F16 => 2,
        WeightFormat::Int8 => 4,
        WeightFormat::Int4 => 8,
    }
}

/// WebGPU's workgroups have so many threads at most.
pub(super) const MOST_THREADS: u32 = 256;

/// Threads of a workgroup where nothing was measured.
pub(super) const USUAL_THREADS: u32 = 128;

/// Threads that fill a large GPU (132 multiprocessors of 1,024): below, rows are divided among more threads.
pub(super) const BUSY_THREADS: u32 = 1 << 17;

#[cfg(test)]
mod tests {
    use syn1_model::plan::{Piece, Tensor};

    use super::*;

    fn matrix(rows: usize, cols: usize, format: WeightFormat) -> Matrix {
        let data = Tensor { piece: Piece::Tokens, offset: 0, bytes: 0 };
        Matrix { data, rows, cols, stride: cols.next_multiple_of(32), format }
    }

    #[test]
    fn every_candidate_fits_webgpus_smallest_device_and_holds_whole_subgroups() {
        for (rows, cols) in [(96, 96), (768, 3072), (2304, 768), (50257, 768), (128_256, 2048), (2048, 8192)] {
            for subgroups in [None, Some((4, 8)), Some((32, 32)), Some((64, 128))] {
                for format in WeightFormat::ALL {
                    let (matrix, room) = (matrix(rows, cols, format), Room { subgroups, memory: 16_384 });
                    let all = Division::candidates(&matrix, room);
                    assert_eq!(all[0], Division::usual(&matrix, room));
                    for (number, division) in all.iter().enumerate() {
                        assert!(division.fits(&matrix, room), "{division}");
                        assert!(!all[..number].contains(division), "{division} twice");
                        assert!(division.threads() <= 256);
                        assert!(subgroups.is_none_or(|(_, largest)| division.lanes % largest == 0), "{division}");
                        assert!(division.blocks(rows) * division.rows() >= rows as u32);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_inputs_that_workgroup_memory_cannot_hold_is_not_staged() {
        let room = Room { subgroups: Some((32, 32)), memory: 16_384 };
        let matrix = matrix(2048, 8192, WeightFormat::Int4);
        assert!(Division::candidates(&matrix, room).iter().all(|division| !division.staged));
        let larger = Room { memory: 49_152, ..room };
        assert!(Division::candidates(&matrix, larger).iter().any(|division| division.staged));
    }

    #[test]
    fn a_division_is_read_back_as_it_was_written_and_nothing_else_is() {
        let room = Room { subgroups: None, memory: 65_536 };
        for division in Division::candidates(&matrix(768, 768, WeightFormat::F16), room) {
            assert_eq!(division.to_string().parse(), Ok(division));
        }
        for wrong in ["", "64 lanes", "64 lanes, 2 groups, 6 rows, direct", "64 lanes, 2 groups, 8 rows, somehow"] {
            assert_eq!(wrong.parse::<Division>(), Err(()), "{wrong}");
        }
    }
}
