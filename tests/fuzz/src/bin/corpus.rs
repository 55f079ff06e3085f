//! Makes the corpus from what `lab-record` recorded: opens PDUs, puts the log together from them,
//! keeps a few of each shape. `corpus/README.md` has the two commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use understudy_fuzz::{corpus_file, joined, pieces};
use understudy_seal::{Keyring, Path as Way, Scope, SessionKey, keyfile};
use understudy_wire::frame::Ip;
use understudy_wire::pdu::{DataHeader, PduHeader, PduKind, in_frame};
use understudy_wire::tcp::Segment;

/// Of frames and PDUs that look alike, so many are kept.
const ALIKE_MAX: usize = 3;
/// The beginning is kept as it is: whole conversations.
const BEGINNING: usize = 60;
const LOG_BYTES_MAX: usize = 40 << 10;
/// The trio's cluster: the lab runs the shipped configurations.
const CLUSTER_NAME: &str = "trio";
/// Where a UDP payload begins in a frame of the second path.
const UDP_PAYLOAD_AT: usize = 14 + 20 + 8;

fn main() -> io::Result<()> {
    let dir = PathBuf::from(env::args_os().nth(1).expect("the directory that lab-record wrote"));
    let frames = |name: &str| fs::read(dir.join(name)).map(|bytes| pieces(&bytes));
    let mut host = Vec::new();
    for node in ["a", "b", "c"] {
        host.extend(few(frames(&format!("host-{node}.frames"))?, frame_shape));
    }
    write("client.frames", &few(frames("client.frames")?, frame_shape))?;
    write("host.frames", &few(host, frame_shape))?;
    let keys = keyfile::load(&dir.join("cluster.key")).map_err(io::Error::other)?;
    let opener = Opener { cluster: cluster(), keys };
    let pdus = frames("replica.frames")?;
    let pdus: Vec<_> =
        pdus.iter().filter_map(|f| opener.open(Way::Replica, in_frame(f)?)).collect();
    let second = frames("second.frames")?;
    let second = second.iter();
    let second = second.filter_map(|f| opener.open(Way::Second, f.get(UDP_PAYLOAD_AT..)?));
    fs::write(corpus_file("log"), log(&pdus))?;
    let controls = pdus.iter().cloned().chain(second).filter(|pdu| pdu.0.kind == PduKind::Control);
    let controls = controls.map(|(_, body)| body).collect();
    write("control", &few(controls, |body| vec![usize::from(body[0]), body.len()]))?;
    let shape = |pdu: &[u8]| vec![pdu[0].into(), pdu[1].into(), pdu.len() / 100];
    write("pdus", &few(pdus.iter().map(|(h, body)| plain(h, body)).collect(), shape))?;
    for name in ["requests.jsonl", "responses.jsonl", "epoch-a", "epoch-b", "epoch-c"] {
        fs::copy(dir.join(name), corpus_file(name))?;
    }
    Ok(())
}

fn write(name: &str, pieces: &[Vec<u8>]) -> io::Result<()> {
    println!("{name}: {} pieces", pieces.len());
    fs::write(corpus_file(name), joined(pieces))
}

/// The beginning, and then a few of each shape, in their order.
fn few(all: Vec<Vec<u8>>, shape: impl Fn(&[u8]) -> Vec<usize>) -> Vec<Vec<u8>> {
    let mut seen: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    let mut kept = Vec::new();
    for (i, piece) in all.into_iter().enumerate() {
        let count = seen.entry(shape(&piece)).or_default();
        *count += 1;
        if *count <= ALIKE_MAX || i < BEGINNING {
            kept.push(piece);
        }
    }
    kept
}

fn frame_shape(frame: &[u8]) -> Vec<usize> {
    let ethertype = frame.get(12..14).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
    match (Segment::parse(frame), Ip::parse(frame)) {
        (Some(s), _) => vec![ethertype, s.flags.into(), s.ip.end - s.ip.payload_at],
        (None, Some(ip)) => vec![ethertype, ip.protocol.into(), ip.end - ip.payload_at],
        (None, None) => vec![ethertype, frame.len()],
    }
}

/// Opens what was recorded, with the keys of the lab.
struct Opener {
    cluster: u64,
    keys: Keyring,
}

impl Opener {
    /// A PDU in plain: its header and its body. Not of the handshake.
    fn open(&self, path: Way, bytes: &[u8]) -> Option<(PduHeader, Vec<u8>)> {
        let read = PduHeader::decode(bytes, self.cluster).ok()?;
        let (header, sealing, _) = read;
        let scope = Scope { cluster: self.cluster, path };
        let key = SessionKey::derive(self.keys.sealing(), &scope, header.node, sealing.session);
        let mut bytes = bytes.to_vec();
        let body = key.open(&read, &mut bytes).ok()?.to_vec();
        Some((header, body))
    }
}

fn cluster() -> u64 {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(CLUSTER_NAME);
    let config = understudy_config::Config::load(file.join("a.toml"));
    config.expect("a shipped configuration").cluster_id()
}

/// What the fuzzers make a PDU from again: kind, node, target, epoch, body.
fn plain(header: &PduHeader, body: &[u8]) -> Vec<u8> {
    let mut out = vec![header.kind as u8];
    out.extend(header.node.to_le_bytes());
    out.extend(header.target.to_le_bytes());
    out.extend(header.epoch.to_le_bytes());
    out.extend(body);
    out
}

/// The log from its beginning, as replicas got it.
fn log(pdus: &[(PduHeader, Vec<u8>)]) -> Vec<u8> {
    let mut log = Vec::new();
    for (_, body) in pdus.iter().filter(|(header, _)| header.kind == PduKind::Data) {
        let Ok((header, bytes)) = DataHeader::decode(body) else { continue };
        if header.position == log.len() as u64 && log.len() < LOG_BYTES_MAX {
            log.extend(bytes);
        }
    }
    log
}
