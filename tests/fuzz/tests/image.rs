//! Socket images: from a checkpoint's file or from another node.

use understudy_fuzz::{fuzz, mutated};
use understudy_image::{
    Agreed, Fin, IMAGE_BYTES_MAX, Options, SocketImage, State, Timestamps, Timing, Window,
};

fn image(state: State, fin: Fin, local: &str, remote: &str) -> SocketImage {
    SocketImage {
        local: local.parse().expect("an address"),
        remote: remote.parse().expect("an address"),
        state,
        fin,
        read_shut: false,
        snd_una: u32::MAX,
        rcv_nxt: 70_000,
        window: Window { rcv_wup: 69_999, rcv_wnd: 65_535, ..Window::default() },
        agreed: Agreed {
            mss: 1460,
            scales: (state != State::Closing).then_some((7, 14)),
            sack: true,
            timestamps: (state != State::CloseWait)
                .then_some(Timestamps { value: 8, micros: false }),
        },
        timing: Timing::default(),
        options: Options { congestion: "reno".into(), linger_s: Some(1), ..Options::default() },
        in_flight: if fin == Fin::Acked { Vec::new() } else { vec![1; 40] },
        pending: if matches!(fin, Fin::None | Fin::Unsent) { vec![2; 300] } else { Vec::new() },
        unread: vec![3; 7],
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let (four, six) = (("10.0.0.1:80", "10.0.0.2:9"), ("[fd00::1]:80", "[::ffff:10.0.0.2]:9"));
    let kinds = [
        (State::Established, Fin::None, four),
        (State::CloseWait, Fin::None, ("[fd00::1]:80", "[fd00::2]:9")),
        (State::FinWait1, Fin::InFlight, four),
        (State::FinWait2, Fin::Acked, ("[::ffff:10.0.0.1]:80", six.1)),
        (State::Closing, Fin::Unsent, four),
        (State::LastAck, Fin::InFlight, four),
    ];
    let images = kinds.map(|(state, fin, (local, remote))| image(state, fin, local, remote));
    images.iter().map(|image| image.encode().expect("consistent")).collect()
}

#[test]
fn socket_images() {
    let seeds = seeds();
    let (mut understood, mut refused) = (0, 0);
    fuzz("socket image", 2, |rng| {
        let mut bytes = mutated(rng, &seeds);
        // Most get the length and checksum they need, or nothing behind those would be reached.
        if bytes.len() >= 16 && !rng.one_in(8) {
            let body = bytes.len() - 16;
            bytes[8..12].copy_from_slice(&(body as u32).to_le_bytes());
            let crc = crc32fast::hash(&bytes[..body + 12]);
            bytes[body + 12..].copy_from_slice(&crc.to_le_bytes());
        }
        match SocketImage::decode(&bytes) {
            Ok(image) => {
                understood += 1;
                assert_eq!(image.encode().as_deref(), Ok(&bytes[..]));
                assert!(bytes.len() <= IMAGE_BYTES_MAX);
                assert_eq!(image.check(), Ok(()));
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    });
    println!("{understood} images were understood, {refused} refused");
    assert!(understood > 0 && refused > 0);
}
