//! A price that may depend on how much was used in a month.

use super::exact::Exact;
use rust_decimal::Decimal;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// One price, up to a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The quantity at which it ends, itself included, counted from zero within one tenant and month; `None` for the
    /// last tier, which has no end.
    pub up_to: Option<Decimal>,
    /// Price of one unit within it.
    pub price: Decimal,
}

/// Prices by quantity: at least one, each further one begins where the one before it ends, and the last has no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers(Vec<Tier>);

/// What of a quantity lies in one tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// See [`super::Line::tier`].
    pub(super) tier: u32,
    pub(super) quantity: Exact,
    pub(super) price: Decimal,
}

/// What lies in one tier of a quantity that is used after another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// The tier whose price it is, from 1.
    pub(super) tier: u32,
    /// It is part of what is free: the price is what it would cost.
    pub(super) free: bool,
    pub(super) quantity: Exact,
    pub(super) price: Decimal,
}

impl Tiers {
    /// One price for any quantity.
    #[must_use]
    pub fn flat(price: Decimal) -> Self {
        Self(vec![Tier { up_to: None, price }])
    }

    /// The reader has made sure of what is said at [`Tiers`].
    pub(crate) fn checked(tiers: Vec<Tier>) -> Self {
        Self(tiers)
    }

    /// Each tier, in order.
    #[must_use]
    pub fn all(&self) -> &[Tier] {
        &self.0
    }

    /// The price of the first tier that costs anything; 0 when none does. It is what a single call or a single row of
    /// usage is priced with: which tier they fall into is decided by the whole month only.
    #[must_use]
    pub fn first_price(&self) -> Decimal {
        self.0.iter().map(|tier| tier.price).find(|price| !price.is_zero()).unwrap_or_default()
    }

    /// The price of the dearest tier, for any quantity.
    pub(super) fn dearest(&self) -> Self {
        Self::flat(self.0.iter().map(|tier| tier.price).max().unwrap_or_default())
    }

    /// What of a quantity lies in each tier, without those in which nothing does. The first so many are free: they are
    /// a tier of their own, number 0, and the ends of the others are counted from zero all the same.
    pub(super) fn parts(&self, quantity: Exact, free: Decimal) -> Vec<Part> {
        let free = Tier { up_to: Some(free), price: Decimal::ZERO };
        let mut from = Exact::default();
        let mut parts = Vec::new();
        for (tier, Tier { up_to, price }) in (0..).zip(std::iter::once(&free).chain(&self.0)) {
            let to = up_to.map_or(quantity, |end| Exact::of(end).min(quantity));
            if to > from {
                parts.push(Part { tier, quantity: to.minus(from), price: *price });
                from = to;
            }
        }
        parts
    }

    /// What of a quantity lies in each tier when `from` was used before it in the month: no slice is both free and not.
    pub(super) fn slices(&self, from: Exact, quantity: Exact, free: Decimal) -> Vec<Slice> {
        let (mut at, last, free) = (from, from.plus(quantity), Exact::of(free));
        let mut slices = Vec::new();
        for (tier, Tier { up_to, price }) in (1..).zip(&self.0) {
            let end = up_to.map_or(last, |end| Exact::of(end).min(last));
            for (to, free) in [(free.min(end), true), (end, false)] {
                if to > at {
                    slices.push(Slice { tier, free, quantity: to.minus(at), price: *price });
                    at = to;
                }
            }
        }
        slices
    }
}

/// As a plan is written: one price as text, several as a list of tiers.
impl Serialize for Tiers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [Tier { up_to: None, price }] = &self.0[..] {
            return Serialize::serialize(price, serializer);
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for tier in &self.0 {
            list.serialize_element(tier)?;
        }
        list.end()
    }
}

