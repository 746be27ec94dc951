//! Bytes from a coordinator, as they come.

use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{Headers, ReadableStreamDefaultReader, RequestCache, RequestInit, Response};

use crate::js::{self, Refused, promised};
use crate::signal::either;
use crate::timer::sleep;

/// An answer whose body is still to be read. Dropping it ends the transfer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The first byte that the body holds, where the server said so.
    pub(crate) begins_at: Option<u64>,
    reader: ReadableStreamDefaultReader,
}

/// Asks for `url`, from byte `from` on.
///
/// # Errors
/// In words, when there is no answer.
pub(crate) async fn get(url: &str, from: u64) -> Result<Answer, String> {
    let asked = async {
        let init = RequestInit::new();
        // Pieces are kept where they can be told from each other; a second copy among pages would be in their way.
        init.set_cache(RequestCache::NoStore);
        if from > 0 {
            let headers = Headers::new()?;
            headers.set("range", &format!("bytes={from}-"))?;
            init.set_headers(&headers);
        }
        let response: Response = promised(js::scope().fetch_with_str_and_init(url, &init)).await?;
        let begins_at = match response.status() {
            200 => Some(0),
            206 => range_start(&response.headers().get("content-range")?.unwrap_or_default()),
            _ => None,
        };
        let body = response.body().ok_or_else(|| JsValue::from("the answer has no body"))?;
        let reader = body.get_reader().unchecked_into();
        Ok(Answer { status: response.status(), begins_at, reader })
    };
    in_time(asked).await
}

impl Answer {
    /// The next bytes; nothing behind the last.
    ///
    /// # Errors
    /// In words, when the connection breaks or nothing comes for [`STALL_MS`].
    pub(crate) async fn chunk(&self) -> Result<Option<Uint8Array>, String> {
        in_time(async {
            let read: JsValue = promised(self.reader.read()).await?;
            let done = Reflect::get(&read, &"done".into())?.is_truthy();
            Ok(if done { None } else { Some(Reflect::get(&read, &"value".into())?.unchecked_into()) })
        })
        .await
    }

    /// The whole body, `most` bytes at most.
    ///
    /// # Errors
    /// In words, as [`Answer::chunk`], and when it is longer.
    pub(crate) async fn bytes(&self, most: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend(chunk.to_vec());
            if bytes.len() as u64 > most {
                return Err(format!("it has more than {most} bytes"));
            }
        }
        Ok(bytes)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody waits for the end of the end. Of a connection that broke off it is an error, and errors that nobody hears end
        // the Worker.
        let end = JsFuture::from(self.reader.cancel());
        spawn_local(async move { drop(end.await) });
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Refused>>) -> Result<T, String> {
    let work = async { work.await.map_err(|refused| refused.to_string()) };
    let stall = async {
        sleep(STALL_MS).await;
        Err(format!("nothing came for {} s", STALL_MS / 1000))
    };
    either(work, stall).await
}

/// The first byte that `bytes 5-9/10` speaks of.
fn range_start(value: &str) -> Option<u64> {
    value.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// A transfer without a byte for this long is cut and resumed.
const STALL_MS: u64 = 15_000;
