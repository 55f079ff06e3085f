//! The daemon's side of the socket: blocking, for a helper thread.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::codec::{LineBuffer, decode_request, encode_response, too_long};
use crate::{ApiError, ErrorCode, REQUEST_BYTES_MAX, Request, Response};

/// Reads one request, within `timeout` in all.
///
/// # Errors
/// The outer error is the socket's (or the timeout): there is nobody to answer.
/// The inner one is to be answered.
pub fn read_request(
    stream: &mut UnixStream,
    timeout: Duration,
) -> io::Result<Result<Request, ApiError>> {
    let started = Instant::now();
    let mut buffer = LineBuffer::new(REQUEST_BYTES_MAX);
    let mut piece = [0; 4096];
    loop {
        stream.set_read_timeout(Some(left(started, timeout)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => match buffer.push(&piece[..n]) {
                Ok(Some(line)) => return Ok(decode_request(&line)),
                Ok(None) => {}
                Err(_) => return Ok(Err(ApiError::new(ErrorCode::Usage, too_long()))),
            },
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes one response, within `timeout` in all.
///
/// # Errors
/// If the socket fails or the peer does not read in time.
pub fn write_response(
    stream: &mut UnixStream,
    response: &Response,
    timeout: Duration,
) -> io::Result<()> {
    let started = Instant::now();
    let line = encode_response(response);
    let mut sent = 0;
    while sent < line.len() {
        stream.set_write_timeout(Some(left(started, timeout)?))?;
        match stream.write(&line[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads one request, asks `handler`, writes its answer; `timeout` bounds the
/// reading and the writing, each on its own, not the handler.
///
/// # Errors
/// If the socket fails or the peer is too slow.
pub fn serve(
    mut stream: UnixStream,
    timeout: Duration,
    handler: impl FnOnce(Request) -> Response,
) -> io::Result<()> {
    let response = match read_request(&mut stream, timeout)? {
        Ok(request) => handler(request),
        Err(error) => Response::Error(error),
    };
    write_response(&mut stream, &response, timeout)
}

fn left(started: Instant, timeout: Duration) -> io::Result<Duration> {
    match timeout.saturating_sub(started.elapsed()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}
