//! Finding a GPU and opening it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::{Adapter, Backends, CooperativeScalarType, DeviceType, Features, Limits};

use super::probe::full_subgroups;
use super::teardown::{Begin, End};
use crate::engine::EngineError;

/// An open GPU. Clones share it.
#[derive(Clone)]
pub struct GpuDevice {
    _begin: Begin,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: Limits,
    name: String,
    driver: String,
    software: bool,
    maps: bool,
    /// Threads of the smallest and the largest subgroup, where the device has subgroup operations.
    subgroups: Option<(u32, u32)>,
    /// A GPU whose workgroups can wait for each other, as far as is known.
    may_persist: bool,
    /// Threads of a subgroup, where subgroups have matrix units that the kernels can use.
    cooperative: Option<u32>,
    faults: Arc<Faults>,
    /// What was made and not heard of yet.
    #[cfg(target_family = "wasm")]
    pub(super) scopes: std::rc::Rc<std::cell::RefCell<std::collections::VecDeque<super::scopes::Scope>>>,
    _end: End,
}

/// One adapter as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterLine {
    /// Its number, usable as a selector.
    pub index: usize,
    /// Its name, as the driver gives it; any part of it is a selector, unless it is a number.
    pub name: String,
    /// `Vulkan`, `Metal` or `Dx12`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
}

impl fmt::Display for AdapterLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.backend, self.kind)
    }
}

/// Why no GPU was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The system shows no adapter at all.
    #[error(
        "no GPU adapter was found: install a Vulkan driver (Debian and Ubuntu: `mesa-vulkan-drivers`, which also has \
         the software adapter llvmpipe; NVIDIA: the driver's Vulkan library)"
    )]
    NoAdapter,
    /// There are only software adapters, which `auto` does not take.
    #[error("there are only software adapters, which are slower than the CPU engine: {}; choose one by name or number", lines(.0))]
    OnlySoftware(Vec<AdapterLine>),
    /// No adapter fits the selector.
    #[error("no adapter is called {selector:?}: there are {}", lines(.found))]
    NotFound {
        /// What was asked for.
        selector: String,
        /// What there is.
        found: Vec<AdapterLine>,
    },
    /// The adapter was found and could not be opened.
    #[error("{adapter} could not be opened: {what}")]
    Refused {
        /// The adapter.
        adapter: String,
        /// What the driver said.
        what: String,
    },
}

impl GpuDevice {
    /// The adapters of this machine; software adapters are among them.
    #[cfg(not(target_family = "wasm"))]
    pub fn list() -> Vec<AdapterLine> {
        lines_of(&adapters())
    }

    /// Opens the adapter that `selector` names: `auto` (the fastest kind that is not software), `gpu` (the same, but
    /// software if there is nothing else), a number of [`GpuDevice::list`], or a part of a name that is not only digits.
    ///
    /// # Errors
    /// Says what there is where nothing fits.
    #[cfg(not(target_family = "wasm"))]
    pub fn open(selector: &str) -> Result<Self, OpenError> {
        let adapters = adapters();
        let found = lines_of(&adapters);
        let index = select(selector, &found)?;
        let adapter = &adapters[index];
        let info = adapter.get_info();
        pollster::block_on(Self::from_adapter(adapter, format!("{} ({:?})", info.name, info.backend)))
    }

