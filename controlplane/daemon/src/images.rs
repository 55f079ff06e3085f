//! `conns -v`: the service's sockets in full, read while the application stands still for a moment.

use understudy_api::{
    ApiError, ByteList, ClientFilter, ConnAgreed, ConnImage, ConnImages, ConnOptions, ConnSocket,
    ConnTiming, ConnWindow, ErrorCode, LIST_SHOWN_BYTES_MAX, RESPONSE_BYTES_MAX, Response,
};
use understudy_image::{Fin, Options, Timing};
use understudy_linux::adopt::FlowKey;
use understudy_linux::image::{Frozen, LiveImage, read_live};
use understudy_linux::netns::NetNs;
use understudy_linux::socks::{self, SockInfo, TcpState};

use crate::server::ConnsView;

/// Sockets of the namespace that are looked at.
const SOCKETS_MAX: usize = 100_000;
/// About what a connection takes in an answer beside its bytes. The codec cuts what is too much.
const CONN_BYTES: usize = 1400;
/// The kernel's "no threshold yet" (TCP_INFINITE_SSTHRESH).
const NO_THRESHOLD: u32 = 0x7fff_ffff;
/// The kernel's "no round-trip time yet" for the least one.
const NO_RTT: u32 = u32::MAX;

/// The connections that match, as many as an answer holds.
pub fn answer(ns: Option<&NetNs>, known: &ConnsView, client: Option<ClientFilter>) -> Response {
    read(ns, known, client)
        .unwrap_or_else(|e| ApiError::new(ErrorCode::Runtime, e.to_string()).into())
}

fn read(
    ns: Option<&NetNs>,
    known: &ConnsView,
    client: Option<ClientFilter>,
) -> understudy_linux::Result<Response> {
    let mut images = ConnImages { role: known.role, ..ConnImages::default() };
    // A witness has no capsule, and no connections.
    let Some(ns) = ns else { return Ok(images.into()) };
    let mut socks = socks::tcp_sockets(ns, SOCKETS_MAX)?;
    socks.retain(|s| s.state != TcpState::Listen && client.is_none_or(|c| c.matches(s.remote)));
    socks.sort_unstable_by_key(|s| (s.remote, s.local));
    // Nothing is read that the answer has no room for.
    let read = socks.len().min(RESPONSE_BYTES_MAX / CONN_BYTES);
    let all = &socks[..read];
    let Some(pid) = known.app_pid else {
        let text = "the application does not run, so nothing holds its connections";
        images.conns = all.iter().map(|s| refused(s, known, text.into())).collect();
        images.left_out = (socks.len() - read) as u64;
        return Ok(images.into());
    };
    let (mut conns, mut bytes) = (vec![None; all.len()], 0);
    let frozen = read_live(ns, pid, all, LIST_SHOWN_BYTES_MAX, |at, read| {
        let conn = match read {
            Ok(live) => whole(&all[at], known, &live),
            Err(e) => refused(&all[at], known, e.to_string()),
        };
        bytes += CONN_BYTES + bytes_shown(&conn) * 4 / 3;
        conns[at] = Some(conn);
        bytes < RESPONSE_BYTES_MAX
    })?;
    images.conns = conns.into_iter().flatten().collect();
    images.left_out = (socks.len() - images.conns.len()) as u64;
    show_frozen(&mut images, &frozen);
    Ok(images.into())
}

fn show_frozen(images: &mut ConnImages, frozen: &Frozen) {
    let us = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    images.freezes = frozen.turns.into();
    images.frozen_us = us(frozen.total);
    images.frozen_longest_us = us(frozen.longest);
}

fn bytes_shown(conn: &ConnImage) -> usize {
    let lists = conn.socket.as_ref().map(|s| [&s.in_flight, &s.pending, &s.unread]);
    lists.map_or(0, |lists| lists.iter().map(|list| list.bytes.len()).sum())
}

fn refused(s: &SockInfo, known: &ConnsView, why: String) -> ConnImage {
    ConnImage {
        client: s.remote.to_string(),
        server: s.local.to_string(),
        state: format!("{:?}", s.state).to_lowercase(),
        adopted: known.adopted.contains(&FlowKey { client: s.remote, server: s.local }),
        unsavable: Some(why),
        socket: None,
    }
}

