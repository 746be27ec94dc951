//! What calibration does to models.

use std::path::{Path, PathBuf};

use pollster::block_on;
use syn1_calibrate::{CalibrateError, Calibrator, Text};
use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Engine, EngineConfig, Input, Step};
use syn1_model::plan::{Piece, Plan, WeightFormat};
use syn1_model::{ModelFolder, PieceBytes, Source, pack_block, pack_piece};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The logits of `ids`.
fn logits(source: &Source, format: WeightFormat, ids: &[u32], calibrator: Option<&mut Calibrator<'_>>) -> Vec<f32> {
    let plan = Plan::new(source.spec(), format, 0..source.spec().layers);
    let mut calibrator = calibrator;
    let pieces = plan.pieces.iter().map(|piece| match (piece, &mut calibrator) {
        (Piece::Block(index), Some(calibrator)) => {
            pack_block(source, *index, &calibrator.block(*index).expect("feedback")).expect("block")
        }
        _ => pack_piece(source, *piece, format).expect("piece"),
    });
    let pieces: Vec<PieceBytes> = pieces.collect();
    let config = EngineConfig { max_positions: ids.len(), slots: 1, max_rows: ids.len() };
    let mut engine = CpuEngine::new(plan, &pieces, config, None).expect("engine");
    let (slot, mut out) = (engine.open().expect("slot"), Vec::new());
    block_on(engine.run(Step { slot, position: 0, input: Input::Tokens(ids), wanted: 0 }, &mut out)).expect("run");
    out
}

#[test]
fn a_text_of_the_models_own_brings_the_bundled_model_nearer_to_its_exact_logits() {
    let folder = ModelFolder::open(&repository("models/tiny-rust-docs")).expect("model");
    let source = folder.source().expect("source");
    let text = std::fs::read_to_string(repository("models/tiny-rust-docs/eval.txt")).expect("eval.txt");
    let mut ids = folder.tokenizer().expect("tokenizer").encode(&text).expect("ids");
    ids.truncate(400);
    let exact = logits(source, WeightFormat::F32, &ids, None);
    let error = |logits: &[f32]| exact.iter().zip(logits).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let nearest = error(&logits(source, WeightFormat::Int4, &ids, None));

    let own = Text::written(source, 4096, 1, &mut || {}).expect("text");
    assert_eq!(own.positions(), 4096);
    let mut calibrator = Calibrator::new(source, own);
    let calibrated = error(&logits(source, WeightFormat::Int4, &ids, Some(&mut calibrator)));
    assert!(calibrated < 0.8 * nearest, "{calibrated} {nearest}");
}

#[test]
fn every_family_can_be_calibrated_and_gives_the_same_bytes_again() {
    for name in ["gpt2", "gemma2", "phi3", "qwen3"] {
        let source = Source::open(&repository("fixtures").join(name)).expect("model");
        let block = || {
            let text = Text::written(&source, 300, 5, &mut || {}).expect("text");
            let mut calibrator = Calibrator::new(&source, text);
            // The first block is passed without being asked for.
            pack_block(&source, 1, &calibrator.block(1).expect("feedback")).expect("block")
        };
        let bytes = block();
        assert_eq!(bytes.as_slice(), block().as_slice(), "{name}");
        let nearest = pack_piece(&source, Piece::Block(1), WeightFormat::Int4).expect("block");
        assert_ne!(bytes.as_slice(), nearest.as_slice(), "{name}");
    }
}

#[test]
fn a_text_too_short_and_blocks_out_of_order_are_refused() {
    let source = Source::open(&repository("fixtures/gpt2")).expect("model");
    let error = Text::of_ids(&source, &[1]).expect_err("short");
    assert!(matches!(error, CalibrateError::Short { found: 1, least: 2 }), "{error}");
    let mut calibrator = Calibrator::new(&source, Text::of_ids(&source, &[1, 2, 3, 4]).expect("text"));
    assert!(calibrator.block(1).is_ok());
    let error = calibrator.block(0).err().expect("order");
    assert!(matches!(error, CalibrateError::Order { block: 0, next: 2 }), "{error}");
}
