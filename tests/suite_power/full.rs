//! A disk without room: calls are refused before a record is lost, functions wake, and what waited is handed over once
//! there is room again.

use crate::{ROOMY, in_folder, patient, programs};
use anyhow::{Context, Result};
use dormouse_core::price::Durability;
use dormouse_tests::agree::{Agreed, LIMIT, Load, agree};
use dormouse_tests::checker::Verdict;
use dormouse_tests::client::Answer;
use dormouse_tests::env::Env;
use dormouse_tests::ground::Ground;
use dormouse_tests::pair::{FUNCTION, Pair, Placed};
use dormouse_tests::volume::Volume;
use dormouse_tests::wait::until;
use serde_json::json;
use std::path::Path;

/// Calls per second.
const RATE: u32 = 100;

/// MiB of a disk that is about to be full: what a file system of its own and an empty ledger take, and some.
const SMALL: u64 = 32;

/// Calls that must be refused before there is room again.
const REFUSED: usize = 20;

/// Rounds of answered calls while the ledger has no room: some 20 frames that it does not take.
const LONG_ENOUGH: usize = 40;

/// Function that sleeps until its first call.
const ASLEEP: &str = "asleep";

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_without_room_refuses_calls_and_loses_no_record() {
    in_folder(async |folder| {
        for durability in [Durability::Process, Durability::Disk] {
            let folder = folder.join(format!("{durability:?}"));
            std::fs::create_dir(&folder)?;
            full_spool(&folder, durability).await?;
        }
        Ok(())
    })
    .await
    .unwrap();
}

async fn full_spool(folder: &Path, durability: Durability) -> Result<()> {
    let disk = Volume::make(folder, "spool-disk", SMALL)?;
    let ground = Ground { spool: disk.path().join("spool"), durability, ..Ground::of(folder) };
    let mut pair = Pair::start_on(&ground, &programs(&Env::read()?)?, patient(), &[])?;
    let load = Load::begin(&pair, folder, RATE).await?;
    load.goes_on("a start").await?;
    let mut full = disk.fill()?;
    full.stay()?;
    let refused = || load.entries().iter().filter(|e| e.status == 503 && e.reason == "SpoolFull").count();
    let refuses = async |wanted: usize| {
        until("calls are refused", LIMIT, || async {
            anyhow::ensure!(refused() >= wanted, "{} of {wanted}", refused());
            Ok(())
        })
        .await
    };
    refuses(REFUSED).await?;
    let verdict = Verdict::of(&load.entries(), &pair.recorded().await?);
    anyhow::ensure!(verdict.in_flight == 0, "calls ran and broke off: {verdict}");
    // It starts without room as well: what is in it has to leave.
    let activator = pair.activator.take().context("it does not run")?;
    tokio::task::spawn_blocking(move || activator.kill()).await??;
    pair.activator = Some(pair.activator_program.start()?);
    refuses(refused() + REFUSED).await?;
    drop(full);
    load.goes_on("there is room again").await?;
    let (report, entries) = load.end().await?;
    println!("{durability:?}: {report}");
    let Agreed { verdict, conservation, .. } = agree(&mut pair, &entries).await?;
    println!("{verdict}\n{conservation:?}");
    Ok(())
}

struct World {
    // Before the disk: it uses it.
    pair: Pair,
    load: Load,
    disk: Volume,
}

impl World {
    /// A ledger on a small disk, under load, and a function that sleeps.
    async fn start(folder: &Path) -> Result<Self> {
        let disk = Volume::make(folder, "ledger-disk", SMALL)?;
        let ground = Ground { ledger: disk.path().join("ledger"), ..Ground::of(folder) };
        let programs = programs(&Env::read()?)?;
        let mut asleep = patient();
        asleep["startCheck"] = json!("Never");
        let functions = [(FUNCTION.0, patient()), (ASLEEP, asleep)].map(|(name, spec)| {
            let command = vec![programs.dormouse.display().to_string(), "sample".into()];
            Placed { name: name.into(), spec, command }
        });
        let pair = Pair::on(&ground, &programs, &functions, &[])?;
        let load = Load::begin(&pair, folder, RATE).await?;
        let world = Self { pair, load, disk };
        world.ledger_is("open", true).await?;
        world.load.goes_on("a start").await?;
        Ok(world)
    }

    /// Waits until the controller says of its ledger that it takes records, or that it does not.
    async fn ledger_is(&self, what: &str, ready: bool) -> Result<Answer> {
        until(&format!("the ledger is {what}"), LIMIT, || async {
            let [house, _] = self.pair.ready().await?;
            anyhow::ensure!((house.status == 200) == ready, "{house}");
            Ok(house)
        })
        .await
    }

    fn has_ballast(&self) -> bool {
        self.disk.path().join("ledger/ballast").exists()
    }

    async fn kill_controller(&mut self) -> Result<()> {
        let house = self.pair.house.take().context("it does not run")?;
        tokio::task::spawn_blocking(move || house.kill()).await??;
        Ok(())
    }

    fn start_controller(&mut self) -> Result<()> {
        self.pair.house = Some(self.pair.house_program.start()?);
        Ok(())
    }

    /// Everything there is comes to be in the ledger.
    async fn ends(self) -> Result<()> {
        let Self { mut pair, load, disk } = self;
        load.goes_on("the ledger is open again").await?;
        let (report, entries) = load.end().await?;
        println!("{report}");
        let Agreed { verdict, conservation, .. } = agree(&mut pair, &entries).await?;
        println!("{verdict}\n{conservation:?}");
        drop(disk);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_without_room_holds_up_no_call_and_goes_on_when_there_is_room() {
    in_folder(async |folder| {
        let world = World::start(folder).await?;
        let full = world.disk.fill()?;
        let told = world.ledger_is("not ready", false).await?;
        anyhow::ensure!(told.text().contains("[-]ledger"), "{told}");
        for _ in 0..LONG_ENOUGH {
            world.load.goes_on("the ledger's disk is full").await?;
        }
        world.load.call(&world.pair.function(ASLEEP, "/")).await.context("a function wakes without a ledger")?;
        world.ledger_is("not ready any more", false).await?;
        drop(full);
        // What is kept may be kept at its next start only: it may be open already with the room of that.
        world.ledger_is("open, with room", true).await?;
        let failed: Vec<_> = world.load.entries().into_iter().filter(|e| e.number > 0 && e.status != 200).collect();
        anyhow::ensure!(failed.is_empty(), "calls felt it: {failed:?}");
        world.ends().await
    })
    .await
    .unwrap();
}

/// sled cannot even be opened without room: what is kept for that is given up, and kept again after the disk has grown.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_opens_on_a_full_disk_and_after_it_has_grown() {
    in_folder(async |folder| {
        let mut world = World::start(folder).await?;
        anyhow::ensure!(world.has_ballast(), "nothing is kept for a full disk");
        world.kill_controller().await?;
        let mut full = world.disk.fill()?;
        full.stay()?;
        world.start_controller()?;
        world.ledger_is("open, without room", true).await?;
        anyhow::ensure!(!world.has_ballast(), "it was opened without what is kept for that");
        world.load.goes_on("the ledger was opened on a full disk").await?;
        world.kill_controller().await?;
        world.disk.grow(ROOMY).await?;
        world.start_controller()?;
        world.ledger_is("open, on a larger disk", true).await?;
        anyhow::ensure!(world.has_ballast(), "nothing is kept for the next time");
        world.ends().await
    })
    .await
    .unwrap();
}
