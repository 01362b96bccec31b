//! A small world: members with calls, a ledger, and messages that take their time.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const MEMBERS: usize = 3;

/// One activator.
#[derive(Clone, Debug, Default)]
struct Member {
    acts_by: u64,
    allowed: Amount,
    spent: Amount,
    settled: Amount,
    running: Vec<Amount>,
    wants: bool,
    /// What its calls cost within the allowance that it acted by as they ended.
    within: Amount,
    inbox: VecDeque<Told>,
    outbox: VecDeque<Said>,
}

impl Member {
    fn left(&self) -> Amount {
        self.allowed.saturating_sub(self.spent)
    }

    fn said(&self) -> Said {
        let Self { acts_by, allowed, spent, settled, wants, .. } = *self;
        Said { acts_by, allowed, spent, settled, wants }
    }

    /// A call comes: it runs if anything is left, else it waits.
    fn call(&mut self, cost: Amount) {
        if self.left() > 0 {
            self.running.push(cost);
        } else {
            self.wants = true;
        }
    }

    fn end_call(&mut self) {
        let Some(cost) = self.running.pop() else { return };
        self.within += cost.min(self.left());
        self.spent += cost;
    }

    fn hear(&mut self) {
        let Some(Told { number, allowed }) = self.inbox.pop_front() else { return };
        (self.acts_by, self.allowed) = (number, allowed);
        if self.left() > 0 {
            self.wants = false;
        }
    }
}

#[derive(Debug)]
struct World {
    account: Account<usize>,
    members: Vec<Member>,
    limit: Amount,
    /// What the ledger has beside calls.
    other: Amount,
    asked: Option<BTreeMap<usize, Amount>>,
    /// Present names of the members: one that was started anew is another one.
    names: Vec<usize>,
    /// What members that have ended had spent within their allowances, and all that they had.
    past: (Amount, Amount),
    /// Members that this life of the account has heard.
    joined: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Step {
    Call(usize, Amount),
    End(usize),
    Ship(usize),
    Say(usize),
    Arrive(usize),
    Hear(usize),
    Deal,
    Ask,
    Answer,
    Warm(Amount),
    Break(usize),
    Join(usize),
    /// It ends in order, with everything shipped, and another one begins in its place.
    Replace(usize),
    /// The account's keeper is started anew.
    Renew,
}

impl World {
    fn new(limit: Amount) -> Self {
        let mut world = Self {
            account: Account::new(limit, 0),
            members: vec![Member::default(); MEMBERS],
            limit,
            other: 0,
            asked: None,
            names: (0..MEMBERS).collect(),
            past: (0, 0),
            joined: BTreeSet::new(),
        };
        (0..MEMBERS).for_each(|m| world.step(&Step::Join(m)));
        world
    }

    fn ledger(&self) -> Amount {
        self.other + self.past.1 + self.members.iter().map(|m| m.settled).sum::<Amount>()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Call(m, cost) => self.members[m].call(cost),
            Step::End(m) => self.members[m].end_call(),
            Step::Ship(m) => self.members[m].settled = self.members[m].spent,
            Step::Say(m) => {
                let said = self.members[m].said();
                self.members[m].outbox.push_back(said);
            }
            Step::Arrive(m) => {
                if let Some(said) = self.members[m].outbox.pop_front() {
                    self.account.hear(&self.names[m], said);
                }
            }
            Step::Hear(m) => self.members[m].hear(),
            Step::Deal => {
                for (name, told) in self.account.deal() {
                    // What is told to one that was replaced meanwhile is heard by nobody.
                    if let Some(m) = self.names.iter().position(|known| *known == name) {
                        self.members[m].inbox.push_back(told);
                    }
                }
            }
            Step::Ask => self.asked = Some(self.account.ask()),
            Step::Answer => {
                if let Some(settled) = self.asked.take() {
                    self.account.rebase(self.ledger(), &settled);
                }
            }
            Step::Warm(cost) => self.other += cost,
            // What was on its way in either direction is lost with the stream.
            Step::Break(m) => {
                self.members[m].outbox.clear();
                self.members[m].inbox.clear();
                self.account.mute(&self.names[m]);
            }
            Step::Join(m) => {
                self.members[m].outbox.clear();
                self.members[m].inbox.clear();
                // Numbers of another stream mean nothing in this one.
                self.members[m].acts_by = 0;
                self.account.join(&self.names[m], self.members[m].said());
                self.joined.insert(m);
                self.account.hold(self.joined.len() < MEMBERS);
            }
            Step::Replace(m) => {
                while !self.members[m].running.is_empty() {
                    self.members[m].end_call();
                }
                let gone = std::mem::take(&mut self.members[m]);
                self.past.0 += gone.within;
                self.past.1 += gone.spent;
                self.account.left(&self.names[m]);
                self.names[m] += MEMBERS;
                self.step(&Step::Join(m));
            }
            Step::Renew => {
                self.account = Account::new(self.limit, self.ledger());
                self.account.hold(true);
                self.asked = None;
                self.joined.clear();
                for member in &mut self.members {
                    member.inbox.clear();
                    member.outbox.clear();
                }
            }
        }
    }

