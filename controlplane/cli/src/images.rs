//! `conns -v` for people: one block for each connection.

use std::fmt::Write;

use understudy_api::{ByteList, ConnAgreed, ConnImage, ConnImages, ConnSocket, ConnTiming};

use crate::text::{bytes, plain};

/// Bytes of a list that are shown; JSON has more.
const PREVIEW_BYTES: usize = 48;
const TITLE_WIDTH: usize = 10;

pub fn images(all: &ConnImages) -> String {
    let mut out = String::new();
    for conn in &all.conns {
        block(conn, &mut out);
        out.push('\n');
    }
    let refused = all.conns.iter().filter(|conn| conn.unsavable.is_some()).count();
    let adopted = all.conns.iter().filter(|conn| conn.adopted).count();
    let n = all.conns.len();
    let _ = write!(out, "{n} {}", if n == 1 { "connection" } else { "connections" });
    if all.left_out > 0 {
        let _ = write!(out, " shown, {} LEFT OUT (give a client: conns -v ADDRESS)", all.left_out);
    }
    let _ = writeln!(out, ", {refused} cannot be saved, {adopted} adopted, role {}", all.role);
    let _ = match all.freezes {
        0 => writeln!(out, "The application was not stopped"),
        1 => writeln!(out, "The application was frozen {}", ms(all.frozen_us)),
        times => writeln!(
            out,
            "The application was frozen {times} times, {} at most, {} in all",
            ms(all.frozen_longest_us),
            ms(all.frozen_us)
        ),
    };
    out
}

fn block(conn: &ConnImage, out: &mut String) {
    let origin = if conn.adopted { "adopted" } else { "accepted" };
    let head = format!("{} -> {}  {}, {origin}", conn.client, conn.server, conn.state);
    let _ = writeln!(out, "{}", plain(&head));
    if let Some(why) = &conn.unsavable {
        line(out, "Not saved", why);
    }
    if let Some(socket) = &conn.socket {
        describe(socket, out);
    }
}

fn line(out: &mut String, title: &str, text: &str) {
    let _ = writeln!(out, "  {title:<TITLE_WIDTH$}  {}", plain(text).trim_end());
}

fn describe(s: &ConnSocket, out: &mut String) {
    let fin = match s.fin.as_str() {
        "none" => String::new(),
        place => format!("  FIN {place}"),
    };
    let shut = if s.read_shut { "  reading side shut" } else { "" };
    let (una, nxt, end) = (s.snd_una, s.snd_nxt, s.write_seq);
    line(out, "Send", &format!("una  {una:<10}  nxt {nxt:<10}  end {end}{fin}"));
    let (read, nxt) = (s.copied_seq, s.rcv_nxt);
    line(out, "Receive", &format!("read {read:<10}  nxt {nxt:<10}{shut}"));
    list(out, "In flight", &s.in_flight);
    list(out, "Pending", &s.pending);
    list(out, "Unread", &s.unread);
    let w = &s.window;
    line(
        out,
        "Windows",
        &format!(
            "client takes {} (wl1 {}, largest {}), we take {} from {}",
            w.snd_wnd, w.snd_wl1, w.max_window, w.rcv_wnd, w.rcv_wup
        ),
    );
    line(out, "Agreed", &agreed(&s.agreed));
    timing(&s.timing, out);
    options(s, out);
}

/// The length, and how it begins.
fn list(out: &mut String, title: &str, list: &ByteList) {
    let size = format!("{} bytes", list.len);
    let shown = list.bytes.get(..PREVIEW_BYTES).unwrap_or(&list.bytes);
    let text = match (list.len, shown) {
        (0, _) => size,
        (_, []) => format!("{size:<15} (queue too long to be read)"),
        (len, shown) => {
            let more = if len > shown.len() as u64 { "..." } else { "" };
            format!("{size:<15} \"{}\"{more}", shown.escape_ascii())
        }
    };
    line(out, title, &text);
}

fn agreed(a: &ConnAgreed) -> String {
    let scales = match (a.snd_wscale, a.rcv_wscale) {
        (Some(snd), Some(rcv)) => format!("window scales {snd} (client) {rcv} (ours)"),
        _ => "no window scaling".to_owned(),
    };
    let clock = match (a.timestamp, a.timestamp_micros) {
        (None, _) => "no timestamps".to_owned(),
        (Some(value), false) => format!("timestamps at {value} ms"),
        (Some(value), true) => format!("timestamps at {value} us"),
    };
    let sack = if a.sack { "SACK" } else { "no SACK" };
    format!("mss {}, {scales}, {sack}, {clock}", a.mss)
}

fn timing(t: &ConnTiming, out: &mut String) {
    let us = |us: Option<u32>| us.map_or("-".to_owned(), |us| format!("{us} us"));
    line(
        out,
        "RTT",
        &format!(
            "{}, variation {} us, least {}, as receiver {}",
            us(t.rtt_us),
            t.rttvar_us,
            us(t.min_rtt_us),
            us(t.rcv_rtt_us)
        ),
    );
    line(
        out,
        "Timers",
        &format!(
            "RTO {}, delayed ACK {}, backoff {}, retransmits {}, probes {}",
            ms(t.rto_us.into()),
            ms(t.ato_us.into()),
            t.backoff,
            t.retransmits,
            t.probes
        ),
    );
    line(
        out,
        "Last",
        &format!(
            "sent {} ms ago, received {} ms ago, ACK {} ms ago; retransmitted {} in all",
            t.last_data_sent_ms, t.last_data_recv_ms, t.last_ack_recv_ms, t.total_retrans
        ),
    );
    let threshold = t.snd_ssthresh.map_or("-".to_owned(), |segments| segments.to_string());
    line(
        out,
        "Path",
        &format!(
            "cwnd {}, ssthresh {threshold}, mss sent {}, MTU {}, reordering {}",
            t.snd_cwnd, t.snd_mss, t.pmtu, t.reordering
        ),
    );
}

fn options(s: &ConnSocket, out: &mut String) {
    let o = &s.options;
    let switch = |on: bool| if on { "on" } else { "off" };
    line(
        out,
        "Options",
        &format!(
            "{}, nodelay {}, cork {}, user timeout {} ms, {}",
            o.congestion,
            switch(o.no_delay),
            switch(o.cork),
            o.user_timeout_ms,
            if o.non_blocking { "non-blocking" } else { "blocking" }
        ),
    );
    line(
        out,
        "Keepalive",
        &format!(
            "{}, after {} s, every {} s, {} times",
            switch(o.keepalive),
            o.keep_idle_s,
            o.keep_interval_s,
            o.keep_count
        ),
    );
    let (snd, rcv) = (bytes(unsigned(o.snd_buf)), bytes(unsigned(o.rcv_buf)));
    let linger = o.linger_s.map_or("off".to_owned(), |s| format!("{s} s"));
    line(out, "Buffers", &format!("send {snd}, receive {rcv}, linger {linger}"));
}

fn unsigned(value: i32) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// `0.8 ms`
fn ms(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}
