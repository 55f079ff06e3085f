//! Making a socket from an image.

use super::{
    inject::{ACK, FIN_ACK, Segment},
    sock::{CORK, MAXSEG, NODELAY, Queue, REPAIR_OPTIONS, Sock, TCP, TIMESTAMP},
};
use crate::{Error, Result, nl};
use std::{
    io,
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};
use understudy_image::{Fin, SocketImage, State, Window};

// include/net/tcp.h: the numbers of TCP options.
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMP: u32 = 8;

/// How long the kernel may take to see a segment on the loopback device.
const STATE_WAIT: Duration = Duration::from_millis(500);

/// Makes the connection anew in the calling thread's network namespace (see
/// [`crate::netns::NetNs::run`]), which must have its local address and a route to the peer.
/// `elapsed` is at least the time since the image was taken, so that the timestamps of the
/// restored socket follow those of the old one, even if that went on.
///
/// What was in flight is sent again at once, as new data, as far as the initial window goes; the
/// rest counts as sent, since the peer may have it and would acknowledge it, and an
/// acknowledgement beyond what was sent is ignored.
///
/// # Errors
/// What the kernel refuses, and images that contradict themselves. Nothing is left behind then,
/// and but for the last steps nothing was sent.
pub fn restore(image: &SocketImage, elapsed: Duration) -> Result<TcpStream> {
    image.check().map_err(understudy_image::Error::from)?;
    let sock = Sock::new(image.local.is_ipv6())?;
    sock.enter_repair()?;
    connect(&sock, image)?;
    agree(&sock, image, elapsed)?;
    sock.select(Queue::Receive)?;
    sock.put("unread bytes", &image.unread)?;
    sock.select(Queue::None)?;
    sock.set_window(&window_before_fin(image))?;
    sock.set_congestion(&image.options.congestion)?;

    if matches!(image.state, State::CloseWait | State::LastAck) {
        peer_closes(&sock, image, &[State::CloseWait])?;
        sock.set_window(&image.window)?;
    }
    if image.fin == Fin::Acked {
        finish_sending(&sock, image)?;
    }
    sock.leave_repair()?;
    transmit(&sock, image)?;
    if image.state == State::Closing {
        // The acknowledgement of our FIN may have come already.
        peer_closes(&sock, image, &[State::Closing])?;
    }
    if image.read_shut {
        shut(&sock, Shutdown::Read)?;
    }
    sock.set_options(image.local.is_ipv6(), &image.options)?;
    sock.set_buffers(&image.options)?;
    let flags = sock.0.set_nonblocking(image.options.non_blocking);
    flags.map_err(|e| Error::os("set a socket's flags", "this should not happen", e))?;
    Ok(sock.0)
}

/// Established, with empty queues at the right sequence numbers.
fn connect(sock: &Sock, image: &SocketImage) -> Result<()> {
    let written = image.in_flight.len() + image.pending.len();
    sock.widen(written, image.unread.len().max(image.options.rcv_buf.unsigned_abs() as usize))?;
    // Known before connecting, it also sets the size of what is sent.
    sock.set("TCP_MAXSEG", TCP, MAXSEG, image.agreed.mss.into())?;
    sock.join(image.local, false)?;
    sock.select(Queue::Send)?;
    sock.set_queue_seq(image.snd_una.wrapping_sub(u32::from(image.fin == Fin::Acked)))?;
    sock.select(Queue::Receive)?;
    sock.set_queue_seq(image.copied_seq())?;
    sock.select(Queue::None)?;
    sock.join(image.remote, true)
}

fn agree(sock: &Sock, image: &SocketImage, elapsed: Duration) -> Result<()> {
    let agreed = &image.agreed;
    let mut options = vec![OPTION_MSS, agreed.mss.into()];
    if let Some((send, receive)) = agreed.scales {
        options.extend([OPTION_WINDOW, u32::from(send) | u32::from(receive) << 16]);
    }
    if agreed.sack {
        options.extend([OPTION_SACK, 0]);
    }
    if agreed.timestamps.is_some() {
        options.extend([OPTION_TIMESTAMP, 0]);
    }
    let bytes: Vec<u8> = options.iter().flat_map(|word| word.to_ne_bytes()).collect();
    sock.raw_set(TCP, REPAIR_OPTIONS, &bytes)
        .map_err(|e| Error::os("set TCP_REPAIR_OPTIONS", "use a newer kernel", e))?;
    let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    if let Some(value) = image.timestamp_after(elapsed_us) {
        sock.set("TCP_TIMESTAMP", TCP, TIMESTAMP, value as i32)?;
    }
    Ok(())
}

