//! Adoption: making the capsule's kernel hold a connection with the sequence numbers of another
//! kernel, by the kfunc `bpf_sk_assign_tcp_reqsk` (Linux 6.9).
//!
//! [`Adoption::load`] attaches a program to ingress of the capsule's device. For each flow that
//! [`Adopter::prepare`] announced, the next frame with an ACK turns into a full socket of the
//! listener, with `snd_nxt` = the frame's acknowledgement and `rcv_nxt` = its sequence number;
//! data and FIN in the same frame are then handled as usual. `net.ipv4.tcp_syncookies` must not
//! be 0 in the capsule ([`configure_capsule`](crate::rtnl::configure_capsule) sees to it).
//!
//! The frame alone decides where the connection starts. The first frame that the log holds after
//! the handshake may be a later segment than the first (the network lost or reordered one), or
//! acknowledge more than the SYN-ACK; whoever applies the log is safe in any case by delivering a
//! bare ACK of its own making first (client's ISN + 1, server's ISN + 1), and then the log's
//! frames.
//!
//! That frame also gives the socket its first round-trip time: its clock, which starts at
//! `rcv_tsecr`, less the frame's TSecr. Equal values give 1 ms and a retransmission timeout of
//! 204 ms; a TSecr from long ago gives up to 120 s; one from the future, or no timestamps, gives
//! none, and a timeout of 3 s until the first acknowledgement.

use crate::{Error, Result, netns::NetNs, rtnl};
use libbpf_rs::{
    Btf, MapCore, MapFlags, MapHandle, ObjectBuilder, PrintLevel, btf::types, libbpf_sys,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
    sync::{Arc, Once},
};

/// A connection's two ends. Both are IPv4 or both are IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service's address and port.
    pub server: SocketAddr,
}

/// What the handshake agreed on: from the client's SYN and the primary's SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptAttrs {
    /// The MSS option of the client's SYN. The kernel takes no less than 536 (IPv4) or 1220
    /// (IPv6); a lower value is raised to that.
    pub mss: u16,
    /// The client's window scale; `None` if scaling was not agreed on.
    pub snd_wscale: Option<u8>,
    /// The server's window scale, from the SYN-ACK.
    pub rcv_wscale: u8,
    /// Selective acknowledgements were agreed on.
    pub sack: bool,
    /// Explicit congestion notification was agreed on.
    pub ecn: bool,
    /// Timestamps, if agreed on: the client's latest TSval (the next frame's may not be older),
    /// and the TSval that this kernel sends next, from where its clock runs on at 1 kHz, whatever
    /// the adopting frame echoes. For a clone that adopts late this is the primary's TSval of
    /// today, not that of its SYN-ACK: the client drops what goes back in time.
    pub timestamps: Option<(u32, u32)>,
    /// Sequence and acknowledgement number of the one frame that may make the connection; `None`
    /// takes whatever comes first, whose bytes then are the first the application reads.
    pub first: Option<(u32, u32)>,
}

/// What became of the frames of prepared flows. Each such frame uses up its flow's entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdoptStats {
    /// The listener was given a request socket.
    pub adopted: u64,
    /// Nobody listened: the kernel answered the frame with a RST.
    pub no_listener: u64,
    /// The kernel refused the attributes.
    pub refused: u64,
    /// The flow had a socket already, and the frame went to it.
    pub existing: u64,
    /// An earlier connection of the same addresses and ports was in TIME_WAIT: see
    /// [`set_standby`](crate::rtnl::set_standby).
    pub time_wait: u64,
}

/// The program, attached for as long as this lives.
#[derive(Debug)]
pub struct Adoption {
    // Closing the link detaches the program: nothing stays behind after kill -9 either.
    _link: OwnedFd,
    flows: Arc<Flows>,
    counters: MapHandle,
}

/// Prepares flows; cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Adopter(Arc<Flows>);

#[derive(Debug)]
struct Flows {
    map: OwnedFd,
    max_flows: u32,
}

const KFUNC: &str = "bpf_sk_assign_tcp_reqsk";
const ATTR_BYTES: usize = 32;
const KEY_BYTES: usize = 40;
const TCP_WSCALE_MAX: u8 = 14;
const MSS_MIN_V4: u16 = 536;
const MSS_MIN_V6: u16 = 1220;

#[repr(C, align(8))]
struct Object<T: ?Sized>(T);

// libbpf reads the ELF headers in place, so they must be aligned.
static OBJECT: &Object<[u8]> = &Object(*include_bytes!(concat!(env!("OUT_DIR"), "/adopt.bpf.o")));

/// Whether this kernel can adopt connections.
pub fn probe() -> Result<()> {
    quiet_libbpf();
    let btf = Btf::from_vmlinux().map_err(|e| {
        Error::NoAdoption(format!("its type information (BTF) is unreadable ({e})"))
    })?;
    match btf.type_by_name::<types::Func<'_>>(KFUNC) {
        Some(_) => Ok(()),
        None => Err(Error::NoAdoption(format!("it has no function {KFUNC}"))),
    }
}

