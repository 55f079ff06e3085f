//! Waiting for frames, on a veth.

mod common;

use std::time::{Duration, Instant};

use common::{ACK, Lab, Tcp, root};
use understudy_linux::arrivals::Arrivals;
use understudy_linux::rtnl;
use understudy_linux::wake::Waker;

/// Nobody waits so long.
const NEVER: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

/// Whether it waited for all of `SHORT`, in vain.
fn waits_in_vain(arrivals: &mut Arrivals) -> bool {
    let begun = Instant::now();
    !arrivals.wait(SHORT) && begun.elapsed() >= SHORT
}

/// The same once all is taken that the capsule's kernel says by itself.
fn is_calm(lab: &Lab, arrivals: &mut Arrivals) -> bool {
    (0..50).any(|_| {
        lab.wire.collect(SHORT);
        waits_in_vain(arrivals)
    })
}

#[test]
fn a_frame_ends_the_wait_and_so_does_a_wake() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let waker = Waker::new().unwrap();
    let mut arrivals = Arrivals::new(waker.clone());
    assert!(waits_in_vain(&mut arrivals), "nothing is watched");
    // The lab's own socket stands for a driver's.
    assert_eq!(lab.outside.run(|| arrivals.watch(&lab.outer)).unwrap().unwrap(), 1);
    assert_eq!(lab.outside.run(|| arrivals.watch(&lab.outer)).unwrap().unwrap(), 0, "once");
    assert!(lab.outside.run(|| arrivals.watch("nosuch")).unwrap().is_err());
    assert!(is_calm(&lab, &mut arrivals));

    let (client, server) = ((lab.client, 40_000).into(), (lab.server, 9).into());
    lab.wire.send(&Tcp::new(client, server, ACK, 1, 1).frame());
    assert!(arrivals.wait(NEVER), "the capsule's kernel answers with a reset");
    assert!(arrivals.wait(NEVER), "the frame is still there");
    assert!(is_calm(&lab, &mut arrivals), "they were taken");

    std::thread::spawn(move || waker.wake()).join().unwrap();
    assert!(arrivals.wait(NEVER));
    assert!(is_calm(&lab, &mut arrivals), "a wake ends one wait");
}

#[test]
fn an_interface_that_is_down_is_no_reason_to_spin() {
    if !root() {
        return;
    }
    let lab = Lab::new(false);
    let mut arrivals = Arrivals::new(Waker::new().unwrap());
    lab.outside.run(|| arrivals.watch(&lab.outer)).unwrap().unwrap();
    lab.wire.collect(SHORT);
    lab.outside.run(|| rtnl::set_link_down(&lab.outer)).unwrap().unwrap();
    for _ in 0..3 {
        assert!(waits_in_vain(&mut arrivals));
    }
    lab.outside.run(|| rtnl::delete_link(&lab.outer)).unwrap().unwrap();
    for _ in 0..3 {
        assert!(waits_in_vain(&mut arrivals));
    }
}
