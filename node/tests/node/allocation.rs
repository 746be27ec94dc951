//! After the first token of a request, a token costs no allocation: not in the node, not in the engine, not in the link.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use syn1_core::control::Output;
use syn1_core::{Header, Receive as _, Transmit as _};
use syn1_node::Ended;

use crate::coordinator::{Coordinator, play};
use crate::machine::Machine;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; the counter is a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `System.alloc` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_counter_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![0_u8; 100]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn tokens_cost_no_allocation_once_a_request_runs() {
    for layers in [0..4, 0..2] {
        let machine = Machine::default();
        let script = async |mut peer: Coordinator| {
            peer.greet().await;
            peer.ready(1, layers.clone()).await;
            peer.open(1, 0, Output::Top(40), 0).await;
            let (rx, tx) = peer.halves();
            let mut begin = 0;
            for position in 0..24 {
                if position == 4 {
                    begin = ALLOCATIONS.get();
                }
                tx.send(&Header::tokens(1, 0, position, 1), &[3, 0, 0, 0]).await.unwrap();
                // Pings may come between.
                while rx.recv().await.unwrap().header.request != 1 {}
            }
            assert_eq!(ALLOCATIONS.get() - begin, 0, "layers {layers:?}");
            peer.leave(&machine).await;
        };
        assert_eq!(play(&machine, script), Ok(Ended::Stopped));
    }
}
