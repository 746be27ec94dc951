//! A request's fields, taken one by one: what is wrong is told with the field's name, and what is left over as well.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::http::error::ApiError;

/// A JSON object's fields that were not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    /// Where the object stands, for messages: empty, or `messages[0].`.
    within: String,
    left: Map<String, Value>,
}

/// A request's body, as axum read it.
pub(super) type Body = Result<Json<Map<String, Value>>, JsonRejection>;

impl Fields {
    /// Those of a body.
    pub(super) fn read(body: Body) -> Result<Self, ApiError> {
        match body {
            Ok(Json(left)) => Ok(Self { within: String::new(), left }),
            Err(rejection) => {
                // JSON that is no object is as wrong as JSON that is none.
                let status = rejection.status();
                let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
                Err(ApiError::new(status, None, rejection.body_text()))
            }
        }
    }

    /// Those of an object that stands at `within`.
    pub(super) fn of(within: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(left) => Ok(Self { within: format!("{within}."), left }),
            other => Err(ApiError::field(within, format!("{within} is {other}: it must be an object"))),
        }
    }

    /// The name of a field, with where it stands.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.within)
    }

    /// A field's value; null is as good as none.
    pub(super) fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, ApiError> {
        match self.left.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|error| {
                let name = self.name(field);
                let why = format!("{name}: {error}");
                ApiError::field(name, why)
            }),
        }
    }

    /// A field's value that has to be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, ApiError> {
        let name = self.name(field);
        self.take(field)?.ok_or_else(|| ApiError::field(&name, format!("{name} is missing")))
    }

    /// A number in a range.
    pub(super) fn within<T: DeserializeOwned + Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        field: &str,
        low: T,
        high: T,
    ) -> Result<Option<T>, ApiError> {
        let value = self.take::<T>(field)?;
        match value {
            Some(value) if !(low..=high).contains(&value) => {
                let name = self.name(field);
                let why = format!("{name} is {value}: it must lie in {low} to {high}");
                Err(ApiError::field(name, why))
            }
            value => Ok(value),
        }
    }

    /// Lets go of fields that change nothing.
    pub(super) fn ignore(&mut self, fields: &[&str]) {
        self.left.retain(|name, _| !fields.contains(&name.as_str()));
    }

    /// Lets go of fields that change nothing with this value.
    pub(super) fn ignore_if(&mut self, harmless: &[(&str, Value)]) {
        self.left.retain(|name, value| !harmless.iter().any(|(its, harmless)| its == name && harmless == value));
    }

    /// Nothing may be left that says something.
    pub(super) fn end(self) -> Result<(), ApiError> {
        let left = self.left.iter().find(|(_, value)| !value.is_null());
        left.map_or(Ok(()), |(field, value)| {
            let name = self.name(field);
            let shown: String = value.to_string().chars().take(MAX_SHOWN).collect();
            let why = format!("{name} ({shown}) is not supported here, and would change the answer: leave it out");
            let error = ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", why);
            Err(error.of(name))
        })
    }
}

/// Characters of a value that are told again.
const MAX_SHOWN: usize = 40;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::read(Ok(Json(value.as_object().unwrap().clone()))).unwrap()
    }

    #[test]
    fn what_is_wrong_is_told_with_its_name() {
        let mut fields = fields(json!({ "n": "two", "temperature": 3.5, "top_p": null }));
        let error = fields.take::<usize>("n").unwrap_err();
        assert_eq!(error.param.as_deref(), Some("n"));
        assert!(error.message.starts_with("n: ") && error.message.contains("two"), "{}", error.message);
        let error = fields.within("temperature", 0.0f32, 2.0).unwrap_err();
        assert_eq!(error.message, "temperature is 3.5: it must lie in 0 to 2");
        assert_eq!(fields.take::<f32>("top_p"), Ok(None));
        assert_eq!(fields.need::<String>("prompt").unwrap_err().message, "prompt is missing");
        let mut inner = Fields::of("messages[1]", json!({ "role": 5 })).unwrap();
        assert_eq!(inner.take::<String>("role").unwrap_err().param.as_deref(), Some("messages[1].role"));
        assert!(Fields::of("messages[1]", json!(5)).is_err());
    }

    #[test]
    fn what_is_left_and_says_something_is_refused() {
        let with = |value: Value| {
            let mut fields = fields(value);
            fields.ignore(&["user"]);
            fields.ignore_if(&[("echo", json!(false)), ("tools", json!([]))]);
            fields.end()
        };
        assert_eq!(with(json!({ "user": "me", "echo": false, "tools": [], "suffix": null })), Ok(()));
        for (value, param) in [(json!({ "echo": true }), "echo"), (json!({ "tools": [1] }), "tools")] {
            let error = with(value).unwrap_err();
            assert_eq!((error.param.as_deref(), error.code), (Some(param), Some("unsupported_parameter")));
        }
        let long = with(json!({ "web": "x".repeat(1000) })).unwrap_err();
        assert!(long.message.len() < 200, "{}", long.message);
    }
}