    /// What may be spent within allowances is never more than the limit; warm capacity is nobody's allowance.
    fn check(&self) {
        let within: Amount = self.past.0 + self.members.iter().map(|m| m.within + m.left()).sum::<Amount>();
        assert!(within <= self.limit, "{within} of {}: {self:?}", self.limit);
    }

    /// Everything arrives, all calls end, everything is shipped; again and again.
    fn settle(&mut self) {
        for _ in 0..40 {
            for m in 0..MEMBERS {
                while !self.members[m].running.is_empty() {
                    self.members[m].end_call();
                }
                for step in [Step::Ship(m), Step::Say(m)] {
                    self.step(&step);
                }
                while !self.members[m].outbox.is_empty() {
                    self.step(&Step::Arrive(m));
                }
            }
            [Step::Ask, Step::Answer, Step::Deal].iter().for_each(|step| self.step(step));
            for m in 0..MEMBERS {
                while !self.members[m].inbox.is_empty() {
                    self.step(&Step::Hear(m));
                    self.check();
                }
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let m = 0..MEMBERS;
    let step = prop_oneof![
        4 => (m.clone(), 1..40u128).prop_map(|(m, cost)| Step::Call(m, cost)),
        3 => m.clone().prop_map(Step::End),
        2 => m.clone().prop_map(Step::Ship),
        3 => m.clone().prop_map(Step::Say),
        3 => m.clone().prop_map(Step::Arrive),
        3 => m.clone().prop_map(Step::Hear),
        3 => Just(Step::Deal),
        1 => Just(Step::Ask),
        1 => Just(Step::Answer),
        1 => (1..10u128).prop_map(Step::Warm),
        1 => m.clone().prop_map(Step::Break),
        1 => m.clone().prop_map(Step::Join),
        1 => m.prop_map(Step::Replace),
        1 => Just(Step::Renew),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// In every order of events no more is given away than there is; and whoever waits is served in the end as long as
    /// the ledger has less than the limit.
    #[test]
    fn no_more_is_given_than_there_is_and_nobody_waits_for_ever(steps in steps(), limit in 0..600u128) {
        let mut world = World::new(limit);
        for step in &steps {
            world.step(step);
            world.check();
        }
        for m in 0..MEMBERS {
            // Whoever's stream is broken comes back in the end.
            world.step(&Step::Join(m));
        }
        world.settle();
        prop_assert_eq!(world.account.base(), world.ledger());
        for member in &world.members {
            prop_assert!(!member.wants || world.account.is_used_up(), "{:?}", world);
        }
    }
}

/// Everything told arrives at once.
fn act(account: &mut Account<&'static str>, spent: &mut BTreeMap<&'static str, Said>) {
    loop {
        let told = account.deal();
        if told.is_empty() {
            return;
        }
        for (member, Told { number, allowed }) in told {
            let said = spent.get_mut(member).unwrap();
            (said.acts_by, said.allowed) = (number, allowed);
            account.hear(&member, *said);
        }
    }
}

#[test]
fn one_member_has_all_and_many_idle_ones_half_of_it() {
    let mut account = Account::new(1000, 0);
    let mut said = BTreeMap::from([("a", Said::default())]);
    account.join(&"a", Said::default());
    act(&mut account, &mut said);
    assert_eq!((said["a"].allowed, account.free()), (1000, 0));

    let mut account = Account::new(1000, 0);
    let mut said = BTreeMap::from(["a", "b"].map(|m| (m, Said::default())));
    said.keys().for_each(|m| account.join(m, Said::default()));
    act(&mut account, &mut said);
    assert_eq!((said["a"].allowed, said["b"].allowed, account.free()), (250, 250, 500));
}

#[test]
fn a_busy_member_spends_to_the_last_unit_what_idle_ones_hold() {
    let mut account = Account::new(1000, 0);
    let mut said = BTreeMap::from(["a", "b", "c"].map(|m| (m, Said::default())));
    said.keys().for_each(|m| account.join(m, Said::default()));
    act(&mut account, &mut said);
    let mut rounds = 0;
    while said["a"].spent < 1000 {
        let a = said.get_mut("a").unwrap();
        assert!(a.allowed > a.spent || rounds == 0, "{a:?}");
        (a.spent, a.wants) = (a.allowed, true);
        account.hear(&"a", *a);
        act(&mut account, &mut said);
        said.get_mut("a").unwrap().wants = false;
        rounds += 1;
        assert!(rounds < 20, "half of what is left with each round");
    }
    assert!(!account.is_used_up(), "only the ledger says so");
    let settled = account.ask();
    account.rebase(1000, &settled);
    assert!(account.is_used_up());
}

#[test]
fn a_raised_limit_is_given_at_once_and_a_lowered_one_taken_back() {
    let mut account = Account::new(100, 0);
    let mut said = BTreeMap::from([("a", Said::default())]);
    account.join(&"a", Said::default());
    act(&mut account, &mut said);
    account.set_limit(1000);
    act(&mut account, &mut said);
    assert_eq!(said["a"].allowed, 1000);
    account.set_limit(10);
    act(&mut account, &mut said);
    assert_eq!(said["a"].allowed, 10);
    account.left(&"a");
    assert_eq!(account.free(), 0);
    let asked = account.ask();
    account.rebase(0, &asked);
    assert_eq!(account.free(), 10);
}

#[test]
fn what_one_that_ended_had_spent_is_held_until_the_ledger_was_asked() {
    let mut account = Account::new(100, 0);
    account.join(&"a", Said::default());
    let [(_, Told { number, allowed })] = account.deal()[..] else { panic!("one is told") };
    account.hear(&"a", Said { acts_by: number, allowed, spent: 40, settled: 0, wants: false });
    let before = account.ask();
    account.left(&"a");
    account.rebase(0, &before);
    assert_eq!(account.free(), 0, "asked before it ended");
    let after = account.ask();
    account.rebase(40, &after);
    assert_eq!((account.free(), account.members().count()), (60, 0));
}

#[test]
fn after_a_hold_the_ledger_is_asked_before_anybody_is_given_anything() {
    let mut account = Account::new(100, 0);
    account.hold(true);
    account.join(&"a", Said::default());
    let before = account.ask();
    account.hold(false);
    account.rebase(0, &before);
    assert!(account.is_unsure() && account.deal().is_empty(), "asked while others might still come back");
    let after = account.ask();
    account.rebase(30, &after);
    assert_eq!(account.deal(), [("a", Told { number: 1, allowed: 70 })], "one that ended meanwhile had spent the rest");
}

#[test]
fn who_cannot_be_told_keeps_what_he_has() {
    let mut account = Account::new(100, 0);
    let mut said = BTreeMap::from([("a", Said::default())]);
    account.join(&"a", Said::default());
    act(&mut account, &mut said);
    account.mute(&"a");
    account.join(&"b", Said { wants: true, ..Said::default() });
    assert_eq!(account.deal(), [], "all of it may be spent where nobody is heard");
    account.left(&"a");
    let asked = account.ask();
    account.rebase(30, &asked);
    assert_eq!(account.deal(), [("b", Told { number: 2, allowed: 70 })], "the ledger says what it had spent");
}
