//! The browser's node: the files of its bundle, compressed as they were built.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use syn1_web_bundle::{FILES, MISSING, file};

use super::pages::{Etag, etag};

/// A file of the bundle. Browsers ask every time whether it is still the same, and get it again only if not.
pub(super) async fn web(Path(name): Path<String>, asked: HeaderMap) -> Response {
    let Some(file) = file(&name) else {
        let text = if FILES.is_empty() { MISSING } else { "no such file below /web/" };
        return (StatusCode::NOT_FOUND, format!("{text}\n")).into_response();
    };
    let tag = TAGS.iter().find(|(name, _)| *name == file.name).map(|(_, tag)| tag);
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|known| Some(known.as_bytes()) == tag.map(|tag| &tag[..]));
    let mut answer = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let headers = [(header::CONTENT_TYPE, file.kind), (header::CONTENT_ENCODING, "gzip")];
        (headers, file.gzip).into_response()
    };
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_bytes(tag).ok()) {
        headers.insert(header::ETAG, tag);
    }
    answer
}

/// Every file's, made once: the thread that serves them moves the swarm's frames, too.
static TAGS: LazyLock<Vec<(&str, Etag)>> =
    LazyLock::new(|| FILES.iter().map(|file| (file.name, etag(file.gzip))).collect());

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(name: &str, tag: Option<HeaderValue>) -> Response {
        let headers = tag.into_iter().map(|tag| (header::IF_NONE_MATCH, tag)).collect();
        web(Path(name.to_owned()), headers).await
    }

    #[tokio::test]
    async fn a_file_is_sent_once_and_what_is_not_there_is_named() {
        for file in FILES {
            let first = ask(file.name, None).await;
            assert_eq!(first.status(), StatusCode::OK);
            assert_eq!(first.headers()[header::CONTENT_TYPE], file.kind);
            assert_eq!(first.headers()[header::CONTENT_ENCODING], "gzip");
            assert_eq!(first.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            let again = ask(file.name, Some(first.headers()[header::ETAG].clone())).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        }
        let lacking = ask("nothing.js", None).await;
        assert_eq!(lacking.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn other_bytes_have_another_tag() {
        assert_ne!(etag(b"a"), etag(b"b"));
        assert_ne!(etag(b""), etag(b"\0"));
    }
}
