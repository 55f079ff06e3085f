//! Paths for people.
//!
//! What belongs here: what an action is called. Nothing that changes a state.

use understudy_wire::control::Control;

use crate::plane::Pdu;
use crate::scope::START_NS;
use crate::world::{Action, Flying, Message, World};

impl World {
    /// Time since the clocks began.
    pub fn elapsed_ms(&self) -> u64 {
        (self.now_ns - START_NS) / 1_000_000
    }

    /// An action in this state, in words.
    pub fn tell(&self, action: &Action) -> String {
        match action {
            Action::Tick(_) => "time passes".to_owned(),
            Action::Deliver(index) => format!("arrives: {}", tell(&self.net[*index])),
            Action::Duplicate(index) => {
                format!("arrives, not for the last time: {}", tell(&self.net[*index]))
            }
            Action::Persisted(id) => {
                let state = self.machine(*id).writing.front();
                format!("node {id}'s disk holds {state:?}")
            }
            Action::Crash(id) => format!("node {id} crashes"),
            Action::Start(id) => format!("node {id} starts"),
            Action::Pause(id) => format!("node {id} stands still"),
            Action::Resume(id) => format!("node {id} goes on"),
            Action::Isolate(id) => format!("node {id} is cut off"),
            Action::Heal => "all links work".to_owned(),
            Action::Frame(id) => format!("a client's frame reaches node {id}"),
            Action::ArbiterRead(id) => {
                format!("the arbiter reads for node {id}: {:?}", self.machine(*id).asking)
            }
            Action::ArbiterWrite(id) => format!("the arbiter writes for node {id}"),
            Action::ArbiterSilent(id) => format!("node {id} gives up waiting for the arbiter"),
        }
    }
}

fn tell(flying: &Flying) -> String {
    let what = match &flying.message {
        Message::Control(epoch, Control::Heartbeat(_)) => format!("heartbeat in epoch {epoch}"),
        Message::Control(epoch, msg) => format!("{msg:?} in epoch {epoch}"),
        Message::Pdu(epoch, Pdu::Data(header, bytes)) => format!(
            "log bytes {}..{} of epoch {epoch}, committed {}",
            header.position,
            header.position + bytes.len() as u64,
            header.committed
        ),
        Message::Pdu(epoch, Pdu::Ack(ack)) => format!("ack of {} in epoch {epoch}", ack.position),
        Message::Pdu(epoch, Pdu::Nak(nak)) => format!("nak at {} in epoch {epoch}", nak.position),
    };
    format!("{} -> {}: {what}", flying.from, flying.to)
}
