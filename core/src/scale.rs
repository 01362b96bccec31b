//! How many instances a function wants: up at once, down only by the window.
//!
//! Wanted at t is the maximum, over the last `idle_timeout`, of `ceil(calls / concurrency)`. The maximum slides: a
//! level that fell is remembered with the time at which it fell, until the window has passed over it. Only levels that
//! no later and higher one hides are kept (a monotonic deque), so the cost per change is constant on average.

use std::collections::VecDeque;
use std::time::Duration;

/// Most instances that one function is given: 500 calls at once at concurrency 1 fit twice, and a list of 1000
/// instances is about 150 KiB on the wire to each activator.
pub const MAX_INSTANCES: u32 = 1000;

/// Most fallen levels remembered. Beyond it the two lowest become one that is as high as the higher and lasts as long
/// as the later: too many instances for part of a window, never too few. 64 entries x 24 bytes = 1.5 KiB.
const MAX_FALLEN: usize = 64;

/// The scaling fields of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Calls that one instance runs at once; at least 1.
    pub concurrency: u32,
    /// Most calls that run at once, over all instances; further ones wait and need no instance.
    pub reserved: Option<u32>,
    /// How long a level is kept after demand fell below it.
    pub idle_timeout: Duration,
}

/// How many instances, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How many.
    pub wanted: u32,
    /// Why.
    pub why: Why,
    /// When the answer changes if demand does not: nothing has to be asked before.
    pub look_again_at: Option<Duration>,
}

/// Why a function wants as many instances as it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No calls now and none within the window.
    Idle,
    /// The calls there are.
    Demand {
        /// Queued and running.
        calls: u32,
    },
    /// Calls there were within the window.
    Window {
        /// When the window has passed.
        until: Duration,
    },
    /// More calls than [`MAX_INSTANCES`] can run.
    Bound {
        /// Queued and running.
        calls: u32,
    },
}

/// A level of instances that demand fell below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fallen {
    level: u32,
    at: Duration,
}

/// Demand of one function over the last window. Times are since any fixed moment and never run backwards (one that
/// does counts as the latest seen).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scaler {
    calls: u32,
    /// Instances that the calls need, as last seen.
    level: u32,
    now: Duration,
    /// Levels strictly falling, times growing; all above `level`.
    fallen: VecDeque<Fallen>,
    /// The window is forgotten once there are no calls.
    forgets: bool,
}

impl Scaler {
    /// Takes note that `calls` are queued or running from now on.
    pub fn observe(&mut self, now: Duration, calls: u32, policy: &Policy) {
        self.now = self.now.max(now);
        let level = policy.needed(calls);
        // A level counts as fallen at the moment it is left, however long it stood.
        self.leave(level);
        self.calls = calls;
        self.level = level;
        if calls == 0 && std::mem::take(&mut self.forgets) {
            self.fallen.clear();
        }
    }

    /// Takes note of a level that was reached and left again at this moment: a call that came and went, or an instance
    /// that was started for another reason than a call.
    pub fn touch(&mut self, now: Duration, calls: u32, policy: &Policy) {
        let current = self.calls;
        self.observe(now, calls.max(current), policy);
        self.observe(now, current, policy);
    }

    /// Forgets what the window remembers, and once more when the present calls are over: then nothing is wanted at once.
    pub fn forget_window(&mut self) {
        self.fallen.clear();
        self.forgets = self.calls > 0;
    }

    /// Calls as last observed.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// How many instances are wanted at `now`.
    pub fn decide(&mut self, now: Duration, policy: &Policy) -> Decision {
        self.now = self.now.max(now);
        // A changed concurrency changes what the present calls need; levels that fell keep the number they had.
        let level = policy.needed(self.calls);
        self.leave(level);
        self.level = level;
        let over = |f: &Fallen| f.at.saturating_add(policy.idle_timeout);
        while self.fallen.front().is_some_and(|f| over(f) <= self.now) {
            self.fallen.pop_front();
        }
        let wanted = self.fallen.front().map_or(level, |f| f.level);
        let look_again_at = self.fallen.front().map(over);
        let why = match look_again_at {
            Some(until) => Why::Window { until },
            None if self.calls == 0 => Why::Idle,
            None if policy.instances(self.calls) > MAX_INSTANCES => Why::Bound { calls: self.calls },
            None => Why::Demand { calls: self.calls },
        };
        Decision { wanted, why, look_again_at }
    }

    /// Goes from the present level to another: keeps what the other one does not hide.
    fn leave(&mut self, level: u32) {
        if level < self.level {
            while self.fallen.back().is_some_and(|f| f.level <= self.level) {
                self.fallen.pop_back();
            }
            self.fallen.push_back(Fallen { level: self.level, at: self.now });
        }
        while self.fallen.back().is_some_and(|f| f.level <= level) {
            self.fallen.pop_back();
        }
        if self.fallen.len() > MAX_FALLEN {
            let later = self.fallen.pop_back();
            if let (Some(last), Some(later)) = (self.fallen.back_mut(), later) {
                last.at = later.at;
            }
        }
    }
}

impl Policy {
    /// Instances that so many calls need at once.
    #[must_use]
    pub fn needed(&self, calls: u32) -> u32 {
        self.instances(calls).min(MAX_INSTANCES)
    }

    fn instances(&self, calls: u32) -> u32 {
        calls.min(self.reserved.unwrap_or(u32::MAX)).div_ceil(self.concurrency.max(1))
    }
}

#[cfg(test)]
mod tests;
