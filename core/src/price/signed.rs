//! Exact decimals with a sign: what is given back, and what rounding takes.

use super::exact::{Exact, TooLarge};
use rust_decimal::Decimal;
use std::fmt;

/// An exact decimal that may be below zero. Displays without trailing zeros, and without a sign when it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signed {
    below: bool,
    size: Exact,
}

impl Signed {
    /// A decimal.
    #[must_use]
    pub fn of(value: Decimal) -> Self {
        Self { below: value < Decimal::ZERO, size: Exact::of(value) }
    }

    /// What is left of `of` when `taken` is taken away.
    #[must_use]
    pub fn difference(of: Exact, taken: Exact) -> Self {
        let below = of < taken;
        Self { below, size: if below { taken.minus(of) } else { of.minus(taken) } }
    }

    /// The same below zero.
    #[must_use]
    pub fn negative(size: Exact) -> Self {
        Self { below: !size.is_zero(), size }
    }

    /// True for nothing at all.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.size.is_zero()
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_below(&self) -> bool {
        self.below
    }

    /// What it is without its sign.
    #[must_use]
    pub fn size(&self) -> Exact {
        self.size
    }

    /// The value in units of 10^-digits, exactly.
    ///
    /// # Errors
    /// As [`Exact::units`].
    pub fn units(&self, digits: u32) -> Result<i128, TooLarge> {
        let units = self.size.units(digits)?;
        Ok(if self.below { -units } else { units })
    }
}

impl From<Exact> for Signed {
    fn from(size: Exact) -> Self {
        Self { below: false, size }
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.below {
            f.write_str("-")?;
        }
        self.size.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_is_the_differences() {
        let of = |a: u128, b: u128| Signed::difference(Exact::vcpu_seconds(a), Exact::vcpu_seconds(b));
        let shown = [of(3, 1), of(1, 3), of(2, 2)].map(|value| (value.to_string(), value.units(6)));
        assert_eq!(shown, [("0.000002".into(), Ok(2)), ("-0.000002".into(), Ok(-2)), ("0".into(), Ok(0))]);
        assert_eq!(Signed::of("-0.25".parse().unwrap()).to_string(), "-0.25");
        assert_eq!(Signed::of(-Decimal::ZERO), Signed::default());
        assert_eq!(Signed::negative(Exact::default()), Signed::default());
        assert_eq!(Signed::negative(Exact::whole(7)).to_string(), "-7");
        assert_eq!(Signed::negative(Exact::whole(7)).units(39), Err(TooLarge));
    }
}
