//! Input and result by kernels, on devices whose kernels may touch memory that the CPU has mapped.
//!
//! A copy between two buffers is a command buffer of its own with barriers around it, and waits for the dispatches before
//! it longer than a dispatch does. So there a step is nothing but one pass: its first dispatch fetches state and rows from
//! the inbox, its last one puts the rows where the CPU reads them.

use syn1_model::plan::Plan;

use super::activations::{Activations, Strides};
use super::device::GpuDevice;
use super::inbox::Inbox;
use super::launch::{Binds, Grid, Launch, Shot};
use super::memory::{View, bind};
use super::readback::Readback;
use super::shader::{File, Kernels};

/// The dispatches around a step; none where copies do that.
#[derive(Default)]
pub(super) struct Carry {
    /// State and rows from the inbox.
    pub(super) arrive: Option<Launch>,
    /// Rows to where they are read back.
    pub(super) depart: Option<Launch>,
}

impl Carry {
    /// Those of a range that takes or gives rows. To be called inside [`GpuDevice::guarded`], and only where the device
    /// [maps its kernels' memory](GpuDevice::maps).
    pub(super) fn new(
        device: &GpuDevice,
        plan: &Plan,
        activations: &Activations,
        inbox: &Inbox,
        rows: Option<&Readback>,
    ) -> Self {
        let mut kernels = Kernels::plain(device);
        let quads = Strides::of(plan).x / 4;
        let Activations { x, state, .. } = activations;
        let mut launch = |tag: &'static str, views: &[(u32, View)]| {
            let kernel = kernels.kernel(File::Carry, &[tag], &[("QUADS", quads as f64)]);
            let one = Shot::new(&kernel, Grid::Tokens { each: quads.div_ceil(THREADS) as u32 });
            Launch { one, many: None, tiled: None, binds: Binds::Shared(bind(device, &kernel, views)) }
        };
        let views = [(0, inbox.view()), (1, View::whole(x)), (2, View::whole(state))];
        // Ids come with the state, a few bytes that one copy brings.
        let arrive = (!plan.embeds() && inbox.view().fits(device)).then(|| launch("ARRIVE", &views));
        let depart = rows.map(|rows| launch("DEPART", &[(0, View::whole(x)), (1, rows.view())]));
        Self { arrive, depart }
    }
}

/// Threads of a workgroup, as in carry.wgsl.
const THREADS: usize = 64;
