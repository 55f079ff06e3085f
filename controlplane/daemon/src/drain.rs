//! Taking a node out of service and back, from the socket's threads: the wish is on disk before it is
//! carried out, since a primary that gave the service away starts anew, and must remember.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use understudy_api::{ApiError, ErrorCode, Request, Response};

/// Its presence says that the node is drained.
fn mark(state_dir: &Path) -> PathBuf {
    state_dir.join("drained")
}

/// Whether an earlier life was told to serve nobody.
pub fn is_drained(state_dir: &Path) -> bool {
    mark(state_dir).exists()
}

/// Drains; what cannot be done whole is undone.
pub fn drain(state_dir: &Path, ask: impl Fn(Request) -> Response) -> Response {
    if let Err(e) = remember(state_dir) {
        let text = format!("cannot write {}: {e}; nothing was changed", mark(state_dir).display());
        return ApiError::new(ErrorCode::Runtime, text).into();
    }
    let mut drained = match ask(Request::Drain) {
        Response::Drained(drained) => drained,
        other => {
            let _ = forget(state_dir);
            return other;
        }
    };
    if drained.was_primary {
        match ask(Request::Switchover { to: None }) {
            Response::Switchover(done) => drained.switchover = Some(done),
            other => {
                let _ = forget(state_dir);
                ask(Request::Undrain);
                return other;
            }
        }
    }
    drained.into()
}

/// Ends it.
pub fn undrain(state_dir: &Path, ask: impl Fn(Request) -> Response) -> Response {
    match forget(state_dir) {
        Ok(()) => ask(Request::Undrain),
        Err(e) => {
            let text =
                format!("cannot remove {}: {e}; nothing was changed", mark(state_dir).display());
            ApiError::new(ErrorCode::Runtime, text).into()
        }
    }
}

fn remember(state_dir: &Path) -> std::io::Result<()> {
    File::create(mark(state_dir))?.sync_all()?;
    File::open(state_dir)?.sync_all()
}

fn forget(state_dir: &Path) -> std::io::Result<()> {
    match fs::remove_file(mark(state_dir)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => File::open(state_dir)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use understudy_api::{Drained, SwitchoverDone};

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("us-drain-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refused() -> Response {
        ApiError::new(ErrorCode::RefusedUnsafe, "nobody could take over").into()
    }

    #[test]
    fn a_primary_that_cannot_give_the_service_away_keeps_it() {
        let dir = Dir::new("refused");
        let asked = RefCell::new(Vec::new());
        let answer = drain(&dir.0, |request| {
            asked.borrow_mut().push(request.name());
            match request {
                Request::Switchover { .. } => refused(),
                _ => Drained { was_primary: true, drained: true, ..Drained::default() }.into(),
            }
        });
        assert_eq!(answer, refused());
        assert_eq!(*asked.borrow(), ["drain", "switchover", "undrain"]);
        assert!(!is_drained(&dir.0));
    }

    #[test]
    fn what_was_asked_is_remembered_until_it_is_taken_back() {
        let dir = Dir::new("kept");
        let done = SwitchoverDone { to: "b".into(), ..SwitchoverDone::default() };
        let answer = drain(&dir.0, |request| match request {
            Request::Switchover { .. } => done.clone().into(),
            _ => {
                assert!(is_drained(&dir.0), "on disk before anything happens");
                Drained { was_primary: true, drained: true, ..Drained::default() }.into()
            }
        });
        let Response::Drained(drained) = answer else { panic!("{answer:?}") };
        assert_eq!(drained.switchover, Some(done));
        assert!(is_drained(&dir.0));
        for _ in 0..2 {
            undrain(&dir.0, |_| Drained::default().into());
            assert!(!is_drained(&dir.0));
        }
        let gone = dir.0.join("gone");
        assert!(
            matches!(drain(&gone, |_| refused()), Response::Error(e) if e.code == ErrorCode::Runtime)
        );
    }
}
