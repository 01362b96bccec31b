//! The rule against its definition, and what always holds.

use super::*;
use proptest::prelude::*;

const S: fn(u64) -> Duration = Duration::from_secs;
const TEN: Policy = Policy { concurrency: 10, reserved: None, idle_timeout: Duration::from_secs(60) };

#[test]
fn calls_beyond_the_reserved_ones_need_no_instance() {
    let mut scaler = Scaler::default();
    let policy = Policy { concurrency: 2, reserved: Some(5), ..TEN };
    scaler.observe(S(0), 100, &policy);
    assert_eq!(scaler.decide(S(0), &policy).wanted, 3);
    assert_eq!(scaler.decide(S(0), &Policy { reserved: Some(9), ..policy }).wanted, 5, "raised under load");
    let lowered = Policy { reserved: Some(1), ..policy };
    assert_eq!(scaler.decide(S(1), &lowered).wanted, 5, "what ran is kept for the window");
    assert_eq!(scaler.decide(S(61), &lowered).wanted, 1);
}

#[test]
fn up_at_once_and_down_by_the_window() {
    let mut scaler = Scaler::default();
    assert_eq!(scaler.decide(S(0), &TEN), Decision { wanted: 0, why: Why::Idle, look_again_at: None });
    scaler.observe(S(1), 1, &TEN);
    assert_eq!(scaler.decide(S(1), &TEN).wanted, 1);
    scaler.observe(S(2), 31, &TEN);
    assert_eq!(scaler.decide(S(2), &TEN), Decision { wanted: 4, why: Why::Demand { calls: 31 }, look_again_at: None });
    scaler.observe(S(10), 11, &TEN);
    scaler.observe(S(20), 0, &TEN);
    let until = S(70);
    assert_eq!(
        scaler.decide(S(69), &TEN),
        Decision { wanted: 4, why: Why::Window { until }, look_again_at: Some(until) }
    );
    assert_eq!(scaler.decide(S(70), &TEN).wanted, 2);
    assert_eq!(scaler.decide(S(80), &TEN), Decision { wanted: 0, why: Why::Idle, look_again_at: None });
}

#[test]
fn a_call_that_came_and_went_counts() {
    let mut scaler = Scaler::default();
    scaler.touch(S(5), 1, &TEN);
    assert_eq!(scaler.decide(S(5), &TEN).wanted, 1);
    assert_eq!(scaler.decide(S(64), &TEN).wanted, 1);
    assert_eq!(scaler.decide(S(65), &TEN).wanted, 0);
}

#[test]
fn more_calls_than_instances_can_run_is_said() {
    let mut scaler = Scaler::default();
    let one = Policy { concurrency: 1, ..TEN };
    scaler.observe(S(0), 5000, &one);
    assert_eq!(scaler.decide(S(0), &one).why, Why::Bound { calls: 5000 });
    assert_eq!(scaler.decide(S(0), &one).wanted, MAX_INSTANCES);
}

#[test]
fn a_forgotten_window_leaves_the_present_calls() {
    let policy = Policy { concurrency: 2, reserved: None, idle_timeout: Duration::from_secs(10) };
    let mut scaler = Scaler::default();
    scaler.observe(Duration::ZERO, 8, &policy);
    scaler.observe(Duration::from_secs(1), 3, &policy);
    assert_eq!(scaler.decide(Duration::from_secs(1), &policy).wanted, 4);
    scaler.forget_window();
    let decision = scaler.decide(Duration::from_secs(1), &policy);
    assert_eq!((decision.wanted, decision.why), (2, Why::Demand { calls: 3 }));
    scaler.observe(Duration::from_secs(2), 1, &policy);
    assert_eq!(scaler.decide(Duration::from_secs(2), &policy).wanted, 2, "until the last of them is over");
    scaler.observe(Duration::from_secs(3), 0, &policy);
    assert_eq!(scaler.decide(Duration::from_secs(3), &policy).wanted, 0);
    scaler.touch(Duration::from_secs(4), 1, &policy);
    assert_eq!(scaler.decide(Duration::from_secs(4), &policy).wanted, 1, "what comes afterwards has its window");
}

