//! An impairment in words: `loss=5%,delay=1ms,jitter=500us,rate=200mbit`.

use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::{DELAY_NS_MAX, Impairment};

impl FromStr for Impairment {
    type Err = anyhow::Error;

    /// `none`, or a list with commas: `block`, `loss`, `duplicate`, `reorder`, `corrupt` (a share,
    /// `5%` or `0.05`), `delay`, `jitter`, `reorder-by` (`us`, `ms` or `s`), `rate` (`kbit`,
    /// `mbit` or `gbit`), `queue` (`k` or `m` bytes).
    fn from_str(text: &str) -> Result<Self> {
        let mut out = Impairment::default();
        for word in text.split(',').map(str::trim).filter(|&word| word != "none") {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            out.enter(key, value).with_context(|| format!("impairment {word:?}"))?;
        }
        Ok(out)
    }
}

impl Impairment {
    fn enter(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "block" if value.is_empty() => self.block = true,
            "loss" => self.loss = share(value)?,
            "duplicate" => self.duplicate = share(value)?,
            "reorder" => self.reorder = share(value)?,
            "corrupt" => self.corrupt = share(value)?,
            "delay" => self.delay_ns = time_ns(value)?,
            "jitter" => self.jitter_ns = time_ns(value)?,
            "reorder-by" => self.reorder_by_ns = time_ns(value)?,
            "rate" => self.rate_bits = rate_bits(value)?,
            "queue" => {
                self.queue_bytes = scaled(value, &[("k", 1 << 10), ("m", 1 << 20)], 1 << 30)?;
            }
            _ => bail!("not known"),
        }
        Ok(())
    }
}

fn share(text: &str) -> Result<f64> {
    let (digits, scale) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
    let share = digits.parse::<f64>().context("not a number")? / scale;
    if !(0.0..=1.0).contains(&share) {
        bail!("a share is from 0 to 1, or from 0% to 100%");
    }
    Ok(share)
}

fn time_ns(text: &str) -> Result<u64> {
    scaled(text, &[("us", 1000), ("ms", 1_000_000), ("s", 1_000_000_000)], DELAY_NS_MAX)
}

fn rate_bits(text: &str) -> Result<u64> {
    let units = [("kbit", 1000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
    match scaled(text, &units, 1_000_000_000_000)? {
        0 => bail!("a rate of 0 is a block"),
        rate => Ok(rate),
    }
}

/// A number with one of these units, no more than `most`.
fn scaled(text: &str, units: &[(&str, u64)], most: u64) -> Result<u64> {
    for &(unit, scale) in units {
        if let Some(Ok(number)) = text.strip_suffix(unit).map(str::parse::<u64>) {
            let value = number.checked_mul(scale).filter(|&value| value <= most);
            return value.with_context(|| format!("too much, {most} at most"));
        }
    }
    let names: Vec<&str> = units.iter().map(|&(unit, _)| unit).collect();
    bail!("a whole number and one of {} wanted", names.join(", "))
}
