//! The price plans of an installation.

use dormouse_core::price::{Metering, PricePlan};

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
    }
}
