//! Models of random weights: for benchmarks, and for a node to measure itself before it has any weights.

use half::f16;

use crate::fold::{Fold, aux};
use crate::groups::Int4Group;
use crate::layout::{BlockLayout, HeadLayout, PositionsLayout, TokensLayout};
use crate::piece::PieceBytes;
use crate::plan::{Gemv, Matrix, Piece, Tensor, WeightFormat, piece_bytes};
use crate::spec::{Activation, Attention, Family, Norm, NormKind, Position, Rope, RopeScaling, Spec};
use crate::store::{store_by, store_vector};

impl Spec {
    /// The shape of GPT-2 with 124 million parameters (Radford et al. 2019, the smallest of the four).
    pub fn gpt2_124m() -> Self {
        Self {
            family: Family::Gpt2,
            layers: 12,
            width: 768,
            heads: 12,
            kv_heads: 12,
            head_dim: 64,
            ffn: 3072,
            vocab: 50_257,
            max_positions: 1024,
            norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
            position: Position::Learned,
            activation: Activation::GeluTanh,
            gated: false,
            attention: Attention::default(),
            post_norms: false,
            embed_scale: None,
            logit_softcap: None,
            tied_head: true,
            eos: vec![50_256],
        }
    }
}

impl Spec {
    /// The shape of Llama 3.2 with 1.24 billion parameters (Meta 2024), with a context of 8192 positions.
    pub fn llama_1b() -> Self {
        let scaling =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 8192 };
        Self {
            family: Family::Llama,
            layers: 16,
            width: 2048,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            ffn: 8192,
            vocab: 128_256,
            max_positions: 8192,
            norm: Norm { kind: NormKind::Rms, eps: 1e-5 },
            position: Position::Rope(Rope { dims: 64, theta: 500_000.0, scaling }),
            activation: Activation::Silu,
            gated: true,
            eos: vec![128_001],
            ..Self::gpt2_124m()
        }
    }

    /// The shape of SmolLM 135M; a context of 8192.
    pub fn llama_135m() -> Self {
        Self { layers: 30, width: 576, heads: 9, kv_heads: 3, ffn: 1536, vocab: 49_152, ..Self::llama_1b() }
    }
}

/// A piece of random weights like those of a freshly initialised GPT-2: standard deviation 0.02, gamma near 1, a LayerNorm's
/// beta and bias near 0, `aux` consistent with them. The same arguments always give the same bytes, and pieces of one seed fit
/// together (a tied head is folded over the embedding of the same seed).
///
/// # Panics
/// If the spec is not one that [`Spec::check`] accepts: its sizes must be those of a real model.
pub fn random_piece(spec: &Spec, format: WeightFormat, piece: Piece, seed: u64) -> PieceBytes {
    let length = piece_bytes(spec, format, piece) as usize;
    let table = Normal::new();
    PieceBytes::with(length, |out| match piece {
        Piece::Tokens => fill_rows(&TokensLayout::new(spec, format).matrix, &table, seed, out),
        Piece::Positions => fill_rows(&PositionsLayout::new(spec, format).matrix, &table, seed, out),
        Piece::Block(index) => {
            let layout = BlockLayout::new(spec, format, index);
            let gemvs = [layout.qkv, layout.out, layout.up, layout.down];
            for (place, gemv) in gemvs.iter().enumerate() {
                fill_gemv(gemv, piece, place, &table, seed, out);
            }
            let heads = layout.qk_norm.map(|norm| [norm.q, norm.k].map(|tensor| (tensor, spec.head_dim)));
            let rows = layout.post_norms.map(|norms| norms.map(|norm| (norm.gamma, spec.width)));
            for (place, (tensor, elements)) in heads.into_iter().chain(rows).flatten().enumerate() {
                let mut stream = Stream::new(seed ^ VECTORS, piece, gemvs.len() + place, 0);
                store_vector(&table.vector(&mut stream, elements, 1.0), bytes_of(tensor, out));
            }
        }
        Piece::Head => fill_gemv(&HeadLayout::new(spec, format).gemv, piece, 0, &table, seed, out),
    })
}

fn fill_rows(matrix: &Matrix, table: &Normal, seed: u64, out: &mut [u8]) {
    let mut row = vec![0.0; matrix.cols];
    for (index, out) in bytes_of(matrix.data, out).chunks_exact_mut(matrix.row_bytes()).enumerate() {
        table.fill(&mut Stream::new(seed, matrix.data.piece, 0, index), &mut row);
        store_by(Int4Group::through_ends, &mut row, matrix.format, (0, matrix.stride), Some(out));
    }
}

