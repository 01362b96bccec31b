//! The blocks of the README and the tutorial that are for a cluster, pasted there: what they deploy is what their blocks for
//! one machine wrote.

use crate::world::{World, ok};
use anyhow::{Result, ensure};
use dormouse_tests::cluster::Space;
use dormouse_tests::page::{self, Block};
use dormouse_tests::shell::Shell;

/// Commands of the blocks for one machine, which run nothing here: the files that are written around them are what is wanted.
const NOT_HERE: [&str; 6] = ["dormouse", "curl", "grep", "sleep", "kill", "wait"];

/// A page in a case's namespace.
struct Page {
    namespace: String,
    shell: Shell,
    blocks: Vec<Block>,
    _folder: tempfile::TempDir,
}

impl Page {
    /// Writes the files of a page.
    async fn open(space: &Space, name: &str) -> Result<Self> {
        let (blocks, folder) = (page::read(name)?, tempfile::tempdir()?);
        let mut shell = Shell::open(folder.path(), &space.cluster.envs()?, folder.path().join("errors"))?;
        let stubs: Vec<String> = NOT_HERE.iter().map(|command| format!("{command}() {{ :; }}")).collect();
        shell.paste(&stubs.join("\n")).await?;
        for block in blocks.iter().filter(|block| block.is("sh")) {
            shell.paste(&here(&space.name, &block.text)).await?;
        }
        shell.paste(&format!("unset -f {}", NOT_HERE.join(" "))).await?;
        Ok(Self { namespace: space.name.clone(), shell, blocks, _folder: folder })
    }

    /// Pastes the blocks for a cluster that hold a word, or that do not; gives how many these were.
    async fn paste(&mut self, word: &str, held: bool) -> Result<usize> {
        let is_pasted = |block: &Block| block.is("sh cluster") && block.text.contains(word) == held;
        page::paste(&mut self.shell, &self.blocks, is_pasted, |text: &str| here(&self.namespace, text)).await
    }
}

/// A text of a page, in another namespace than the page's.
fn here(namespace: &str, text: &str) -> String {
    let text = text.replace("namespace: default", &format!("namespace: {namespace}"));
    text.replace("-n default ", &format!("-n {namespace} "))
}

/// A function with a secret and a clock, deployed from its folder; then nothing of it is left.
pub(crate) async fn the_tutorial_goes_to_the_cluster(world: World) -> Result<()> {
    world
        .alone("tutorial", |world, space| async move {
            let mut page = Page::open(&space, "docs/TUTORIAL.md").await?;
            let pasted = page.paste("delete", false).await?;
            let door = world.by_host(&space, "visitors", "/");
            let answer = door.send(door.post(1, "")).await?;
            ensure!(answer.status == 405 && answer.text() == "Only the clock may.\n", "{answer}");
            let pasted = pasted + page.paste("delete", true).await?;
            ensure!(pasted == 4, "{pasted} blocks are for a cluster: deploy, event, usage, delete");
            page.shell.end().await
        })
        .await
}

/// The function of one file, applied as it is; and a warm pool.
pub(crate) async fn the_tour_of_the_readme_goes_to_the_cluster(world: World) -> Result<()> {
    world
        .alone("tour", |world, space| async move {
            let mut page = Page::open(&space, "README.md").await?;
            let pasted = page.paste("", true).await?;
            ensure!(pasted == 2, "{pasted} blocks are for a cluster: the function, the pool");
            space.ready("hello", "True").await?;
            let answer = ok(&world.by_path(&space, "hello", "/?name=Ada")).await?;
            ensure!(answer.text() == "Good morning Ada\n", "{answer}");
            page.shell.end().await
        })
        .await
}
