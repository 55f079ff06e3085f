//! One end of an established TCP connection (RFC 9293, 7323, 5681), as much of it as a failover can break.
//!
//! Cumulative acknowledgements, go-back-N after a timeout, fast retransmission, slow start from ten
//! segments, delayed ACKs, PAWS, windows that never shrink and are enforced. No SACK, no Nagle.

use std::collections::VecDeque;

use understudy_wire::tcp::{ACK, FIN, RST, Segment, before, later};

const MS: u64 = 1_000_000;
const DELAYED_ACK_NS: u64 = 40 * MS;
/// Linux: the least retransmission timeout.
const RTO_MIN_NS: u64 = 200 * MS;
const RTO_MAX_NS: u64 = 1_600 * MS;
const INITIAL_SEGMENTS: u32 = 10;
const CWND_MAX: u32 = 1 << 20;
const OUT_OF_ORDER_MAX: usize = 256;
const SEGMENTS_PER_POLL: usize = 64;

/// What the handshake settled.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Largest payload to send.
    pub mss: usize,
    /// Scale of the peer's window.
    pub snd_wscale: u8,
    /// Scale of this end's window.
    pub rcv_wscale: u8,
    /// Timestamps on every segment.
    pub timestamps: bool,
    /// Receive buffer.
    pub rcv_buf: u32,
    /// What this end's timestamp clock shows at time 0.
    pub ts_offset: u32,
    /// What it counts in a million milliseconds.
    pub ts_rate: u64,
}

impl Settings {
    /// What the timestamp clock shows.
    pub fn ts_now(&self, now_ns: u64) -> u32 {
        self.ts_offset.wrapping_add(ticks(now_ns, self.ts_rate))
    }
}

/// Milliseconds that a clock of this rate has counted.
pub fn ticks(now_ns: u64, rate: u64) -> u32 {
    (u128::from(now_ns) * u128::from(rate) / 1_000_000 / u128::from(MS)) as u32
}

/// A segment to be sent.
#[derive(Clone, Debug)]
pub struct Out {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Data.
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    Open,
    Queued,
    Acked,
}

/// The connection's state.
#[derive(Clone, Debug)]
pub struct Tcb {
    settings: Settings,
    snd_una: u32,
    snd_nxt: u32,
    snd_max: u32,
    snd_wnd: u32,
    wl: (u32, u32),
    cwnd: u32,
    ssthresh: u32,
    buf: VecDeque<u8>,
    fin: Fin,
    rcv_nxt: u32,
    /// `rcv_nxt` as last told to the peer.
    rcv_wup: u32,
    rcv_edge: u32,
    out_of_order: Vec<(u32, Vec<u8>)>,
    ready: VecDeque<u8>,
    peer_fin: Option<u32>,
    eof: bool,
    ts_recent: u32,
    rto_ns: u64,
    rto_at: Option<u64>,
    duplicates: u32,
    retransmit: bool,
    ack_now: bool,
    delayed_at: Option<u64>,
    unacked: u32,
    /// Bytes the peer has acknowledged, ever.
    pub acked_total: u64,
}

impl Tcb {
    /// An end whose first byte to send is `snd` and first byte to receive `rcv`.
    pub fn new(settings: Settings, snd: u32, rcv: u32, rcv_edge: u32, ts_recent: u32) -> Tcb {
        Tcb {
            cwnd: INITIAL_SEGMENTS * settings.mss as u32,
            settings,
            snd_una: snd,
            snd_nxt: snd,
            snd_max: snd,
            snd_wnd: 0,
            wl: (rcv.wrapping_sub(1), snd),
            ssthresh: CWND_MAX,
            buf: VecDeque::new(),
            fin: Fin::Open,
            rcv_nxt: rcv,
            rcv_wup: rcv,
            rcv_edge,
            out_of_order: Vec::new(),
            ready: VecDeque::new(),
            peer_fin: None,
            eof: false,
            ts_recent,
            rto_ns: RTO_MIN_NS,
            rto_at: None,
            duplicates: 0,
            retransmit: false,
            ack_now: false,
            delayed_at: None,
            unacked: 0,
            acked_total: 0,
        }
    }

