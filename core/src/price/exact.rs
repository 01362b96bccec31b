//! Exact non-negative decimals, wide enough that no product of a usage sum and a price can overflow.

mod text;

use rust_decimal::Decimal;
use std::cmp::Ordering;

pub use text::ExactText;

/// Limbs of 64 bits. A usage sum has 128 bits, a price 50 (below 10^15 over at most 10^12):
///
/// | amount of | bits | scale | brought to scale 25 |
/// |---|---|---|---|
/// | calls: sum x price | 178 | 12 | x 10^13 (44 bits): 222 |
/// | GiB-seconds: sum x 5^10 (24 bits) x price | 202 | 13 + 12 | 202 |
/// | GB-seconds: sum x 2^20 x price | 198 | 12 + 12 | x 10 (4 bits): 202 |
/// | vCPU-seconds: sum x price | 178 | 6 + 12 | x 10^7 (24 bits): 202 |
///
/// A price of a smaller scale is smaller by as many digits as its amount then needs more of. A statement adds up fewer
/// than 2^7 such amounts (9 items, at most 11 lines each): 229 bits. 5 limbs (320 bits) hold that, and 2^90 of them.
/// A quantity of at most 152 bits is compared with the end of a tier: below 10^24 over 10^6 (80 bits), brought to scale
/// 13 (24 bits).
const LIMBS: usize = 5;

/// Ten to the power of 19: the largest one that a limb holds. Digits are had in parts of 19, and a scale grows by as many.
const TEN_19: u64 = 10u64.pow(PART as u32);
const PART: usize = 19;

/// An amount does not fit 28 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount has more than 28 digits")]
pub struct TooLarge;