/// libbpf prints to stderr unless told otherwise.
fn quiet_libbpf() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Info, |level, text| {
            let text = text.trim_end();
            match level {
                PrintLevel::Warn => tracing::warn!(target: "libbpf", "{text}"),
                _ => tracing::debug!(target: "libbpf", "{text}"),
            }
        })));
    });
}

const LOAD_ADVICE: &str = "run the daemon as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, \
                           and see the log for libbpf's reasons";

fn bpf_error(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Error {
    move |e| Error::Bpf { what: what.into(), reason: format!("{e:#}"), advice: LOAD_ADVICE }
}

impl Adoption {
    /// Loads the program, with room for `max_flows` prepared flows, and attaches it to ingress of
    /// `dev` in `ns`.
    pub fn load(ns: &NetNs, dev: &str, max_flows: u32) -> Result<Adoption> {
        probe()?;
        let mut open = ObjectBuilder::default()
            .open_memory(&OBJECT.0)
            .map_err(bpf_error("open the adoption program"))?;
        let max_flows = max_flows.max(1);
        open.maps_mut()
            .find(|map| map.name() == "flows")
            .expect("the embedded program has a map named flows")
            .set_max_entries(max_flows)
            .map_err(bpf_error("size the table of flows"))?;
        let object = open.load().map_err(bpf_error("load the adoption program"))?;
        let map = |name: &str| {
            let map = object
                .maps()
                .find(|map| map.name() == name)
                .expect("the embedded program has both maps");
            MapHandle::try_from(&map).map_err(bpf_error("keep a handle on a BPF map"))
        };
        let flows = map("flows")?;
        let counters = map("counters")?;
        let program = object.progs().next().expect("the embedded object has one program");
        let program = program.as_fd().as_raw_fd();
        let link = ns.run(|| {
            let index = rtnl::link_index(dev)?;
            // SAFETY: the program's descriptor stays open while `object` lives, which is until
            // this function returns; null options are allowed. The other arguments are plain
            // numbers; the kernel looks the index up in this thread's namespace.
            let fd = unsafe {
                libbpf_sys::bpf_link_create(
                    program,
                    index as i32,
                    libbpf_sys::BPF_TCX_INGRESS,
                    ptr::null(),
                )
            };
            if fd < 0 {
                return Err(Error::Bpf {
                    what: format!("attach the adoption program to \"{dev}\""),
                    reason: io::Error::from_raw_os_error(-fd).to_string(),
                    advice: LOAD_ADVICE,
                });
            }
            // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })??;
        let map = flows.as_fd().try_clone_to_owned().map_err(|e| {
            Error::os("duplicate a descriptor", "raise the limit of open files (LimitNOFILE=)", e)
        })?;
        Ok(Adoption { _link: link, flows: Arc::new(Flows { map, max_flows }), counters })
    }

    /// A handle that prepares flows, for the thread that applies the log.
    pub fn handle(&self) -> Adopter {
        Adopter(Arc::clone(&self.flows))
    }

    /// Totals since the program was loaded.
    pub fn stats(&self) -> AdoptStats {
        let total = |which: u32| -> u64 {
            let values = self.counters.lookup_percpu(&which.to_ne_bytes(), MapFlags::ANY);
            values.ok().flatten().map_or(0, |cpus| {
                cpus.iter()
                    .filter_map(|bytes| bytes.get(..8)?.try_into().ok().map(u64::from_ne_bytes))
                    .sum()
            })
        };
        AdoptStats {
            adopted: total(0),
            no_listener: total(1),
            refused: total(2),
            existing: total(3),
            time_wait: total(4),
        }
    }
}

impl Adopter {
    /// Lets the flow's next frame with an ACK (and neither SYN nor RST) make a connection. One
    /// frame only: if the application did not listen, prepare again before delivering again. One
    /// system call; it neither blocks nor allocates. Preparing a flow again replaces its attributes.
    pub fn prepare(&self, key: &FlowKey, attrs: &AdoptAttrs) -> Result<()> {
        let value = encode_attrs(key, attrs)?;
        let key = encode_key(key)?;
        // SAFETY: the descriptor is a BPF hash map's, with keys of KEY_BYTES and values of
        // ATTR_BYTES (the embedded program declares the same sizes); both arrays are live.
        let done = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.0.map.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                0,
            )
        };
        match -done {
            0 => Ok(()),
            libc::E2BIG => Err(Error::FlowTableFull { max_flows: self.0.max_flows }),
            errno => Err(Error::Bpf {
                what: "prepare a flow for adoption".into(),
                reason: io::Error::from_raw_os_error(errno).to_string(),
                advice: LOAD_ADVICE,
            }),
        }
    }

    /// Takes back what [`prepare`](Self::prepare) announced, if no frame has used it yet.
    pub fn forget(&self, key: &FlowKey) {
        let Ok(key) = encode_key(key) else { return };
        // SAFETY: as in `prepare`; a key that is not there is no error for us.
        unsafe { libbpf_sys::bpf_map_delete_elem(self.0.map.as_raw_fd(), key.as_ptr().cast()) };
    }
}

/// The bytes of `struct flow_key` in adopt.bpf.c.
fn encode_key(key: &FlowKey) -> Result<[u8; KEY_BYTES]> {
    let mut bytes = [0; KEY_BYTES];
    let family: u32 = match (key.client.ip(), key.server.ip()) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            bytes[0..4].copy_from_slice(&client.octets());
            bytes[16..20].copy_from_slice(&server.octets());
            4
        }
        (IpAddr::V6(client), IpAddr::V6(server)) => {
            bytes[0..16].copy_from_slice(&client.octets());
            bytes[16..32].copy_from_slice(&server.octets());
            6
        }
        _ => return Err(Error::MixedFamilies { client: key.client, server: key.server }),
    };
    bytes[32..34].copy_from_slice(&key.client.port().to_be_bytes());
    bytes[34..36].copy_from_slice(&key.server.port().to_be_bytes());
    bytes[36..40].copy_from_slice(&family.to_ne_bytes());
    Ok(bytes)
}

