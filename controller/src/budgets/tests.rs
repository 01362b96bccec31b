//! The treasurer with real budgets, a real ledger, and activators that are channels.

use super::*;
use crate::fleet::process::{Config, Processes};
use crate::ledger::{Ledger, LedgerDoor, Place};
use crate::office::Mail;
use crate::sample;
use dormouse_core::price::PricePlan;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

struct House {
    fleet: Processes,
    door: LedgerDoor,
    budgets: Budgets,
    office: mpsc::Receiver<Mail>,
    _stop: DropGuard,
    _folder: tempfile::TempDir,
}

struct Activator {
    process: Process,
    stream: u64,
    updates: mpsc::Receiver<v1::BudgetUpdate>,
}

fn budget(name: &str, spec: serde_json::Value) -> Budget {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "dormouse.dev/v1alpha1", "kind": "Budget", "metadata": {"name": name}, "spec": spec,
    }))
    .unwrap()
}

impl House {
    async fn new(budgets: Vec<Budget>) -> Self {
        let (seen, _) = mpsc::channel(1);
        let config = Config { program: "x".into(), mark: "x".into(), runtimes: "x".into(), schedules: None, seen };
        let fleet = Processes::new(config, Vec::new()).unwrap();
        fleet.set_budgets(budgets).await;
        fleet.budgets_known().await;
        let folder = tempfile::tempdir().unwrap();
        let door = LedgerDoor::new(Place::folder(folder.path()), PricePlan::default());
        let (post, office) = mpsc::channel(16);
        let parts = Parts { fleet: Arc::new(fleet.clone()), ledger: door.clone(), office: post };
        let (treasurer, budgets) = Treasurer::new(parts);
        let stop = CancellationToken::new();
        tokio::spawn(treasurer.run(stop.clone()));
        Self { fleet, door, budgets, office, _stop: stop.drop_guard(), _folder: folder }
    }

    async fn join(&self, name: &str, stream: u64, said: Vec<v1::Spent>) -> Activator {
        let (out, updates) = mpsc::channel(64);
        let process = Process { name: name.into(), activator: stream, epoch: 1 };
        let letter = Letter::Join { process: process.clone(), stream, said, out };
        self.budgets.post.send(letter).await.unwrap();
        Activator { process, stream, updates }
    }

    async fn report(&self, activator: &Activator, said: v1::Spent) {
        let (process, stream) = (activator.process.clone(), activator.stream);
        let letter = Letter::Report { process, stream, said: vec![said], farewell: false };
        self.budgets.post.send(letter).await.unwrap();
    }

    /// Waits until the budgets stand so: name, state, why it is not in force.
    async fn shows(&self, wanted: &[(&str, &str, Option<&str>)]) {
        for _ in 0..2000 {
            let views = self.budgets.views();
            let fits = |(view, (name, state, problem)): (&BudgetView, &(&str, &str, Option<&str>))| {
                let why = view.problem.as_deref().unwrap_or_default();
                view.name == *name && view.state == *state && problem.map_or(why.is_empty(), |part| why.contains(part))
            };
            if views.len() == wanted.len() && views.iter().zip(wanted).all(fits) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{wanted:?} is not {:?}", self.budgets.views());
    }
}

impl Activator {
    async fn next(&mut self) -> v1::BudgetUpdate {
        tokio::time::timeout(Duration::from_secs(20), self.updates.recv()).await.unwrap().unwrap()
    }

