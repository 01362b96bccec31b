//! The price plans of an installation.

use dormouse_core::price::{Metering, PricePlan};

/// Most ways in which time is counted: every sum holds one for each, for each class of calls that it has. 8 of at most 45
/// bytes in 3 classes are 1 KB.
const MAX_RULES: usize = 8;

/// More ways of rounding than a sum should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the price plans round time in {0} different ways (step, minimum, start), and every sum holds each of them: at most \
     {MAX_RULES}"
)]
pub struct TooManyRules(usize);

/// The plan in force, and others that the same usage can be priced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans {
    in_force: PricePlan,
    others: Vec<PricePlan>,
}

impl Plans {
    /// One of the plans is in force. Of those with one name the first counts.
    #[must_use]
    pub fn new(in_force: PricePlan, others: Vec<PricePlan>) -> Self {
        let mut plans = Self { in_force, others: Vec::new() };
        for plan in others {
            if plans.named(&plan.name).is_none() {
                plans.others.push(plan);
            }
        }
        plans
    }

    /// The same, if they count time in few enough ways.
    ///
    /// # Errors
    /// When they do not.
    pub fn checked(self) -> Result<Self, TooManyRules> {
        let rules = self.rules().len();
        if rules > MAX_RULES { Err(TooManyRules(rules)) } else { Ok(self) }
    }

    /// The plan that statements are priced by when nothing else is asked.
    #[must_use]
    pub fn in_force(&self) -> &PricePlan {
        &self.in_force
    }

    /// All of them, the one in force first.
    pub fn all(&self) -> impl Iterator<Item = &PricePlan> {
        std::iter::once(&self.in_force).chain(&self.others)
    }

    /// The plan of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&PricePlan> {
        self.all().find(|plan| plan.name == name)
    }

    /// The ways in which they count time, each once: by all of them is counted as records come, because it cannot be done
    /// later.
    #[must_use]
    pub fn rules(&self) -> Vec<Metering> {
        let mut rules: Vec<Metering> = self.all().map(PricePlan::metering).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

impl From<PricePlan> for Plans {
    fn from(in_force: PricePlan) -> Self {
        Self::new(in_force, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_rules_are_there_once() {
        let plan = |name: &str, step_ms| PricePlan { name: name.into(), step_ms, ..PricePlan::default() };
        let plans = Plans::new(plan("a", 100), vec![plan("b", 1), plan("a", 7), plan("c", 100)]);
        assert_eq!(plans.all().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((plans.named("a").map(|p| p.step_ms), plans.named("x")), (Some(100), None));
        assert_eq!(plans.rules().iter().map(|r| r.step_ms).collect::<Vec<_>>(), [1, 100]);
        let many = |n| Plans::new(plan("a", 1), (2..=n).map(|step| plan(&format!("p{step}"), step)).collect());
        assert!(many(8).checked().is_ok());
        assert_eq!(many(9).checked(), Err(TooManyRules(9)));
    }
}
