//! Weights on their way to a device, a part at a time: no piece need ever be whole in the memory of who brings them.
//!
//! A browser's tab addresses 4 GiB at most and has often less, while its GPU has room for more.

use syn1_model::plan::{Piece, Plan, piece_bytes};

use super::device::GpuDevice;
use super::weights::Weights;
use crate::engine::EngineError;

/// The room for a plan's weights, and how much of it is filled.
pub struct Upload {
    device: GpuDevice,
    pub(super) plan: Plan,
    weights: Weights,
    /// Bytes of each piece that came, in the plan's order.
    came: Vec<u64>,
    /// The piece that comes now, and what came of it and is no whole word yet.
    now: Option<(usize, Vec<u8>)>,
}

impl Upload {
    /// Makes room for the weights of `plan`. In a browser [`Upload::settled`] says whether there was any.
    ///
    /// # Errors
    /// [`EngineError::Memory`] where the device has no room, [`EngineError::Unsupported`] for a piece that no buffer can hold.
    pub fn new(device: &GpuDevice, plan: Plan) -> Result<Self, EngineError> {
        let weights = Weights::room(device, &plan, false)?;
        Ok(Self { device: device.clone(), came: vec![0; plan.pieces.len()], plan, weights, now: None })
    }

    /// Begins a piece, or begins it again.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for one that is not the plan's.
    pub fn begin(&mut self, piece: Piece) -> Result<(), EngineError> {
        let Some(index) = self.plan.pieces.iter().position(|&its| its == piece) else {
            let got = piece_bytes(&self.plan.spec, self.plan.format, piece);
            return Err(EngineError::Piece { piece: piece.to_string(), got, want: 0 });
        };
        self.came[index] = 0;
        self.now = Some((index, Vec::new()));
        Ok(())
    }

    /// Forgets what came of the piece that was begun last: it comes again.
    ///
    /// # Errors
    /// [`EngineError::Piece`] if none was begun.
    pub fn again(&mut self) -> Result<(), EngineError> {
        let Some((index, _)) = self.now else { return Err(none_was_begun(0)) };
        self.begin(self.plan.pieces[index])
    }

    /// The next bytes of the piece that was begun last, any number of them.
    ///
    /// # Errors
    /// [`EngineError::Piece`] where they are more than the piece has; [`EngineError::Memory`] or [`EngineError::Device`].
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let Some((index, rest)) = &mut self.now else {
            return Err(none_was_begun(bytes.len() as u64));
        };
        let piece = self.plan.pieces[*index];
        let want = piece_bytes(&self.plan.spec, self.plan.format, piece);
        let got = self.came[*index] + (rest.len() + bytes.len()) as u64;
        if got > want {
            return Err(EngineError::Piece { piece: piece.to_string(), got, want });
        }
        let mut write = |words: &[u8]| {
            self.weights.write(&self.device, piece, self.came[*index], words)?;
            self.came[*index] += words.len() as u64;
            Ok(())
        };
        // Devices take whole words.
        let mut bytes = bytes;
        if !rest.is_empty() {
            let (head, tail) = bytes.split_at(bytes.len().min(WORD - rest.len()));
            rest.extend_from_slice(head);
            bytes = tail;
            if rest.len() < WORD {
                return Ok(());
            }
            write(rest)?;
            rest.clear();
        }
        let (whole, left) = bytes.split_at(bytes.len() / WORD * WORD);
        rest.extend_from_slice(left);
        if whole.is_empty() { Ok(()) } else { write(whole) }
    }

    /// Waits until the device has taken what was put: as much as is put between two of these is staged at most.
    ///
    /// # Errors
    /// What went wrong with it.
    pub async fn settled(&self) -> Result<(), EngineError> {
        self.device.idle().await
    }

    /// The device, its plan and the weights, all of them.
    ///
    /// # Errors
    /// [`EngineError::Piece`] for the first that is not complete.
    pub(super) fn end(self) -> Result<(GpuDevice, Plan, Weights), EngineError> {
        for (&piece, &got) in self.plan.pieces.iter().zip(&self.came) {
            let want = piece_bytes(&self.plan.spec, self.plan.format, piece);
            if got != want {
                return Err(EngineError::Piece { piece: piece.to_string(), got, want });
            }
        }
        Ok((self.device, self.plan, self.weights))
    }
}

