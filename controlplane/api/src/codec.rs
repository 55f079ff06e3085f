//! Requests and responses as lines of JSON, without IO.

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ApiError, CaptureStatus, Capturing, Checkpoint, ConnImages, Conns, Drained, ErrorCode, Events,
    Keys, Plan, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response, SCHEMA_VERSION, Status,
    SwitchoverDone, VERSION,
};

/// Why a response line was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The line is longer than [`RESPONSE_BYTES_MAX`].
    #[error("the answer is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    /// The line is not a response.
    #[error("the answer is not understood: {0}")]
    Invalid(#[from] serde_json::Error),
}

/// Reads a request line, with or without its newline.
///
/// # Errors
/// What to answer instead.
pub fn decode_request(line: &[u8]) -> Result<Request, ApiError> {
    let usage = |message: String| ApiError::new(ErrorCode::Usage, message);
    if line.len() > REQUEST_BYTES_MAX {
        return Err(usage(too_long()));
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|e| usage(format!("the request is not a JSON object: {e}")))?;
    match fields.remove("version") {
        Some(version) if version == VERSION => {}
        Some(version) => {
            // Not the whole value: it may be long.
            let version = version.as_u64().map_or("that".to_owned(), |v| format!("{v}"));
            return Err(usage(format!(
                "version {version} is not spoken here, this daemon speaks version {VERSION}"
            )));
        }
        None => return Err(usage("the request has no version".into())),
    }
    let all = fields.clone();
    serde_json::from_value(Value::Object(fields)).map_err(|e| {
        let field = bad_field(all).map_or(String::new(), |field| format!("{field}: "));
        usage(format!("the request is not understood: {field}{e}"))
    })
}

/// The field that alone makes a request one that is not understood; serde's error has not its name.
fn bad_field(fields: Map<String, Value>) -> Option<String> {
    const NAME: &str = "request";
    let name = fields.get(NAME)?.clone();
    let understood = |field: Option<(String, Value)>| {
        let mut alone: Map<String, Value> = field.into_iter().collect();
        alone.insert(NAME.into(), name.clone());
        serde_json::from_value::<Request>(Value::Object(alone)).is_ok()
    };
    if !understood(None) {
        return Some(NAME.into());
    }
    // Every field may be left out. Not all of a name: it may be long.
    let bad =
        fields.into_iter().find(|field| !understood(Some((field.0.clone(), field.1.clone()))));
    bad.map(|(field, _)| field.chars().take(NAME_CHARS_MAX).collect())
}

/// What is shown of a field's name.
const NAME_CHARS_MAX: usize = 64;

pub(crate) fn too_long() -> String {
    format!("the request is longer than {REQUEST_BYTES_MAX} bytes")
}

/// The request as a line with its newline.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        version: u32,
        #[serde(flatten)]
        request: &'a Request,
    }
    line(&Line { version: VERSION, request })
}

/// The response as a line with its newline, never longer than
/// [`RESPONSE_BYTES_MAX`]: connections that do not fit are left out and
/// [`Conns::truncated`] or [`ConnImages::left_out`] say so, the oldest events of a timeline are left out,
/// and the newest of a list of events, which says so,
/// and what still does not fit is an error answer.
#[must_use]
pub fn encode_response(response: &Response) -> Vec<u8> {
    let bytes = line(response);
    if bytes.len() <= RESPONSE_BYTES_MAX {
        return bytes;
    }
    let shorter = match response {
        Response::Conns(conns) if !conns.conns.is_empty() => {
            let keep = fewer(conns.conns.len(), bytes.len());
            Response::Conns(Conns {
                role: conns.role,
                conns: conns.conns[..keep].to_vec(),
                truncated: true,
            })
        }
        Response::ConnImages(images) if !images.conns.is_empty() => {
            let mut images = images.clone();
            let all = images.conns.len();
            images.conns.truncate(fewer(all, bytes.len()));
            images.left_out += (all - images.conns.len()) as u64;
            Response::ConnImages(images)
        }
        Response::Status(status) if !status.timeline.is_empty() => {
            let mut status = status.clone();
            status.timeline.drain(..status.timeline.len().div_ceil(2));
            Response::Status(status)
        }
        Response::Events(events) if !events.events.is_empty() => {
            let mut events = events.clone();
            events.events.truncate(fewer(events.events.len(), bytes.len()));
            events.more = true;
            Response::Events(events)
        }
        _ => Response::Error(ApiError::new(
            ErrorCode::Runtime,
            format!("the answer would be longer than {RESPONSE_BYTES_MAX} bytes"),
        )),
    };
    encode_response(&shorter)
}

/// How many of `n` things fit if all of them take `bytes`: in proportion, with a margin; at least
/// one less, so that this ends.
fn fewer(n: usize, bytes: usize) -> usize {
    (n.saturating_mul(RESPONSE_BYTES_MAX) / bytes * 15 / 16).min(n - 1)
}

