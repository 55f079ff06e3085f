//! Redis' protocol, as much of it as a judge needs.

use anyhow::{Result, bail};

/// Longest reply the lab asks for.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// Arrays in arrays.
const DEPTH_MAX: usize = 4;

/// A command as bytes.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    out
}

/// An integer reply as bytes.
pub fn integer(value: u64) -> Vec<u8> {
    format!(":{value}\r\n").into_bytes()
}

/// A bulk string reply as bytes.
pub fn bulk(value: &str) -> Vec<u8> {
    format!("${}\r\n{value}\r\n", value.len()).into_bytes()
}

/// An array reply as bytes; its elements are replies.
pub fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", elements.len()).into_bytes();
    out.extend(elements.concat());
    out
}

/// The bulk strings of a reply, however they are nested.
pub fn strings(reply: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(reply);
    let lines = text.split("\r\n").filter(|line| !line.is_empty());
    lines.filter(|line| !line.starts_with(['$', '*'])).map(String::from).collect()
}

/// Length of the first whole reply in `bytes`; nothing while it is not whole.
pub fn reply_length(bytes: &[u8]) -> Result<Option<usize>> {
    length_of(bytes, DEPTH_MAX)
}

fn length_of(bytes: &[u8], depth: usize) -> Result<Option<usize>> {
    if bytes.len() > REPLY_BYTES_MAX {
        bail!("a reply of more than {REPLY_BYTES_MAX} bytes");
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let head = end + 2;
    match bytes[0] {
        b'+' | b'-' | b':' => Ok(Some(head)),
        b'$' => {
            let text = String::from_utf8_lossy(&bytes[1..end]).into_owned();
            let Ok(length) = text.parse::<i64>() else { bail!("a bulk length of {text:?}") };
            let Ok(length) = usize::try_from(length) else { return Ok(Some(head)) };
            let whole = head + length + 2;
            Ok((bytes.len() >= whole).then_some(whole))
        }
        b'*' if depth > 0 => {
            let text = String::from_utf8_lossy(&bytes[1..end]).into_owned();
            let Ok(count) = text.parse::<usize>() else { bail!("an array length of {text:?}") };
            let mut at = head;
            for _ in 0..count {
                let Some(length) = length_of(&bytes[at..], depth - 1)? else { return Ok(None) };
                at += length;
            }
            Ok(Some(at))
        }
        other => bail!("a reply that starts with {:?}", char::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_where_they_end() {
        assert_eq!(reply_length(b":12\r\n:13\r\n").unwrap(), Some(5));
        assert_eq!(reply_length(b"$3\r\nabc\r\n+OK").unwrap(), Some(9));
        assert_eq!(reply_length(b"$3\r\nab").unwrap(), None);
        assert_eq!(reply_length(b"$-1\r\n").unwrap(), Some(5));
        assert_eq!(reply_length(b"*2\r\n$1\r\na\r\n*1\r\n:7\r\n+").unwrap(), Some(19));
        assert_eq!(reply_length(b"*2\r\n$1\r\na\r\n*1\r\n:7\r").unwrap(), None);
        assert_eq!(strings(b"*2\r\n$1\r\na\r\n$2\r\nbc\r\n"), ["a", "bc"]);
        assert_eq!(reply_length(b"").unwrap(), None);
        assert!(reply_length(b"x\r\n").is_err());
    }
}
