//! The blocks of the README and the tutorial that are for a cluster, pasted there: what they deploy is what their blocks for
//! one machine wrote.

use crate::world::{World, ok};
use anyhow::{Result, ensure};
use dormouse_tests::cluster::Space;
use dormouse_tests::page;
use dormouse_tests::shell::Shell;

/// Commands of the blocks for one machine, which run nothing here: the files that are written around them are what is wanted.
const NOT_HERE: [&str; 6] = ["dormouse", "curl", "grep", "sleep", "kill", "wait"];

/// Pastes a page's blocks in a case's namespace, calls what was deployed before a block with the word `last` in it, if that is
/// given, and gives how many blocks for a cluster there were.
async fn paste(space: &Space, name: &str, last: Option<&str>, called: impl AsyncFn() -> Result<()>) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let mut shell = Shell::open(folder.path(), &space.cluster.envs()?, folder.path().join("errors"))?;
    let here = |text: &str| {
        let text = text.replace("namespace: default", &format!("namespace: {}", space.name));
        text.replace("-n default ", &format!("-n {} ", space.name))
    };
    let blocks = page::read(name)?;
    let defined: Vec<String> = NOT_HERE.iter().map(|command| format!("{command}() {{ :; }}")).collect();
    shell.paste(&defined.join("\n")).await?;
    for block in blocks.iter().filter(|block| block.is("sh")) {
        shell.paste(&here(&block.text)).await?;
    }
    shell.paste(&format!("unset -f {}", NOT_HERE.join(" "))).await?;
    let is_last = |block: &page::Block| last.is_some_and(|word| block.text.contains(word));
    let mut pasted = page::paste(&mut shell, &blocks, |block| block.is("sh cluster") && !is_last(block), here).await?;
    called().await?;
    pasted += page::paste(&mut shell, &blocks, |block| block.is("sh cluster") && is_last(block), here).await?;
    shell.end().await?;
    Ok(pasted)
}

/// A function with a secret, deployed from its folder; then nothing of it is left.
pub(crate) async fn the_tutorial_goes_to_the_cluster(world: World) -> Result<()> {
    world
        .alone("tutorial", |world, space| async move {
            let called = async || {
                let door = world.by_host(&space, "visitors", "/");
                let answer = door.send(door.post(1, "please")).await?;
                ensure!(answer.status == 401 && answer.text() == "What is the password?\n", "{answer}");
                let answer = door.send(door.post(2, "open sesame")).await?;
                ensure!(answer.status == 200 && answer.text() == "Come in.\n", "{answer}");
                Ok(())
            };
            let pasted = paste(&space, "docs/TUTORIAL.md", Some("delete"), called).await?;
            ensure!(pasted == 3, "{pasted} blocks are for a cluster: deploy, usage, delete");
            Ok(())
        })
        .await
}

/// The function of one file, applied as it is; and a warm pool.
pub(crate) async fn the_tour_of_the_readme_goes_to_the_cluster(world: World) -> Result<()> {
    world
        .alone("tour", |world, space| async move {
            let called = async || {
                space.ready("hello", "True").await?;
                let answer = ok(&world.by_path(&space, "hello", "/?name=Ada")).await?;
                ensure!(answer.text() == "Good morning Ada\n", "{answer}");
                Ok(())
            };
            let pasted = paste(&space, "README.md", None, called).await?;
            ensure!(pasted == 2, "{pasted} blocks are for a cluster: the function, the pool");
            Ok(())
        })
        .await
}
