//! The tutorial and the README's tour, pasted from top to bottom.

use crate::SCHEDULES;
use crate::place::Place;
use anyhow::{Result, ensure};
use dormouse_tests::page;

/// What the words behind a fence say of who runs a block: `sh` here; `sh clock` here where there are schedules; `sh cluster`
/// and `sh build` on a cluster, and where programs and images are made. Others are no commands.
fn is_pasted(block: &page::Block) -> bool {
    block.is("sh") || SCHEDULES && block.is("sh clock")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_is_pasted_from_top_to_bottom() -> Result<()> {
    let place = Place::new(None, None)?;
    let blocks = page::read("docs/TUTORIAL.md")?;
    for block in &blocks {
        let known = ["sh", "sh clock", "sh cluster", "sh build", "text", "text cluster", "yaml"];
        ensure!(known.iter().any(|words| block.is(words)), "line {}: who runs {:?}?", block.line, block.words);
    }
    let pasted = place.paste(&blocks, is_pasted).await?;
    let here = blocks.iter().filter(|block| block.words.first().is_some_and(|word| word == "sh")).count();
    ensure!(pasted >= 9 && pasted < here, "{pasted} of {here} blocks were pasted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_is_pasted_from_top_to_bottom() -> Result<()> {
    let place = Place::new(None, None)?;
    let pasted = place.paste(&page::read("README.md")?, is_pasted).await?;
    ensure!(pasted == 2, "{pasted} blocks were pasted: write, run and call; save and call again");
    Ok(())
}
