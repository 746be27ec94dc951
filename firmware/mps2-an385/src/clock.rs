//! Embassy's clock on the core's own timer: a tick each millisecond.

use core::cell::{Cell, RefCell};
use core::task::Waker;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use critical_section::{CriticalSection, Mutex};
use embassy_time_driver::Driver;
use embassy_time_queue_utils::Queue;

use crate::map::HZ;

struct SysTickClock {
    ticks: Mutex<Cell<u64>>,
    /// When the queue has to be looked at.
    next: Mutex<Cell<u64>>,
    queue: Mutex<RefCell<Queue>>,
}

embassy_time_driver::time_driver_impl!(static CLOCK: SysTickClock = SysTickClock {
    ticks: Mutex::new(Cell::new(0)),
    next: Mutex::new(Cell::new(u64::MAX)),
    queue: Mutex::new(RefCell::new(Queue::new())),
});

const _: () = assert!(embassy_time_driver::TICK_HZ == 1000);
const CYCLES_A_TICK: u32 = HZ / 1000;

pub(crate) fn start(mut timer: SYST) {
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(CYCLES_A_TICK - 1);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
}

/// Microseconds since the start, finer than embassy's clock.
#[must_use]
pub fn micros() -> u64 {
    critical_section::with(|cs| {
        let before = SYST::get_current();
        let mut ticks = CLOCK.ticks.borrow(cs).get();
        // A tick that is due and not yet counted, because this section keeps its interrupt waiting.
        let mut left = before;
        if cortex_m::peripheral::SCB::is_pendst_pending() {
            (ticks, left) = (ticks + 1, SYST::get_current());
        }
        let cycles = CYCLES_A_TICK.saturating_sub(left);
        ticks * 1000 + u64::from(cycles / (HZ / 1_000_000))
    })
}

impl Driver for SysTickClock {
    fn now(&self) -> u64 {
        critical_section::with(|cs| self.ticks.borrow(cs).get())
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        critical_section::with(|cs| {
            if self.queue.borrow_ref_mut(cs).schedule_wake(at, waker) {
                self.wake_due(cs);
            }
        });
    }
}

impl SysTickClock {
    /// Wakes what is due and notes when something is due again.
    fn wake_due(&self, cs: CriticalSection<'_>) {
        let now = self.ticks.borrow(cs).get();
        let next = self.queue.borrow_ref_mut(cs).next_expiration(now);
        self.next.borrow(cs).set(next);
    }
}

#[cortex_m_rt::exception]
fn SysTick() {
    critical_section::with(|cs| {
        let ticks = CLOCK.ticks.borrow(cs);
        ticks.set(ticks.get() + 1);
        if ticks.get() >= CLOCK.next.borrow(cs).get() {
            CLOCK.wake_due(cs);
        }
    });
}
