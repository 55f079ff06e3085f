//! Packet filters in the data path: classic BPF, as libpcap compiles it, converted by `rte_bpf` and, where
//! DPDK can, compiled to machine code.

use std::ptr::{self, NonNull};

use crate::eal;
use crate::error::Error;
use crate::{BURST, Burst};

/// Longest program that is taken.
const INSTRUCTIONS_MAX: usize = 4096;

/// An instruction of classic BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if true.
    pub jump_true: u8,
    /// Instructions to skip if false.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

impl Instruction {
    /// As C lays it out.
    fn word(self) -> u64 {
        let [a, b] = self.code.to_ne_bytes();
        let [e, f, g, h] = self.operand.to_ne_bytes();
        u64::from_ne_bytes([a, b, self.jump_true, self.jump_false, e, f, g, h])
    }
}

/// What the kernel checks of a program too: it ends, jumps forward within itself, and has sixteen words
/// of memory. DPDK's converter relies on it.
fn is_sound(program: &[Instruction]) -> bool {
    const CLASS: u16 = 0x07;
    const RETURN: u16 = 0x06;
    const WORDS: u32 = 16;
    let last_returns = program.last().is_some_and(|i| i.code & CLASS == RETURN);
    last_returns
        && program.iter().enumerate().all(|(at, i)| {
            let behind = (program.len() - at - 1) as u64;
            match i.code {
                // ja; conditional jumps; loads and stores of a word; division and remainder by a
                // constant.
                0x05 => u64::from(i.operand) < behind,
                code if code & CLASS == 0x05 => {
                    u64::from(i.jump_true) < behind && u64::from(i.jump_false) < behind
                }
                0x60 | 0x61 | 0x02 | 0x03 => i.operand < WORDS,
                0x34 | 0x94 => i.operand != 0,
                _ => true,
            }
        })
}

/// A filter that DPDK runs on frames.
#[derive(Debug)]
pub struct PacketFilter {
    /// Invariant: a loaded program, ours alone; EAL's memory, in which it is, is not cleaned up while
    /// one exists (it is counted like a pool).
    bpf: NonNull<dpdk_sys::rte_bpf>,
}

// SAFETY: a loaded program is not written any more, and may be run and destroyed by any thread.
unsafe impl Send for PacketFilter {}

impl PacketFilter {
    /// Loads a program that libpcap compiled for Ethernet.
    ///
    /// # Errors
    /// If DPDK was built without libpcap, or does not take the program.
    pub fn new(program: &[Instruction]) -> Result<PacketFilter, Error> {
        let mut state = eal::running()?;
        if program.len() > INSTRUCTIONS_MAX || !is_sound(program) {
            return Err(Error::BadArgument {
                argument: format!("a filter of {} instructions", program.len()),
                reason: "it is empty, too long, or not one that ends",
            });
        }
        let words: Vec<u64> = program.iter().map(|i| i.word()).collect();
        let mut bpf = ptr::null_mut();
        // SAFETY: EAL runs (the lock is held); the program is as long as is said, and is copied.
        let code = unsafe { dpdk_sys::shim_bpf_load(words.as_ptr(), words.len() as u32, &mut bpf) };
        let Some(bpf) = NonNull::new(bpf).filter(|_| code == 0) else {
            let action = "loading the filter by rte_bpf (which needs a DPDK built with libpcap)";
            return Err(Error::call(action, code));
        };
        state.pools_held += 1;
        Ok(PacketFilter { bpf })
    }

    /// Whether it runs as machine code, not interpreted.
    pub fn is_native(&self) -> bool {
        // SAFETY: the invariant.
        unsafe { dpdk_sys::shim_bpf_is_native(self.bpf.as_ptr()) != 0 }
    }

    /// Which of the frames pass.
    #[inline]
    pub fn run(&self, frames: &mut Burst) -> [bool; BURST] {
        let mut verdicts = [0u64; BURST];
        let pointers = frames.as_mut_ptr().cast::<*mut dpdk_sys::rte_mbuf>();
        // SAFETY: the invariant; Mbuf is a transparent non-null pointer to a live mbuf, there are
        // `len` of them, at most BURST, and as many places for verdicts. A program only reads frames.
        unsafe {
            dpdk_sys::shim_bpf_run(
                self.bpf.as_ptr(),
                pointers,
                verdicts.as_mut_ptr(),
                frames.len() as u32,
            );
        }
        verdicts.map(|verdict| verdict != 0)
    }
}

impl Drop for PacketFilter {
    fn drop(&mut self) {
        let mut state = eal::state();
        // SAFETY: the invariant; nobody has it after this, and the lock keeps EAL from ending.
        unsafe { dpdk_sys::shim_bpf_free(self.bpf.as_ptr()) };
        state.pools_held -= 1;
    }
}