    /// The peer's window as the handshake gave it.
    pub fn set_window(&mut self, window: u32) {
        self.snd_wnd = window;
    }

    /// Queues bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.fin, Fin::Open);
        self.buf.extend(bytes);
    }

    /// Sends FIN after all data.
    pub fn close(&mut self) {
        if self.fin == Fin::Open {
            self.fin = Fin::Queued;
        }
    }

    /// Takes what has arrived in order.
    pub fn read(&mut self) -> Vec<u8> {
        let shown = self.rcv_edge.wrapping_sub(self.rcv_nxt);
        let out = Vec::from(std::mem::take(&mut self.ready));
        let opened = self.settings.rcv_buf.saturating_sub(shown);
        let enough = (self.settings.rcv_buf / 2).min(2 * self.settings.mss as u32);
        self.ack_now |= !out.is_empty() && shown < enough && opened >= enough;
        out
    }

    /// Unread bytes.
    pub fn unread(&self) -> usize {
        self.ready.len()
    }

    /// Bytes queued and not acknowledged.
    pub fn unsent(&self) -> usize {
        self.buf.len()
    }

    /// The peer closed and everything before that is in order here.
    pub fn at_eof(&self) -> bool {
        self.eof
    }

    /// Closed both ways, both confirmed.
    pub fn is_closed(&self) -> bool {
        self.eof && self.fin == Fin::Acked
    }

    /// For people: what is outstanding.
    pub fn summary(&self) -> String {
        format!(
            "una {} nxt {} max {} wnd {} cwnd {} unsent {} rcv_nxt {} edge {} unread {} rto_at {:?}",
            self.snd_una,
            self.snd_nxt,
            self.snd_max,
            self.snd_wnd,
            self.cwnd,
            self.buf.len(),
            self.rcv_nxt,
            self.rcv_edge,
            self.ready.len(),
            self.rto_at
        )
    }

    /// Takes a segment. True: the peer reset the connection.
    pub fn on_segment(&mut self, now_ns: u64, segment: &Segment, payload: &[u8]) -> bool {
        let reset = segment.has(RST);
        let tsval = segment.options.timestamps.map(|(tsval, _)| tsval);
        if let Some(tsval) = tsval.filter(|_| self.settings.timestamps)
            && before(tsval, self.ts_recent)
            && !reset
        {
            self.ack_now = true;
            return false;
        }
        let too_old = before(segment.seq_end(), self.rcv_wup);
        let beyond = before(self.rcv_edge, segment.seq);
        if too_old || beyond {
            self.ack_now |= !reset;
            return false;
        }
        if reset {
            return true;
        }
        if let Some(tsval) = tsval.filter(|_| !before(self.rcv_nxt, segment.seq)) {
            self.ts_recent = later(self.ts_recent, tsval);
        }
        if segment.has(ACK) && !self.on_ack(now_ns, segment) {
            return false;
        }
        if segment.seq_len() > 0 {
            self.on_data(now_ns, segment, payload);
        }
        false
    }

    /// False: it acknowledges what was never sent.
    fn on_ack(&mut self, now_ns: u64, segment: &Segment) -> bool {
        let ack = segment.ack;
        if before(self.snd_max, ack) {
            self.ack_now = true;
            return false;
        }
        let window = u32::from(segment.window) << self.settings.snd_wscale;
        if before(self.snd_una, ack) {
            self.advance(now_ns, ack);
        } else if ack == self.snd_una
            && segment.seq_len() == 0
            && self.snd_max != self.snd_una
            && window == self.snd_wnd
        {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.retransmit = true;
                self.ssthresh = (self.cwnd / 2).max(2 * self.settings.mss as u32);
                self.cwnd = self.ssthresh;
            }
        }
        let newer =
            before(self.wl.0, segment.seq) || (self.wl.0 == segment.seq && !before(ack, self.wl.1));
        if newer && !before(ack, self.snd_una) {
            self.snd_wnd = window;
            self.wl = (segment.seq, ack);
        }
        true
    }

    fn advance(&mut self, now_ns: u64, ack: u32) {
        let acked = ack.wrapping_sub(self.snd_una);
        let data = (acked as usize).min(self.buf.len());
        if acked as usize > self.buf.len() && self.fin == Fin::Queued {
            self.fin = Fin::Acked;
        }
        self.buf.drain(..data);
        self.acked_total += u64::from(acked);
        self.snd_una = ack;
        self.snd_nxt = later(self.snd_nxt, ack);
        let mss = self.settings.mss as u32;
        let more = if self.cwnd < self.ssthresh { acked.min(mss) } else { mss * mss / self.cwnd };
        self.cwnd = (self.cwnd + more.max(1)).min(CWND_MAX);
        self.duplicates = 0;
        self.rto_ns = RTO_MIN_NS;
        self.rto_at = (self.snd_max != ack).then_some(now_ns + self.rto_ns);
    }

    fn on_data(&mut self, now_ns: u64, segment: &Segment, payload: &[u8]) {
        let end = segment.seq_end();
        if before(self.rcv_edge, segment.seq.wrapping_add(segment.payload_len))
            || !before(self.rcv_nxt, end)
        {
            self.ack_now = true;
            return;
        }
        if segment.has(FIN) {
            self.peer_fin = Some(end.wrapping_sub(1));
        }
        if before(self.rcv_nxt, segment.seq) {
            if self.out_of_order.len() < OUT_OF_ORDER_MAX {
                self.out_of_order.push((segment.seq, payload.to_vec()));
            }
            self.ack_now = true;
            return;
        }
        self.take(segment.seq, payload);
        self.take_out_of_order();
        self.unacked += 1;
        if self.unacked >= 2 {
            self.ack_now = true;
        }
        self.delayed_at.get_or_insert(now_ns + DELAYED_ACK_NS);
        if self.peer_fin == Some(self.rcv_nxt) {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            self.rcv_edge = later(self.rcv_edge, self.rcv_nxt);
            self.eof = true;
            self.ack_now = true;
        }
    }

    fn take(&mut self, seq: u32, payload: &[u8]) {
        let known = self.rcv_nxt.wrapping_sub(seq) as usize;
        if known < payload.len() {
            self.ready.extend(&payload[known..]);
            self.rcv_nxt = seq.wrapping_add(payload.len() as u32);
        }
    }

    fn take_out_of_order(&mut self) {
        let nxt = self.rcv_nxt;
        self.out_of_order.sort_by_key(|(seq, _)| seq.wrapping_sub(nxt) as i32);
        let parts = std::mem::take(&mut self.out_of_order);
        for (seq, payload) in parts {
            if before(self.rcv_nxt, seq) {
                self.out_of_order.push((seq, payload));
            } else {
                self.take(seq, &payload);
                self.ack_now = true;
            }
        }
    }

    /// When to poll again at the latest.
    pub fn due_ns(&self) -> Option<u64> {
        [self.rto_at, self.delayed_at].into_iter().flatten().min()
    }

    /// What is to be sent now.
    pub fn poll(&mut self, now_ns: u64) -> Vec<Out> {
        let mut out = Vec::new();
        if self.rto_at.is_some_and(|at| at <= now_ns) {
            self.on_timeout(now_ns, &mut out);
        }
        if std::mem::take(&mut self.retransmit) {
            let len = self.settings.mss.min(self.buf.len());
            self.emit(now_ns, self.snd_una, len, &mut out);
        }
        self.send_new(now_ns, &mut out);
        if self.delayed_at.is_some_and(|at| at <= now_ns) {
            self.ack_now = true;
        }
        if out.is_empty() && self.ack_now {
            let seq = self.snd_max;
            let ack = self.segment(now_ns, seq, ACK, Vec::new());
            out.push(ack);
        }
        if !out.is_empty() {
            (self.ack_now, self.delayed_at, self.unacked) = (false, None, 0);
        }
        out
    }

    /// Gives up: the RST that says so.
    pub fn abort(&mut self, now_ns: u64) -> Out {
        let seq = self.snd_max;
        self.segment(now_ns, seq, RST | ACK, Vec::new())
    }

    /// An ACK, asked for or not.
    pub fn bare_ack(&mut self, now_ns: u64) -> Option<Out> {
        self.ack_now = true;
        let mut out = self.poll(now_ns);
        out.pop()
    }

    fn on_timeout(&mut self, now_ns: u64, out: &mut Vec<Out>) {
        self.rto_ns = (self.rto_ns * 2).min(RTO_MAX_NS);
        self.rto_at = Some(now_ns + self.rto_ns);
        self.duplicates = 0;
        if self.snd_max == self.snd_una {
            // The window is closed: probe it.
            self.emit(now_ns, self.snd_una, 1.min(self.buf.len()), out);
            return;
        }
        self.ssthresh = (self.cwnd / 2).max(2 * self.settings.mss as u32);
        self.cwnd = self.settings.mss as u32;
        self.snd_nxt = self.snd_una;
        if self.snd_wnd == 0 {
            self.emit(now_ns, self.snd_una, 1.min(self.buf.len()), out);
        }
    }

    fn send_new(&mut self, now_ns: u64, out: &mut Vec<Out>) {
        for _ in 0..SEGMENTS_PER_POLL {
            let sent = self.snd_nxt.wrapping_sub(self.snd_una) as usize;
            let left = self.buf.len().saturating_sub(sent);
            let room = (self.cwnd.min(self.snd_wnd) as usize).saturating_sub(sent);
            let len = self.settings.mss.min(left).min(room);
            if len == 0 || (len < self.settings.mss.min(left) && sent > 0) {
                break;
            }
            let seq = self.snd_nxt;
            self.snd_nxt = self.emit(now_ns, seq, len, out);
        }
        let data_end = self.snd_una.wrapping_add(self.buf.len() as u32);
        if self.fin == Fin::Queued && self.snd_nxt == data_end {
            self.snd_nxt = self.emit(now_ns, data_end, 0, out);
        }
        let waits = self.snd_max != self.snd_una || !self.buf.is_empty();
        if waits && self.rto_at.is_none() {
            self.rto_at = Some(now_ns + self.rto_ns);
        }
    }

    /// Sends `len` bytes from `seq` on, with FIN if they are the last; returns the number after it.
    fn emit(&mut self, now_ns: u64, seq: u32, len: usize, out: &mut Vec<Out>) -> u32 {
        let from = seq.wrapping_sub(self.snd_una) as usize;
        let payload: Vec<u8> = self.buf.iter().skip(from).take(len).copied().collect();
        let at_end = from + len == self.buf.len();
        let fin = self.fin == Fin::Queued && at_end;
        if payload.is_empty() && !fin {
            return seq;
        }
        let flags = if fin { ACK | FIN } else { ACK };
        let end = seq.wrapping_add(len as u32 + u32::from(fin));
        self.snd_max = later(self.snd_max, end);
        let segment = self.segment(now_ns, seq, flags, payload);
        out.push(segment);
        end
    }

    fn segment(&mut self, now_ns: u64, seq: u32, flags: u8, payload: Vec<u8>) -> Out {
        self.rcv_wup = self.rcv_nxt;
        let stamps = (self.settings.ts_now(now_ns), self.ts_recent);
        Out {
            seq,
            ack: self.rcv_nxt,
            flags,
            window: self.window(),
            timestamps: self.settings.timestamps.then_some(stamps),
            payload,
        }
    }

    /// The window field, by which the right edge never moves back.
    fn window(&mut self) -> u16 {
        let scale = self.settings.rcv_wscale;
        let free = self.settings.rcv_buf.saturating_sub(self.ready.len() as u32);
        let promised = self.rcv_edge.wrapping_sub(self.rcv_nxt);
        let field = (free >> scale).max(promised.div_ceil(1 << scale)).min(u32::from(u16::MAX));
        self.rcv_edge = later(self.rcv_edge, self.rcv_nxt.wrapping_add(field << scale));
        field as u16
    }
}