/// The bytes of the kernel's `struct bpf_tcp_req_attrs`.
fn encode_attrs(key: &FlowKey, attrs: &AdoptAttrs) -> Result<[u8; ATTR_BYTES]> {
    let snd_wscale = attrs.snd_wscale.unwrap_or(0);
    let rcv_wscale = if attrs.snd_wscale.is_some() { attrs.rcv_wscale } else { 0 };
    if snd_wscale > TCP_WSCALE_MAX || rcv_wscale > TCP_WSCALE_MAX {
        return Err(Error::BadAttrs { what: "window scale" });
    }
    let mss = attrs.mss.max(if key.client.is_ipv4() { MSS_MIN_V4 } else { MSS_MIN_V6 });
    let (tsval, tsecr) = attrs.timestamps.unwrap_or((0, 0));
    let mut bytes = [0; ATTR_BYTES];
    bytes[0..4].copy_from_slice(&tsval.to_ne_bytes());
    bytes[4..8].copy_from_slice(&tsecr.to_ne_bytes());
    bytes[8..10].copy_from_slice(&mss.to_ne_bytes());
    bytes[10] = rcv_wscale;
    bytes[11] = snd_wscale;
    bytes[12] = attrs.ecn.into();
    bytes[13] = attrs.snd_wscale.is_some().into();
    bytes[14] = attrs.sack.into();
    bytes[15] = attrs.timestamps.is_some().into();
    // usec_ts_ok and the reserved bytes stay 0.
    if let Some((seq, ack)) = attrs.first {
        bytes[20..24].copy_from_slice(&seq.to_ne_bytes());
        bytes[24..28].copy_from_slice(&ack.to_ne_bytes());
        bytes[28..32].copy_from_slice(&1u32.to_ne_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str, server: &str) -> FlowKey {
        FlowKey { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    #[test]
    fn keys_and_attributes_have_the_kernel_layout() {
        let v4 = key("10.0.0.2:258", "10.0.0.1:6379");
        let bytes = encode_key(&v4).unwrap();
        assert_eq!(bytes[0..5], [10, 0, 0, 2, 0]);
        assert_eq!(bytes[16..21], [10, 0, 0, 1, 0]);
        assert_eq!(bytes[32..36], [1, 2, 0x18, 0xeb]);
        assert_eq!(bytes[36..40], 4u32.to_ne_bytes());
        let attrs = AdoptAttrs {
            mss: 1460,
            snd_wscale: Some(7),
            rcv_wscale: 8,
            sack: true,
            ecn: false,
            timestamps: Some((1, 2)),
            first: None,
        };
        let bytes = encode_attrs(&v4, &attrs).unwrap();
        assert_eq!(bytes[0..4], 1u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 2u32.to_ne_bytes());
        assert_eq!(bytes[8..10], 1460u16.to_ne_bytes());
        assert_eq!(bytes[10..20], [8, 7, 0, 1, 1, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn impossible_flows_are_refused_and_small_mss_raised() {
        let mixed = key("10.0.0.2:1", "[::1]:2");
        assert!(matches!(encode_key(&mixed), Err(Error::MixedFamilies { .. })));
        let v6 = key("[::2]:1", "[::1]:2");
        let mut attrs = AdoptAttrs {
            mss: 100,
            snd_wscale: None,
            rcv_wscale: 7,
            sack: false,
            ecn: false,
            timestamps: None,
            first: None,
        };
        let bytes = encode_attrs(&v6, &attrs).unwrap();
        assert_eq!(bytes[8..10], MSS_MIN_V6.to_ne_bytes());
        assert_eq!(bytes[10..20], [0; 10]);
        attrs.snd_wscale = Some(15);
        assert!(matches!(encode_attrs(&v6, &attrs), Err(Error::BadAttrs { .. })));
    }

    #[test]
    fn handles_cross_threads() {
        fn sendable<T: Send + Sync + 'static>() {}
        sendable::<Adopter>();
        sendable::<Adoption>();
    }
}
