//! The one JSON document that `-j` prints, whatever was asked and however it went.

use serde::Serialize;
use serde_json::{Map, Value};
use understudy_api::{ApiError, SCHEMA_VERSION};

/// `{"ok":...,"schema_version":1,NAME:...,"error":...}` as a line.
pub fn document(
    name: &str,
    value: &impl Serialize,
    error: Option<&ApiError>,
) -> serde_json::Result<String> {
    let mut fields = Map::new();
    fields.insert("ok".into(), error.is_none().into());
    fields.insert("schema_version".into(), SCHEMA_VERSION.into());
    fields.insert(name.into(), serde_json::to_value(value)?);
    if let Some(error) = error {
        fields.insert("error".into(), serde_json::to_value(error)?);
    }
    Ok(Value::Object(fields).to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_api::ErrorCode;

    #[test]
    fn documents_say_how_it_went() {
        let whole = document("x", &[1], None).unwrap();
        assert_eq!(whole, "{\"ok\":true,\"schema_version\":1,\"x\":[1]}\n");
        let error = ApiError::new(ErrorCode::Runtime, "no");
        let failed = document("x", &(), Some(&error)).unwrap();
        assert!(
            failed.contains("\"ok\":false") && failed.contains("\"message\":\"no\""),
            "{failed}"
        );
    }
}
