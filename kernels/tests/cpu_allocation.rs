//! A warm CPU engine allocates nothing, neither in steps nor in the token loop.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use syn1_kernels::cpu::CpuEngine;
use syn1_kernels::engine::{Decode, Engine, EngineConfig, Input, Step};
use syn1_kernels::sampling::Sampler;
use syn1_model::plan::{Plan, WeightFormat};
use syn1_model::random_piece;
use syn1_model::spec::{Activation, Attention, Family, Norm, NormKind, Position, Spec};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// The only test of its program: the count is of all threads.
#[test]
fn a_warm_engine_allocates_nothing() {
    let spec = Spec {
        family: Family::Gpt2,
        layers: 2,
        width: 64,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        ffn: 256,
        vocab: 300,
        max_positions: 64,
        norm: Norm { kind: NormKind::Layer, eps: 1e-5 },
        position: Position::Learned,
        activation: Activation::GeluTanh,
        gated: false,
        attention: Attention { qk_norm: true, ..Attention::default() },
        post_norms: true,
        embed_scale: None,
        logit_softcap: Some(30.0),
        tied_head: true,
        eos: vec![],
    };
    for format in WeightFormat::ALL {
        let plan = Plan::new(&spec, format, 0..spec.layers);
        let pieces: Vec<_> = plan.pieces.iter().map(|piece| random_piece(&spec, format, *piece, 1)).collect();
        let config = EngineConfig { max_positions: 64, slots: 1, max_rows: 16 };
        let mut engine = CpuEngine::new(plan, &pieces, config, Some(3)).unwrap();
        let slot = engine.open().unwrap();
        let (mut out, mut ids) = (Vec::new(), Vec::new());
        let mut request = |out: &mut Vec<f32>, ids: &mut Vec<u32>| {
            ids.clear();
            let prompt = Step { slot, position: 0, input: Input::Tokens(&[7; 16]), wanted: 12 };
            now(engine.run(prompt, out)).unwrap();
            for position in 16..20 {
                let one = Step { slot, position, input: Input::Tokens(&[9]), wanted: 0 };
                now(engine.run(one, out)).unwrap();
            }
            let all = Decode::greedy(slot, 20, 3, 12);
            let drawn = |top_k| Sampler::Sampled { temperature: 0.9, top_k, top_p: 0.8, seed: 1 };
            for decode in [all, Decode { sampler: drawn(0), ..all }, Decode { sampler: drawn(20), ..all }] {
                let sink = |id| {
                    ids.push(id);
                    ControlFlow::Continue(())
                };
                now(engine.decode(decode, sink)).unwrap();
            }
        };
        request(&mut out, &mut ids);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..3).for_each(|_| request(&mut out, &mut ids));
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{format:?}");
    }
}

/// The result of a future that never waits.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the CPU engine waited"),
    }
}
