//! A node's machine, and the process on it: connects, serves, and comes back when it was cut off.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use syn1_core::identity::Anonymous;
use syn1_core::{Identity, Millis, Reason};
use syn1_kernels::engine::Engine as _;
use syn1_node::{Assignment, Ended, Host, Loaded, ModelInfo, NodeConfig, NodeEvent, ProfileFigures, Progress};

use crate::net::{Cable, End, cable};
use crate::toy::{Lie, Toy};
use crate::world::World;

/// Ends of cables that nobody has taken yet, at the coordinator.
pub(crate) type Door = Rc<RefCell<VecDeque<(usize, End)>>>;

/// What a machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Bytes for weights and KV caches.
    pub(crate) memory_bytes: u64,
    /// Microseconds a row and layer.
    pub(crate) row_us: u64,
    /// Microseconds from here to the coordinator.
    pub(crate) latency_us: u64,
    /// Microseconds that loading a shard takes.
    pub(crate) load_us: u64,
    /// What it computes in place of the right thing.
    pub(crate) lie: Lie,
}

/// A machine with a node.
pub(crate) struct Machine {
    /// Its number, which is its name.
    pub(crate) number: usize,
    pub(crate) traits: Traits,
    pub(crate) cable: RefCell<Option<Cable>>,
    /// KV caches in use.
    pub(crate) open: Rc<Cell<usize>>,
    world: World,
    layers: usize,
    stop: Cell<bool>,
    stopping: RefCell<Option<Waker>>,
    /// How far its clock is ahead, microseconds.
    ahead_us: Cell<u64>,
    nonces: Cell<u8>,
}

impl Machine {
    pub(crate) fn new(world: &World, number: usize, layers: usize, traits: Traits) -> Self {
        Self {
            number,
            traits,
            cable: RefCell::default(),
            open: Rc::default(),
            world: world.clone(),
            layers,
            stop: Cell::new(false),
            stopping: RefCell::default(),
            ahead_us: Cell::new(world.between(0, 1 << 40)),
            nonces: Cell::new(0),
        }
    }

    /// Ctrl-C.
    pub(crate) fn stop(&self) {
        self.stop.set(true);
        self.stopping.take().into_iter().for_each(Waker::wake);
    }

    /// Its clock jumps ahead.
    pub(crate) fn jump(&self, us: u64) {
        self.ahead_us.set(self.ahead_us.get() + us);
    }

    /// Nanoseconds of a layer by its own measurement: some measure while others are at work on the same machine.
    fn measured_ns(&self) -> u64 {
        self.traits.row_us * 1000 * (1 + self.number as u64 % 3)
    }

    fn clock_us(&self) -> u64 {
        self.world.now_us() + self.ahead_us.get()
    }
}

/// What runs on a machine until it is stopped or refused.
pub(crate) async fn process(machine: Rc<Machine>, door: Door) {
    let name = format!("n{}", machine.number);
    let config = NodeConfig { name, agent: "sim", max_payload: 1 << 16, max_rows: 64, credit: 4, expect: None };
    loop {
        let (own, other, cut) = cable(&machine.world, machine.traits.latency_us);
        *machine.cable.borrow_mut() = Some(cut);
        door.borrow_mut().push_back((machine.number, other));
        let ended = syn1_node::run(own, &*machine, &config).await;
        machine.world.note(|| format!("n{}: {ended:?}", machine.number));
        match ended {
            Ok(Ended::Stopped) | Ok(Ended::Bye { reason: Reason::Refused | Reason::Replaced, .. }) => return,
            _ if machine.stop.get() => return,
            _ => {}
        }
        let pause = machine.world.between(300_000, 3_000_000);
        machine.world.sleep_until(machine.world.now_us() + pause).await;
    }
}

impl Host for Machine {
    type Engine = Toy;

    fn now(&self) -> Millis {
        Millis(self.clock_us() / 1000)
    }

    fn elapsed_us(&self) -> u64 {
        self.clock_us()
    }

    async fn sleep_until(&self, time: Millis) {
        // A jump ahead is noticed when the timer goes off that was set before, as in life.
        let left = (time.0 * 1000).saturating_sub(self.clock_us());
        self.world.sleep_until(self.world.now_us() + left).await;
    }

    async fn stopped(&self) {
        poll_fn(|cx| {
            *self.stopping.borrow_mut() = Some(cx.waker().clone());
            if self.stop.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn identity(&self) -> &dyn Identity {
        &Anonymous
    }

    fn nonce(&self) -> Result<[u8; 32], String> {
        self.nonces.set(self.nonces.get().wrapping_add(1));
        Ok([self.nonces.get(); 32])
    }

    async fn profile(&self, _: &ModelInfo) -> Result<ProfileFigures, String> {
        self.world.sleep_until(self.world.now_us() + self.traits.load_us / 4).await;
        Ok(ProfileFigures {
            device: "hashes".into(),
            memory_bytes: self.traits.memory_bytes,
            read_bytes_per_s: 1,
            layer_ns: self.measured_ns(),
        })
    }

    async fn load(
        &self,
        _: &ModelInfo,
        assignment: &Assignment,
        progress: &dyn Fn(Progress),
    ) -> Result<Loaded<Toy>, String> {
        for part in 0..4 {
            progress(Progress { done_bytes: part, total_bytes: 4 });
            self.world.sleep_until(self.world.now_us() + self.traits.load_us / 4).await;
        }
        let Assignment { layers, engine, .. } = assignment.clone();
        let engine = Toy::new(
            &self.world,
            self.layers,
            layers,
            engine,
            (self.traits.row_us, self.traits.lie),
            self.open.clone(),
        );
        let fetched_bytes = engine.plan().layers.len() as u64;
        Ok(Loaded { engine, fetched_bytes, layer_ns: self.measured_ns() })
    }

    fn event(&self, event: NodeEvent) {
        if let NodeEvent::RequestFailed { .. } = event {
            self.world.note(|| format!("n{}: {event:?}", self.number));
        }
    }
}
