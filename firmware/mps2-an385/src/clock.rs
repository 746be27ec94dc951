//! Embassy's clock on the core's own timer, a tick each millisecond, and a finer one for figures.

use core::cell::{Cell, RefCell};
use core::task::Waker;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use critical_section::{CriticalSection, Mutex};
use embassy_time_driver::Driver;
use embassy_time_queue_utils::Queue;

use crate::map::{COUNTER, HZ, PRESCALE};

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
    // SAFETY: AN385 has the counter and its divider there.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u32>(PRESCALE).write_volatile(HZ / 1_000_000 - 1);
        core::ptr::with_exposed_provenance_mut::<u32>(COUNTER).write_volatile(0);
    }
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(CYCLES_A_TICK - 1);
    timer.clear_current();
    timer.enable_interrupt();
    timer.enable_counter();
}

/// Microseconds since the start, by a counter of the board's that needs no interrupt: ticks come late while interrupts are held
/// back, and in an emulator whenever its host has no time.
#[must_use]
pub fn micros() -> u64 {
    let coarse = CLOCK.now() * 1000;
    // SAFETY: AN385 has a counter there.
    let fine = unsafe { core::ptr::with_exposed_provenance::<u32>(COUNTER).read_volatile() };
    // The counter begins anew after 71 minutes; ticks say how often it has.
    let ahead = fine.wrapping_sub(coarse as u32).cast_signed();
    coarse.saturating_add_signed(ahead.into())
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
