//! The power goes under load, on the disk of the spool, of the ledger, or of both. Then
//! `answered <= recorded <= answered + in flight`, nothing twice, and the ledger has no gap.

use crate::{ROOMY, in_folder, patient, programs, seeded};
use anyhow::{Context, Result};
use dormouse_core::price::Durability;
use dormouse_tests::agree::{Agreed, Load, agree};
use dormouse_tests::env::Env;
use dormouse_tests::ground::Ground;
use dormouse_tests::pair::Pair;
use dormouse_tests::postgres::Postgres;
use dormouse_tests::proc::{Process, signal};
use dormouse_tests::volume::Volume;
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use std::path::Path;
use std::time::Duration;

/// Calls per second.
const RATE: u32 = 100;

/// Bytes of the spool: its segments are an eighth, 16 KiB or some 400 records, so that cuts come upon full ones.
const SPOOL: &str = "--spool-max-bytes=131072";

#[tokio::test(flavor = "multi_thread")]
async fn mode_disk_survives_a_power_cut() {
    in_folder(async |folder| survives(folder, Durability::Disk, Store::Folder).await).await.unwrap();
}

/// In this mode a disk that is lost with its spool loses no record either.
#[tokio::test(flavor = "multi_thread")]
async fn mode_ledger_survives_a_power_cut_and_the_loss_of_a_spool() {
    in_folder(async |folder| survives(folder, Durability::Ledger, Store::Folder).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mode_ledger_survives_a_power_cut_of_postgresql() {
    in_folder(async |folder| survives(folder, Durability::Ledger, Store::Postgres).await).await.unwrap();
}

/// What keeps the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Folder,
    Postgres,
}

struct World {
    // Before the volumes: whoever uses them ends first.
    pair: Pair,
    database: Option<Postgres>,
    spool: Volume,
    ledger: Volume,
    durability: Durability,
}

/// What becomes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Spared,
    Cut,
    /// Cut, and an empty one comes in its place.
    Lost,
}

async fn survives(folder: &Path, durability: Durability, store: Store) -> Result<()> {
    let (env, mut rng) = (Env::read()?, seeded(&format!("{durability:?}, {store:?}")));
    let cuts = if env.long { 200 } else { 5 };
    let mut world = World::start(folder, &env, durability, store).await?;
    let load = Load::begin(&world.pair, folder, RATE).await?;
    let result = world.cut_often(&load, &mut rng, cuts).await;
    let (report, entries) = load.end().await?;
    result.with_context(|| format!("{report}"))?;
    println!("{durability:?}, {store:?}: {cuts} cuts under {RATE} calls/s: {report}");
    let Agreed { verdict, conservation, .. } = agree(&mut world.pair, &entries).await?;
    println!("{verdict}\n{conservation:?}");
    Ok(())
}

impl World {
    async fn start(folder: &Path, env: &Env, durability: Durability, store: Store) -> Result<Self> {
        let spool = Volume::make(folder, "spool-disk", ROOMY)?;
        let ledger = Volume::make(folder, "ledger-disk", 2 * ROOMY)?;
        let database = match store {
            Store::Folder => None,
            Store::Postgres => {
                let data = ledger.path().join("postgres");
                std::fs::create_dir(&data)?;
                Some(Postgres::start_in(&data).await?)
            }
        };
        let ground = Ground {
            spool: spool.path().join("spool"),
            ledger: ledger.path().join("ledger"),
            database: database.as_ref().map(Postgres::database).transpose()?,
            durability,
            ..Ground::of(folder)
        };
        let pair = Pair::start_on(&ground, &programs(env)?, patient(), &[SPOOL, "--every-intent"])?;
        Ok(Self { pair, database, spool, ledger, durability })
    }

    /// Every second cut or so comes before calls are answered again, so that starts are hit as well.
    async fn cut_often(&mut self, load: &Load, rng: &mut StdRng, cuts: usize) -> Result<()> {
        for n in 1..=cuts {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..800))).await;
            let (spool, ledger) = self.choose(rng, n);
            self.cut(spool, ledger).await.with_context(|| format!("cut {n}: spool {spool:?}, ledger {ledger:?}"))?;
            if n == cuts || rng.random_bool(0.5) {
                load.goes_on(&format!("cut {n}: spool {spool:?}, ledger {ledger:?}")).await?;
            }
        }
        Ok(())
    }

    /// The first two cuts are of everything that there is to survive, whatever chance says.
    fn choose(&self, rng: &mut StdRng, n: usize) -> (Fate, Fate) {
        // Only what the ledger has acknowledged survives the loss of a disk, and only of the spool's.
        let lost = self.durability == Durability::Ledger && (n == 1 || rng.random_bool(0.5));
        let spool = if lost { Fate::Lost } else { Fate::Cut };
        match if n <= 2 { n - 1 } else { rng.random_range(0..3) } {
            0 => (spool, Fate::Spared),
            1 => (Fate::Cut, Fate::Cut),
            2 if rng.random_bool(0.5) => (spool, Fate::Cut),
            _ => (Fate::Spared, Fate::Cut),
        }
    }

    /// Processes that write to disks which are not spared.
    fn users(&self, spool: Fate, ledger: Fate) -> Result<Vec<u32>> {
        let mut users = Vec::new();
        if spool != Fate::Spared {
            users.extend(self.pair.activator.as_ref().map(Process::pid));
        }
        match &self.database {
            _ if ledger == Fate::Spared => {}
            Some(server) => users.extend(server.pids()?),
            None => users.extend(self.pair.house.as_ref().map(Process::pid)),
        }
        Ok(users)
    }

    /// The power goes, for disks and for whoever writes there; it comes back, and they begin anew.
    async fn cut(&mut self, spool: Fate, ledger: Fate) -> Result<()> {
        let disks = [(&self.spool, spool), (&self.ledger, ledger)];
        let users = self.users(spool, ledger)?;
        for (disk, _) in disks.iter().filter(|(_, fate)| *fate != Fate::Spared) {
            disk.cut(&users).await?;
        }
        users.iter().try_for_each(|pid| signal(*pid, Signal::SIGKILL))?;
        if spool != Fate::Spared {
            kill(&mut self.pair.activator).await?;
        }
        match &mut self.database {
            _ if ledger == Fate::Spared => {}
            Some(server) => server.kill()?,
            None => kill(&mut self.pair.house).await?,
        }
        for (volume, fate) in disks {
            match fate {
                Fate::Spared => {}
                Fate::Cut => volume.restore().await?,
                Fate::Lost => volume.replace().await?,
            }
        }
        if let Some(server) = &mut self.database {
            server.run().await?;
        }
        if self.pair.house.is_none() {
            self.pair.house = Some(self.pair.house_program.start()?);
        }
        if self.pair.activator.is_none() {
            self.pair.activator = Some(self.pair.activator_program.start()?);
        }
        Ok(())
    }
}

async fn kill(process: &mut Option<Process>) -> Result<()> {
    let victim = process.take().context("not running")?;
    tokio::task::spawn_blocking(move || victim.kill()).await??;
    Ok(())
}
