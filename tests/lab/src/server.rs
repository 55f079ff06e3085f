//! The lab's own server: deterministic, plain sockets, knows nothing of Understudy.
//!
//! TCP, line by line: `PING token` gives `PONG token`; `SPIN us token` the same after so much work;
//! `UPLOAD n` and n bytes give `HASH h`; `DOWNLOAD n seed` gives n bytes. UDP: every datagram comes back.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::pattern::{self, Hash};

const CHUNK: usize = 64 << 10;
/// Longest command line.
const LINE_BYTES_MAX: u64 = 4096;

/// Serves TCP connections, a thread each, for as long as the process lives.
pub fn serve_tcp(listener: &TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        thread::spawn(move || {
            if let Err(error) = converse(&stream) {
                eprintln!("connection: {error:#}");
            }
        });
    }
    Ok(())
}

/// Echoes datagrams for as long as the process lives.
pub fn serve_udp(socket: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 65536];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).context("receive")?;
        // A peer that is unreachable now is no reason to end.
        let _ = socket.send_to(&buffer[..count], from);
    }
}

fn converse(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(CHUNK, stream);
    loop {
        let mut line = String::new();
        if (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["PING", token] => writeln_to(stream, &format!("PONG {token}"))?,
            ["SPIN", us, token] => {
                spin(Duration::from_micros(us.parse()?));
                writeln_to(stream, &format!("PONG {token}"))?;
            }
            ["UPLOAD", bytes] => upload(&mut reader, stream, bytes.parse()?)?,
            ["DOWNLOAD", bytes, seed] => download(stream, bytes.parse()?, seed.parse()?)?,
            _ => bail!("what is {line:?}?"),
        }
    }
}

/// Works, as an application that computes; sleeping would take longer than asked.
fn spin(length: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        std::hint::spin_loop();
    }
}

fn writeln_to(mut stream: &TcpStream, line: &str) -> Result<()> {
    Ok(stream.write_all(format!("{line}\n").as_bytes())?)
}

fn upload(reader: &mut impl BufRead, stream: &TcpStream, bytes: u64) -> Result<()> {
    let mut hash = Hash::default();
    while hash.length() < bytes {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            bail!("the upload ended after {} of {bytes} bytes", hash.length());
        }
        let count = chunk.len().min((bytes - hash.length()) as usize);
        hash.update(&chunk[..count]);
        reader.consume(count);
    }
    writeln_to(stream, &format!("HASH {:016x}", hash.value()))
}

fn download(mut stream: &TcpStream, bytes: u64, seed: u64) -> Result<()> {
    let (mut chunk, mut at) = (vec![0; CHUNK], 0);
    while at < bytes {
        let count = CHUNK.min((bytes - at) as usize);
        pattern::fill(seed, at, &mut chunk[..count]);
        stream.write_all(&chunk[..count])?;
        at += count as u64;
    }
    Ok(())
}
