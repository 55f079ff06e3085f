//! The status page: a document, a script that asks for `/status.json` every second, a style.

use understudy_api::{CaptureStatus, Response, Status, encode_response};

/// The document.
pub const HTML: &str = include_str!("page/status.html");
/// Its media type.
pub const HTML_TYPE: &str = "text/html; charset=utf-8";
/// The script.
pub const SCRIPT: &str = include_str!("page/status.js");
/// Its media type.
pub const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";
/// The style.
pub const STYLE: &str = include_str!("page/status.css");
/// Its media type.
pub const STYLE_TYPE: &str = "text/css; charset=utf-8";
/// Media type of [`json`].
pub const JSON_TYPE: &str = "application/json";

/// The document that `understudy -j status` prints.
#[must_use]
pub fn json(status: &Status) -> String {
    let line = encode_response(&Response::from(status.clone()));
    String::from_utf8_lossy(&line).into_owned()
}

/// The same of a node that only captures.
#[must_use]
pub fn capture_json(status: &CaptureStatus) -> String {
    let line = encode_response(&Response::from(status.clone()));
    String::from_utf8_lossy(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_from_elsewhere() {
        for text in [HTML, SCRIPT, STYLE] {
            assert!(!text.contains("//") && !text.contains("@import"), "{text}");
        }
        // The policy allows no inline script or style, and what others say is text, never markup.
        assert!(!HTML.contains("style=") && !HTML.contains("onclick"));
        assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval("));
    }

    #[test]
    fn the_json_is_the_clis() {
        let document = json(&Status { node: "b".into(), ..Status::default() });
        assert!(
            document.starts_with("{\"ok\":true,\"schema_version\":1,\"status\":{"),
            "{document}"
        );
    }
}
