//! Exact non-negative decimals, wide enough that no product of a usage sum and a price can overflow.

use rust_decimal::Decimal;
use std::fmt;

/// Limbs of 64 bits. The widest value is a sum brought to a common scale: quantity (128 bits) x price (50 bits: below
/// 10^15) x 5^10 (24 bits) x 10^25 (84 bits) = 286 bits, so 5 limbs (320 bits) hold it and one addition.
const LIMBS: usize = 5;

/// An amount does not fit 28 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount has more than 28 digits")]
pub struct TooLarge;

/// A non-negative exact decimal: `limbs / 10^scale`, limbs little endian. Displays without trailing zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact {
    limbs: [u64; LIMBS],
    scale: u32,
}

impl Exact {
    /// A whole number.
    #[must_use]
    pub fn whole(value: u128) -> Self {
        let mut limbs = [0; LIMBS];
        limbs[0] = value as u64;
        limbs[1] = (value >> 64) as u64;
        Self { limbs, scale: 0 }
    }

    /// GB-seconds of a sum of MiB-milliseconds: finite, because 1 / (1024 MiB x 1000 ms) = 5^10 / 10^13.
    #[must_use]
    pub fn gb_seconds(mib_ms: u128) -> Self {
        let mut value = Self::whole(mib_ms);
        value.times(5u64.pow(10));
        value.scale = 13;
        value
    }