impl Serialize for Tier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(end) = &self.up_to {
            map.serialize_entry("upTo", end)?;
        }
        map.serialize_entry("price", &self.price)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiers(ends: &[u32], prices: &[u32]) -> Tiers {
        let ends = ends.iter().map(|&end| Some(Decimal::from(end))).chain([None]);
        Tiers(ends.zip(prices).map(|(up_to, &price)| Tier { up_to, price: Decimal::from(price) }).collect())
    }

    fn shown(tiers: &Tiers, quantity: u32, free: u32) -> Vec<(u32, String, String)> {
        let parts = tiers.parts(Exact::whole(quantity.into()), free.into());
        parts.iter().map(|p| (p.tier, p.quantity.to_string(), p.price.to_string())).collect()
    }

    fn part(tier: u32, quantity: &str, price: &str) -> (u32, String, String) {
        (tier, quantity.into(), price.into())
    }

    #[test]
    fn a_tier_holds_its_end_and_free_counts_in() {
        let three = tiers(&[10, 20], &[3, 2, 1]);
        assert_eq!(shown(&three, 0, 0), []);
        assert_eq!(shown(&three, 10, 0), [part(1, "10", "3")]);
        assert_eq!(shown(&three, 11, 0), [part(1, "10", "3"), part(2, "1", "2")]);
        assert_eq!(shown(&three, 25, 0), [part(1, "10", "3"), part(2, "10", "2"), part(3, "5", "1")]);
        assert_eq!(shown(&three, 25, 4), [part(0, "4", "0"), part(1, "6", "3"), part(2, "10", "2"), part(3, "5", "1")]);
        assert_eq!(shown(&three, 3, 4), [part(0, "3", "0")]);
        assert_eq!(shown(&three, 25, 12), [part(0, "12", "0"), part(2, "8", "2"), part(3, "5", "1")]);
        assert_eq!(shown(&Tiers::flat(Decimal::TEN), 7, 0), [part(1, "7", "10")]);
    }

    #[test]
    fn the_first_price_is_the_first_that_costs_anything() {
        assert_eq!(tiers(&[10, 20], &[0, 2, 1]).first_price(), Decimal::TWO);
        assert_eq!(tiers(&[10], &[0, 0]).first_price(), Decimal::ZERO);
    }

    #[test]
    fn slices_begin_where_the_ones_before_ended() {
        let three = tiers(&[10, 20], &[3, 2, 1]);
        let of = |from: u32, quantity: u32, free: u32| {
            let slices = three.slices(Exact::whole(from.into()), Exact::whole(quantity.into()), free.into());
            slices.iter().map(|s| (s.tier, s.free, s.quantity.to_string())).collect::<Vec<_>>()
        };
        let slice = |tier, free, quantity: &str| (tier, free, quantity.to_owned());
        assert_eq!(of(0, 0, 5), []);
        assert_eq!(of(0, 12, 0), [slice(1, false, "10"), slice(2, false, "2")]);
        assert_eq!(
            of(2, 30, 12),
            [slice(1, true, "8"), slice(2, true, "2"), slice(2, false, "8"), slice(3, false, "12")]
        );
        assert_eq!(of(12, 3, 40), [slice(2, true, "3")]);
        assert_eq!(of(20, 3, 20), [slice(3, false, "3")]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_each_lies_within_its_tier(
            ends in prop::collection::btree_set(1u32..1000, 0..9), quantity in 0u128..1_500_000, free in 0u32..1200,
        ) {
            let ends: Vec<_> = ends.into_iter().collect();
            let prices: Vec<_> = (1..11).collect();
            let tiers = tiers(&ends, &prices);
            // In thousandths, so that quantities are not whole.
            let quantity = Exact::whole(quantity).at(Decimal::new(1, 3));
            let mut from = Exact::default();
            for part in tiers.parts(quantity, free.into()) {
                prop_assert!(!part.quantity.is_zero());
                let to = from.plus(part.quantity);
                let (begin, end) = match part.tier {
                    0 => (0, Some(free)),
                    n => (n.checked_sub(2).map_or(0, |n| ends[n as usize]), ends.get(n as usize - 1).copied()),
                };
                prop_assert!(from >= Exact::whole(begin.into()));
                prop_assert!(end.is_none_or(|end| to <= Exact::whole(end.into())));
                prop_assert!(part.tier == 0 || from >= Exact::whole(free.into()));
                from = to;
            }
            prop_assert_eq!(from, quantity);
        }
    }
}
