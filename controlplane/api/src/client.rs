//! The CLI's side of the socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::codec::{DecodeError, LineBuffer, decode_response, encode_request};
use crate::{ErrorCode, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, Request, Response};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("the daemon cannot be reached at {}: {source}", .path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the daemon at {} has not answered {request} within {timeout_ms} ms", .path.display())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        request: &'static str,
        /// How long was waited.
        timeout_ms: u128,
    },
    /// The daemon closed the connection without a whole answer.
    #[error("the daemon at {} closed the connection without an answer to {request}", .path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        request: &'static str,
    },
    /// The socket failed.
    #[error("the connection to the daemon at {} failed: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer is too long or not JSON of ours.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The request is longer than [`REQUEST_BYTES_MAX`].
    #[error("the request is longer than {REQUEST_BYTES_MAX} bytes")]
    RequestTooLong,
    /// The answer is to another request.
    #[error("the daemon did not answer {request} but something else")]
    Mismatch {
        /// What was asked.
        request: &'static str,
    },
}

impl ClientError {
    /// The kind of the error, for the exit code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Closed { .. } => {
                ErrorCode::Unreachable
            }
            Self::RequestTooLong => ErrorCode::Usage,
            Self::Io { .. } | Self::Decode(_) | Self::Mismatch { .. } => ErrorCode::Runtime,
        }
    }
}

/// Asks the daemon that listens on `path`; `timeout` bounds the whole exchange.
///
/// # Errors
/// If there is no answer. An error answer is [`Response::Error`].
pub fn call(path: &Path, request: &Request, timeout: Duration) -> Result<Response, ClientError> {
    Ok(begin(path, request, timeout)?.0)
}

/// As [`call`], for an answer that more follows: gives the socket and what came behind the answer too.
///
/// # Errors
/// As [`call`].
pub fn begin(
    path: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Response, UnixStream, Vec<u8>), ClientError> {
    let name = request.name();
    let line = encode_request(request);
    if line.len() > REQUEST_BYTES_MAX {
        return Err(ClientError::RequestTooLong);
    }
    let started = Instant::now();
    let timed_out = || ClientError::Timeout {
        path: path.to_path_buf(),
        request: name,
        timeout_ms: timeout.as_millis(),
    };
    let left = || match timeout.saturating_sub(started.elapsed()) {
        Duration::ZERO => Err(timed_out()),
        left => Ok(left),
    };
    let failed = |source: io::Error| match source.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => timed_out(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            ClientError::Closed { path: path.to_path_buf(), request: name }
        }
        _ => ClientError::Io { path: path.to_path_buf(), source },
    };

    let mut stream = connect(path, left()?).map_err(|source| match source.kind() {
        ErrorKind::TimedOut => timed_out(),
        _ => ClientError::Unreachable { path: path.to_path_buf(), source },
    })?;
    let mut sent = 0;
    // A daemon may answer and close before it has read everything (a line too
    // long for it): its answer is worth more than our broken pipe.
    while sent < line.len() {
        stream.set_write_timeout(Some(left()?)).map_err(failed)?;
        match stream.write(&line[sent..]) {
            Ok(0) => break,
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => break,
            Err(e) => return Err(failed(e)),
        }
    }

    let mut buffer = LineBuffer::new(RESPONSE_BYTES_MAX);
    let mut piece = vec![0; 64 * 1024];
    loop {
        stream.set_read_timeout(Some(left()?)).map_err(failed)?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ClientError::Closed { path: path.to_path_buf(), request: name }),
            Ok(n) => {
                let line_end = piece[..n].iter().position(|&b| b == b'\n');
                if let Some(line) = buffer.push(&piece[..n]).map_err(|_| DecodeError::TooLong)? {
                    let response = decode_response(&line)?;
                    if !response.answers(request) {
                        return Err(ClientError::Mismatch { request: name });
                    }
                    let more = line_end.map_or(&[][..], |end| &piece[end + 1..n]);
                    return Ok((response, stream, more.to_vec()));
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// Connecting to a unix socket blocks while its backlog is full, and std has no
/// timeout for it: a thread waits, and is left behind if it waits too long.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let socket = path.to_path_buf();
    std::thread::Builder::new().name("connect".into()).spawn(move || {
        // The receiver may be gone; then nobody wants the stream.
        let _ = sender.send(UnixStream::connect(socket));
    })?;
    receiver.recv_timeout(timeout).unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
