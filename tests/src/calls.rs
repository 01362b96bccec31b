//! What a function's instances say of the calls that they had (`backend`'s log): how many ran at once, on one instance
//! and over all, which came twice, and which were cut off.

use anyhow::{Context, Result};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

/// Offences of one kind that are kept as text.
const KEPT: usize = 5;

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that began, by number.
    pub begun: HashSet<u64>,
    /// Instances that had any.
    pub instances: usize,
    /// Most calls at once on one instance.
    pub most_on_one: usize,
    /// Most calls at once on all instances together.
    pub most: usize,
    /// Calls that began while their instance was full, or the whole function was.
    pub over: u64,
    /// The first of them, in words.
    pub first_over: Vec<String>,
    /// Numbers that began more than once: the call was sent twice.
    pub twice: Vec<u64>,
    /// Calls that never ended: their instance was ended in the middle of them.
    pub cut: Vec<u64>,
}

/// How many calls may run at once.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// On one instance.
    pub on_one: usize,
    /// On all of them together.
    pub on_all: usize,
}

impl Calls {
    /// Reads a log; a function that was never called has none.
    ///
    /// # Errors
    /// When it cannot be read or a line is none of a log.
    pub fn read(path: &Path, bound: Bound) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::of(&text, bound),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Counts through the lines of a log.
    ///
    /// # Errors
    /// When a line is none of a log.
    pub fn of(text: &str, bound: Bound) -> Result<Self> {
        let mut calls = Self::default();
        let mut running: HashMap<&str, Vec<u64>> = HashMap::new();
        let mut total = 0_usize;
        for (at, line) in text.lines().enumerate() {
            let no_line = || format!("line {} of a log of calls: {line:?}", at + 1);
            let mut words = line.split(' ');
            let (Some(sign), Some(instance), Some(number)) = (words.next(), words.next(), words.next()) else {
                anyhow::bail!(no_line());
            };
            let number: u64 = number.parse().with_context(no_line)?;
            let here = running.entry(instance).or_default();
            if sign == "+" {
                here.push(number);
                total += 1;
                calls.most_on_one = calls.most_on_one.max(here.len());
                calls.most = calls.most.max(total);
                if here.len() > bound.on_one || total > bound.on_all {
                    calls.over(format!("line {}: {total} in all, on {instance} these: {here:?}", at + 1));
                }
                if !calls.begun.insert(number) {
                    calls.twice.push(number);
                }
            } else {
                let place = here.iter().position(|n| *n == number).with_context(no_line)?;
                here.swap_remove(place);
                total -= 1;
            }
        }
        calls.instances = running.len();
        calls.cut = running.into_values().flatten().collect();
        calls.cut.sort_unstable();
        Ok(calls)
    }

    fn over(&mut self, text: String) {
        self.over += 1;
        if self.first_over.len() < KEPT {
            self.first_over.push(text);
        }
    }

    /// Fails when more ran at once than may, one came twice, or one was cut off.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self) -> Result<()> {
        anyhow::ensure!(self.over == 0 && self.twice.is_empty() && self.cut.is_empty(), "{self}");
        Ok(())
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { begun, instances, most_on_one, most, over, first_over, twice, cut } = self;
        write!(
            f,
            "{} calls on {instances} instances, at most {most_on_one} at once on one and {most} on all; ",
            begun.len()
        )?;
        write!(f, "{over} over the bound, {} came twice, {} cut off", twice.len(), cut.len())?;
        first_over.iter().try_for_each(|text| write!(f, "\n    {text}"))?;
        if !twice.is_empty() {
            write!(f, "\n    twice: {:?}", twice.iter().take(KEPT).collect::<Vec<_>>())?;
        }
        if !cut.is_empty() {
            write!(f, "\n    cut off: {:?}", cut.iter().take(KEPT).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { on_one: 1, on_all: 2 };

    #[test]
    fn calls_one_after_the_other_are_fine() {
        let calls = Calls::of("+ a 1\n+ b 2\n- a 1\n+ a 3\n- b 2\n- a 3\n", BOUND).unwrap();
        calls.check().unwrap();
        assert_eq!((calls.begun.len(), calls.instances, calls.most_on_one, calls.most), (3, 2, 1, 2));
    }

    #[test]
    fn too_many_at_once_twice_and_cut_off_are_told() {
        for log in ["+ a 1\n+ a 2\n- a 1\n- a 2\n", "+ a 1\n+ b 2\n+ c 3\n- a 1\n- b 2\n- c 3\n"] {
            let calls = Calls::of(log, BOUND).unwrap();
            assert_eq!(calls.over, 1, "{calls}");
            assert!(calls.check().is_err());
        }
        assert_eq!(Calls::of("+ a 1\n- a 1\n+ b 1\n- b 1\n", BOUND).unwrap().twice, [1]);
        assert_eq!(Calls::of("+ a 1\n+ b 2\n- b 2\n", BOUND).unwrap().cut, [1]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        for log in ["+ a\n", "+ a x\n", "- a 1\n"] {
            assert!(Calls::of(log, BOUND).is_err(), "{log}");
        }
    }
}