fn none_was_begun(got: u64) -> EngineError {
    EngineError::Piece { piece: "(none was begun)".into(), got, want: 0 }
}

/// Bytes of what a device copies at least.
const WORD: usize = 4;

#[cfg(test)]
mod tests {
    use pollster::block_on;
    use syn1_model::{Spec, WeightFormat, random_piece};

    use super::*;
    use crate::engine::{Engine, EngineConfig, Input, Step};
    use crate::gpu::{GpuEngine, GpuOptions};

    const CONFIG: EngineConfig = EngineConfig { max_positions: 8, slots: 1, max_rows: 4 };

    fn device() -> GpuDevice {
        GpuDevice::open("gpu").unwrap_or_else(|error| panic!("this test needs a GPU adapter: {error}"))
    }

    fn plan() -> Plan {
        let spec =
            Spec { layers: 2, width: 64, heads: 2, kv_heads: 1, head_dim: 32, ffn: 96, vocab: 130, ..Spec::llama_1b() };
        Plan::new(&spec, WeightFormat::Int8, 0..2)
    }

    fn logits(mut engine: GpuEngine) -> Vec<u32> {
        let slot = engine.open().unwrap();
        let mut out = Vec::new();
        block_on(engine.run(Step { slot, position: 0, input: Input::Tokens(&[3, 1, 4]), wanted: 0 }, &mut out))
            .unwrap();
        out.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn parts_of_any_length_make_the_same_engine_as_whole_pieces() {
        let (device, plan) = (device(), plan());
        let pieces: Vec<_> = plan.pieces.iter().map(|&piece| random_piece(&plan.spec, plan.format, piece, 7)).collect();
        let whole = GpuEngine::new(&device, plan.clone(), &pieces, CONFIG).unwrap();
        let mut upload = Upload::new(&device, plan.clone()).unwrap();
        for (part, (&piece, bytes)) in [1, 3, 4097, 5, 1 << 20].into_iter().cycle().zip(plan.pieces.iter().zip(&pieces))
        {
            let bytes = bytes.as_slice();
            // What came of a piece is forgotten when it begins again.
            upload.begin(piece).unwrap();
            upload.put(&[0xFF; 9]).unwrap();
            upload.again().unwrap();
            // Single bytes of all of it would take long.
            let (few, many) = bytes.split_at(bytes.len().min(50));
            few.chunks(part).chain(many.chunks(part.max(1001))).for_each(|part| upload.put(part).unwrap());
        }
        block_on(upload.settled()).unwrap();
        let parts = GpuEngine::uploaded(upload, CONFIG, GpuOptions::default()).unwrap();
        assert_eq!(logits(parts), logits(whole));
    }

    #[test]
    fn what_is_too_long_too_short_or_not_of_the_plan_is_refused_by_name() {
        let (device, plan) = (device(), plan());
        let mut upload = Upload::new(&device, plan.clone()).unwrap();
        assert!(upload.put(&[0; 4]).unwrap_err().to_string().contains("none was begun"));
        assert!(upload.begin(Piece::Block(7)).unwrap_err().to_string().contains("the plan says 0"));
        upload.begin(Piece::Block(0)).unwrap();
        let bytes = piece_bytes(&plan.spec, plan.format, Piece::Block(0)) as usize;
        upload.put(&vec![0; bytes - 3]).unwrap();
        let long = upload.put(&[0; 4]).unwrap_err();
        assert!(matches!(long, EngineError::Piece { got, want, .. } if got == want + 1), "{long}");
        let short = GpuEngine::uploaded(upload, CONFIG, GpuOptions::default()).err().unwrap();
        assert!(matches!(short, EngineError::Piece { got: 0, .. }), "{short}");
    }
}
