//! A server that lies, to prove that the clients notice.
//!
//! For TCP a proxy in front of a real Redis that mistreats one reply; for UDP an
//! echo that mistreats one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread;

use anyhow::Result;

use crate::clients::resp;
use crate::sys;

/// What happens to the chosen reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing: the control run.
    None,
    /// It is not sent.
    Lose,
    /// It is sent twice.
    Double,
    /// It is sent after its successor.
    Reorder,
    /// One byte of it is another.
    Alter,
    /// The connection is closed behind it.
    Close,
    /// UDP: it comes from another port.
    Elsewhere,
    /// UDP: an answer to nothing comes along.
    Invent,
}

/// Runs a lying proxy inside `netns` for as long as the process lives.
pub fn serve_tcp(
    netns: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
    lie: Lie,
    at: u64,
) -> Result<()> {
    let listener = sys::in_netns(netns, || TcpListener::bind(listen))??;
    // The thread connects upstream, so it has to be in the namespace, too.
    sys::spawn_in_netns(netns, "liar", move || {
        for client in listener.incoming().map_while(Result::ok) {
            if let Ok(server) = TcpStream::connect(upstream) {
                let _ = relay(client, server, lie, at);
            }
        }
    })?;
    Ok(())
}

fn relay(client: TcpStream, server: TcpStream, lie: Lie, at: u64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Both);
    });
    thread::spawn(move || {
        let _ = relay_replies(&client, server, lie, at);
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}

fn relay_replies(mut client: &TcpStream, mut server: TcpStream, lie: Lie, at: u64) -> Result<()> {
    let (mut pending, mut buffer, mut number) = (Vec::new(), [0; 16 << 10], 0);
    let mut held: Option<Vec<u8>> = None;
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        pending.extend(&buffer[..count]);
        while let Some(length) = resp::reply_length(&pending)? {
            let mut reply: Vec<u8> = pending.drain(..length).collect();
            number += 1;
            match lie {
                Lie::Lose if number == at => continue,
                Lie::Double if number == at => reply.extend(reply.clone()),
                Lie::Alter if number == at => {
                    let last = reply.len() - 3;
                    reply[last] ^= 1;
                }
                Lie::Reorder if number == at => {
                    held = Some(reply);
                    continue;
                }
                _ => reply.extend(held.take().unwrap_or_default()),
            }
            client.write_all(&reply)?;
            if lie == Lie::Close && number == at {
                return Ok(());
            }
        }
    }
}

/// Runs a lying UDP echo inside `netns` for as long as the process lives.
pub fn serve_udp(netns: &Path, listen: SocketAddr, lie: Lie, at: u64) -> Result<()> {
    let socket = sys::in_netns(netns, || UdpSocket::bind(listen))??;
    let other = sys::in_netns(netns, || UdpSocket::bind(SocketAddr::new(listen.ip(), 0)))??;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 1.. {
            let Ok((count, from)) = socket.recv_from(&mut buffer) else { return };
            let answer = &mut buffer[..count];
            let chosen = if number == at { lie } else { Lie::None };
            match chosen {
                Lie::Lose => continue,
                Lie::Alter => answer[count - 1] ^= 1,
                Lie::Double => drop(socket.send_to(answer, from)),
                Lie::Elsewhere => drop(other.send_to(answer, from)),
                Lie::Invent => {
                    let mut invented = answer.to_vec();
                    invented[..8].copy_from_slice(&(1u64 << 40).to_be_bytes());
                    let _ = socket.send_to(&invented, from);
                }
                _ => {}
            }
            if chosen != Lie::Elsewhere {
                let _ = socket.send_to(answer, from);
            }
        }
    });
    Ok(())
}
