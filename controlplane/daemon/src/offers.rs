//! What this node gives to others that need a checkpoint: the newest that fits, or one taken now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use understudy_api::{Request, Response};
use understudy_checkpoint::transfer::{Identity, Server, Source, Wanted};
use understudy_checkpoint::{Error, Generation, MethodKind, Pin, Store};
use understudy_config::Config;

use crate::control::NOT_NOW;
use crate::keys::Keys;
use crate::method;
use crate::server::Call;

/// The node that asks waits a little longer than this.
const LIMIT: Duration = Duration::from_secs(170);
/// While it can take none.
const RETRY: Duration = Duration::from_millis(200);
const MB: u64 = 1 << 20;

struct Offers {
    store: Store,
    method: MethodKind,
    calls: Sender<Call>,
    keys: Keys,
}

/// Listens at this node's address of the second path, by TCP.
pub fn serve(
    config: &Arc<Config>,
    store: Store,
    calls: Sender<Call>,
    keys: Keys,
) -> anyhow::Result<Server> {
    let rate_bytes_s = config.checkpoint.transfer_mb_s * MB;
    let offers = Offers { store, method: method::kind(config), calls, keys };
    Ok(Server::start(config.me().address, offers, rate_bytes_s)?)
}

impl Source for Offers {
    fn offer(&self, wanted: &Wanted) -> Result<(Generation, Pin), String> {
        if wanted.method != self.method {
            let (theirs, ours) = (self.method, wanted.method);
            return Err(Error::OtherMethod { theirs, ours }.to_string());
        }
        let end = Instant::now() + LIMIT;
        let mut taken = false;
        loop {
            match self.store.newest_pinned(|m| wanted.fits(m)) {
                Ok(pinned) => return Ok(pinned),
                Err(_) if taken => {
                    return Err("its checkpoint of now is of no use to this node".into());
                }
                Err(_) => {}
            }
            match self.take_one(end) {
                Response::Checkpoint(_) => taken = true,
                Response::Error(e) if NOT_NOW.contains(&e.message.as_str()) => {
                    std::thread::sleep(RETRY);
                }
                Response::Error(e) => return Err(e.message),
                _ => return Err("it gave an answer to something else".into()),
            }
            if Instant::now() > end {
                return Err("it took too long".into());
            }
        }
    }

    fn identity(&self) -> Identity {
        self.keys.identity()
    }
}

impl Offers {
    fn take_one(&self, end: Instant) -> Response {
        let (answer, answered) = bounded(1);
        let call = Call { request: Request::Checkpoint, keys: None, answer };
        let sent = self.calls.send_deadline(call, end).is_ok();
        let answer = sent.then(|| answered.recv_deadline(end).ok()).flatten();
        answer.unwrap_or_else(|| {
            let text = "its control plane gave no answer in time";
            understudy_api::ApiError::new(understudy_api::ErrorCode::Runtime, text).into()
        })
    }
}
