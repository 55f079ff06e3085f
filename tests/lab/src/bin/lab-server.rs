//! A deterministic TCP or UDP server for the lab; see `understudy_lab::server`.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use understudy_lab::server;

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Tcp,
    Udp,
}

#[derive(Parser)]
struct Options {
    /// What to serve.
    kind: Kind,
    /// Where; [::] takes IPv4 as well.
    #[arg(long, default_value = "[::]:7000")]
    listen: SocketAddr,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let place = || format!("cannot listen on {}", options.listen);
    match options.kind {
        Kind::Tcp => server::serve_tcp(&TcpListener::bind(options.listen).with_context(place)?),
        Kind::Udp => server::serve_udp(&UdpSocket::bind(options.listen).with_context(place)?),
    }
}
