//! Requests and responses as lines of JSON, without IO.

use serde::de::Error as _;
use serde::ser::SerializeMap;
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

/// What a response line may hold, one answer at most.
#[derive(Deserialize)]
struct Document {
    ok: bool,
    status: Option<Box<Status>>,
    conns: Option<Conns>,
    conn_images: Option<ConnImages>,
    switchover: Option<SwitchoverDone>,
    drained: Option<Drained>,
    keys: Option<Keys>,
    checkpoint: Option<Checkpoint>,
    plan: Option<Plan>,
    events: Option<Events>,
    capturing: Option<Capturing>,
    capture_node: Option<Box<CaptureStatus>>,
    error: Option<ApiError>,
}

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_map(Some(3))?;
        document.serialize_entry("ok", &!matches!(self, Self::Error(_)))?;
        document.serialize_entry("schema_version", &SCHEMA_VERSION)?;
        match self {
            Self::Status(status) => document.serialize_entry("status", status),
            Self::Conns(conns) => document.serialize_entry("conns", conns),
            Self::ConnImages(images) => document.serialize_entry("conn_images", images),
            Self::Switchover(done) => document.serialize_entry("switchover", done),
            Self::Drained(drained) => document.serialize_entry("drained", drained),
            Self::Keys(keys) => document.serialize_entry("keys", keys),
            Self::Checkpoint(checkpoint) => document.serialize_entry("checkpoint", checkpoint),
            Self::Plan(plan) => document.serialize_entry("plan", plan),
            Self::Events(events) => document.serialize_entry("events", events),
            Self::Capturing(capturing) => document.serialize_entry("capturing", capturing),
            Self::CaptureStatus(status) => document.serialize_entry("capture_node", status),
            Self::Error(error) => document.serialize_entry("error", error),
        }?;
        document.end()
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let d = Document::deserialize(deserializer)?;
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
