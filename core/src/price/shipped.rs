//! The price plans that come with the platform: the files of `core/plans`.

use super::plan::PricePlan;

/// Each file, by the name of its plan.
const FILES: [(&str, &str); 3] = [
    ("article", include_str!("../../plans/article.yaml")),
    ("lambda", include_str!("../../plans/lambda.yaml")),
    ("alibaba-fc", include_str!("../../plans/alibaba-fc.yaml")),
];

impl PricePlan {
    /// The plans that come with the platform: `article`, `lambda` and `alibaba-fc`. Their files say where their prices
    /// stand and what of those is left out.
    #[must_use]
    pub fn shipped() -> Vec<Self> {
        // A test reads each of them.
        FILES.iter().filter_map(|(_, text)| serde_saphyr::from_str(text).ok()).collect()
    }

    /// One of them by its name.
    #[must_use]
    pub fn shipped_as(name: &str) -> Option<Self> {
        let (_, text) = FILES.iter().find(|(known, _)| *known == name)?;
        serde_saphyr::from_str(text).ok()
    }

    /// Their names.
    pub fn shipped_names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::record;
    use super::super::{BilledOutcomes, Item};
    use super::*;
    use crate::record::{CallRecord, Outcome};
    use crate::usage::{Class, ClassSum, Time, UsageSum, Warm};
    use rust_decimal::Decimal;

    fn shipped(name: &str) -> PricePlan {
        let (_, text) = FILES.iter().find(|(known, _)| *known == name).unwrap();
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn every_file_is_a_plan_with_source_and_date() {
        for (name, text) in FILES {
            let plan: PricePlan = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(plan.name, name);
            assert!(plan.source.is_some() && plan.date.is_some(), "{name}");
            assert_eq!(PricePlan::shipped_as(name), Some(plan));
        }
        let names: Vec<_> = PricePlan::shipped().into_iter().map(|plan| plan.name).collect();
        assert_eq!(names, PricePlan::shipped_names().collect::<Vec<_>>());
        assert_eq!(PricePlan::shipped_as("other"), None);
    }

    #[test]
    fn the_default_is_the_articles_file() {
        assert_eq!(shipped("article"), PricePlan::default());
    }

    fn month(plan: &PricePlan, calls: u64, gb_seconds: u128) -> UsageSum {
        let class = Class { outcome: Outcome::Ok, warm: false, excused: false };
        let time = Time { calls, mib_ms: gb_seconds * 1024 * 1000, ..Time::default() };
        let classes = vec![ClassSum { class, calls, times: vec![(plan.metering(), time)] }];
        UsageSum { classes, ..UsageSum::default() }
    }

    /// The first example of Lambda's pricing page in its present prices: 3 M calls of 1 s with 512 MB.
    #[test]
    fn lambda_prices_as_its_page_does() {
        let plan = shipped("lambda");
        let statement = plan.statement(&month(&plan, 3_000_000, 1_500_000)).unwrap();
        let lines: Vec<_> =
            statement.lines.iter().map(|l| (l.item, l.tier, l.quantity.to_string(), l.amount.to_string())).collect();
        let expected = [
            (Item::Calls, 0, "1000000", "0.00"),
            (Item::Calls, 1, "2000000", "0.40"),
            (Item::Compute, 0, "400000", "0.00"),
            (Item::Compute, 1, "1100000", "18.33"),
        ];
        assert_eq!(lines, expected.map(|(item, tier, quantity, amount)| (item, tier, quantity.into(), amount.into())));
        assert_eq!(statement.total.to_string(), "18.73");
        // 6 B - 400,000 at the first price, 9 B at the second, 1 B at the third.
        let statement = plan.statement(&month(&plan, 0, 16_000_000_000)).unwrap();
        let amounts: Vec<_> = statement.lines.iter().map(|line| line.amount.to_string()).collect();
        assert_eq!(amounts, ["0.00", "0.00", "99993.53", "135000.00", "13333.40"]);
        assert!(plan.bill.start && BilledOutcomes { start: false, ..plan.bill } == BilledOutcomes::default());
    }

    /// 2 h of 1,000 instances of 1 GB that are kept warm, and 1.2 M calls of 1 s on them.
    #[test]
    fn lambda_prices_what_is_kept_warm() {
        let plan = shipped("lambda");
        let mut usage = month(&plan, 1_200_000, 0);
        usage.classes[0].class.warm = true;
        usage.classes[0].times[0].1.mib_ms = 1_200_000 * 1024 * 1000;
        let mib_ms = 7_200_000 * 1024 * 1000;
        usage.warm = Warm { mib_ms, used_mib_ms: 1_200_000 * 1024 * 1000, ..Warm::default() };
        let statement = plan.statement(&usage).unwrap();
        let amount = |item| statement.lines.iter().filter(|l| l.item == item).map(|l| l.amount).sum::<Decimal>();
        assert_eq!(amount(Item::WarmCallsCompute).to_string(), "11.67");
        assert_eq!((amount(Item::WarmUsed) + amount(Item::WarmIdle)).to_string(), "30.00");
        assert_eq!(amount(Item::Compute).to_string(), "0.00");
    }

    #[test]
    fn alibaba_counts_in_cus() {
        let plan = shipped("alibaba-fc");
        let size = (1024, 1000);
        // 0.0075 CU for the call, 1 CU and 0.15 CU for a second of a vCPU and of a GB: 1.1575 x 0.00002.
        assert_eq!(plan.price_of(&record(Outcome::Ok, 1_000_000), size).to_string(), "0.00002315");
        // On a warm instance its time is part of the instance's.
        let warm = CallRecord { warm_slots: 1, ..record(Outcome::Ok, 1_000_000) };
        assert_eq!(plan.price_of(&warm, size).to_string(), "0.00000015");
        let mut usage = UsageSum::default();
        usage.add(&warm, size, &[plan.metering()]);
        usage.warm.merge(&Warm { mib_ms: 10_000 * 1024, mcpu_ms: 10_000 * 1000, ..Warm::default() });
        // 10 GB-seconds in any case, 1 vCPU-second: 2.5 CU.
        assert_eq!(plan.statement(&usage).unwrap().unrounded.to_string(), "0.00005015");
    }
}
