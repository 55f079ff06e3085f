//! Connections that the kernel had and the application had not yet: found in `/proc/net/tcp`, as
//! it was while the application stood still.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `enum tcp_state` (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 8;

/// The (client, service) addresses of connections in the handshake, or complete but not accepted
/// (such a socket has no inode). Lines that are none are passed over.
pub fn pending(proc_net_tcp: &str) -> Vec<(SocketAddr, SocketAddr)> {
    proc_net_tcp.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = text.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    let waits = state == SYN_RECV || matches!(state, ESTABLISHED | CLOSE_WAIT) && inode == 0;
    waits.then_some((remote, local))
}

/// The address in words of the host's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let bytes: [u8; 16] = words.try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_accepted_is_found_and_nothing_else() {
        // A listener, an accepted connection, one not accepted, one in the handshake, TIME_WAIT.
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 6400000A:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2663106 1 0 100 0 0 10 0
   1: 6400000A:18EB 0100000A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2663107 1 0 20 4 30 10 -1
   2: 6400000A:18EB 0100000A:9C41 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
   3: 6400000A:18EB 0100000A:9C42 03 00000000:00000000 01:00000064 00000000     0        0 0 1 0
   4: 6400000A:18EB 0100000A:9C43 06 00000000:00000000 03:00000064 00000000     0        0 0 3 0
   0: 0000000000000000FFFF00006400000A:18EB 0000000000000000FFFF00000100000A:9C44 08 00000000:00000000 00:00000000 00000000     0        0 0 1 0
   1: B80D0120000000000000000064000000:18EB B80D0120000000000000000001000000:9C45 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0
nonsense : : :
";
        let clients: Vec<String> = pending(text).iter().map(|(c, _)| c.to_string()).collect();
        assert_eq!(
            clients,
            ["10.0.0.1:40001", "10.0.0.1:40002", "10.0.0.1:40004", "[2001:db8::1]:40005"]
        );
        assert_eq!(pending(text)[0].1.to_string(), "10.0.0.100:6379");
    }
}
