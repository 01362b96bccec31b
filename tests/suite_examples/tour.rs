//! The tutorial and the README's tour, pasted from top to bottom.

use crate::place::Place;
use anyhow::{Result, ensure};
use dormouse_tests::page;

/// `sh` is for any machine; `sh cluster` is pasted by the cluster's suite, `sh build` makes what both stand on.
fn is_pasted(block: &page::Block) -> bool {
    block.is("sh")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_is_pasted_from_top_to_bottom() -> Result<()> {
    let place = Place::new(None, None)?;
    let blocks = page::read("docs/TUTORIAL.md")?;
    for block in &blocks {
        let known = ["sh", "sh cluster", "sh build", "text", "text cluster"];
        ensure!(known.iter().any(|words| block.is(words)), "line {}: who runs {:?}?", block.line, block.words);
    }
    let pasted = place.paste(&blocks, is_pasted).await?;
    let all = blocks.iter().filter(|block| is_pasted(block)).count();
    ensure!(pasted == all && pasted >= 10, "{pasted} of {all} blocks were pasted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_the_readme_is_pasted_from_top_to_bottom() -> Result<()> {
    let place = Place::new(None, None)?;
    let pasted = place.paste(&page::read("README.md")?, is_pasted).await?;
    ensure!(pasted == 3, "{pasted} blocks were pasted: write, run and call; save and call again; end it");
    Ok(())
}
