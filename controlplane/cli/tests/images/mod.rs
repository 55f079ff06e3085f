//! `conns -v`.

use understudy_api::{
    ByteList, ConnAgreed, ConnImage, ConnImages, ConnOptions, ConnSocket, ConnTiming, ConnWindow,
    Request, Role,
};

use super::{answered, document, text};

/// A connection with bytes everywhere, one that cannot be saved, and one that says little.
fn images() -> ConnImages {
    let list = |len, bytes: &[u8]| ByteList { len, bytes: bytes.to_vec() };
    let socket = ConnSocket {
        snd_una: 4_294_967_293,
        snd_nxt: 8_997,
        write_seq: 2_008_998,
        copied_seq: 4_000_000_000,
        rcv_nxt: 4_000_000_009,
        fin: "unsent".into(),
        read_shut: true,
        window: ConnWindow {
            snd_wnd: 9000,
            snd_wl1: 4_000_000_000,
            max_window: 65_535,
            rcv_wnd: 64_240,
            rcv_wup: 4_000_000_009,
        },
        agreed: ConnAgreed {
            mss: 1460,
            snd_wscale: Some(7),
            rcv_wscale: Some(8),
            sack: true,
            timestamp: Some(123_456),
            timestamp_micros: false,
        },
        timing: ConnTiming {
            rtt_us: Some(85),
            rttvar_us: 12,
            min_rtt_us: Some(40),
            rto_us: 204_000,
            ato_us: 40_000,
            retransmits: 1,
            backoff: 1,
            total_retrans: 3,
            last_data_sent_ms: 4,
            snd_cwnd: 10,
            snd_mss: 1448,
            pmtu: 1500,
            reordering: 3,
            ..ConnTiming::default()
        },
        options: ConnOptions {
            keepalive: true,
            keep_idle_s: 300,
            keep_interval_s: 100,
            keep_count: 9,
            no_delay: true,
            congestion: "cubic".into(),
            snd_buf: 87_040,
            rcv_buf: 131_072,
            non_blocking: true,
            ..ConnOptions::default()
        },
        in_flight: list(9000, &[b'x'; 4096]),
        pending: list(2_000_000, b""),
        unread: list(9, b"PING\r\n\x1b\"\0"),
    };
    let whole = ConnImage {
        client: "10.77.0.1:40000".into(),
        server: "10.77.0.100:6379".into(),
        state: "last_ack".into(),
        adopted: true,
        unsavable: None,
        socket: Some(socket),
    };
    let refused = ConnImage {
        client: "[fd77::1]:5".into(),
        server: "[fd77::100]:6379".into(),
        state: "time_wait".into(),
        unsavable: Some("a connection in TIME_WAIT cannot be saved".into()),
        ..ConnImage::default()
    };
    ConnImages {
        role: Role::Primary,
        conns: vec![whole, refused],
        left_out: 0,
        freezes: 1,
        frozen_us: 850,
        frozen_longest_us: 850,
    }
}

#[test]
fn conns_in_full_as_text() {
    let all = Request::ConnImages { client: None };
    let output = answered(all.clone(), images(), &["conns", "-v"]);
    let expected = r#"10.77.0.1:40000 -> 10.77.0.100:6379  last_ack, adopted
  Send        una  4294967293  nxt 8997        end 2008998  FIN unsent
  Receive     read 4000000000  nxt 4000000009  reading side shut
  In flight   9000 bytes      "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"...
  Pending     2000000 bytes   (queue too long to be read)
  Unread      9 bytes         "PING\r\n\x1b\"\x00"
  Windows     client takes 9000 (wl1 4000000000, largest 65535), we take 64240 from 4000000009
  Agreed      mss 1460, window scales 7 (client) 8 (ours), SACK, timestamps at 123456 ms
  RTT         85 us, variation 12 us, least 40 us, as receiver -
  Timers      RTO 204.0 ms, delayed ACK 40.0 ms, backoff 1, retransmits 1, probes 0
  Last        sent 4 ms ago, received 0 ms ago, ACK 0 ms ago; retransmitted 3 in all
  Path        cwnd 10, ssthresh -, mss sent 1448, MTU 1500, reordering 3
  Options     cubic, nodelay on, cork off, user timeout 0 ms, non-blocking
  Keepalive   on, after 300 s, every 100 s, 9 times
  Buffers     send 85.0 KiB, receive 128.0 KiB, linger off

[fd77::1]:5 -> [fd77::100]:6379  time_wait, accepted
  Not saved   a connection in TIME_WAIT cannot be saved

2 connections, 1 cannot be saved, 1 adopted, role primary
The application was frozen 0.8 ms
"#;
    assert_eq!(text(&output.stdout), expected);
    let cut = ConnImages { left_out: 70, freezes: 3, ..images() };
    let output = answered(all.clone(), cut, &["conns", "--verbose"]);
    let shown = text(&output.stdout);
    for words in [
        "2 connections shown, 70 LEFT OUT (give a client: conns -v ADDRESS), 1 cannot be saved",
        "The application was frozen 3 times, 0.8 ms at most, 0.8 ms in all",
    ] {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
    let none = answered(all, ConnImages::default(), &["conns", "-v"]);
    assert!(text(&none.stdout).contains("0 connections, 0 cannot be saved, 0 adopted"));
    assert!(text(&none.stdout).contains("The application was not stopped"));
}

#[test]
fn conns_in_full_as_json_are_the_struct() {
    for client in ["10.77.0.1", "10.77.0.1:40000", "fd77::1", "[fd77::1]:5"] {
        let asked = Request::ConnImages { client: Some(client.parse().unwrap()) };
        let document = document(&answered(asked, images(), &["-j", "conns", "-v", client]), 0);
        assert_eq!(document["conn_images"], serde_json::to_value(images()).unwrap());
        let unread = &document["conn_images"]["conns"][0]["socket"]["unread"];
        assert_eq!(unread["base64"], "UElORw0KGyIA");
    }
}
