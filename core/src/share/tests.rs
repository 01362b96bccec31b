//! The rules of shared slots: by example, in any order of events, and in every order of events of a small world.

use super::*;
use proptest::prelude::*;

mod model;

fn wants(list: &[(u8, u32, u32)]) -> BTreeMap<u8, Wants> {
    list.iter().map(|&(member, queued, running)| (member, Wants { queued, running })).collect()
}

/// One instance with so many slots, dealt out to members; everything told is acknowledged.
struct Table {
    deal: Deal<u8, u8>,
    now: Duration,
    version: u64,
}

impl Table {
    fn new(instances: &[u32]) -> Self {
        let mut deal = Deal::default();
        deal.set_instances(instances.iter().enumerate().map(|(i, slots)| (i as u8, *slots, true)));
        Self { deal, now: Duration::from_secs(100), version: 0 }
    }

    fn balance(&mut self, list: &[(u8, u32, u32)]) -> Option<Duration> {
        let later = self.deal.balance(self.now, &wants(list));
        self.version += 1;
        for pool in self.deal.pools_mut() {
            for member in pool.sent(self.version) {
                pool.acknowledged(&member, self.version);
            }
        }
        later.map(|at| at - self.now)
    }

    /// Until nothing moves.
    fn settle(&mut self, list: &[(u8, u32, u32)]) -> Vec<Vec<u32>> {
        let mut still = 0;
        for _ in 0..100 {
            let before = self.shares(list);
            let later = self.balance(list);
            self.now += later.unwrap_or_default();
            // What was acknowledged in the first still round is dealt out in the second.
            still = if later.is_none() && self.shares(list) == before { still + 1 } else { 0 };
            if still == 2 {
                return before;
            }
        }
        panic!("it never settles: {:?}", self.deal);
    }

    fn shares(&self, list: &[(u8, u32, u32)]) -> Vec<Vec<u32>> {
        let of = |member: u8| self.deal.instances().map(|(_, pool)| pool.goal(&member)).collect();
        list.iter().map(|(member, ..)| of(*member)).collect()
    }
}

