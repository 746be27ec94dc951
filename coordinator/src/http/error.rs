//! Errors in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::core::Refusal;
use crate::limits::RETRY_AFTER;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field that is wrong, where it is one.
    pub(crate) param: Option<String>,
    /// A word for programs.
    pub(crate) code: Option<&'static str>,
    /// When to ask again, where that helps.
    pub(crate) retry_after: Option<Duration>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: code.into(), retry_after: None }
    }

    /// A request that is wrong as it is.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, None, message)
    }

    /// A field that is wrong.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).of(param)
    }

    /// One that is to be repeated.
    pub(crate) fn later(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        retry_after: Duration,
    ) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(status, code, message) }
    }

    /// An answer that broke off: a node was lost, say. Repeating it helps.
    pub(crate) fn broken(why: impl Into<String>) -> Self {
        Self::later(StatusCode::SERVICE_UNAVAILABLE, "interrupted", why, RETRY_AFTER)
    }

    pub(crate) fn of(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// The word that OpenAI's API has for this kind of error.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// What is sent.
    pub(crate) fn body(&self) -> Value {
        let Self { message, param, code, .. } = self;
        json!({ "error": { "message": message, "type": self.kind(), "param": param, "code": code } })
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(why) => Self::invalid(why),
            Refusal::TooMany { why, retry_after } => {
                Self::later(StatusCode::TOO_MANY_REQUESTS, "too_many_waiting", why, retry_after)
            }
            Refusal::Busy { why, retry_after } => {
                Self::later(StatusCode::SERVICE_UNAVAILABLE, "busy", why, retry_after)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(wait) = self.retry_after {
            // Whole seconds, and not before the time has come.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_to_wait_is_told_how_long_in_whole_seconds() {
        let after = |millis| {
            let wait = Duration::from_millis(millis);
            let error = ApiError::later(StatusCode::TOO_MANY_REQUESTS, "busy", "busy", wait);
            error.into_response().headers()[header::RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!([0, 1, 1000, 1001].map(after), ["1", "1", "1", "2"]);
        assert!(!ApiError::invalid("wrong").into_response().headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::field("temperature", "temperature is 3: it must lie in 0 to 2");
        let body = json!({ "error": {
            "message": "temperature is 3: it must lie in 0 to 2",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": null,
        } });
        assert_eq!(error.body(), body);
    }
}
