//! Checkpoints between two stores over loopback: whole, continued, refused, forged.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use understudy_checkpoint::transfer::{self, Fetched, Identity, Progress, Server, Source, Wanted};
use understudy_checkpoint::{Generation, Manifest, Pin, Reign, Store};
use understudy_seal::{ClusterKey, Keyring};

const REIGN: Reign = Reign { epoch: 3, start: 8 };

fn identity(node: u16, secret: u8) -> Identity {
    Identity { cluster: 5, node, keyring: Keyring::single(ClusterKey::new([secret; 32])) }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn contents(n: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ n).collect()
}

/// A generation of three files, one of them several pieces long.
fn add(store: &Store, n: u8) -> Generation {
    let draft = store.begin().unwrap();
    fs::create_dir_all(draft.dir().join("image")).unwrap();
    fs::write(draft.dir().join("image/pages"), contents(n, 1_000_000)).unwrap();
    fs::write(draft.dir().join("image/core"), contents(n, 10)).unwrap();
    fs::write(draft.dir().join("image/empty"), b"").unwrap();
    let floor = u64::from(n) * 1000;
    let taken_unix_ns = unix_ns() - 5_000_000_000;
    let manifest = Manifest {
        position: floor,
        floor,
        taken_unix_ns,
        reigns: vec![REIGN],
        ..Manifest::default()
    };
    store.commit(draft, manifest).unwrap()
}

struct Shelf(Store);

impl Source for Shelf {
    fn offer(&self, wanted: &Wanted) -> Result<(Generation, Pin), String> {
        self.0.newest_pinned(|m| wanted.fits(m)).map_err(|e| e.to_string())
    }

    fn identity(&self) -> Identity {
        identity(1, 1)
    }
}

/// Does not look whether its files are sound.
struct Unchecked(Generation, Store);

impl Source for Unchecked {
    fn offer(&self, _: &Wanted) -> Result<(Generation, Pin), String> {
        Ok((self.0.clone(), self.1.pin(self.0.number)))
    }

    fn identity(&self) -> Identity {
        identity(1, 1)
    }
}

fn serve_from(source: impl Source, rate_bytes_s: u64) -> (SocketAddr, Server) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (free, Server::start(free, source, rate_bytes_s).unwrap())
}

fn serve(store: &Store, rate_bytes_s: u64) -> (SocketAddr, Server) {
    serve_from(Shelf(store.clone()), rate_bytes_s)
}

fn stores(dir: &Path) -> (Store, Store) {
    let open = |name: &str| Store::open(&dir.join(name), 3).unwrap();
    (open("here"), open("there"))
}

fn fetch(
    address: SocketAddr,
    identity: &Identity,
    wanted: &Wanted,
    store: &Store,
    progress: &Progress,
) -> understudy_checkpoint::Result<Fetched> {
    transfer::fetch(transfer::connect(address)?, identity, wanted, store, progress)
}

fn wanted(floor_min: u64) -> Wanted {
    Wanted::new(floor_min, vec![REIGN])
}

#[test]
fn a_checkpoint_arrives_as_it_was_and_keeps_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    add(&here, 1);
    let original = add(&here, 2);
    let (address, server) = serve(&here, 0);
    let progress = Progress::default();
    let got = fetch(address, &identity(2, 1), &wanted(1500), &there, &progress).unwrap();
    let mut manifest = got.generation.manifest.clone();
    let age_ns = unix_ns() - manifest.taken_unix_ns;
    assert!((5_000_000_000..8_000_000_000).contains(&age_ns), "{age_ns}");
    manifest.taken_unix_ns = original.manifest.taken_unix_ns;
    assert_eq!((manifest, got.bytes), (original.manifest.clone(), 1_000_010));
    assert_eq!(progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
    assert_eq!(there.newest().unwrap(), got.generation);
    assert!(server.counters().contains(&("transfer_failed", 0)));
}

