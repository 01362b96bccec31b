//! How many pods a warm pool parks: as many as are claimed while a claimed one is replaced.
//!
//! At each moment of the last hour so many claims lay within the refill time before it. The pool parks what covered
//! 99.9 % of that hour: only in 3.6 s of it would a claim have found the pool empty.

use std::collections::VecDeque;
use std::time::Duration;

/// What is looked back on.
pub const HORIZON: Duration = Duration::from_secs(3600);

/// Of a thousand parts of the horizon, the one that may be uncovered.
const UNCOVERED: u32 = 1000;

/// Most claims that are remembered: 8 for each pod of the largest pool; 4096 x 16 bytes = 64 KiB.
const MAX_CLAIMS: usize = 4096;

/// The claims of one pool. Times are since any fixed moment and never run backwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    at: VecDeque<Duration>,
    since: Duration,
}

/// A pool's size, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sized {
    /// Pods to park.
    pub wanted: u32,
    /// Why.
    pub why: Why,
}

/// Why a pool is as large as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has one size only.
    Fixed,
    /// Fewer claims than its least size.
    Least,
    /// The claims of a refill time.
    Claims {
        /// So long is that.
        refill: Duration,
    },
    /// More claims than its largest size.
    Most {
        /// Claims within a refill time.
        claims: u32,
        /// So long is that.
        refill: Duration,
    },
}

impl Claims {
    /// None yet, at a moment.
    #[must_use]
    pub fn new(since: Duration) -> Self {
        Self { at: VecDeque::new(), since }
    }

    /// A pod was claimed.
    pub fn claimed(&mut self, now: Duration) {
        self.forget(now);
        if self.at.len() == MAX_CLAIMS {
            self.at.pop_front();
        }
        self.at.push_back(now.max(self.at.back().copied().unwrap_or_default()));
    }

    /// Whether they go back as far as is looked back on.
    #[must_use]
    pub fn is_whole(&self, now: Duration) -> bool {
        now >= self.since + HORIZON
    }

    /// How many pods to park at `now`, when a claimed one is replaced within `refill`.
    pub fn size(&mut self, now: Duration, refill: Duration, (min, max): (u32, u32)) -> Sized {
        self.forget(now);
        if min >= max {
            return Sized { wanted: max, why: Why::Fixed };
        }
        let claims = self.covering(now, refill);
        let why = match claims {
            n if n <= min => Why::Least,
            n if n > max => Why::Most { claims, refill },
            _ => Why::Claims { refill },
        };
        Sized { wanted: claims.clamp(min, max), why }
    }

    /// The number of claims that is exceeded within the refill time before a moment for at most the uncovered part.
    fn covering(&self, now: Duration, refill: Duration) -> u32 {
        let looked_at = now.saturating_sub(self.since).min(HORIZON).max(refill);
        let mut uncovered = looked_at / UNCOVERED;
        // By how long each number held: it grows with a claim, and falls a refill time later.
        let rises = self.at.iter().map(|at| (*at, true));
        let falls = self.at.iter().map(|at| (*at + refill, false)).filter(|(at, _)| *at < now);
        let mut changes: Vec<(Duration, bool)> = rises.chain(falls).collect();
        changes.sort_unstable();
        let mut held: Vec<Duration> = Vec::new();
        let mut count = 0_usize;
        for (i, (at, rises)) in changes.iter().enumerate() {
            count = if *rises { count + 1 } else { count.saturating_sub(1) };
            let until = changes.get(i + 1).map_or(now, |(next, _)| *next);
            if held.len() <= count {
                held.resize(count + 1, Duration::ZERO);
            }
            held[count] += until.saturating_sub(*at);
        }
        let mut covering = held.len().saturating_sub(1);
        while covering > 0 && held[covering] <= uncovered {
            uncovered -= held[covering];
            covering -= 1;
        }
        u32::try_from(covering).unwrap_or(u32::MAX)
    }

    fn forget(&mut self, now: Duration) {
        while self.at.front().is_some_and(|at| *at + HORIZON <= now) {
            self.at.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    fn at(times: &[u64]) -> Claims {
        let mut claims = Claims::new(Duration::ZERO);
        times.iter().for_each(|t| claims.claimed(Duration::from_millis(*t)));
        claims
    }

    #[test]
    fn a_fixed_size_is_fixed() {
        assert_eq!(at(&[0, 0, 0]).size(S, S, (2, 2)), Sized { wanted: 2, why: Why::Fixed });
    }

    #[test]
    fn it_parks_what_comes_within_a_refill() {
        let refill = 5 * S;
        // Three at once each ten minutes: 5 s of each 600 s, more than a thousandth.
        let mut claims = at(&[0, 1, 2, 600_000, 600_001, 600_002]);
        assert_eq!(claims.size(900 * S, refill, (1, 10)), Sized { wanted: 3, why: Why::Claims { refill } });
        assert_eq!(claims.size(900 * S, refill, (1, 2)), Sized { wanted: 2, why: Why::Most { claims: 3, refill } });
        assert_eq!(claims.size(900 * S, refill, (4, 10)), Sized { wanted: 4, why: Why::Least });
        // An hour after the last of them nothing is known of any.
        assert_eq!(claims.size(4300 * S, refill, (0, 10)), Sized { wanted: 0, why: Why::Least });
    }

    #[test]
    fn a_moment_that_never_came_again_is_no_reason() {
        // 20 at once, once, and gone after 2 s of an hour: within the 3.6 s.
        let mut claims = at(&[10_000; 20]);
        assert_eq!(claims.size(3600 * S, 2 * S, (1, 50)).wanted, 1);
        assert_eq!(claims.size(3600 * S, 4 * S, (1, 50)).wanted, 20);
    }

    proptest! {
        /// Beside a count at each millisecond.
        #[test]
        fn it_covers_as_much_as_it_says(mut times in prop::collection::vec(0_u64..5_000, 0..40), refill in 1_u64..900) {
            times.sort_unstable();
            let now = 5_000_u64;
            let wanted = at(&times).covering(Duration::from_millis(now), Duration::from_millis(refill));
            let within = |t: u64| times.iter().filter(|c| **c <= t && t < **c + refill).count();
            let over = (0..now).filter(|t| within(*t) > wanted as usize).count();
            prop_assert!(over <= 5, "{over} ms of 5 s are not covered by {wanted}");
            if wanted > 0 {
                let over = (0..now).filter(|t| within(*t) >= wanted as usize).count();
                prop_assert!(over > 5, "{wanted} are more than needed: one less leaves {over} ms");
            }
        }

        #[test]
        fn it_stays_between_its_bounds(times in prop::collection::vec(0_u64..9_000_000, 0..200), min in 0_u32..20, more in 0_u32..20) {
            let mut claims = Claims::new(Duration::ZERO);
            let mut times = times;
            times.sort_unstable();
            for t in times {
                claims.claimed(Duration::from_millis(t));
                let wanted = claims.size(Duration::from_millis(t), S, (min, min + more)).wanted;
                prop_assert!((min..=min + more).contains(&wanted));
            }
        }
    }
}