/// Fills the gemv that stands at `place` among its piece's.
fn fill_gemv(gemv: &Gemv, piece: Piece, place: usize, table: &Normal, seed: u64, out: &mut [u8]) {
    let matrix = &gemv.matrix;
    let mut stream = Stream::new(seed ^ VECTORS, piece, place, 0);
    let mut vector = |elements: usize, mean: f32| table.vector(&mut stream, elements, mean);
    let fold = gemv.norm.map(|folded| {
        let gamma = vector(matrix.cols, 1.0);
        let layer = folded.norm.kind == NormKind::Layer;
        Fold { gamma, beta: if layer { vector(matrix.cols, 0.0) } else { vec![0.0; matrix.cols] } }
    });
    let bias = if piece == Piece::Head { vec![0.0; matrix.rows] } else { vector(matrix.rows, 0.0) };
    if let (Some(folded), Some(fold)) = (gemv.norm, &fold) {
        store_vector(&fold.gamma, bytes_of(folded.gamma, out));
    }
    let mut sums: Vec<[f64; 2]> = bias.iter().map(|bias| [0.0, f64::from(*bias)]).collect();
    let own = matrix.data.piece == piece;
    let rows = if own { bytes_of(matrix.data, out) } else { &mut [] };
    let mut rows = rows.chunks_exact_mut(matrix.row_bytes());
    let mut row = vec![0.0; matrix.cols];
    for (index, sums) in sums.iter_mut().enumerate() {
        table.fill(&mut Stream::new(seed, matrix.data.piece, place, index), &mut row);
        if let Some(fold) = &fold {
            fold.add_exact(sums, 0, &row);
        }
        store_by(Int4Group::through_ends, &mut row, matrix.format, (0, matrix.stride), rows.next());
        if let Some(fold) = &fold {
            fold.add_stored(sums, 0, &row);
        }
    }
    store_vector(&aux(&sums), bytes_of(gemv.aux, out));
}

/// The bytes of a tensor inside its piece.
fn bytes_of(tensor: Tensor, piece: &mut [u8]) -> &mut [u8] {
    &mut piece[tensor.offset as usize..(tensor.offset + tensor.bytes) as usize]
}

/// Quantiles of a normal distribution, all of them exact in f16 so that f32 and f16 hold the same model.
struct Normal {
    values: Vec<f32>,
}

impl Normal {
    fn new() -> Self {
        let value = |index: usize| {
            let probability = (index as f64 + 0.5) / Self::SIZE as f64;
            f16::from_f64(STD * quantile(probability)).to_f32()
        };
        Self { values: (0..Self::SIZE).map(value).collect() }
    }

    /// Fills with independent draws, five of them from each 64-bit number.
    fn fill(&self, stream: &mut Stream, out: &mut [f32]) {
        for chunk in out.chunks_mut(64 / Self::BITS) {
            let mut bits = stream.next();
            for value in chunk {
                *value = self.values[bits as usize & (Self::SIZE - 1)];
                bits >>= Self::BITS;
            }
        }
    }

    /// A vector of draws around `mean`.
    fn vector(&self, stream: &mut Stream, elements: usize, mean: f32) -> Vec<f32> {
        let mut values = vec![0.0; elements];
        self.fill(stream, &mut values);
        values.iter_mut().for_each(|value| *value += mean);
        values
    }

    /// Bits of a draw.
    const BITS: usize = 12;

    /// Number of values.
    const SIZE: usize = 1 << Self::BITS;
}

/// SplitMix64 (Steele, Lea and Flood 2014): any state is a good one, so every row can have a stream of its own.
struct Stream(u64);

impl Stream {
    /// The numbers of one row: of which piece, of which matrix in it, and of which row there.
    fn new(seed: u64, piece: Piece, place: usize, row: usize) -> Self {
        let piece = match piece {
            Piece::Tokens => 0,
            Piece::Positions => 1,
            Piece::Head => 2,
            Piece::Block(index) => 3 + index,
        };
        let mut mix = Self(seed);
        for word in [piece, place, row] {
            mix = Self(mix.next() ^ word as u64);
        }
        mix
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

/// Standard normal quantile by the logistic approximation `ln(p / (1 - p)) / 1.702` (Bowling et al. 2009 compare such
/// forms): plausible weights need no more.
fn quantile(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln() / 1.702
}

/// Standard deviation of the weights: GPT-2's initialisation.
const STD: f64 = 0.02;

/// Sets the vectors' numbers apart from the rows'.
const VECTORS: u64 = 0x5653_1A96;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Tensor, all_pieces};

