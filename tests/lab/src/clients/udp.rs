//! UDP echo with the application's own retry: no answer wrong, none from nowhere.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Control, QUIET, REPLY_TIMEOUT, Task};
use crate::ledger::{Ledger, Verdict, Way};
use crate::pattern;

/// Time until a datagram is sent again.
const RETRY: Duration = Duration::from_millis(200);

/// Numbered datagrams, one at a time.
#[derive(Clone, Debug)]
pub struct UdpEcho {
    /// The service.
    pub target: SocketAddr,
    /// Seed of all payloads.
    pub seed: u64,
    /// Time between an answer and the next datagram.
    pub pause: Duration,
}

impl UdpEcho {
    /// Starts asking until stopped.
    pub fn start(self, netns: &Path) -> Result<Task> {
        Task::start(netns, "udp echo", move |control, verdict| {
            let any: SocketAddr =
                if self.target.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
            let mut asker = Asker {
                plan: self,
                socket: UdpSocket::bind(any)?,
                ledger: Ledger::default(),
                sends: BTreeMap::new(),
                answers: BTreeMap::new(),
            };
            let outcome = asker.run(control, verdict);
            verdict.ledgers.push(asker.ledger);
            outcome
        })
    }

    fn datagram(&self, number: u64) -> Vec<u8> {
        let length = 16 + pattern::mix(self.seed ^ number) as usize % 1200;
        let mut out = number.to_be_bytes().to_vec();
        out.extend(pattern::bytes(self.seed ^ number, 0, length));
        out
    }
}

struct Asker {
    plan: UdpEcho,
    socket: UdpSocket,
    ledger: Ledger,
    sends: BTreeMap<u64, u64>,
    answers: BTreeMap<u64, u64>,
}

impl Asker {
    fn run(&mut self, control: &Control, verdict: &mut Verdict) -> Result<()> {
        let mut number = 0;
        while !control.is_stopped() {
            self.ask(number, verdict).with_context(|| format!("datagram {number}"))?;
            verdict.reply();
            control.advance(1);
            number += 1;
            control.pause(self.plan.pause);
        }
        self.listen(Instant::now() + QUIET, None, verdict)?;
        Ok(())
    }

    fn ask(&mut self, number: u64, verdict: &mut Verdict) -> Result<()> {
        let datagram = self.plan.datagram(number);
        let deadline = Instant::now() + REPLY_TIMEOUT;
        while Instant::now() < deadline {
            let again = *self.sends.entry(number).and_modify(|sends| *sends += 1).or_insert(1) > 1;
            verdict.count("retries", again.into());
            // A full queue or a host that is unreachable for now: the retry is for that.
            if self.socket.send_to(&datagram, self.plan.target).is_ok() {
                self.ledger.enter(Way::Sent, &datagram);
            }
            if self.listen(Instant::now() + RETRY, Some(number), verdict)? {
                return Ok(());
            }
        }
        bail!("no answer within {REPLY_TIMEOUT:?}")
    }

    /// Takes answers until `deadline` or until the awaited one has come.
    fn listen(
        &mut self,
        deadline: Instant,
        awaited: Option<u64>,
        verdict: &mut Verdict,
    ) -> Result<bool> {
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            let wait = deadline.saturating_duration_since(Instant::now());
            self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
            let (count, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error).context("receive"),
            };
            self.ledger.enter(Way::Received, &buffer[..count]);
            match self.judge(&buffer[..count], from) {
                Ok(number) if Some(number) == awaited => return Ok(true),
                Ok(_) => verdict.count("late answers", 1),
                Err(error) => verdict.fault(error),
            }
        }
        Ok(false)
    }

    /// The number of a right answer.
    fn judge(&mut self, answer: &[u8], from: SocketAddr) -> Result<u64> {
        if from != self.plan.target {
            bail!("an answer from {from}");
        }
        let Some(head) = answer.first_chunk::<8>() else {
            bail!("an answer of {} bytes", answer.len())
        };
        let number = u64::from_be_bytes(*head);
        let Some(&sends) = self.sends.get(&number) else {
            bail!("an answer to datagram {number}, which was never sent")
        };
        if answer != self.plan.datagram(number) {
            bail!("a wrong answer to datagram {number}");
        }
        let answers = self.answers.entry(number).or_default();
        *answers += 1;
        if *answers > sends {
            bail!("datagram {number}: sent {sends} times, answered {answers} times");
        }
        Ok(number)
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
    )
}