#[test]
fn a_new_policy_counts_at_once() {
    let mut scaler = Scaler::default();
    scaler.observe(S(0), 20, &TEN);
    assert_eq!(scaler.decide(S(0), &Policy { concurrency: 1, ..TEN }).wanted, 20);
    scaler.observe(S(1), 0, &TEN);
    assert_eq!(scaler.decide(S(2), &Policy { idle_timeout: S(1), ..TEN }).wanted, 0);
}

/// A history: steps of (seconds since the step before, calls from then on).
fn history(longest: usize) -> impl Strategy<Value = Vec<(u64, u32)>> {
    proptest::collection::vec(
        (0_u64..40, prop_oneof![2 => Just(0_u32), 3 => 0_u32..50, 1 => 0_u32..20_000]),
        0..longest,
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    (1_u32..100, 1_u64..100).prop_map(|(concurrency, idle)| Policy {
        concurrency,
        reserved: None,
        idle_timeout: S(idle),
    })
}

fn run(history: &[(u64, u32)], policy: &Policy) -> (Scaler, Duration) {
    let (mut scaler, mut now) = (Scaler::default(), 0);
    for (pause, calls) in history {
        now += pause;
        scaler.observe(S(now), *calls, policy);
    }
    (scaler, S(now))
}

/// The definition, the slow way: the largest level that stood at some moment of (now - window, now].
fn by_definition(history: &[(u64, u32)], policy: &Policy, at: Duration) -> u32 {
    let (mut now, mut level, mut most) = (S(0), 0, 0);
    for (pause, calls) in history {
        let next = now + S(*pause);
        if next + policy.idle_timeout > at {
            most = most.max(level);
        }
        (now, level) = (next, policy.needed(*calls));
    }
    most.max(level)
}

proptest! {
    #[test]
    fn is_its_definition(h in history(60), p in policy(), later in 0_u64..120) {
        let (mut scaler, now) = run(&h, &p);
        let at = now + S(later);
        prop_assert_eq!(scaler.decide(at, &p).wanted, by_definition(&h, &p, at));
    }

    #[test]
    fn stays_within_bounds(h in history(400), p in policy()) {
        let (mut scaler, now) = run(&h, &p);
        let wanted = scaler.decide(now, &p).wanted;
        prop_assert!(wanted <= MAX_INSTANCES);
        prop_assert!(wanted >= p.needed(scaler.calls()));
        prop_assert!(scaler.fallen.len() <= MAX_FALLEN);
        // Remembering less is never wanting less.
        prop_assert!(wanted >= by_definition(&h, &p, now));
    }

    #[test]
    fn is_monotone_in_demand(h in history(60), p in policy(), which in 0_usize..60, more in 1_u32..1000, later in 0_u64..120) {
        let mut raised = h.clone();
        if let Some(step) = raised.get_mut(which) {
            step.1 += more;
        }
        let ((mut low, now), (mut high, _)) = (run(&h, &p), run(&raised, &p));
        prop_assert!(low.decide(now + S(later), &p).wanted <= high.decide(now + S(later), &p).wanted);
    }

    #[test]
    fn deciding_again_changes_nothing(h in history(60), p in policy(), later in 0_u64..120) {
        let (mut scaler, now) = run(&h, &p);
        let first = scaler.decide(now + S(later), &p);
        let kept = scaler.clone();
        prop_assert_eq!(scaler.decide(now + S(later), &p), first);
        prop_assert_eq!(scaler, kept);
    }

    #[test]
    fn changes_only_when_it_said_so(h in history(60), p in policy(), later in 0_u64..120) {
        let (mut scaler, now) = run(&h, &p);
        let first = scaler.decide(now, &p);
        let then = now + S(later);
        if first.look_again_at.is_none_or(|at| then < at) {
            prop_assert_eq!(scaler.decide(then, &p).wanted, first.wanted);
        } else {
            prop_assert!(scaler.decide(then, &p).wanted < first.wanted);
        }
    }

    #[test]
    fn falls_to_zero_one_window_after_the_last_call(h in history(60), p in policy()) {
        let (mut scaler, now) = run(&h, &p);
        scaler.observe(now, 0, &p);
        prop_assert_eq!(scaler.decide(now + p.idle_timeout, &p).wanted, 0);
    }
}
