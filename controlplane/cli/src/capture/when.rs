//! Times and sizes as operators write them.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, Zoned};

const NS_PER_S: i128 = 1_000_000_000;
/// Shown where a time is not understood.
const ALLOWED: &str = "allowed: 12:00, 12:00:05.25, 2026-11-25T12:00, the same with Z or an offset, \
                       @SECONDS since 1970, or -90s, -5m, -2h, -1d ago";

/// A moment in ns since 1970. A time without a date is of today, one without a zone is local.
pub fn moment_ns(text: &str, now: &Zoned) -> Result<u64, String> {
    let ns = at(text.trim(), now).ok_or_else(|| format!("{text:?} is no time; {ALLOWED}"))?;
    u64::try_from(ns).map_err(|_| format!("{text:?} is before 1970 or too far away"))
}

fn at(text: &str, now: &Zoned) -> Option<i128> {
    if let Some(ago) = text.strip_prefix('-') {
        return Some(now.timestamp().as_nanosecond() - i128::from(ago_s(ago)?) * NS_PER_S);
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return decimal_ns(seconds);
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some(timestamp.as_nanosecond());
    }
    let local = |at: DateTime| Some(at.to_zoned(now.time_zone().clone()).ok()?.timestamp());
    let timestamp = if text.contains('-') {
        match text.parse::<DateTime>() {
            Ok(at) => local(at)?,
            Err(_) => local(text.parse::<Date>().ok()?.into())?,
        }
    } else {
        local(now.date().to_datetime(text.parse::<Time>().ok()?))?
    };
    Some(timestamp.as_nanosecond())
}

/// `90s`, `5m`, `2h`, `1d`.
fn ago_s(text: &str) -> Option<u32> {
    let unit = text.chars().last()?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    digits(&text[..text.len() - 1])?.checked_mul(factor)
}

/// Seconds with up to nine decimals.
fn decimal_ns(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    (part.len() <= 9).then_some(())?;
    let part = i128::from(digits(part)?) * 10i128.pow(9 - part.len() as u32);
    let whole = (!whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit()))
        .then(|| whole.parse::<u64>().ok())??;
    Some(i128::from(whole) * NS_PER_S + part)
}

/// Digits only: `str::parse` would take a sign.
fn digits(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A file's size: millions of bytes, or KiB, MiB, GiB with k, m, g.
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; allowed: 10 (million bytes), 512k, 10m, 1g");
    let (number, unit) = match text.chars().last().map(|c| c.to_ascii_lowercase()) {
        Some('k') => (&text[..text.len() - 1], 1 << 10),
        Some('m') => (&text[..text.len() - 1], 1 << 20),
        Some('g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1_000_000),
    };
    digits(number).filter(|n| *n > 0).map(|n| u64::from(n) * unit).ok_or_else(wrong)
}

/// A whole number of seconds, at least one.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = digits(text).filter(|n| *n > 0);
    number
        .map(|n| Duration::from_secs(n.into()))
        .ok_or_else(|| format!("{text:?} is no number of seconds"))
}

/// A time of day for a line of text, local.
pub fn clock(timestamp_ns: u64) -> String {
    let timestamp = Timestamp::from_nanosecond(timestamp_ns.into()).unwrap_or_default();
    timestamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S.%9f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_today_and_local_unless_said() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        let now = "2026-11-25T14:30:00Z".parse::<Timestamp>().unwrap().to_zoned(zone);
        let of = |text: &str| {
            moment_ns(text, &now)
                .map(|ns| Timestamp::from_nanosecond(ns.into()).unwrap().to_string())
        };
        for (text, expected) in [
            ("12:00", "2026-11-25T10:00:00Z"),
            ("12:00:05.25", "2026-11-25T10:00:05.25Z"),
            ("2026-11-24T12:00", "2026-11-24T10:00:00Z"),
            ("2026-11-24 12:00:01", "2026-11-24T10:00:01Z"),
            ("2026-11-24", "2026-11-23T22:00:00Z"),
            ("2026-11-24T12:00:00Z", "2026-11-24T12:00:00Z"),
            ("2026-11-24T12:00:00+01:00", "2026-11-24T11:00:00Z"),
            ("@1763888400.000000001", "2025-11-23T09:00:00.000000001Z"),
            ("-90s", "2026-11-25T14:28:30Z"),
            ("-2h", "2026-11-25T12:30:00Z"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(expected), "{text}");
        }
        for text in
            ["", "noon", "25:00", "-5", "-m", "@", "@1.0000000000", "@-1", "-\u{e9}", "1960-01-01"]
        {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_tcpdumps() {
        assert_eq!(size_bytes("10"), Ok(10_000_000));
        assert_eq!(size_bytes("512k"), Ok(512 << 10));
        assert_eq!(size_bytes("1G"), Ok(1 << 30));
        for text in ["", "0", "k", "-1", "1.5", "1t", "\u{e9}"] {
            assert!(size_bytes(text).is_err(), "{text}");
        }
        assert!(seconds("0").is_err());
    }
}