/// A non-negative exact decimal: `limbs / 10^scale`, limbs little endian. Displays without trailing zeros.
/// Equal and ordered by value: 2.50 is 2.5.
#[derive(Clone, Copy, Debug, Default)]
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

    /// Seconds x 1024 MiB of a sum of MiB-milliseconds: finite, because 1 / (1024 MiB x 1000 ms) = 5^10 / 10^13.
    #[must_use]
    pub fn gb_seconds(mib_ms: u128) -> Self {
        let mut value = Self::whole(mib_ms);
        value.times(5u64.pow(10));
        value.scale = 13;
        value
    }

    /// Seconds x 10^9 bytes of a sum of MiB-milliseconds: 2^20 bytes x 1 ms / (10^9 x 1000).
    #[must_use]
    pub fn decimal_gb_seconds(mib_ms: u128) -> Self {
        let mut value = Self::whole(mib_ms);
        value.times(1 << 20);
        value.scale = 12;
        value
    }

    /// vCPU-seconds of a sum of thousandths of a cpu x milliseconds.
    #[must_use]
    pub fn vcpu_seconds(mcpu_ms: u128) -> Self {
        Self { scale: 6, ..Self::whole(mcpu_ms) }
    }

    /// A decimal that is not negative; of a negative one, what it is without its sign.
    #[must_use]
    pub(crate) fn of(value: Decimal) -> Self {
        Self { scale: value.scale(), ..Self::whole(value.mantissa().unsigned_abs()) }
    }

    /// This many of something at a price that is not negative (see [`super::PricePlan`] for its bounds).
    #[must_use]
    pub(crate) fn at(mut self, price: Decimal) -> Self {
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

    /// What is left when `other` is taken away; nothing when that is more.
    #[must_use]
    pub(super) fn minus(mut self, mut other: Self) -> Self {
        self.rescale(other.scale);
        other.rescale(self.scale);
        let mut borrow = false;
        for (a, b) in self.limbs.iter_mut().zip(other.limbs) {
            let (rest, first) = a.overflowing_sub(b);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            *a = rest;
            borrow = first || second;
        }
        if borrow { Self::default() } else { self }
    }

    /// True for nothing at all.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.limbs == [0; LIMBS]
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

    /// The value in units of 10^-digits, exactly.
    ///
    /// # Errors
    /// When it has more digits after the point than that, or 39 in all: it does not fit a 128-bit decimal of 38 digits.
    pub fn units(&self, digits: u32) -> Result<i128, TooLarge> {
        let mut value = self.trimmed();
        value.rescale(digits);
        let units = value.narrow().filter(|units| value.scale == digits && *units < 10u128.pow(38));
        units.and_then(|units| i128::try_from(units).ok()).ok_or(TooLarge)
    }

    /// The value in units of 10^-digits, rounded down; [`u128::MAX`] when it is more than that.
    #[must_use]
    pub fn floor(&self, digits: u32) -> u128 {
        self.whole_units(digits).0
    }

    /// The same rounded up.
    #[must_use]
    pub fn ceil(&self, digits: u32) -> u128 {
        let (units, rest) = self.whole_units(digits);
        units.saturating_add(u128::from(rest))
    }

    /// The value in units of 10^-digits, and whether anything of it is below one of them.
    fn whole_units(&self, digits: u32) -> (u128, bool) {
        let mut value = self.trimmed();
        value.rescale(digits);
        let mut rest = false;
        while value.scale > digits {
            rest |= value.divide(10) != 0;
            value.scale -= 1;
        }
        (value.narrow().unwrap_or(u128::MAX), rest)
    }

    /// Its text, without trailing zeros.
    #[must_use]
    pub fn text(&self) -> ExactText {
        ExactText::of(*self)
    }

    fn to_decimal(self) -> Result<Decimal, TooLarge> {
        let value = self.narrow().and_then(|value| i128::try_from(value).ok()).ok_or(TooLarge)?;
        Decimal::try_from_i128_with_scale(value, self.scale).map_err(|_| TooLarge)
    }

    /// The limbs, where two of them hold all of it.
    fn narrow(&self) -> Option<u128> {
        let wide = self.limbs[2..].iter().any(|&limb| limb != 0);
        (!wide).then(|| u128::from(self.limbs[1]) << 64 | u128::from(self.limbs[0]))
    }

    fn trimmed(mut self) -> Self {
        if let Some(mut value) = self.narrow() {
            let mut scale = self.scale;
            while scale > 0 && value.is_multiple_of(10) {
                (value, scale) = (value / 10, scale - 1);
            }
            return Self { scale, ..Self::whole(value) };
        }
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
            let step = (scale - self.scale).min(PART as u32);
            self.times(10u64.pow(step));
            self.scale += step;
        }
    }

    fn times(&mut self, factor: u64) {
        let mut carry = 0u128;
        for limb in &mut self.limbs {
            // The upper limbs of nearly all values.
            if *limb == 0 && carry == 0 {
                continue;
            }
            let product = u128::from(*limb) * u128::from(factor) + carry;
            *limb = product as u64;
            carry = product >> 64;
        }
        debug_assert_eq!(carry, 0, "the width's arithmetic is wrong");
    }

    fn divide(&mut self, divisor: u64) -> u64 {
        let mut rest = 0;
        for limb in self.limbs.iter_mut().rev() {
            if rest == 0 && *limb == 0 {
                // The upper limbs of nearly all values.
                continue;
            }
            if rest == 0 {
                // One machine instruction, where 128 bits take a call.
                (rest, *limb) = (*limb % divisor, *limb / divisor);
            } else {
                let value = u128::from(rest) << 64 | u128::from(*limb);
                *limb = (value / u128::from(divisor)) as u64;
                rest = (value % u128::from(divisor)) as u64;
            }
        }
        rest
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Exact {}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Exact {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (*self, *other);
        a.rescale(b.scale);
        b.rescale(a.scale);
        a.limbs.iter().rev().cmp(b.limbs.iter().rev())
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
        let amounts = [Exact::whole, Exact::gb_seconds, Exact::decimal_gb_seconds, Exact::vcpu_seconds]
            .map(|of| of(u128::MAX).at(price));
        let mut widest = Exact::default();
        for _ in 0..1 << 7 {
            widest = amounts.iter().fold(widest, |sum, amount| sum.plus(*amount));
        }
        assert_eq!(widest.round(2), Err(TooLarge));
        let once = amounts.iter().fold(Exact::default(), |sum, amount| sum.plus(*amount));
        assert_eq!(once.to_string().split_once('.').unwrap().1.len(), 25);
        assert_eq!((1..1 << 7).fold(widest, |rest, _| rest.minus(once)), once);
    }

    #[test]
    fn units_are_what_they_say() {
        // 1 GiB for 1 s, 10^9 bytes are a little less; half a cpu for 2 s.
        assert_eq!(Exact::gb_seconds(1024 * 1000).to_string(), "1");
        assert_eq!(Exact::decimal_gb_seconds(1024 * 1000).to_string(), "1.073741824");
        assert_eq!(Exact::vcpu_seconds(500 * 2000).to_string(), "1");
        assert_eq!(Exact::vcpu_seconds(1).to_string(), "0.000001");
    }

    #[test]
    fn units_fit_38_digits_or_are_refused() {
        let value = Exact::whole(25).at(decimal("0.10"));
        assert_eq!((value.units(1), value.units(3), value.units(0)), (Ok(25), Ok(2_500), Err(TooLarge)));
        assert_eq!(Exact::whole(10u128.pow(38) - 1).units(0), Ok(10i128.pow(38) - 1));
        assert_eq!(Exact::whole(10u128.pow(38)).units(0), Err(TooLarge));
        assert_eq!(Exact::whole(10u128.pow(13) - 1).units(25), Ok((10i128.pow(13) - 1) * 10i128.pow(25)));
        assert_eq!(Exact::gb_seconds(u128::MAX).units(13), Err(TooLarge));
    }

    #[test]
    fn values_compare_whatever_their_scale() {
        let [two, more] = ["2.50", "2.500001"].map(|text| Exact::of(decimal(text)));
        assert_eq!(two, Exact::whole(25).at(decimal("0.1")));
        assert!(two < more && Exact::default() < two);
        assert_eq!(more.minus(two).to_string(), "0.000001");
        assert_eq!(two.minus(more), Exact::default());
        assert!(two.minus(two).is_zero());
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

        #[test]
        fn order_and_difference_agree_with_decimal(a in any::<u32>(), b in any::<u32>(), scales in (0u32..13, 0u32..13)) {
            let [a, b] = [Decimal::new(a.into(), scales.0), Decimal::new(b.into(), scales.1)];
            prop_assert_eq!(Exact::of(a).cmp(&Exact::of(b)), a.cmp(&b));
            let rest = Exact::of(a).minus(Exact::of(b));
            prop_assert_eq!(rest.nearest(), Ok((a - b).max(Decimal::ZERO).normalize()));
        }
    }
}