    /// The next update of an allowance that is so.
    async fn told(&mut self, fits: impl Fn(&v1::Allowance) -> bool) -> v1::Allowance {
        loop {
            if let Some(allowance) = self.next().await.allowances.into_iter().find(&fits) {
                return allowance;
            }
        }
    }
}

fn allowed(allowance: &v1::Allowance) -> u128 {
    allowance.allowed.map_or(0, u128::from)
}

/// As many calls of 100 ms with 512 MiB, which cost 0.0000017 each.
async fn calls(ledger: &Ledger, tenant: &str, activator: u64, count: u32) {
    let now = jiff::Timestamp::now().as_microsecond();
    let calls = (0..count.into()).map(|call| sample::call(call, now));
    ledger.append(sample::frame((activator, 1), vec![sample::subject(tenant, tenant, "f")], calls)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_given_before_the_ledger_says_what_was_spent() {
    let house = House::new(vec![budget("shop", serde_json::json!({"amount": "0.0000170"}))]).await;
    let mut one = house.join("one", 1, Vec::new()).await;
    let first = one.next().await;
    assert!(first.snapshot && first.price_plan.contains("article"));
    assert_eq!((first.allowances[0].tenant.as_str(), allowed(&first.allowances[0])), ("shop", 0));
    house.shows(&[("shop", "Unknown", None)]).await;
    let ledger = house.door.open().await.unwrap();
    calls(&ledger, "shop", 7, 4).await;
    let told = one.told(|allowance| allowed(allowance) > 0).await;
    assert_eq!(allowed(&told), 6 * 1_700_000_000, "ten calls' worth, of which four were made");
    house.shows(&[("shop", "Within", None)]).await;
}

#[tokio::test]
async fn a_budget_stops_when_the_ledger_says_so_and_serves_again_when_it_is_raised() {
    let mut house =
        House::new(vec![budget("shop", serde_json::json!({"amount": "0.0000034", "warnPercent": 40}))]).await;
    let ledger = house.door.open().await.unwrap();
    let mut one = house.join("one", 1, Vec::new()).await;
    let told = one.told(|allowance| allowed(allowance) > 0).await;
    calls(&ledger, "shop", 1, 2).await;
    let spent = v1::Spent {
        tenant: "shop".into(),
        term: told.term,
        acts_by: told.number,
        allowed: told.allowed,
        spent: told.allowed,
        settled: told.allowed,
        wants: true,
    };
    house.report(&one, spent.clone()).await;
    let stopped = one.told(|allowance| allowance.stopped).await;
    assert_eq!(stopped.allowed, told.allowed);
    let Some(Mail::Stopped { tenants }) = house.office.recv().await else { panic!("the office is told") };
    assert_eq!(tenants.iter().map(|t| &**t).collect::<Vec<_>>(), ["shop"]);
    house.fleet.set_budgets(vec![budget("shop", serde_json::json!({"amount": "0.0000068"}))]).await;
    let raised = one.told(|allowance| !allowance.stopped && allowed(allowance) > allowed(&told)).await;
    assert_eq!((raised.term, allowed(&raised)), (told.term, 4 * 1_700_000_000), "what was spent stays");
    let Some(Mail::Stopped { tenants }) = house.office.recv().await else { panic!("the office is told") };
    assert!(tenants.is_empty());
    // Who comes back, to another life of the controller as well, says what it acts by.
    let mut again = house.join("one", 2, vec![v1::Spent { spent: raised.allowed, ..spent }]).await;
    let snapshot = again.next().await;
    assert_eq!(snapshot.allowances[0].tenant, "shop");
    // Nothing of it is a bound any more.
    house.fleet.set_budgets(vec![budget("shop", serde_json::json!({"amount": "9", "action": "Warn"}))]).await;
    while again.next().await.removed != ["shop"] {}
}

#[tokio::test]
async fn of_two_budgets_of_a_tenant_one_counts_and_another_currency_does_not() {
    let amount = |amount: &str| serde_json::json!({"tenant": "t", "amount": amount});
    let two = vec![budget("a", amount("1")), budget("b", amount("2"))];
    // Older or not, it takes the place of none.
    let dollars = budget("0", serde_json::json!({"tenant": "t", "amount": "1", "currency": "USD"}));
    let house = House::new([two.clone(), vec![dollars]].concat()).await;
    house.door.open().await.unwrap();
    let second = ("b", "Unknown", Some("the budget a is of the tenant t already"));
    house.shows(&[("0", "Unknown", Some("CNY")), ("a", "Within", None), second]).await;
    let mut one = house.join("one", 1, Vec::new()).await;
    let snapshot = one.next().await;
    assert_eq!(snapshot.allowances.iter().map(|a| a.tenant.as_str()).collect::<Vec<_>>(), ["t"]);
    house.fleet.set_budgets(two[1..].to_vec()).await;
    house.shows(&[("b", "Within", None)]).await;
    let told = one.told(|allowance| allowance.term != snapshot.allowances[0].term && allowed(allowance) > 0).await;
    assert_eq!(allowed(&told), 2 * 10u128.pow(15));
}