    /// This many of something at a price (see [`super::PricePlan`] for its bounds).
    #[must_use]
    pub(super) fn at(mut self, price: Decimal) -> Self {
        // Bounded by the plan's validation: 0 <= mantissa < 10^15.
        self.times(price.mantissa().unsigned_abs() as u64);
        self.scale += price.scale();
        self
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(mut self, mut other: Self) -> Self {
        self.rescale(other.scale);
        other.rescale(self.scale);
        let mut carry = false;
        for (a, b) in self.limbs.iter_mut().zip(other.limbs) {
            let (sum, first) = a.overflowing_add(b);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *a = sum;
            carry = first || second;
        }
        self
    }

    /// Rounded half-even to `digits` after the point.
    ///
    /// # Errors
    /// When the result has more than 28 digits.
    pub fn round(&self, digits: u32) -> Result<Decimal, TooLarge> {
        let mut value = *self;
        value.rescale(digits);
        // Digits are dropped one division at a time; `tail` remembers whether anything below the last one was lost.
        let (mut last, mut tail) = (0, false);
        while value.scale > digits {
            tail |= last != 0;
            last = value.divide(10);
            value.scale -= 1;
        }
        let odd = value.limbs[0] & 1 == 1;
        if last > 5 || (last == 5 && (tail || odd)) {
            value = value.plus(Self { scale: digits, ..Self::whole(1) });
        }
        value.to_decimal()
    }

    /// As a [`Decimal`]: exact when it fits 28 digits, else rounded half-even to what fits.
    ///
    /// # Errors
    /// When its whole part alone has more than 28 digits.
    pub fn nearest(&self) -> Result<Decimal, TooLarge> {
        let trimmed = self.trimmed();
        (0..=trimmed.scale.min(Decimal::MAX_SCALE)).rev().find_map(|digits| trimmed.round(digits).ok()).ok_or(TooLarge)
    }

    fn to_decimal(self) -> Result<Decimal, TooLarge> {
        if self.limbs[2..].iter().any(|&limb| limb != 0) {
            return Err(TooLarge);
        }
        let value = u128::from(self.limbs[1]) << 64 | u128::from(self.limbs[0]);
        let value = i128::try_from(value).map_err(|_| TooLarge)?;
        Decimal::try_from_i128_with_scale(value, self.scale).map_err(|_| TooLarge)
    }

    fn trimmed(mut self) -> Self {
        while self.scale > 0 {
            let mut shorter = self;
            if shorter.divide(10) != 0 {
                break;
            }
            shorter.scale -= 1;
            self = shorter;
        }
        self
    }

    /// Grows the scale to at least `scale` without changing the value.
    fn rescale(&mut self, scale: u32) {
        while self.scale < scale {
            self.times(10);
            self.scale += 1;
        }
    }

    fn times(&mut self, factor: u64) {
        let mut carry = 0u128;
        for limb in &mut self.limbs {
            let product = u128::from(*limb) * u128::from(factor) + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
        debug_assert_eq!(carry, 0, "the width's arithmetic is wrong");
    }

    fn divide(&mut self, divisor: u64) -> u64 {
        let mut rest = 0u128;
        for limb in self.limbs.iter_mut().rev() {
            let value = rest << 64 | u128::from(*limb);
            *limb = (value / u128::from(divisor)) as u64;
            rest = value % u128::from(divisor);
        }
        rest as u64
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.trimmed();
        let point = value.scale as usize;
        let mut digits = Vec::new();
        while digits.len() <= point || value.limbs != [0; LIMBS] {
            digits.push(b'0' + value.divide(10) as u8);
        }
        let text: String = digits.iter().rev().map(|&d| char::from(d)).collect();
        let (whole, fraction) = text.split_at(text.len() - point);
        if fraction.is_empty() { f.pad(whole) } else { f.pad(&format!("{whole}.{fraction}")) }
    }
}

impl serde::Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB_MS_PER_GB_SECOND: u128 = 1024 * 1000;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn half_goes_to_the_even_neighbour() {
        for (halves, rounded) in [(1, "0.00"), (3, "0.02"), (5, "0.02"), (7, "0.04"), (199, "1.00"), (201, "1.00")] {
            let exact = Exact::whole(halves).at(decimal("0.005"));
            assert_eq!(exact.round(2), Ok(decimal(rounded)), "{halves} halves of 0.01");
        }
        assert_eq!(Exact::whole(1).at(decimal("0.005000000001")).round(2), Ok(decimal("0.01")), "a hair over half");
        assert_eq!(Exact::whole(1).at(decimal("0.004999999999")).round(2), Ok(decimal("0.00")), "a hair under half");
        assert_eq!(Exact::whole(25).at(decimal("0.1")).round(0), Ok(decimal("2")));
    }

    #[test]
    fn text_has_no_trailing_zeros() {
        assert_eq!(Exact::whole(0).to_string(), "0");
        assert_eq!(Exact::whole(100).to_string(), "100");
        assert_eq!(Exact::gb_seconds(1).to_string(), "0.0000009765625");
        assert_eq!(Exact::gb_seconds(MIB_MS_PER_GB_SECOND * 750_000).to_string(), "750000");
        assert_eq!(Exact::whole(3).at(decimal("0.10")).plus(Exact::whole(2)).to_string(), "2.3");
    }

    #[test]
    fn nothing_overflows_on_the_way() {
        let price = decimal("999.999999999999");
        let widest = Exact::gb_seconds(u128::MAX).at(price).plus(Exact::whole(u128::MAX).at(price));
        assert_eq!(widest.round(2), Err(TooLarge));
        assert_eq!(widest.to_string().split_once('.').unwrap().1.len(), 25);
    }

    proptest! {
        #[test]
        fn agrees_with_decimal_where_both_fit(calls in 0u64..1_000_000_000, price in 0i64..1_000_000_000, scale in 0u32..12, digits in 0u32..5) {
            let price = Decimal::new(price, scale);
            let expected = (Decimal::from(calls) * price)
                .round_dp_with_strategy(digits, rust_decimal::RoundingStrategy::MidpointNearestEven);
            let exact = Exact::whole(u128::from(calls)).at(price);
            prop_assert_eq!(exact.round(digits), Ok(expected));
            prop_assert_eq!(exact.nearest(), Ok(Decimal::from(calls) * price));
            prop_assert_eq!(exact.to_string(), (Decimal::from(calls) * price).normalize().to_string());
        }
    }
}