/// Reads a response line, with or without its newline. Fields this version does
/// not know are skipped.
///
/// # Errors
/// If the line is too long or not a response.
pub fn decode_response(line: &[u8]) -> Result<Response, DecodeError> {
    if line.len() > RESPONSE_BYTES_MAX {
        return Err(DecodeError::TooLong);
    }
    Ok(serde_json::from_slice(line)?)
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // The types have string keys only and no failing Serialize.
    let mut bytes = serde_json::to_vec(value).expect("plain data is JSON");
    bytes.push(b'\n');
    bytes
}

#[derive(Serialize, Deserialize)]
struct Document<S, C, I, D, Q, K, P, L, V, R, N, E> {
    ok: bool,
    /// A daemon before this field sends none.
    #[serde(default)]
    schema_version: u32,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    status: Option<S>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    conns: Option<C>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    conn_images: Option<I>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    switchover: Option<D>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    drained: Option<Q>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    keys: Option<K>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    checkpoint: Option<P>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    plan: Option<L>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    events: Option<V>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    capturing: Option<R>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    capture_node: Option<N>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    error: Option<E>,
}

impl<S, C, I, D, Q, K, P, L, V, R, N, E> Document<S, C, I, D, Q, K, P, L, V, R, N, E> {
    fn new(ok: bool) -> Self {
        Document {
            ok,
            schema_version: SCHEMA_VERSION,
            status: None,
            conns: None,
            conn_images: None,
            switchover: None,
            drained: None,
            keys: None,
            checkpoint: None,
            plan: None,
            events: None,
            capturing: None,
            capture_node: None,
            error: None,
        }
    }
}

fn none<T>() -> Option<T> {
    None
}

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ok = !matches!(self, Self::Error(_));
        let mut document: Document<
            &Status,
            &Conns,
            &ConnImages,
            &SwitchoverDone,
            &Drained,
            &Keys,
            &Checkpoint,
            &Plan,
            &Events,
            &Capturing,
            &CaptureStatus,
            &ApiError,
        > = Document::new(ok);
        match self {
            Self::Status(status) => document.status = Some(status),
            Self::Conns(conns) => document.conns = Some(conns),
            Self::ConnImages(images) => document.conn_images = Some(images),
            Self::Switchover(done) => document.switchover = Some(done),
            Self::Drained(drained) => document.drained = Some(drained),
            Self::Keys(keys) => document.keys = Some(keys),
            Self::Checkpoint(checkpoint) => document.checkpoint = Some(checkpoint),
            Self::Plan(plan) => document.plan = Some(plan),
            Self::Events(events) => document.events = Some(events),
            Self::Capturing(capturing) => document.capturing = Some(capturing),
            Self::CaptureStatus(status) => document.capture_node = Some(status),
            Self::Error(error) => document.error = Some(error),
        }
        document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Response {
    #[expect(clippy::type_complexity, reason = "a field for each answer there is")]
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let d: Document<
            Box<Status>,
            Conns,
            ConnImages,
            SwitchoverDone,
            Drained,
            Keys,
            Checkpoint,
            Plan,
            Events,
            Capturing,
            Box<CaptureStatus>,
            ApiError,
        > = Document::deserialize(deserializer)?;
        let ok = d.ok;
        let mut said = [
            d.status.map(Self::Status),
            d.conns.map(Self::Conns),
            d.conn_images.map(Self::ConnImages),
            d.switchover.map(Self::Switchover),
            d.drained.map(Self::Drained),
            d.keys.map(Self::Keys),
            d.checkpoint.map(Self::Checkpoint),
            d.plan.map(Self::Plan),
            d.events.map(Self::Events),
            d.capturing.map(Self::Capturing),
            d.capture_node.map(Self::CaptureStatus),
            d.error.map(Self::Error),
        ]
        .into_iter()
        .flatten();
        match (said.next(), said.next()) {
            (Some(response), None) if ok != matches!(response, Self::Error(_)) => Ok(response),
            _ => Err(D::Error::custom(
                "neither ok with status, conns, conn_images, switchover, drained, keys, checkpoint, plan, events, capturing or capture_node, nor not ok with error",
            )),
        }
    }
}

/// Collects a line from pieces, bounded.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    bytes_max: usize,
}

/// A line got longer than its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the line is longer than {bytes_max} bytes")]
pub struct LineTooLong {
    /// The bound.
    pub bytes_max: usize,
}

impl LineBuffer {
    /// For lines of at most `bytes_max` bytes, the newline counted.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes: Vec::new(), bytes_max }
    }

    /// Takes what was read. Gives the line, without its newline, once it is whole;
    /// what follows the newline is dropped, as there is one line in each direction.
    ///
    /// # Errors
    /// If the line is longer than its bound.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Vec<u8>>, LineTooLong> {
        let end = piece.iter().position(|&b| b == b'\n');
        let part = &piece[..end.unwrap_or(piece.len())];
        // One byte of the bound is the newline's.
        if self.bytes.len() + part.len() >= self.bytes_max {
            return Err(LineTooLong { bytes_max: self.bytes_max });
        }
        self.bytes.extend_from_slice(part);
        Ok(end.map(|_| std::mem::take(&mut self.bytes)))
    }
}