    /// Opens the adapter that the browser thinks fastest. Browsers hardly name it to a page: `name` is what is known of it.
    ///
    /// # Errors
    /// Says what the browser said.
    #[cfg(target_family = "wasm")]
    pub async fn request(name: String) -> Result<Self, OpenError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = Backends::BROWSER_WEBGPU;
        let wanted = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..wgpu::RequestAdapterOptions::default()
        };
        let adapter = wgpu::Instance::new(descriptor).request_adapter(&wanted).await;
        let refused =
            |error: wgpu::RequestAdapterError| OpenError::Refused { adapter: name.clone(), what: error.to_string() };
        let adapter = adapter.map_err(refused)?;
        Self::from_adapter(&adapter, name).await
    }

    async fn from_adapter(adapter: &Adapter, name: String) -> Result<Self, OpenError> {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let multiplies = multiplies_halves(adapter);
        let mut wished = Features::SUBGROUP | Features::MAPPABLE_PRIMARY_BUFFERS | super::persist::FEATURES;
        wished.set(COOPERATIVE, multiplies);
        let features = adapter.features() & wished;
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("syn1"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: if multiplies { experimental() } else { wgpu::ExperimentalFeatures::disabled() },
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        });
        let (device, queue) =
            request.await.map_err(|error| OpenError::Refused { adapter: name.clone(), what: error.to_string() })?;
        let faults = Arc::new(Faults::default());
        let seen = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| seen.record(error.to_string())));
        let seen = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            seen.lose(format!("the device was lost ({reason:?}): {message}"));
        });
        let subgroups = (features.contains(Features::SUBGROUP))
            .then_some((info.subgroup_min_size, info.subgroup_max_size))
            .filter(|&(min, max)| min > 0 && max <= LARGEST_SUBGROUP && max.is_power_of_two());
        let same = subgroups.filter(|(min, max)| min == max).map(|(size, _)| size);
        let cooperative = same.filter(|&size| multiplies && size == COOPERATIVE_SUBGROUP);
        let software = info.device_type == DeviceType::Cpu;
        let maps = features.contains(Features::MAPPABLE_PRIMARY_BUFFERS);
        let may_persist = info.device_type == DeviceType::DiscreteGpu && WAITING_VENDORS.contains(&info.vendor);
        let (_begin, _end) = (Begin, End);
        let mut opened = Self {
            _begin,
            device,
            queue,
            limits,
            name,
            driver: [info.driver, info.driver_info].join(" ").trim().to_owned(),
            software,
            maps,
            subgroups,
            may_persist,
            cooperative,
            faults,
            #[cfg(target_family = "wasm")]
            scopes: Default::default(),
            _end,
        };
        if subgroups.is_some_and(|(min, max)| min != max) {
            // A device that fails the probe computes without subgroups; if it is broken, its first use says so.
            let full = full_subgroups(&opened).await.unwrap_or(false);
            opened.subgroups = subgroups.filter(|_| full);
        }
        Ok(opened)
    }

    /// The adapter's name and backend: `NVIDIA H200 (Vulkan)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adapter and driver in one line: what is measured holds for these.
    pub fn identity(&self) -> String {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{}, driver {}", words(&self.name), words(&self.driver))
    }

    /// The open device, for work beside the engine's. It must not outlive this: objects are let go one thread at a time.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue of [`Self::device`].
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// Whether the device was lost: it will not compute again.
    pub fn is_lost(&self) -> bool {
        self.faults.lost.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether this is a software adapter: the CPU engine is faster.
    pub fn is_software(&self) -> bool {
        self.software
    }

    /// Whether kernels may use buffers that can be mapped.
    pub(super) fn maps(&self) -> bool {
        self.maps
    }

    /// Whether the device has subgroup operations of a size that the kernels can use, in full subgroups.
    pub fn has_subgroups(&self) -> bool {
        self.subgroups.is_some()
    }

    /// Whether workgroups may be made to wait for each other.
    pub(super) fn may_persist(&self) -> bool {
        self.may_persist
    }

    /// Whether the device has matrix units that the kernels can use: subgroups of 32, and f16 times f16 to f32 in 16 x 16 x 16.
    pub fn has_cooperative_matrices(&self) -> bool {
        self.cooperative.is_some()
    }

    /// Threads of a subgroup that multiplies cooperative matrices.
    pub(super) fn cooperative_lanes(&self) -> Option<u32> {
        self.cooperative
    }

    /// Threads of the smallest and the largest subgroup.
    pub(super) fn subgroup_sizes(&self) -> Option<(u32, u32)> {
        self.subgroups
    }

    /// What the device reported since the last call, if anything. A lost device is reported every time.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        match self.faults.take() {
            Some(what) => Err(self.failed(what)),
            None => Ok(()),
        }
    }

    /// Lets callbacks run whose work is done.
    pub(super) fn poll(&self) {
        // A device that fails here says so to the next that waits.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// Waits for the work submitted so far, or for `submission`.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), EngineError> {
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None });
        if waited.is_err() {
            // A lost device takes no submission, so there was none to wait for: polled without one, it says that it is lost.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        self.check()?;
        waited.map(|_| ()).map_err(|error| self.failed(error.to_string()))
    }

    /// Waits for the work submitted so far, and for what went wrong with it.
    pub(super) async fn idle(&self) -> Result<(), EngineError> {
        #[cfg(not(target_family = "wasm"))]
        self.wait(None)?;
        #[cfg(target_family = "wasm")]
        {
            let (done, tell) = super::answer::Answer::new();
            self.queue.on_submitted_work_done(move || tell(()));
            done.wait().await;
        }
        self.settled().await
    }

    /// This device's [`EngineError::Device`].
    pub(super) fn failed(&self, what: String) -> EngineError {
        EngineError::Device { device: self.name.clone(), what }
    }

    /// This device's [`EngineError::Unsupported`].
    pub(super) fn unsupported(&self, what: String) -> EngineError {
        EngineError::Unsupported { device: self.name.clone(), what }
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuDevice").field("name", &self.name).field("subgroups", &self.subgroups).finish()
    }
}

