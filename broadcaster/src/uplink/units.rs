//! Amounts of data and rates, so that bits and bytes cannot be mistaken for each other.

use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};
use std::time::Duration;

/// An amount of data in bytes, fractions included; negative for what was sent in advance.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Bytes(f64);

/// A rate of data, not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Rate(f64);

impl Bytes {
    /// None.
    pub const ZERO: Self = Self(0.0);

    /// `bytes` bytes.
    pub const fn new(bytes: f64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// In whole bytes, rounded down; zero if negative.
    pub const fn whole(self) -> usize {
        self.0 as usize
    }

    /// The greater amount.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }

    /// The smaller amount.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }
}

impl Rate {
    /// Nothing at all.
    pub const ZERO: Self = Self(0.0);

    /// A rate in bits per second.
    pub const fn bits_per_second(bits: f64) -> Self {
        Self(bits / 8.0)
    }

    /// In bits per second.
    pub const fn as_bits_per_second(self) -> f64 {
        self.0 * 8.0
    }

    /// The greater rate.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }

    /// The smaller rate.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }
}

impl From<usize> for Bytes {
    fn from(bytes: usize) -> Self {
        Self(bytes as f64)
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Bytes {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl SubAssign for Bytes {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

impl Mul<f64> for Bytes {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// The rate at which the amount takes the time, which is not zero.
impl Div<Duration> for Bytes {
    type Output = Rate;

    fn div(self, time: Duration) -> Rate {
        Rate((self.0 / time.as_secs_f64()).max(0.0))
    }
}

/// The time that the amount takes at the rate, an hour at most; zero for a negative amount.
impl Div<Rate> for Bytes {
    type Output = Duration;

    fn div(self, rate: Rate) -> Duration {
        Duration::from_secs_f64((self.0 / rate.0.max(f64::MIN_POSITIVE)).clamp(0.0, 3600.0))
    }
}

impl Add for Rate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// What is left; none if `other` is greater.
impl Sub for Rate {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self((self.0 - other.0).max(0.0))
    }
}

impl Mul<f64> for Rate {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self((self.0 * factor).max(0.0))
    }
}

/// The amount that passes in the time.
impl Mul<Duration> for Rate {
    type Output = Bytes;

    fn mul(self, time: Duration) -> Bytes {
        Bytes(self.0 * time.as_secs_f64())
    }
}

/// The ratio of two rates.
impl Div for Rate {
    type Output = f64;

    fn div(self, other: Self) -> f64 {
        self.0 / other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_rates_and_times_convert_into_each_other() {
        let rate = Rate::bits_per_second(8000.0);
        let second = Duration::from_secs(1);
        assert_eq!(rate * second, Bytes::from(1000));
        assert_eq!(Bytes::from(500) / second, rate * 0.5);
        assert_eq!(Bytes::from(500) / rate, second / 2);
        assert_eq!(Bytes::new(-500.0) / rate, Duration::ZERO);
        assert_eq!(Bytes::from(1) / Rate::ZERO, Duration::from_secs(3600));
        assert_eq!(rate - rate * 2.0, Rate::ZERO);
        assert_eq!((rate.as_bits_per_second(), Bytes::new(-1.0).whole()), (8000.0, 0));
    }
}
