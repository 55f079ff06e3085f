//! What a filter in tcpdump's language needs a block to hold, so that the others are not read.
//!
//! Always on the safe side: what is not understood needs nothing, and a block that holds what is
//! needed may still have no packet that matches. Whoever reads it runs the filter itself.

use std::net::IpAddr;

use crate::bloom::Bloom;
use crate::keys::Key;

/// Longer filters are not looked at.
const TOKENS_MAX: usize = 256;
/// Nor is what is nested deeper.
const DEPTH_MAX: usize = 16;
/// Words that change where libpcap looks for everything behind them.
const SHIFTING: [&str; 7] = ["vlan", "mpls", "pppoed", "pppoes", "geneve", "vxlan", "llc"];

/// What a block must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Needs {
    /// Nothing in particular.
    #[default]
    Any,
    /// A frame with this property.
    Key(Key),
    /// All of these.
    All(Vec<Needs>),
    /// One of these.
    Either(Vec<Needs>),
}

impl Needs {
    /// Reads a filter.
    #[must_use]
    pub fn of_filter(text: &str) -> Needs {
        let Some(tokens) = tokens(text) else { return Needs::Any };
        let tokens = match unshifted(&tokens) {
            Some(tokens) => tokens,
            None => return Needs::Any,
        };
        expression(tokens, &mut None, 0)
    }

    /// Whether a block with such keys may have packets that match.
    #[must_use]
    pub fn may_be_in(&self, keys: &Bloom) -> bool {
        match self {
            Needs::Any => true,
            Needs::Key(key) => keys.may_hold(key.hash()),
            Needs::All(all) => all.iter().all(|needs| needs.may_be_in(keys)),
            Needs::Either(any) => any.iter().any(|needs| needs.may_be_in(keys)),
        }
    }

    /// Whether nothing is excluded.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Needs::Any
    }

    fn and(self, other: Needs) -> Needs {
        let mut all = Vec::new();
        for needs in [self, other] {
            match needs {
                Needs::Any => {}
                Needs::All(more) => all.extend(more),
                one => all.push(one),
            }
        }
        match all.len() {
            0 => Needs::Any,
            1 => all.remove(0),
            _ => Needs::All(all),
        }
    }

    fn or(self, other: Needs) -> Needs {
        match (self, other) {
            (Needs::Any, _) | (_, Needs::Any) => Needs::Any,
            (Needs::Either(mut any), other) => {
                any.push(other);
                Needs::Either(any)
            }
            (one, other) => Needs::Either(vec![one, other]),
        }
    }

    /// One packet has them all: so it has the pairs of them too.
    fn with_pairs(self) -> Needs {
        let Needs::All(mut all) = self else { return self };
        let keys: Vec<Key> = all
            .iter()
            .filter_map(|n| if let Needs::Key(key) = n { Some(*key) } else { None })
            .collect();
        for (i, one) in keys.iter().enumerate() {
            for other in &keys[i + 1..] {
                match (one, other) {
                    (Key::Host(a), Key::Host(b)) if a != b => {
                        all.push(Needs::Key(Key::pair(*a, *b)))
                    }
                    (Key::Host(a), Key::Port(p)) | (Key::Port(p), Key::Host(a)) => {
                        all.push(Needs::Key(Key::HostPort(*a, *p)));
                    }
                    _ => {}
                }
            }
        }
        Needs::All(all)
    }
}

/// Words, brackets and signs; `None` for too many, or what is written in a way not known here.
fn tokens(text: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '&' | '|' | '=' | '<' | '>' if rest[1..].starts_with(first) => 2,
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        if found.len() == TOKENS_MAX {
            return None;
        }
        found.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    Some(found)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "._:\\-/$".contains(c)
}

/// What is left once `vlan [ID] and` is taken from the front: everything behind it is about tagged
/// frames, which the keys see through. Such a word anywhere else: libpcap looks in places that the
/// keys are not from.
fn unshifted<'a, 'b>(tokens: &'a [&'b str]) -> Option<&'a [&'b str]> {
    let shifts = |tokens: &[&str]| tokens.iter().any(|t| SHIFTING.contains(t));
    if !shifts(tokens) {
        return Some(tokens);
    }
    if tokens[0] != "vlan" {
        return None;
    }
    let id = tokens.get(1).is_some_and(|t| t.parse::<u16>().is_ok());
    let rest = &tokens[1 + usize::from(id)..];
    match rest {
        [] => Some(rest),
        ["and" | "&&", rest @ ..] if !shifts(rest) && !has_or_outside(rest) => Some(rest),
        _ => None,
    }
}