#[test]
fn what_does_not_fit_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    add(&here, 1);
    let (address, _server) = serve(&here, 0);
    let ask = |identity: &Identity, wanted: &Wanted| {
        let error = fetch(address, identity, wanted, &there, &Progress::default()).unwrap_err();
        error.to_string()
    };
    let too_old = ask(&identity(2, 1), &wanted(1001));
    assert!(too_old.contains("no sound checkpoint"), "{too_old}");
    let other_history = Wanted::new(0, vec![Reign { epoch: 3, start: 9 }]);
    assert!(ask(&identity(2, 1), &other_history).contains("no sound checkpoint"));
    // The client's key is not the server's.
    let stranger = ask(&identity(2, 9), &wanted(0));
    assert!(stranger.contains("no checkpoint from another node"), "{stranger}");
    let foreign = Identity { cluster: 6, ..identity(2, 1) };
    assert!(ask(&foreign, &wanted(0)).contains("another group"));
    assert!(there.numbers().unwrap().is_empty());
}

/// Passes on so many bytes from the server, then hangs up.
fn tapped(server: SocketAddr, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut there = TcpStream::connect(server).unwrap();
        let (mut up_from, mut up_to) = (client.try_clone().unwrap(), there.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
        let mut left = bytes;
        let mut buffer = [0; 4096];
        while left > 0 {
            let wanted = left.min(buffer.len());
            let n = there.read(&mut buffer[..wanted]).unwrap();
            client.write_all(&buffer[..n]).unwrap();
            left -= n;
        }
        let _ = client.shutdown(std::net::Shutdown::Both);
    });
    address
}

#[test]
fn an_interrupted_transfer_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    add(&here, 7);
    let (address, _server) = serve(&here, 0);
    let fetch = |at| fetch(at, &identity(2, 1), &wanted(0), &there, &Progress::default());
    assert!(fetch(tapped(address, 700_000)).is_err());
    // A later life of the receiver keeps it, too.
    let _ = Store::open(&dir.path().join("there"), 3).unwrap();
    let got = fetch(address).unwrap();
    assert!((100_000..600_000).contains(&got.bytes), "{}", got.bytes);
    assert_eq!(fs::read(got.generation.dir.join("image/pages")).unwrap(), contents(7, 1_000_000));
}

#[test]
fn damage_on_the_servers_disk_is_found_and_nothing_of_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    let generation = add(&here, 7);
    let spoiled = generation.dir.join("image/core");
    let (address, _server) = serve_from(Unchecked(generation, here), 0);
    fs::write(spoiled, contents(8, 10)).unwrap();
    let error = fetch(address, &identity(2, 1), &wanted(0), &there, &Progress::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("image/core is not what was written"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("there")).unwrap().count(), 0);
    assert!(there.numbers().unwrap().is_empty());
}

#[test]
fn the_rate_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    add(&here, 1);
    let (address, _server) = serve(&here, 5_000_000);
    let got = fetch(address, &identity(2, 1), &wanted(0), &there, &Progress::default()).unwrap();
    // One megabyte at five a second, but for the last piece, after which nobody waits.
    assert!(got.took >= Duration::from_millis(140), "{:?}", got.took);
}

#[test]
fn newer_checkpoints_do_not_take_away_the_one_that_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = stores(dir.path());
    add(&here, 1);
    let (address, server) = serve(&here, 2_000_000);
    let progress = Progress::default();
    let got = thread::scope(|scope| {
        let fetching =
            scope.spawn(|| fetch(address, &identity(2, 1), &wanted(0), &there, &progress));
        while progress.done.load(Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        // As many as are kept, and more.
        (2..7).for_each(|n| drop(add(&here, n)));
        assert_eq!(here.numbers().unwrap(), [6, 5, 4, 1]);
        fetching.join().unwrap().unwrap()
    });
    assert_eq!(got.generation.manifest.floor, 1000);
    // Hung up: the next one takes its place.
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while here.numbers().unwrap().contains(&1) {
        assert!(std::time::Instant::now() < end, "it is still pinned");
        add(&here, 9);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(server.counters().contains(&("transfer_failed", 0)));
}