fn whole(s: &SockInfo, known: &ConnsView, live: &LiveImage) -> ConnImage {
    ConnImage {
        // It may have changed since it was listed.
        state: format!("{:?}", live.image.state).to_lowercase(),
        unsavable: None,
        socket: Some(socket(live)),
        ..refused(s, known, String::new())
    }
}

fn socket(live: &LiveImage) -> ConnSocket {
    let image = &live.image;
    let fin = match image.fin {
        Fin::None => "none",
        Fin::Unsent => "unsent",
        Fin::InFlight => "in_flight",
        Fin::Acked => "acked",
    };
    let list = |len: usize, bytes: &[u8]| ByteList { len: len as u64, bytes: bytes.to_vec() };
    ConnSocket {
        snd_una: image.snd_una,
        snd_nxt: live.snd_nxt(),
        write_seq: live.write_seq(),
        copied_seq: live.copied_seq(),
        rcv_nxt: image.rcv_nxt,
        fin: fin.into(),
        read_shut: image.read_shut,
        window: ConnWindow {
            snd_wnd: image.window.snd_wnd,
            snd_wl1: image.window.snd_wl1,
            max_window: image.window.max_window,
            rcv_wnd: image.window.rcv_wnd,
            rcv_wup: image.window.rcv_wup,
        },
        agreed: ConnAgreed {
            mss: image.agreed.mss,
            snd_wscale: image.agreed.scales.map(|(snd, _)| snd),
            rcv_wscale: image.agreed.scales.map(|(_, rcv)| rcv),
            sack: image.agreed.sack,
            timestamp: image.agreed.timestamps.map(|clock| clock.value),
            timestamp_micros: image.agreed.timestamps.is_some_and(|clock| clock.micros),
        },
        timing: timing(&image.timing),
        options: options(&image.options),
        in_flight: list(live.in_flight_bytes, &image.in_flight),
        pending: list(live.pending_bytes, &image.pending),
        unread: list(live.unread_bytes, &image.unread),
    }
}

fn timing(t: &Timing) -> ConnTiming {
    let measured = |us: u32| (us != 0 && us != NO_RTT).then_some(us);
    ConnTiming {
        rtt_us: measured(t.rtt_us),
        rttvar_us: t.rttvar_us,
        min_rtt_us: measured(t.min_rtt_us),
        rcv_rtt_us: measured(t.rcv_rtt_us),
        rto_us: t.rto_us,
        ato_us: t.ato_us,
        retransmits: t.retransmits,
        probes: t.probes,
        backoff: t.backoff,
        total_retrans: t.total_retrans,
        last_data_sent_ms: t.last_data_sent_ms,
        last_data_recv_ms: t.last_data_recv_ms,
        last_ack_recv_ms: t.last_ack_recv_ms,
        snd_cwnd: t.snd_cwnd,
        snd_ssthresh: (t.snd_ssthresh < NO_THRESHOLD).then_some(t.snd_ssthresh),
        snd_mss: t.snd_mss,
        pmtu: t.pmtu,
        reordering: t.reordering,
    }
}

fn options(o: &Options) -> ConnOptions {
    ConnOptions {
        keepalive: o.keepalive != 0,
        keep_idle_s: o.keep_idle_s,
        keep_interval_s: o.keep_interval_s,
        keep_count: o.keep_count,
        no_delay: o.no_delay != 0,
        cork: o.cork != 0,
        congestion: o.congestion.clone(),
        user_timeout_ms: o.user_timeout_ms,
        linger2_s: o.linger2_s,
        not_sent_low_at: o.not_sent_low_at,
        window_clamp: o.window_clamp,
        linger_s: o.linger_s,
        reuse_address: o.reuse_address != 0,
        reuse_port: o.reuse_port != 0,
        oob_inline: o.oob_inline != 0,
        rcv_low_at: o.rcv_low_at,
        priority: o.priority,
        mark: o.mark,
        traffic_class: o.traffic_class,
        hops: o.hops,
        snd_buf: o.snd_buf,
        rcv_buf: o.rcv_buf,
        buf_lock: o.buf_lock,
        rcv_timeout_us: o.rcv_timeout_us,
        snd_timeout_us: o.snd_timeout_us,
        non_blocking: o.non_blocking,
    }
}