/// What the device reported outside any call.
#[derive(Default)]
struct Faults {
    first: Mutex<Option<String>>,
    lost: Mutex<Option<String>>,
}

impl Faults {
    fn record(&self, what: String) {
        tracing::error!("GPU error: {what}");
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn lose(&self, what: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    fn take(&self) -> Option<String> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lost.or_else(|| self.first.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

/// Whether the adapter multiplies cooperative matrices of f16 and adds them in f32, at the size that cooperative.wgsl has.
fn multiplies_halves(adapter: &Adapter) -> bool {
    let fits = |p: wgpu::CooperativeMatrixProperties| {
        (p.m_size, p.n_size, p.k_size) == (16, 16, 16)
            && (p.ab_type, p.cr_type) == (CooperativeScalarType::F16, CooperativeScalarType::F32)
    };
    adapter.features().contains(COOPERATIVE | Features::SUBGROUP)
        && adapter.cooperative_matrix_properties().into_iter().any(fits)
}

/// The leave to use features that wgpu calls experimental.
#[allow(unsafe_code)]
fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: cooperative matrices are the only such feature that is asked for, in shaders of this crate's own, and only
    // where the driver lists the size that they use. Their loads and stores stay within workgroup memory: it is sized by
    // the same tile (matmul.rs) as the indices.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Every adapter, in the backends' own order.
#[cfg(not(target_family = "wasm"))]
fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = Backends::PRIMARY;
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(Backends::PRIMARY))
}

#[cfg(not(target_family = "wasm"))]
fn lines_of(adapters: &[Adapter]) -> Vec<AdapterLine> {
    let line = |(index, adapter): (usize, &Adapter)| {
        let info = adapter.get_info();
        AdapterLine { index, name: info.name, backend: format!("{:?}", info.backend), kind: kind(info.device_type) }
    };
    adapters.iter().enumerate().map(line).collect()
}

#[cfg(not(target_family = "wasm"))]
fn kind(kind: DeviceType) -> &'static str {
    match kind {
        DeviceType::DiscreteGpu => "discrete",
        DeviceType::IntegratedGpu => "integrated",
        DeviceType::VirtualGpu => "virtual",
        DeviceType::Cpu => SOFTWARE,
        DeviceType::Other => "other",
    }
}

/// The index of the adapter that `selector` names.
#[cfg(not(target_family = "wasm"))]
fn select(selector: &str, found: &[AdapterLine]) -> Result<usize, OpenError> {
    if found.is_empty() {
        return Err(OpenError::NoAdapter);
    }
    let fastest = || {
        let preferred = ["discrete", "integrated", "virtual", "other"];
        preferred.iter().find_map(|kind| found.iter().position(|line| line.kind == *kind))
    };
    match selector {
        "auto" => return fastest().ok_or_else(|| OpenError::OnlySoftware(found.to_vec())),
        "gpu" => return Ok(fastest().unwrap_or(0)),
        _ => {}
    }
    let wanted = selector.to_lowercase();
    let by_number = || selector.parse::<usize>().ok().filter(|&index| index < found.len());
    let by_name = || found.iter().position(|line| line.name.to_lowercase().contains(&wanted));
    // A number is never looked for in names: `2` must not open an H200 when there is no third adapter.
    let is_number = selector.bytes().all(|byte| byte.is_ascii_digit());
    let index = if is_number { by_number() } else { by_name() };
    index.ok_or_else(|| OpenError::NotFound { selector: selector.to_owned(), found: found.to_vec() })
}

fn lines(found: &[AdapterLine]) -> String {
    found.iter().map(AdapterLine::to_string).collect::<Vec<_>>().join("; ")
}

/// What cooperative.wgsl needs beside subgroups.
const COOPERATIVE: Features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(Features::SHADER_F16);

/// Threads of a subgroup that cooperative.wgsl divides its work for.
const COOPERATIVE_SUBGROUP: u32 = 32;

/// The kernels' smallest group of threads must hold whole subgroups.
const LARGEST_SUBGROUP: u32 = 128;

/// PCI numbers of NVIDIA, AMD and Intel. On Apple's and Arm's GPUs a workgroup that waits can keep others from starting.
const WAITING_VENDORS: [u32; 3] = [0x10de, 0x1002, 0x8086];

/// The word for a software adapter.
#[cfg(not(target_family = "wasm"))]
const SOFTWARE: &str = "software";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(index: usize, name: &str, kind: &'static str) -> AdapterLine {
        AdapterLine { index, name: name.into(), backend: "Vulkan".into(), kind }
    }