#[test]
fn the_first_slots_go_to_those_who_wait_and_the_rest_is_even() {
    assert_eq!(Table::new(&[5]).settle(&[(1, 0, 0)]), [[5]], "alone it has all");
    assert_eq!(
        Table::new(&[5]).settle(&[(1, 0, 0), (2, 4, 0)]),
        [[0], [5]].map(|s: [u32; 1]| if s[0] == 5 { vec![4] } else { vec![1] })
    );
    assert_eq!(Table::new(&[1]).settle(&[(1, 0, 0), (2, 1, 0)]), [[0], [1]]);
    let shares = Table::new(&[1, 1, 1, 1]).settle(&[(1, 0, 0), (2, 0, 0)]);
    assert!(shares.iter().all(|s| s.iter().sum::<u32>() == 2), "odd slots turn with the instance: {shares:?}");
    let shares = Table::new(&[3, 3]).settle(&[(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]);
    assert!(shares.iter().all(|s| (1..=2).contains(&s.iter().sum::<u32>())), "{shares:?}");
}

#[test]
fn idle_slots_move_to_who_waits_and_only_by_handshake() {
    let mut table = Table::new(&[1]);
    assert_eq!(table.settle(&[(1, 0, 0), (2, 0, 0)]), [[1], [0]]);
    table.deal.balance(table.now, &wants(&[(1, 0, 0), (2, 1, 0)]));
    let pool = table.deal.instance(&0).unwrap();
    assert_eq!((pool.goal(&1), pool.held(&1), pool.goal(&2), pool.free()), (0, 1, 0, 0), "revoked, not granted yet");
    assert_eq!(table.settle(&[(1, 0, 0), (2, 1, 0)]), [[0], [1]]);
    assert_eq!(table.settle(&[(1, 0, 0), (2, 0, 1)]), [[0], [1]], "it stays there: nobody else waits");
}

#[test]
fn a_share_follows_demand_in_proportion_and_does_not_flap() {
    let mut table = Table::new(&[10]);
    table.settle(&[(1, 0, 0), (2, 0, 0)]);
    let busy = [(1, 30, 5), (2, 10, 5)];
    table.deal.instance_mut(&0, 10).runs(&1, 5);
    table.deal.instance_mut(&0, 10).runs(&2, 5);
    assert_eq!(table.settle(&busy), [[5], [3]], "two are on their way: their calls have not ended");
    table.deal.instance_mut(&0, 10).runs(&2, 3);
    let shares = table.settle(&busy);
    assert_eq!(shares, [[7], [3]], "35 to 15 of 10");
    table.deal.instance_mut(&0, 10).runs(&1, 7);
    let moved = table.deal.slot_turns.moved;
    for _ in 0..10 {
        table.now += EVEN_REST;
        assert_eq!(table.settle(&busy), shares);
    }
    assert_eq!(table.deal.slot_turns.moved, moved, "nothing moves while nothing changes");
}

#[test]
fn with_fewer_slots_than_members_they_take_turns() {
    let mut table = Table::new(&[1]);
    let both = [(1, 100, 0), (2, 1, 0)];
    let mut had = [0, 0];
    for _ in 0..200 {
        let holder = usize::from(table.settle_once(&both)[1][0] == 1);
        had[holder] += 1;
        table.now += TURN / 5;
    }
    // A turn lasts 250 ms, and who has a hundred times the calls gets it back as soon as anything may move again.
    assert!(had[0] > had[1] && had[1] > 20, "nobody starves: {had:?}");
}

impl Table {
    fn settle_once(&mut self, list: &[(u8, u32, u32)]) -> Vec<Vec<u32>> {
        self.balance(list);
        self.balance(list);
        self.shares(list)
    }
}

#[test]
fn a_newcomer_gets_an_even_part_of_what_stands_empty() {
    let mut table = Table::new(&[80]);
    table.settle(&[(1, 0, 0)]);
    assert_eq!(table.settle(&[(1, 0, 0), (2, 0, 0)]), [[40], [40]]);
    let mut table = Table::new(&[1]);
    table.settle(&[(1, 0, 0)]);
    assert_eq!(table.settle(&[(1, 0, 0), (2, 0, 0)]), [[1], [0]], "one slot has one owner");
}

#[test]
fn who_ended_badly_blocks_its_slots_until_its_calls_are_over() {
    let mut pool: Pool<u8> = Pool::new(4);
    pool.grant(&1, 3);
    pool.grant(&2, 9);
    pool.sent(1);
    pool.acknowledged(&1, 1);
    pool.acknowledged(&2, 1);
    assert_eq!((pool.goal(&1), pool.goal(&2), pool.free()), (3, 1, 0));
    pool.lost(&1, Duration::from_secs(30));
    pool.left(&2);
    assert_eq!((pool.free(), pool.blocked(), pool.blocked_until()), (1, 3, Some(Duration::from_secs(30))));
    assert!(!pool.expire(Duration::from_secs(29)));
    assert!(pool.expire(Duration::from_secs(30)));
    assert_eq!(pool.free(), 4);
}

#[test]
fn what_runs_beyond_a_smaller_share_is_held_until_it_ends() {
    let mut pool: Pool<u8> = Pool::new(3);
    pool.grant(&1, 3);
    pool.sent(1);
    pool.acknowledged(&1, 1);
    pool.runs(&1, 3);
    assert_eq!(pool.revoke(&1, 2), 2);
    pool.sent(2);
    assert_eq!(pool.grant(&2, 1), 0, "not acknowledged");
    pool.acknowledged(&1, 2);
    assert_eq!(pool.grant(&2, 1), 0, "its calls still run");
    pool.runs(&1, 2);
    assert_eq!(pool.grant(&2, 2), 1);
}

#[test]
fn a_smaller_total_is_revoked_and_a_limit_that_is_new_is_granted_after_everybody_said_so() {
    let mut table = Table::new(&[10]);
    let two = [(1, 0, 0), (2, 0, 0)];
    table.settle(&two);
    table.deal.set_instances([(0, 4, true)]);
    assert_eq!(table.settle(&two), [[2], [2]]);
    table.deal.set_reserved(Some(3), [(1, None), (2, None)]);
    assert_eq!(table.deal.reserved().unwrap().free(), 0);
    table.deal.balance(table.now, &wants(&two));
    assert_eq!(table.deal.reserved().unwrap().free(), 0, "nobody has said that it acts by the limit");
    table.settle(&two);
    let pool = table.deal.reserved().unwrap();
    assert_eq!((pool.goal(&1) + pool.goal(&2), pool.free()), (3, 0));
}

#[test]
fn one_slot_and_one_reserved_call_come_together() {
    // The one has the slot, the other the right to run: both have a call waiting.
    let mut table = Table::new(&[1]);
    table.deal.set_reserved(Some(1), []);
    table.settle(&[(1, 0, 0), (2, 0, 0)]);
    for both in [[(1, 1, 0), (2, 1, 0)], [(1, 9, 0), (2, 1, 0)]] {
        let mut together = 0;
        for _ in 0..40 {
            table.settle_once(&both);
            let cap = table.deal.reserved().unwrap();
            together +=
                usize::from([1, 2].iter().any(|m| cap.goal(m) == 1 && table.deal.instance(&0).unwrap().goal(m) == 1));
            table.now += REST;
        }
        assert!(together > 20, "{together}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wants(u8, u32),
    Runs(u8, usize, u32),
    Ack(u8),
    Total(usize, u32),
    Reserve(Option<u32>),
    Leave(u8),
    Lose(u8),
    Join(u8),
    Tick(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let member = 0_u8..4;
    prop_oneof![
        6 => (member.clone(), 0_u32..12).prop_map(|(m, n)| Step::Wants(m, n)),
        4 => (member.clone(), 0_usize..3, 0_u32..12).prop_map(|(m, i, n)| Step::Runs(m, i, n)),
        8 => member.clone().prop_map(Step::Ack),
        1 => (0_usize..3, 1_u32..9).prop_map(|(i, n)| Step::Total(i, n)),
        1 => prop::option::of(1_u32..6).prop_map(Step::Reserve),
        1 => member.clone().prop_map(Step::Leave),
        1 => member.clone().prop_map(Step::Lose),
        2 => member.prop_map(Step::Join),
        4 => (1_u64..2000).prop_map(Step::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: never more than the total is held, unless the total itself was lowered or a
    /// limit is new; and after a time without changes every slot has an owner again.
    #[test]
    fn the_total_is_never_passed_and_no_slot_is_lost(steps in prop::collection::vec(any_step(), 1..80)) {
        let mut deal: Deal<usize, u8> = Deal::default();
        let mut totals = [4_u32, 1, 7];
        deal.set_instances(totals.iter().copied().enumerate().map(|(i, n)| (i, n, true)));
        let mut live: BTreeMap<u8, Wants> = BTreeMap::new();
        let (mut now, mut version) = (Duration::from_secs(1), 0);
        let mut owed: BTreeMap<usize, u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Wants(m, n) => if let Some(w) = live.get_mut(&m) { w.queued = n },
                Step::Runs(m, i, n) => if live.contains_key(&m) {
                    let pool = deal.instance_mut(&i, 0);
                    let most = pool.held(&m);
                    pool.runs(&m, n.min(most));
                },
                Step::Ack(m) => if live.contains_key(&m) {
                    deal.pools_mut().for_each(|p| p.acknowledged(&m, version));
                },
                Step::Total(i, n) => {
                    // What was told of the larger total may be held until it is revoked.
                    owed.insert(i, held(deal.instance(&i).unwrap()));
                    totals[i] = n;
                    deal.set_instances(totals.iter().copied().enumerate().map(|(i, n)| (i, n, true)));
                }
                Step::Reserve(n) => deal.set_reserved(n, live.keys().map(|m| (*m, None)).collect::<Vec<_>>()),
                Step::Leave(m) => if live.remove(&m).is_some() { deal.pools_mut().for_each(|p| p.left(&m)) },
                Step::Lose(m) => if live.remove(&m).is_some() {
                    deal.pools_mut().for_each(|p| p.lost(&m, now + Duration::from_secs(3)));
                },
                Step::Join(m) => { live.entry(m).or_default(); }
                Step::Tick(ms) => now += Duration::from_millis(ms),
            }
            deal.expire(now);
            deal.balance(now, &live);
            version += 1;
            deal.pools_mut().for_each(|p| { p.sent(version); });
            for (i, pool) in deal.instances() {
                prop_assert!(held(pool) <= pool.total().max(owed.get(i).copied().unwrap_or(0)), "{pool:?}");
            }
        }
        live.entry(0).or_default();
        for w in live.values_mut() { w.queued = 0 }
        for _ in 0..60 {
            for m in live.keys() {
                deal.pools_mut().for_each(|p| { p.runs(m, 0); p.acknowledged(m, version) });
            }
            now += Duration::from_secs(2);
            deal.expire(now);
            deal.balance(now, &live);
            version += 1;
            deal.pools_mut().for_each(|p| { p.sent(version); });
        }
        for pool in deal.pools() {
            prop_assert_eq!((pool.free(), sum(pool.members().map(|m| pool.goal(m)))), (0, pool.total()), "{:?}", pool);
        }
        prop_assert_eq!(deal.balance(now, &live), None);
        prop_assert!(deal.pools().all(|p| !p.has_staged()), "it settles");
    }
}

fn held(pool: &Pool<u8>) -> u32 {
    pool.blocked() + sum(pool.members().map(|m| pool.held(m)))
}