/// The window with the same right edge, told before the peer's FIN came: the kernel takes none
/// that was told for what it has not received.
fn window_before_fin(image: &SocketImage) -> Window {
    let mut window = image.window;
    if image.state.peer_has_closed() && window.rcv_wup == image.rcv_nxt {
        window.rcv_wup = window.rcv_wup.wrapping_sub(1);
        window.rcv_wnd = window.rcv_wnd.saturating_add(1);
    }
    window
}

/// The peer's FIN.
fn peer_closes(sock: &Sock, image: &SocketImage, wanted: &[State]) -> Result<()> {
    segment(image, FIN_ACK, image.rcv_nxt.wrapping_sub(1), image.snd_una).send()?;
    wait(sock, image, wanted)
}

/// Our FIN was sent and acknowledged.
fn finish_sending(sock: &Sock, image: &SocketImage) -> Result<()> {
    sock.select(Queue::Send)?;
    shut(sock, Shutdown::Write)?;
    sock.select(Queue::None)?;
    segment(image, ACK, image.rcv_nxt, image.snd_una).send()?;
    wait(sock, image, &[State::FinWait2])?;
    sock.set_window(&image.window)
}

/// From the peer, offering the window that it offered last.
pub(super) fn segment(image: &SocketImage, flags: u8, seq: u32, ack: u32) -> Segment<'static> {
    let scale = image.agreed.scales.map_or(0, |(send, _)| send);
    let window = u16::try_from(image.window.snd_wnd >> scale).unwrap_or(u16::MAX);
    let (from, to) = (image.remote, image.local);
    Segment { from, to, seq, ack, flags, window, timestamps: None, payload: &[] }
}

/// Waits for one of the states, or for what only the living peer can have brought about.
fn wait(sock: &Sock, image: &SocketImage, wanted: &[State]) -> Result<()> {
    const CLOSED: u8 = 7;
    let end = Instant::now() + STATE_WAIT;
    loop {
        let number = sock.state()?;
        let further = image.state == State::Closing && number == CLOSED;
        if further || wanted.iter().any(|state| state.to_kernel() == number) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::NotRestored { wanted: image.state, kernel_state: number });
        }
        thread::sleep(Duration::from_micros(50));
    }
}

/// Sends what is to be sent now; the kernel sends the rest as it may.
fn transmit(sock: &Sock, image: &SocketImage) -> Result<()> {
    // Not one byte of it may be held back: the peer may have acknowledged it.
    sock.set("TCP_NODELAY", TCP, NODELAY, 1)?;
    let fits = fits_initial_window(sock, image)?;
    if !fits {
        sock.deafen()?;
    }
    sock.put("bytes in flight", &image.in_flight)?;
    if image.fin == Fin::InFlight {
        shut(sock, Shutdown::Write)?;
    }
    if sock.unacked()?.1 > 0 {
        count_as_sent(sock, fits)?;
    } else if !fits {
        sock.hear()?;
    }
    sock.set("TCP_NODELAY", TCP, NODELAY, image.options.no_delay)?;
    sock.set("TCP_CORK", TCP, CORK, image.options.cork)?;
    sock.put("pending bytes", &image.pending)?;
    if image.fin == Fin::Unsent {
        shut(sock, Shutdown::Write)?;
    }
    Ok(())
}

fn fits_initial_window(sock: &Sock, image: &SocketImage) -> Result<bool> {
    let info = sock.info()?;
    // include/uapi/linux/tcp.h: tcpi_snd_mss in bytes, tcpi_snd_cwnd in segments.
    let word = |at| nl::u32_at(&info, at).unwrap_or(0) as usize;
    let (mss, cwnd) = (word(16).max(1), word(80));
    let len = image.in_flight.len();
    Ok(len <= image.window.snd_wnd as usize && len.div_ceil(mss) <= cwnd)
}

/// What the initial window did not let out was sent before the image was taken: the kernel takes
/// it as sent, and sends it again if the peer turns out not to have it. Answers to the initial
/// window that came before that would acknowledge more than was sent, be ignored, and make the
/// peer stingy with further ones: the socket is deaf to them until now, and asks anew (in ESTABLISHED;
/// in the other states the kernel has no question, and its first timer of 1 s is it).
fn count_as_sent(sock: &Sock, hears: bool) -> Result<()> {
    sock.enter_repair()?;
    sock.select(Queue::Send)?;
    // Setting it pushes the queue; in repair mode that moves bytes without a segment.
    sock.set("TCP_NODELAY", TCP, NODELAY, 1)?;
    sock.select(Queue::None)?;
    if !hears {
        sock.hear()?;
    }
    sock.leave_repair_and_ask()
}

fn shut(sock: &Sock, how: Shutdown) -> Result<()> {
    match sock.0.shutdown(how) {
        // The peer may have ended it meanwhile.
        Err(e) if e.kind() != io::ErrorKind::NotConnected => {
            Err(Error::os("close one side of a socket", "the peer has reset the connection", e))
        }
        _ => Ok(()),
    }
}
