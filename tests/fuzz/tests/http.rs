//! Heads of HTTP requests, and what a status says of itself to Prometheus.

use understudy_api::{Peer, Status};
use understudy_fuzz::{fuzz, mutated};
use understudy_web::http::{self, HEAD_BYTES_MAX, Refusal};
use understudy_web::metrics::exposition;

#[test]
fn request_heads() {
    let seeds: Vec<Vec<u8>> = [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:9464\r\nAccept: */*\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: [::1]\r\nUser-Agent: x\r\n\r\n",
        "HEAD /status.json HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 3\r\n\r\nabc",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    let (mut understood, mut refused) = (0, 0);
    fuzz("http", 2, |rng| {
        let bytes = mutated(rng, &seeds);
        let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        match http::parse(bytes, rng.one_in(2)) {
            None => assert!(bytes.len() < HEAD_BYTES_MAX),
            Some(Ok(request)) => {
                understood += 1;
                // More that comes behind a whole head changes nothing.
                let more = [bytes, b"more"].concat();
                assert_eq!(http::parse(&more, true), Some(Ok(request)));
            }
            Some(Err(refusal)) => {
                refused += 1;
                let answer = http::refusal(refusal);
                assert!(answer.starts_with(b"HTTP/1.1 4") || refusal == Refusal::Unavailable);
            }
        }
    });
    assert!(understood > 0 && refused > 0, "{understood} understood, {refused} refused");
}

#[test]
fn names_in_metrics() {
    let seeds = vec![b"trio".to_vec(), "a\"\\\n{}=\u{1f600}".as_bytes().to_vec()];
    fuzz("metrics", 20, |rng| {
        let mut name = || String::from_utf8_lossy(&mutated(rng, &seeds)).into_owned();
        let peers = vec![Peer { name: name(), second_path_ms: Some(1), ..Peer::default() }];
        let counters = [(name(), 1), (name(), u64::MAX)].into();
        let status = Status { cluster: name(), node: name(), peers, counters, ..Status::default() };
        for line in exposition(&status).split_terminator('\n') {
            let whole =
                line.starts_with("# HELP understudy_") || line.starts_with("# TYPE understudy_");
            let sample = line.starts_with("understudy_") && line.contains("{cluster=\"");
            assert!(whole || sample, "{line:?}");
        }
    });
}
