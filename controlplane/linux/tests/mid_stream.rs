//! Connections of an image that an application takes up by accepting them. Needs root.

mod common;

use common::{ACK, LIMIT, Lab, PSH, Tcp, accept, root};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};
use understudy_image::{Agreed, Fin, Options, SocketImage, State, Timestamps, Timing, Window};
use understudy_linux::{Error, image::adopt_mid_stream};

const PORT: u16 = 7000;
const ELAPSED: Duration = Duration::from_secs(5);

fn image(lab: &Lab, client_port: u16) -> SocketImage {
    SocketImage {
        local: SocketAddr::new(lab.server, PORT),
        remote: SocketAddr::new(lab.client, client_port),
        state: State::Established,
        fin: Fin::None,
        read_shut: false,
        snd_una: u32::MAX - 3,
        rcv_nxt: 5,
        window: Window {
            snd_wl1: 0,
            snd_wnd: 60_000,
            max_window: 60_000,
            rcv_wnd: 60_000,
            rcv_wup: 5,
        },
        agreed: Agreed {
            mss: 1400,
            scales: Some((7, 7)),
            sack: true,
            timestamps: Some(Timestamps { value: 1_000_000, micros: false }),
        },
        timing: Timing::default(),
        options: Options { snd_buf: 87_040, rcv_buf: 131_072, ..Options::default() },
        in_flight: b"said and not heard".to_vec(),
        pending: b", and not yet said".to_vec(),
        unread: b"asked, ".to_vec(),
    }
}

/// Brings the images to an application that is this process, and accepts that many connections.
fn bring(lab: &Lab, listener: &TcpListener, images: &[SocketImage]) -> Vec<TcpStream> {
    thread::scope(|scope| {
        let accepting =
            scope.spawn(|| images.iter().map(|_| accept(listener).0).collect::<Vec<_>>());
        let pid = std::process::id() as i32;
        adopt_mid_stream(&lab.capsule, pid, images, ELAPSED, LIMIT).unwrap();
        accepting.join().unwrap()
    })
}

fn listen(lab: &Lab) -> TcpListener {
    lab.listen(SocketAddr::new(lab.server, PORT))
}

fn a_stream_goes_on(v6: bool) {
    if !root() {
        return;
    }
    let lab = Lab::new(v6);
    let listener = listen(&lab);
    let image = image(&lab, 4000);
    let mut stream = bring(&lab, &listener, std::slice::from_ref(&image)).remove(0);
    assert_eq!(stream.peer_addr().unwrap(), image.remote);
    // The peer hears what it lacked, under the numbers it had, by a clock that went on.
    let said = [&image.in_flight[..], &image.pending].concat();
    let (mut heard, mut at) = (Vec::new(), image.snd_una);
    while heard.len() < said.len() {
        let frame =
            lab.wire.expect("what was said", |tcp| tcp.seq == at && !tcp.payload.is_empty());
        let (own, _) = frame.timestamps.unwrap();
        let clock = 1_000_000 + ELAPSED.as_millis() as u32;
        assert!((clock..clock + 3000).contains(&own), "{own}");
        assert_eq!(frame.ack, image.rcv_nxt);
        at = at.wrapping_add(frame.payload.len() as u32);
        heard.extend(frame.payload);
    }
    assert_eq!(heard, said);
    // The application hears what it had not read, and what the peer says now, whatever its clock shows.
    let ack = image.write_seq();
    let more = Tcp::new(image.remote, image.local, ACK | PSH, image.rcv_nxt, ack)
        .times(0xdead_beef, 1_000_000)
        .data(b"and asked on");
    lab.wire.send(&more.frame());
    let mut read = vec![0; b"asked, and asked on".len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(read, b"asked, and asked on");
    stream.write_all(b"answered").unwrap();
    let answer = lab.wire.expect("the answer", |tcp| tcp.payload == b"answered");
    assert_eq!((answer.seq, answer.ack), (ack, image.rcv_nxt.wrapping_add(12)));
    assert_eq!(answer.timestamps.unwrap().1, 0xdead_beef);
}

#[test]
fn a_stream_goes_on_v4() {
    a_stream_goes_on(false);
}

#[test]
fn a_stream_goes_on_v6() {
    a_stream_goes_on(true);
}

/// More than one batch, some idle, some whose peer has closed, one with much to say.
#[test]
fn many_at_once() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let listener = listen(&lab);
    let mut images: Vec<SocketImage> = (0..300).map(|n| image(&lab, 10_000 + n)).collect();
    for (n, image) in images.iter_mut().enumerate() {
        if n % 2 == 0 {
            (image.in_flight, image.pending, image.unread) = Default::default();
        }
        if n % 3 == 0 {
            image.state = State::CloseWait;
        }
    }
    images[7].pending = vec![b'x'; 300_000];
    let streams = bring(&lab, &listener, &images);
    for mut stream in streams {
        let peer = stream.peer_addr().unwrap();
        let image = images.iter().find(|image| image.remote == peer).unwrap();
        let mut read = vec![0; image.unread.len()];
        stream.read_exact(&mut read).unwrap();
        assert_eq!(read, image.unread, "{peer}");
        if image.state == State::CloseWait {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{peer} has closed");
        }
    }
}

#[test]
fn who_does_not_accept_is_named() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let pid = std::process::id() as i32;
    let soon = Duration::from_millis(100);
    let image = image(&lab, 4000);
    let bring = || adopt_mid_stream(&lab.capsule, pid, std::slice::from_ref(&image), ELAPSED, soon);
    let nobody = bring().unwrap_err();
    assert!(matches!(&nobody, Error::NotTakenUp { remote, .. } if *remote == image.remote));
    let listener = listen(&lab);
    let idle = bring().unwrap_err().to_string();
    assert!(idle.contains("has not accepted"), "{idle}");
    drop(listener);
    let closed = SocketImage { state: State::FinWait2, fin: Fin::Acked, ..image.clone() };
    let refused = adopt_mid_stream(&lab.capsule, pid, &[closed], ELAPSED, soon).unwrap_err();
    assert!(matches!(refused, Error::NotRestored { .. }), "{refused}");
}
