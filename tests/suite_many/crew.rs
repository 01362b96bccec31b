//! A team with its callers, and how they are held against each other at the end.

use crate::LIMIT;
use anyhow::{Context, Result};
use dormouse_tests::checker::Verdict;
use dormouse_tests::env::Env;
use dormouse_tests::front::{Choice, Door, Front};
use dormouse_tests::team::{Function, Member, Programs, Team};
use dormouse_tests::wait::until;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// How late callers learn that an activator is ready or not: less than the drain delay, as an operator sets it.
pub(crate) const LAG: Duration = Duration::from_millis(200);

/// What every activator is given, unless a suite says otherwise: a delay of ten lags, for a machine that is slow today.
pub(crate) const FLAGS: [&str; 2] = ["--drain-delay-seconds=2", "--drain-limit-seconds=40"];

/// An activator and its present life as callers know it.
pub(crate) struct Mate {
    pub(crate) member: Member,
    pub(crate) door: Arc<Door>,
}

/// A team and its callers.
pub(crate) struct Crew {
    pub(crate) team: Team,
    pub(crate) front: Front,
    pub(crate) mates: Vec<Mate>,
}

impl Crew {
    /// Starts a controller and `count` activators, and waits until all are ready.
    pub(crate) async fn start(folder: &Path, functions: &[Function], count: usize, flags: &[&str]) -> Result<Self> {
        let programs = Programs {
            house: env!("CARGO_BIN_EXE_house").into(),
            activator: Env::read()?.program("dormouse-activator")?,
            backend: env!("CARGO_BIN_EXE_backend").into(),
        };
        let team = Team::start(folder, &programs, functions, flags)?;
        let mut crew = Self { team, front: Front::new(LAG), mates: Vec::new() };
        for _ in 0..count {
            crew.join()?;
        }
        crew.all_ready().await?;
        Ok(crew)
    }

    /// One more activator.
    pub(crate) fn join(&mut self) -> Result<()> {
        let member = self.team.join()?;
        let door = self.front.follow(&member);
        self.mates.push(Mate { member, door });
        Ok(())
    }

    /// Callers know all activators as ready.
    pub(crate) async fn all_ready(&mut self) -> Result<()> {
        let lives: Vec<String> = self.mates.iter().map(|m| m.member.life()).collect();
        let front = self.front.clone();
        let ready = until("all activators are ready", LIMIT, || async {
            let listed = front.listed();
            anyhow::ensure!(lives.iter().all(|life| listed.contains(life)), "of {lives:?} these: {listed:?}");
            Ok(())
        });
        let ready = ready.await;
        self.mates.iter_mut().try_for_each(|m| m.member.check())?;
        ready
    }

    /// `kill -9` of one activator.
    pub(crate) async fn kill(&mut self, at: usize) -> Result<()> {
        let mate = &mut self.mates[at];
        self.front.kills(&mate.door);
        mate.member.kill().await
    }

    /// Starts a killed or ended activator again, at its old place.
    pub(crate) fn revive(&mut self, at: usize) -> Result<()> {
        let mate = &mut self.mates[at];
        mate.member.begin()?;
        mate.door = self.front.follow(&mate.member);
        Ok(())
    }

    /// Stops one activator for a while.
    pub(crate) async fn pause(&mut self, at: usize, length: Duration) -> Result<()> {
        let mate = &mut self.mates[at];
        self.front.pauses(&mate.door);
        mate.member.signal(Signal::SIGSTOP)?;
        tokio::time::sleep(length).await;
        mate.member.signal(Signal::SIGCONT)?;
        self.front.goes_on(&mate.door);
        Ok(())
    }

    /// Waits until one activator, which was asked to, has ended.
    pub(crate) async fn gone(&mut self, at: usize) -> Result<ExitStatus> {
        let mut mate = self.mates.remove(at);
        let status = mate.member.ended().await;
        self.front.forgets(&mate.door);
        status
    }

    /// Calls a function until it has answered through every activator.
    pub(crate) async fn warm(&self, function: &Function) -> Result<()> {
        for _ in 0..self.mates.len() {
            let (placed, _) = self.front.call(&function.path("/work"), Choice::InTurn).await;
            anyhow::ensure!(placed.is_answered(), "{placed:?}");
        }
        Ok(())
    }

    /// Ends all activators, which hand over what they have; then the ledger must agree with the callers.
    pub(crate) async fn settle(&mut self) -> Result<Verdict> {
        while let Some(mut mate) = self.mates.pop() {
            self.front.forgets(&mate.door);
            mate.member.leave().await?;
        }
        let recorded = self.team.recorded().await?;
        let verdict = Verdict::of(&self.front.entries(), &recorded);
        anyhow::ensure!(verdict.good(), "{verdict}");
        Ok(verdict)
    }

    /// Ends the controller too, and with it all instances.
    pub(crate) async fn end(mut self) -> Result<()> {
        anyhow::ensure!(self.mates.is_empty(), "activators run");
        self.team.end().await.context("the end of the controller")
    }
}
