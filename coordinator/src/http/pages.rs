//! The pages for people, out of this program: nothing is loaded from anywhere else, and their policy says so.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::swarm;
use crate::server::Shared;

/// A file of `pages/`.
struct File {
    path: &'static str,
    mime: &'static str,
    body: &'static str,
    etag: Etag,
}

/// A hash in quotes, fit for the header.
pub(super) type Etag = [u8; 18];

/// `/` and everything beside it.
pub(super) fn routes() -> Router<Arc<Shared>> {
    let files = FILES.iter().fold(Router::new(), |routes, file| routes.route(file.path, serve(file)));
    files.route("/", get(home))
}

/// The chat page for browsers; a few plain lines for everybody else.
async fn home(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let response = match &FILES[CHAT] {
        file if accept.contains("text/html") => file.answer(&headers),
        _ => swarm::home(State(shared)).await.into_response(),
    };
    ([(header::VARY, "accept")], response).into_response()
}

fn serve(file: &'static File) -> MethodRouter<Arc<Shared>> {
    get(move |headers: HeaderMap| async move { file.answer(&headers) })
}

impl File {
    const fn new(path: &'static str, mime: &'static str, body: &'static str) -> Self {
        Self { path, mime, body, etag: etag(body.as_bytes()) }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers.get(header::IF_NONE_MATCH).is_some_and(|etag| etag.as_bytes() == self.etag);
        let own = [
            (header::CONTENT_TYPE, self.mime.as_bytes()),
            (header::ETAG, &self.etag),
            // Another version of the program may answer next time.
            (header::CACHE_CONTROL, b"no-cache"),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, own, SAFETY).into_response();
        }
        (own, SAFETY, self.body).into_response()
    }
}

/// FNV-1a of the file, in hexadecimal.
pub(super) const fn etag(body: &[u8]) -> Etag {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < body.len() {
        hash = (hash ^ body[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    let mut etag = [b'"'; 18];
    let mut digit = 0;
    while digit < 16 {
        etag[digit + 1] = b"0123456789abcdef"[(hash >> (60 - 4 * digit)) as usize & 15];
        digit += 1;
    }
    etag
}

/// What a page may do: run its own scripts and WebAssembly, speak with this coordinator, and be shown in no frame.
const SAFETY: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// Names a file once: as it lies in `pages/`, and as it is asked for.
macro_rules! file {
    ($path:literal, $mime:expr, $name:literal) => {
        File::new($path, $mime, include_str!(concat!("../../pages/", $name)))
    };
    ($mime:expr, $name:literal) => {
        File::new(concat!("/pages/", $name), $mime, include_str!(concat!("../../pages/", $name)))
    };
}

/// Where the chat page stands in [`FILES`].
const CHAT: usize = 0;

/// All of `pages/`; a test compares.
static FILES: [File; 23] = [
    file!("/chat", HTML, "chat.html"),
    file!("/swarm", HTML, "swarm.html"),
    file!("/join", HTML, "join.html"),
    file!("/bench", HTML, "bench.html"),
    file!("/favicon.svg", "image/svg+xml", "favicon.svg"),
    file!(CSS, "style.css"),
    file!(JS, "bench.js"),
    file!(JS, "chat.js"),
    file!(JS, "conversations.js"),
    file!(JS, "dom.js"),
    file!(JS, "events.js"),
    file!(JS, "format.js"),
    file!(JS, "fusion.js"),
    file!(JS, "generate.js"),
    file!(JS, "hindrances.js"),
    file!(JS, "join.js"),
    file!(JS, "key.js"),
    file!(JS, "markdown.js"),
    file!(JS, "plot.js"),
    file!(JS, "report.js"),
    file!(JS, "speaker.js"),
    file!(JS, "swarm.js"),
    file!(JS, "waterfall.js"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_named_once() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pages");
        let there = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = there.collect();
        let name = |file: &File| {
            let name = file.path.rsplit('/').next().unwrap();
            if file.mime == HTML { format!("{name}.html") } else { name.to_owned() }
        };
        let served: BTreeSet<String> = FILES.iter().map(name).collect();
        assert_eq!(served, there);
        assert_eq!(served.len(), FILES.len());
    }

    #[test]
    fn whatever_a_page_loads_is_served_here() {
        let is_served = |path: &str| {
            let path = path.split(['?', '#']).next().unwrap_or_default();
            path == "/"
                || path == "/api/topology"
                || path.starts_with("/web/")
                || FILES.iter().any(|file| file.path == path)
        };
        for file in &FILES {
            let loads = ["src=\"", "href=\"", "from \"", "import(\""];
            for load in loads {
                for rest in file.body.split(load).skip(1) {
                    let path = rest.split('"').next().unwrap();
                    assert!(path.starts_with('#') || is_served(path), "{} loads {path:?}", file.path);
                }
            }
        }
    }

    #[test]
    fn no_page_makes_markup_of_text_or_runs_what_stands_in_it() {
        for file in &FILES {
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!file.body.replace("without innerHTML", "").contains(sink), "{} has {sink}", file.path);
            }
            if file.mime == HTML {
                let inline = ["<style", " style=", "<script>", " onclick=", " onload=", "javascript:"];
                assert!(inline.iter().all(|inline| !file.body.contains(inline)), "{} has something inline", file.path);
            }
        }
    }

    #[test]
    fn tags_are_hashes_of_what_is_served() {
        assert_eq!(&etag(b""), b"\"cbf29ce484222325\"");
        assert_eq!(&etag(b"a"), b"\"af63dc4c8601ec8c\"");
    }
}
