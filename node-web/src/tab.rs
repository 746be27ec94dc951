//! What `js/worker.js` calls.

use js_sys::Function;
use serde_json::{Value, json};
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::spawn_local;

use crate::js;
use crate::options::{BenchOptions, FusionOptions, NodeOptions};
use crate::serve::{Reins, serve};

/// Tells the page's console of a panic; the Worker is of no use behind one.
#[wasm_bindgen(start)]
pub fn begin() {
    std::panic::set_hook(Box::new(|info| {
        let console = js::property(&js_sys::global(), "console");
        let error = console.as_ref().and_then(|console| js::property(console, "error")).map(Function::from);
        if let Some(error) = error {
            let _ = error.call1(&JsValue::UNDEFINED, &format!("syn1: {info}").into());
        }
    }));
}

/// A running node.
#[wasm_bindgen]
#[derive(Default)]
pub struct Tab {
    reins: Reins,
}

#[wasm_bindgen]
impl Tab {
    /// Starts a node with `options`, JSON of the fields in `README.md`. `told` gets every event as JSON; the last is
    /// `stopped`.
    ///
    /// # Errors
    /// What is wrong with the options.
    #[wasm_bindgen(constructor)]
    pub fn start(options: &str, told: Function) -> Result<Tab, JsValue> {
        let options: NodeOptions = parsed(options)?;
        let tab = Self::default();
        let reins = tab.reins.clone();
        spawn_local(async move {
            let ended = serve(options, &reins, &|event: Value| js::tell(&told, &event)).await;
            let (cause, error) = match ended {
                Ok(cause) => (cause, false),
                Err(cause) => (cause, true),
            };
            js::tell(&told, &json!({ "event": "stopped", "cause": cause, "error": error }));
        });
        Ok(tab)
    }

    /// Says goodbye and ends; `stopped` follows.
    pub fn stop(&self) {
        self.reins.stop.raise();
    }

    /// The network or the page is back: a node that waits for its next attempt makes it now.
    pub fn hurry(&self) {
        self.reins.hurry.raise();
    }

    /// The event `tokens` as it would be now.
    pub fn tokens(&self) -> String {
        self.reins.meter.event().to_string()
    }
}

/// Measures this device with random weights; gives JSON in the form of `syn1 bench decode --json`.
///
/// # Errors
/// A sentence.
#[wasm_bindgen]
pub async fn bench(options: String, told: Function) -> Result<String, JsValue> {
    let options: BenchOptions = parsed(&options)?;
    let report = crate::bench::run(options, &|progress: Value| js::tell(&told, &progress)).await;
    report.map(|report| report.to_string()).map_err(JsValue::from)
}

/// Runs the fusion experiment on this device's GPU; gives JSON in the form of `syn1 bench fusion --json`.
///
/// # Errors
/// A sentence.
#[wasm_bindgen]
pub async fn fusion(options: String, told: Function) -> Result<String, JsValue> {
    let options: FusionOptions = parsed(&options)?;
    let report = crate::fusion::run(options, &|progress: Value| js::tell(&told, &progress)).await;
    report.map(|report| report.to_string()).map_err(JsValue::from)
}

fn parsed<T: serde::de::DeserializeOwned>(options: &str) -> Result<T, JsValue> {
    serde_json::from_str(options).map_err(|error| format!("the options are not as they should be: {error}").into())
}
