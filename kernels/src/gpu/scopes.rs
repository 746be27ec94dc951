//! What goes wrong in making things on the device.
//!
//! A driver that is called says so at once. A browser's GPU is another process, which says so later: there what was made
//! may be nothing but a name, until [`GpuDevice::settled`] has heard of it.

use std::future::Future;

use super::device::GpuDevice;
use crate::engine::EngineError;

impl GpuDevice {
    /// Runs `work`, which makes things on the device, and reports what went wrong: [`EngineError::Memory`] for `what` of
    /// `bytes` bytes, or [`EngineError::Device`]. In a browser [`GpuDevice::settled`] reports it.
    pub(super) fn guarded<T>(
        &self,
        what: &'static str,
        bytes: u64,
        work: impl FnOnce() -> T,
    ) -> Result<T, EngineError> {
        self.check()?;
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let made = work();
        // Each pop takes effect when it is called.
        let (memory, validation, internal) = (memory.pop(), validation.pop(), internal.pop());
        self.hear(what, bytes, async move { (memory.await, validation.await, internal.await) })?;
        Ok(made)
    }

    #[cfg(not(target_family = "wasm"))]
    fn hear(&self, what: &'static str, bytes: u64, said: impl Future<Output = Said>) -> Result<(), EngineError> {
        self.judge(what, bytes, pollster::block_on(said))?;
        // A lost device says so by a callback only, and callbacks run when the device is polled.
        self.poll();
        self.check()
    }

    #[cfg(target_family = "wasm")]
    fn hear(
        &self,
        what: &'static str,
        bytes: u64,
        said: impl Future<Output = Said> + 'static,
    ) -> Result<(), EngineError> {
        self.scopes.borrow_mut().push_back(Scope { what, bytes, said: Box::pin(said) });
        Ok(())
    }

    /// Waits until all that was made is known to be there.
    ///
    /// # Errors
    /// [`EngineError::Memory`] or [`EngineError::Device`]: the first of what went wrong.
    pub(super) async fn settled(&self) -> Result<(), EngineError> {
        #[cfg(target_family = "wasm")]
        {
            let mut first = Ok(());
            loop {
                let Some(Scope { what, bytes, said }) = self.scopes.borrow_mut().pop_front() else { break };
                let judged = self.judge(what, bytes, said.await);
                first = first.and(judged);
            }
            first?;
        }
        self.check()
    }

    fn judge(&self, what: &'static str, bytes: u64, said: Said) -> Result<(), EngineError> {
        let (memory, validation, internal) = said;
        if memory.is_some() {
            return Err(EngineError::Memory { device: self.name().to_owned(), what, bytes });
        }
        match validation.or(internal) {
            Some(error) => Err(self.failed(error.to_string())),
            None => Ok(()),
        }
    }
}

/// What the scopes of memory, validation and internal errors caught.
type Said = (Option<wgpu::Error>, Option<wgpu::Error>, Option<wgpu::Error>);

/// What a browser has yet to say.
#[cfg(target_family = "wasm")]
pub(super) struct Scope {
    what: &'static str,
    bytes: u64,
    said: std::pin::Pin<Box<dyn Future<Output = Said>>>,
}
