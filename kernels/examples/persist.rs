#![allow(missing_docs)]
use std::time::Instant;
use syn1_kernels::engine::*;
use syn1_kernels::gpu::*;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::{Spec, random_piece};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let selector = &args[1];
    let spec = match args[2].as_str() {
        "gpt2" => Spec::gpt2_124m(),
        "llama" => Spec { max_positions: 2048, ..Spec::llama_1b() },
        "tiny" => Spec {
            width: 128,
            heads: 4,
            kv_heads: 4,
            head_dim: 32,
            ffn: 256,
            layers: 2,
            vocab: 1000,
            ..Spec::gpt2_124m()
        },
        "tinyllama" => Spec {
            width: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            ffn: 256,
            layers: 2,
            vocab: 1001,
            max_positions: 1024,
            ..Spec::llama_1b()
        },
        other => panic!("{other}"),
    };
    let format = match args[3].as_str() {
        "f32" => WeightFormat::F32,
        "f16" => WeightFormat::F16,
        "int8" => WeightFormat::Int8,
        _ => WeightFormat::Int4,
    };
    let start: usize = args[4].parse().unwrap();
    let count: usize = args[5].parse().unwrap();
    let runs: usize = args[6].parse().unwrap();
    let plan = Plan::new(&spec, format, 0..spec.layers);
    let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(&spec, format, *piece, 1)).collect();
    let device = GpuDevice::open(selector).unwrap();
    println!("{} {} {}", device.name(), args[2], format);
    let config = EngineConfig { max_positions: spec.max_positions.min(start + count + 20), slots: 1, max_rows: 16 };
    let mut sizes = vec![Persistence::Off];
    for size in &args[7..] {
        if size == "auto" {
            sizes.push(Persistence::Measured);
            continue;
        }
        let (g, t) = size.split_once('x').unwrap();
        sizes.push(Persistence::Sized { groups: g.parse().unwrap(), threads: t.parse().unwrap() });
    }
    let mut want: Option<Vec<u32>> = None;
    for persist in sizes {
        let options = GpuOptions { persist, ..GpuOptions::default() };
        let begun = Instant::now();
        let engine = GpuEngine::with_options(&device, plan.clone(), &pieces, config, options);
        let mut engine = match engine {
            Ok(e) => e,
            Err(e) => {
                println!("{persist:?}: {e}");
                continue;
            }
        };
        let slot = engine.open().unwrap();
        let prompt: Vec<u32> = (0..start as u32).map(|id| (id * 37 + 11) % spec.vocab as u32).collect();
        let mut position = 0;
        for chunk in prompt.chunks(16) {
            let step = Step { slot, position, input: Input::Tokens(chunk), wanted: chunk.len() };
            pollster::block_on(engine.run(step, &mut Vec::new())).unwrap();
            position += chunk.len();
        }
        let made = begun.elapsed();
        let mut times = Vec::new();
        let mut got = Vec::new();
        for _ in 0..=runs {
            got.clear();
            let begun = Instant::now();
            pollster::block_on(engine.decode(Decode::greedy(slot, start, 1, count), |id| {
                got.push(id);
                std::ops::ControlFlow::Continue(())
            }))
            .unwrap();
            times.push(begun.elapsed().as_secs_f64());
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let same = match &want {
            None => {
                want = Some(got.clone());
                got.len()
            }
            Some(want) => want.iter().zip(&got).take_while(|(a, b)| a == b).count(),
        };
        println!(
            "{persist:?}: {:.0} tok/s ({:.1} us a token, best {:.1}), same ids {same}/{}, made in {:.1} s",
            count as f64 / median,
            median / count as f64 * 1e6,
            times[0] / count as f64 * 1e6,
            got.len(),
            made.as_secs_f64()
        );
    }
}
