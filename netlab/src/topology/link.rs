//! What a router does to packets beside NAT: IPv6, and what makes a link bad.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// IPv6 behind a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ipv6 {
    /// None.
    #[default]
    None,
    /// Beside IPv4, reachable from everywhere.
    Open,
    /// Beside IPv4, behind a firewall that lets in only what answers something from inside (RFC 6092).
    Stateful,
    /// Instead of IPv4: a firewall like the former, and NAT64 (RFC 6146) to reach what has IPv4 only.
    Nat64,
}

/// What is wrong with a link, in each direction. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impairment {
    /// Packets lost at random, of a thousand.
    pub loss_permille: u16,
    /// The most that gets through, in kbit/s.
    pub rate_kbits: Option<u32>,
    /// How long packets take.
    pub delay: Duration,
    /// How much longer or shorter some of them take.
    pub jitter: Duration,
}

impl Impairment {
    /// A link that loses packets and is good otherwise.
    pub const fn loss_percent(percent: u16) -> Impairment {
        Impairment { loss_permille: percent * 10, rate_kbits: None, delay: Duration::ZERO, jitter: Duration::ZERO }
    }

    /// Whether anything is wrong.
    pub fn is_none(&self) -> bool {
        *self == Impairment::default()
    }

    /// Whether packets are late.
    pub fn is_late(&self) -> bool {
        !self.delay.is_zero() || !self.jitter.is_zero()
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.loss_permille > 0 {
            words.push(format!("{} % loss", f64::from(self.loss_permille) / 10.0));
        }
        if let Some(rate) = self.rate_kbits {
            words.push(format!("{rate} kbit/s"));
        }
        if self.is_late() {
            words.push(format!("{} ms delay", self.delay.as_millis()));
        }
        if !self.jitter.is_zero() {
            words.push(format!("±{} ms", self.jitter.as_millis()));
        }
        f.write_str(&words.join(", "))
    }
}

/// `"5%"`, `"0.5%"`: a share of a thousand.
pub(super) fn percentage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let text = String::deserialize(deserializer)?;
    let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok((percent * 10.0).round() as u16),
        _ => Err(de::Error::custom(format!("loss = {text:?}: write a percentage, for example \"5%\" or \"0.5%\""))),
    }
}

/// `"2mbit"`, `"500kbit"`: kbit/s.
pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = |unit: &str| text.strip_suffix(unit).and_then(|number| number.trim().parse::<u32>().ok());
    let kbits = number("mbit").and_then(|mbits| mbits.checked_mul(1000)).or_else(|| number("kbit"));
    match kbits {
        Some(kbits @ 1..) => Ok(Some(kbits)),
        _ => Err(de::Error::custom(format!("rate = {text:?}: write for example \"2mbit\" or \"500kbit\""))),
    }
}

/// `"40ms"`, at most ten seconds.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.strip_suffix("ms").and_then(|number| number.trim().parse::<u64>().ok());
    match number {
        Some(number @ 0..=10_000) => Ok(Duration::from_millis(number)),
        _ => Err(de::Error::custom(format!("{text:?}: write a time up to \"10000ms\", for example \"40ms\""))),
    }
}