    #[test]
    fn auto_takes_the_fastest_kind_and_never_software() {
        let found = [line(0, "llvmpipe", SOFTWARE), line(1, "Iris", "integrated"), line(2, "H200", "discrete")];
        assert_eq!(select("auto", &found), Ok(2));
        assert_eq!(select("auto", &found[..2]), Ok(1));
        assert_eq!(select("auto", &found[..1]), Err(OpenError::OnlySoftware(found[..1].to_vec())));
        assert_eq!(select("gpu", &found[..1]), Ok(0));
    }

    #[test]
    fn an_adapter_is_found_by_number_or_by_a_part_of_its_name() {
        let found = [line(0, "llvmpipe (LLVM 15)", SOFTWARE), line(1, "NVIDIA H200", "discrete")];
        assert_eq!(select("1", &found), Ok(1));
        assert_eq!(select("h200", &found), Ok(1));
        assert_eq!(select("LLVMpipe", &found), Ok(0));
    }

    #[test]
    fn an_unknown_adapter_is_refused_with_a_list_of_what_there_is() {
        let found = [line(0, "NVIDIA H200", "discrete")];
        assert!(select("2", &found).is_err(), "a number is no part of a name");
        let error = select("7", &found).unwrap_err().to_string();
        assert!(error.contains("\"7\"") && error.contains("0: NVIDIA H200 (Vulkan, discrete)"), "{error}");
        assert!(select("", &found).is_err());
        let none = select("auto", &[]).unwrap_err().to_string();
        assert!(none.contains("mesa-vulkan-drivers"), "{none}");
    }
}
