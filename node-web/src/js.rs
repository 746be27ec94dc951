//! What is asked of JavaScript in more than one place.

use js_sys::{Function, Promise, Reflect};
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::WorkerGlobalScope;

/// The Worker.
pub(crate) fn scope() -> WorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Waits for a promise; what it was rejected with is an error in words.
pub(crate) async fn promised<T: JsCast>(promise: Promise) -> Result<T, Refused> {
    Ok(JsFuture::from(promise).await?.unchecked_into())
}

/// Bytes of WebAssembly's memory, which only grows.
pub(crate) fn wasm_bytes() -> u64 {
    const PAGE: u64 = 64 << 10;
    PAGE * core::arch::wasm32::memory_size(0) as u64
}

/// A property, if there is one and it is not undefined.
pub(crate) fn property(of: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(of, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null())
}

/// A property that is a text.
pub(crate) fn text(of: &JsValue, name: &str) -> Option<String> {
    property(of, name)?.as_string()
}

/// Hands an object to the page.
pub(crate) fn tell(to: &Function, event: &Value) {
    // A page that throws when it is told something must not end its node.
    let _ = to.call1(&JsValue::UNDEFINED, &event.to_string().into());
}

/// What a browser threw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The kind of exception, such as `QuotaExceededError`.
    pub(crate) name: String,
    /// What the browser said.
    pub(crate) what: String,
}

impl From<JsValue> for Refused {
    fn from(thrown: JsValue) -> Self {
        let what = text(&thrown, "message").or_else(|| thrown.as_string());
        Self { name: text(&thrown, "name").unwrap_or_default(), what: what.unwrap_or_else(|| format!("{thrown:?}")) }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => f.write_str(&self.what),
            name => write!(f, "{name}: {}", self.what),
        }
    }
}
