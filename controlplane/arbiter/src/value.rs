//! What the key holds: a small JSON document.

use serde::{Deserialize, Serialize};
use understudy_proto::arbiter::Register;
use understudy_wire::NodeId;

const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    epoch: u64,
    primary: NodeId,
    members: Vec<NodeId>,
    since: u64,
}

/// The value of a register.
pub fn encode(register: &Register) -> String {
    let document = Document {
        version: VERSION,
        epoch: register.epoch,
        primary: register.primary,
        members: register.members.clone(),
        since: register.since,
    };
    serde_json::to_string(&document).expect("numbers always serialise")
}

/// Reads a value.
///
/// # Errors
/// Why it is not a register.
pub fn decode(bytes: &[u8]) -> Result<Register, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if document.version != VERSION {
        return Err(format!("version {} is not {VERSION}", document.version));
    }
    if document.members.is_empty() || document.members.len() > 2 {
        return Err(format!("{} members", document.members.len()));
    }
    if document.since > document.epoch {
        return Err(format!("named in epoch {}, after {}", document.since, document.epoch));
    }
    let Document { epoch, primary, members, since, .. } = document;
    Ok(Register { epoch, primary, members, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_round_trip_and_other_values_are_refused() {
        let register = Register { epoch: 7, primary: 2, members: vec![1, 2], since: 5 };
        assert_eq!(decode(encode(&register).as_bytes()), Ok(register));
        for bad in [
            "",
            "{}",
            "null",
            r#"{"version":1,"epoch":1,"primary":1,"members":[1]}"#,
            r#"{"version":3,"epoch":1,"primary":1,"members":[1],"since":1}"#,
            r#"{"version":2,"epoch":1,"primary":1,"members":[],"since":1}"#,
            r#"{"version":2,"epoch":1,"primary":1,"members":[1,2,3],"since":1}"#,
            r#"{"version":2,"epoch":-1,"primary":1,"members":[1],"since":1}"#,
            r#"{"version":2,"epoch":1,"primary":1,"members":[1],"since":2}"#,
            r#"{"version":2,"epoch":1,"primary":1,"members":[1],"since":1,"more":0}"#,
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
