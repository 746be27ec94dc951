//! Ctrl-C, and work that must not keep it waiting.

use anyhow::Result;

/// The command was ended by Ctrl-C or by the system's request to stop.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

impl Interrupted {
    /// The exit code: 128 and the number of SIGINT, as shells have it.
    pub(crate) const EXIT_CODE: u8 = 130;
}

/// Waits for the first signal. A second one ends the program at once, whatever the clean-up is waiting for.
pub(crate) async fn interrupt() {
    signal().await;
    let impatient = || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(signal());
            std::process::exit(Interrupted::EXIT_CODE.into());
        }
    };
    // Without this thread the clean-up still ends, only later.
    let _ = std::thread::Builder::new().name("syn1-interrupt".into()).spawn(impatient);
}

/// Runs `work` beside the runtime, so that a signal is seen while it blocks.
///
/// When nobody waits any more the work is left behind and ends with the program.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Waits for Ctrl-C, or for SIGTERM where there is one.
async fn signal() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    // Without a handler there is nothing to wait for: the system's own ends the program.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
