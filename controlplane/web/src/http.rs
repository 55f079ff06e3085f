//! As much of HTTP/1.1 as is needed to answer GET, one request a connection.

use std::net::IpAddr;

/// Longest head of a request.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/metrics`
    Metrics,
    /// `/status.json`
    StatusJson,
    /// `/`
    Page,
    /// `/status.js`
    Script,
    /// `/status.css`
    Style,
}

/// A request that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What for.
    pub resource: Resource,
    /// HEAD: without a body.
    pub head_only: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP/1.
    Malformed,
    /// Its head is longer than [`HEAD_BYTES_MAX`], or has too many fields.
    TooLong,
    /// Neither GET nor HEAD.
    Method,
    /// There is nothing of that name.
    NotFound,
    /// It was sent to another name than this machine's: a page elsewhere may have made a browser
    /// on this machine send it (DNS rebinding).
    ForeignHost,
    /// The daemon gave no status in time.
    Unavailable,
}

impl Refusal {
    /// Status code and reason phrase.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Method => "405 Method Not Allowed",
            Self::NotFound => "404 Not Found",
            Self::ForeignHost => "421 Misdirected Request",
            Self::Unavailable => "503 Service Unavailable",
        }
    }

    /// A sentence for whoever asked.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "this is not an HTTP/1 request\n",
            Self::TooLong => "the head of the request is too long\n",
            Self::Method => "only GET and HEAD are answered\n",
            Self::NotFound => "there are /, /metrics and /status.json\n",
            Self::ForeignHost => {
                "ask by address, or set metrics.allow_remote = true to be asked by name\n"
            }
            Self::Unavailable => "the control plane gave no status in time\n",
        }
    }
}

/// Looks at what has come so far; `None`: more must come. `any_host`: it may be sent to any name.
pub fn parse(bytes: &[u8], any_host: bool) -> Option<Result<Request, Refusal>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Some(Err(Refusal::TooLong));
        }
        Err(_) => return Some(Err(Refusal::Malformed)),
    }
    Some(understand(&request, any_host))
}

fn understand(request: &httparse::Request<'_, '_>, any_host: bool) -> Result<Request, Refusal> {
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Refusal::Method),
    };
    let mut hosts = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host"));
    // Only HTTP/1.0 may come without one, and no browser does.
    let is_own = match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_own_name(host.value),
        (None, _) if request.version == Some(0) => true,
        _ => return Err(Refusal::Malformed),
    };
    if !is_own && !any_host {
        return Err(Refusal::ForeignHost);
    }
    let path = request.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let resource = match path {
        "/metrics" => Resource::Metrics,
        "/status.json" => Resource::StatusJson,
        "/" => Resource::Page,
        "/status.js" => Resource::Script,
        "/status.css" => Resource::Style,
        _ => return Err(Refusal::NotFound),
    };
    Ok(Request { resource, head_only })
}

/// An address, or the name that every machine has for itself.
fn is_own_name(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// A whole answer.
#[must_use]
pub fn answer(content_type: &str, body: &str, head_only: bool) -> Vec<u8> {
    response("200 OK", content_type, body, head_only)
}

/// The answer to what is refused.
#[must_use]
pub fn refusal(refusal: Refusal) -> Vec<u8> {
    response(refusal.status(), "text/plain; charset=utf-8", refusal.text(), false)
}

fn response(status: &str, content_type: &str, body: &str, head_only: bool) -> Vec<u8> {
    let length = body.len();
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    // The page runs its own script and asks its own server, nothing else.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}\
         Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if !head_only {
        bytes.extend_from_slice(body.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str, rest: &str) -> Result<Request, Refusal> {
        parse(format!("GET {target} HTTP/1.1\r\n{rest}\r\n").as_bytes(), false).expect("whole")
    }

    #[test]
    fn what_there_is() {
        for (target, resource) in [
            ("/metrics", Resource::Metrics),
            ("/metrics?x=1", Resource::Metrics),
            ("/", Resource::Page),
            ("/status.json", Resource::StatusJson),
            ("/status.js", Resource::Script),
            ("/status.css", Resource::Style),
        ] {
            let expected = Ok(Request { resource, head_only: false });
            assert_eq!(get(target, "Host: 127.0.0.1:9464\r\n"), expected);
        }
        assert_eq!(get("/metrics/../x", "Host: [::1]\r\n"), Err(Refusal::NotFound));
    }

    #[test]
    fn names_that_are_not_this_machines_are_refused() {
        for host in ["127.0.0.1", "127.0.0.1:1", "[::1]:9464", "localhost:9464", "LocalHost"] {
            assert!(get("/", &format!("host: {host}\r\n")).is_ok(), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9464", "[::1", "", "localhost.x"] {
            let refused = get("/", &format!("Host: {host}\r\n"));
            assert_eq!(refused, Err(Refusal::ForeignHost), "{host}");
        }
        let named = b"GET / HTTP/1.1\r\nHost: node-a.example\r\n\r\n";
        assert!(parse(named, true).is_some_and(|r| r.is_ok()));
        assert_eq!(get("/", ""), Err(Refusal::Malformed));
        assert_eq!(get("/", "Host: ::1\r\nHost: x\r\n"), Err(Refusal::Malformed));
        assert!(parse(b"GET / HTTP/1.0\r\n\r\n", false).is_some_and(|r| r.is_ok()));
    }

    #[test]
    fn bad_requests_have_their_answers() {
        let refused = |bytes: &[u8]| parse(bytes, false).expect("whole").expect_err("refused");
        assert_eq!(refused(b"POST / HTTP/1.1\r\nHost: ::1\r\n\r\n"), Refusal::Method);
        assert_eq!(refused(b"\x16\x03\x01\x02\x00"), Refusal::Malformed);
        assert_eq!(refused(b"GET / HTTP/2.0\r\n\r\n"), Refusal::Malformed);
        assert_eq!(
            refused(&[b"GET /".as_slice(), &[b'x'; HEAD_BYTES_MAX]].concat()),
            Refusal::TooLong
        );
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(refused(many.as_bytes()), Refusal::TooLong);
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x\r\n", false), None, "more must come");
        assert_eq!(parse(b"", false), None);
    }

    #[test]
    fn answers_are_whole() {
        let text = String::from_utf8(answer("text/plain", "h\u{e9}", false)).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nh\u{e9}"),
            "{text}"
        );
        assert!(text.contains("Content-Length: 3\r\n"), "{text}");
        let head = String::from_utf8(answer("text/plain", "hello", true)).unwrap();
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let refused = String::from_utf8(refusal(Refusal::Method)).unwrap();
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("Allow: GET, HEAD\r\n"));
    }
}