fn has_or_outside(tokens: &[&str]) -> bool {
    let mut depth = 0;
    tokens.iter().any(|token| {
        match *token {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(*token, "or" | "||")
    })
}

/// What an id without a word before it is: as the last one with.
type Kind = Option<IdKind>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum IdKind {
    Host,
    Port,
}

/// Pieces joined by `and` and `or`, which bind alike, from the left.
fn expression(tokens: &[&str], last: &mut Kind, depth: usize) -> Needs {
    if tokens.is_empty() || depth > DEPTH_MAX {
        return Needs::Any;
    }
    let mut needs: Option<Needs> = None;
    let mut joined_by_and = true;
    let mut level = 0i32;
    let mut begin = 0;
    for end in 0..=tokens.len() {
        let token = tokens.get(end).copied();
        match token {
            Some("(" | "[") => level += 1,
            Some(")" | "]") => level -= 1,
            _ => {}
        }
        if level < 0 {
            return Needs::Any;
        }
        let is_join = matches!(token, None | Some("and" | "&&" | "or" | "||"))
            && (level == 0 || token.is_none());
        if !is_join {
            continue;
        }
        let piece = piece(&tokens[begin..end], last, depth);
        needs = Some(match needs {
            None => piece,
            Some(before) if joined_by_and => before.and(piece),
            Some(before) => before.with_pairs().or(piece),
        });
        joined_by_and = matches!(token, Some("and" | "&&"));
        begin = end + 1;
    }
    if level != 0 {
        return Needs::Any;
    }
    needs.unwrap_or_default().with_pairs()
}

/// One primitive, or an expression in brackets.
fn piece(tokens: &[&str], last: &mut Kind, depth: usize) -> Needs {
    match tokens {
        ["not" | "!", rest @ ..] => {
            // It needs nothing, but what it is about is what a bare id behind it is.
            let _ = piece(rest, last, depth + 1);
            Needs::Any
        }
        ["(", inside @ .., ")"] if closes_last(inside) => expression(inside, last, depth + 1),
        _ => primitive(tokens, last),
    }
}

/// Whether the bracket before `inside` is closed by the one behind it.
fn closes_last(inside: &[&str]) -> bool {
    let mut level = 0i32;
    inside.iter().all(|token| {
        match *token {
            "(" => level += 1,
            ")" => level -= 1,
            _ => {}
        }
        level >= 0
    }) && level == 0
}

/// `[PROTOCOL] [src|dst] [host|port] ID`, `PROTOCOL`, or an id alone.
fn primitive(tokens: &[&str], last: &mut Kind) -> Needs {
    let (protocol, mut rest) = match tokens {
        [first, rest @ ..] if protocol(first).is_some() => (protocol(first), rest),
        _ => (None, tokens),
    };
    if let ([], Some(needs)) = (rest, &protocol) {
        *last = None;
        return needs.clone();
    }
    let mut kind = None;
    if let ["src" | "dst", more @ ..] = rest {
        (kind, rest) = (Some(IdKind::Host), more);
    }
    match rest {
        ["host", more @ ..] => (kind, rest) = (Some(IdKind::Host), more),
        ["port", more @ ..] => (kind, rest) = (Some(IdKind::Port), more),
        _ => {}
    }
    let is_bare = kind.is_none() && protocol.is_none();
    let kind = if is_bare { *last } else { kind };
    let [id] = rest else {
        *last = None;
        return Needs::Any;
    };
    let needs = match (kind, id.parse::<IpAddr>()) {
        (Some(IdKind::Host), Ok(address)) => Needs::Key(Key::Host(address)),
        // An address needs no word.
        (None, Ok(address)) if is_bare => Needs::Key(Key::Host(address)),
        (Some(IdKind::Port), Err(_)) => {
            let digits = id.bytes().all(|b| b.is_ascii_digit());
            match id.parse::<u16>() {
                // 010 is octal there.
                Ok(port) if digits && (!id.starts_with('0') || port == 0) => {
                    Needs::Key(Key::Port(port))
                }
                _ => Needs::Any,
            }
        }
        _ => Needs::Any,
    };
    *last = match (&needs, kind) {
        (Needs::Any, None) => None,
        (_, kind) => kind.or(Some(IdKind::Host)),
    };
    needs.and(protocol.unwrap_or_default())
}

/// A protocol's word that is a primitive by itself, and what it stands for before `host` and `port`.
fn protocol(word: &str) -> Option<Needs> {
    let key = match word {
        "ip" => Key::Ethertype(0x0800),
        "ip6" => Key::Ethertype(0x86dd),
        "arp" => Key::Ethertype(0x0806),
        "rarp" => Key::Ethertype(0x8035),
        "tcp" => Key::Protocol(6),
        "udp" => Key::Protocol(17),
        "sctp" => Key::Protocol(132),
        "icmp" => Key::Protocol(1),
        "icmp6" => Key::Protocol(58),
        "igmp" => Key::Protocol(2),
        "pim" => Key::Protocol(103),
        "esp" => Key::Protocol(50),
        "ah" => Key::Protocol(51),
        _ => return None,
    };
    Some(Needs::Key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(text: &str) -> Vec<String> {
        let shown = match Needs::of_filter(text) {
            Needs::Any => return vec![],
            Needs::All(all) => all,
            one => vec![one],
        };
        let mut shown: Vec<String> = shown.iter().map(|n| format!("{n:?}")).collect();
        shown.sort();
        shown
    }

    fn keys(keys: &[Key]) -> Vec<String> {
        let mut shown: Vec<String> = keys.iter().map(|k| format!("{:?}", Needs::Key(*k))).collect();
        shown.sort();
        shown
    }

    #[test]
    fn what_every_match_has_is_needed() {
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 7].into(), [10, 0, 0, 8].into());
        let tcp = Key::Protocol(6);
        let pair = [Key::Host(a), Key::Host(b), Key::pair(a, b)];
        for (text, expected) in [
            ("host 10.0.0.7 and tcp", &[Key::Host(a), tcp][..]),
            ("10.0.0.7", &[Key::Host(a)]),
            ("tcp port 80", &[tcp, Key::Port(80)]),
            ("src 10.0.0.7 && dst host 10.0.0.8", &pair),
            ("host 10.0.0.7 and 10.0.0.8", &pair),
            ("(host 10.0.0.7) and (port 80)", &[Key::Host(a), Key::Port(80), Key::HostPort(a, 80)]),
            ("vlan 7 and host 10.0.0.7", &[Key::Host(a)]),
            ("host 10.0.0.7 and tcp[13] & 2 != 0", &[Key::Host(a)]),
            ("tcp[tcpflags] & (tcp-syn|tcp-ack) != 0 and port 80", &[Key::Port(80)]),
            ("not port 22 and host 10.0.0.7", &[Key::Host(a)]),
            ("net 10 and port 80", &[Key::Port(80)]),
            ("ip6 host fd00::7", &[Key::Ethertype(0x86dd), Key::Host("fd00::7".parse().unwrap())]),
            ("len > 100 and arp", &[Key::Ethertype(0x806)]),
            ("not host 10.0.0.7 and 10.0.0.8", &[Key::Host(b)]),
        ] {
            assert_eq!(needs(text), keys(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_certain_is_not_needed() {
        for text in [
            "",
            "not host 10.0.0.7",
            "! (tcp)",
            "host web.example and 5",
            "host 10.0.0.7 or vlan",
            "not vlan and host 10.0.0.7",
            "vlan and host 10.0.0.7 or host 10.0.0.8",
            "(vlan and tcp) or host 10.0.0.7",
            "mpls and tcp",
            "src or dst port 53 or tcp",
            "ether host 00:11:22:33:44:55",
            "net 10.0.0.0/8",
            "port http",
            "port 010",
            "portrange 1-5",
            "tcp[0] = 5",
            "host 10.0.0.7 or len > 5",
            "(((host 10.0.0.7)",
            "host (10.0.0.7 or 10.0.0.8)",
        ] {
            assert_eq!(Needs::of_filter(text), Needs::Any, "{text}");
        }
        let deep = format!("{}tcp{}", "(".repeat(100), ")".repeat(100));
        assert_eq!(Needs::of_filter(&deep), Needs::Any);
        assert_eq!(Needs::of_filter(&"tcp and ".repeat(1000)), Needs::Any);
    }

    #[test]
    fn alternatives_need_one_of_them() {
        let or = |a, b| Needs::Either(vec![Needs::Key(a), Needs::Key(b)]);
        assert_eq!(Needs::of_filter("port 80 or 443"), or(Key::Port(80), Key::Port(443)));
        assert_eq!(
            Needs::of_filter("tcp or udp and port 53"),
            Needs::All(vec![or(Key::Protocol(6), Key::Protocol(17)), Needs::Key(Key::Port(53))]),
            "both bind alike, from the left"
        );
        let mut bloom = Bloom::for_keys(10);
        bloom.insert(Key::Port(443).hash());
        assert!(Needs::of_filter("port 80 or 443").may_be_in(&bloom));
        assert!(!Needs::of_filter("port 80 or 53").may_be_in(&bloom));
    }
}