    fn small() -> Spec {
        let small = Spec { layers: 2, width: 48, heads: 3, kv_heads: 3, head_dim: 16, ffn: 48, ..Spec::gpt2_124m() };
        Spec { vocab: 300, max_positions: 64, eos: vec![], ..small }
    }

    fn floats(piece: &PieceBytes, tensor: Tensor, format: WeightFormat) -> Vec<f32> {
        let bytes = &piece.as_slice()[tensor.offset as usize..][..tensor.bytes as usize];
        match format {
            WeightFormat::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        }
    }

    #[test]
    fn public_shapes_pass_their_own_check_and_have_the_published_size() {
        for (spec, parameters) in [(Spec::gpt2_124m(), 124_000_000_u64), (Spec::llama_1b(), 1_236_000_000)] {
            spec.check().expect("shape");
            let bytes: u64 =
                all_pieces(&spec, WeightFormat::F16).iter().map(|p| piece_bytes(&spec, WeightFormat::F16, *p)).sum();
            assert!((bytes / 2).abs_diff(parameters) < parameters / 50, "{bytes}");
        }
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes_and_others_do_not() {
        let spec = small();
        for (format, piece) in
            WeightFormat::ALL.iter().flat_map(|f| all_pieces(&small(), *f).into_iter().map(|p| (*f, p)))
        {
            let bytes = random_piece(&spec, format, piece, 7);
            assert_eq!(bytes.as_slice().len() as u64, piece_bytes(&spec, format, piece));
            assert_eq!(bytes.as_slice(), random_piece(&spec, format, piece, 7).as_slice());
            assert_ne!(bytes.as_slice(), random_piece(&spec, format, piece, 8).as_slice());
        }
        let blocks = [0, 1].map(|index| random_piece(&spec, WeightFormat::Int4, Piece::Block(index), 7));
        assert_ne!(blocks[0].as_slice(), blocks[1].as_slice());
    }

    #[test]
    fn matrices_differ_have_the_right_spread_and_are_the_same_in_both_formats() {
        let spec = small();
        let matrices = [WeightFormat::F32, WeightFormat::F16].map(|format| {
            let block = random_piece(&spec, format, Piece::Block(0), 1);
            let layout = BlockLayout::new(&spec, format, 0);
            [layout.qkv, layout.out, layout.up, layout.down].map(|gemv| floats(&block, gemv.matrix.data, format))
        });
        assert_eq!(matrices[0], matrices[1]);
        let [qkv, out, up, down] = &matrices[0];
        assert!(out != up && up != down && out != down && qkv[..out.len()] != out[..]);
        let mean = qkv.iter().sum::<f32>() / qkv.len() as f32;
        let deviation = (qkv.iter().map(|w| (w - mean).powi(2)).sum::<f32>() / qkv.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (0.018..0.024).contains(&deviation), "{mean} {deviation}");
    }

    #[test]
    fn the_fold_of_a_tied_head_is_that_of_the_embedding() {
        let (spec, format) = (small(), WeightFormat::F16);
        let tokens = random_piece(&spec, format, Piece::Tokens, 3);
        let head = random_piece(&spec, format, Piece::Head, 3);
        let gemv = HeadLayout::new(&spec, format).gemv;
        let gamma = floats(&head, gemv.norm.expect("norm").gamma, WeightFormat::F32);
        let table = floats(&tokens, gemv.matrix.data, format);
        let aux = floats(&head, gemv.aux, WeightFormat::F32);
        assert!(gamma[..spec.width].iter().all(|gamma| (0.7..1.3).contains(gamma)));
        for (row, aux) in table.chunks(gemv.matrix.stride).zip(aux.chunks(2)) {
            let c1 = row.iter().zip(&gamma).map(|(w, g)| w * g).sum::<f32>();
            assert!((c1 - aux[0]).abs() < 1e-5 && aux[1].abs() < 0.1, "{c1} {aux:?}");
        }
    }
}
