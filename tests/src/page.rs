//! A page of Markdown as a list of what is to be pasted, and what is said to come of it: suites paste it.
//!
//! The words behind a fence say who runs a block: `sh` on any machine, `sh cluster` and `sh build` on a cluster and where
//! programs and images are made. A block of `text` below is what the last line of the one above it prints.

use crate::shell::Shell;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait until a page's line prints what the page says: a change takes a moment.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Where Redis and PostgreSQL are by the pages and manifests of `examples/`.
pub const REDIS: &str = "redis://127.0.0.1:6379";
/// See there.
pub const POSTGRES: &str = "postgresql://shop:shop@127.0.0.1:5432/shop";

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The words behind the fence: the language, and for whom it is.
    pub words: Vec<String>,
    /// Its lines.
    pub text: String,
    /// Where it begins in the page.
    pub line: usize,
}

impl Block {
    /// Whether exactly these words stand behind the fence.
    #[must_use]
    pub fn is(&self, words: &str) -> bool {
        self.words.join(" ") == words
    }
}

/// The blocks of a page of the repository.
///
/// # Errors
/// When it cannot be read.
pub fn read(page: &str) -> Result<Vec<Block>> {
    let path = Path::new(ROOT).join(page);
    Ok(blocks(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?))
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                let words = info.split_whitespace().map(str::to_owned).collect();
                found.push(Block { words, text: String::new(), line: at + 1 });
            }
            None if open => {
                if let Some(block) = found.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            None => {}
        }
    }
    found
}

/// Whether what came is what the page shows; there `…` stands for anything within a line.
#[must_use]
pub fn shows(page: &str, came: &str) -> bool {
    let (page, came): (Vec<_>, Vec<_>) = (page.trim().lines().collect(), came.trim().lines().collect());
    page.len() == came.len() && page.iter().zip(&came).all(|(page, came)| line_shows(page.trim_end(), came.trim_end()))
}

/// Pastes the blocks that `are_pasted`, each made fit by `here` for the machine. Where a block of text follows, it must be what
/// the last line printed, or soon prints. Gives how many were pasted.
///
/// # Errors
/// The block's line in the page, and what became of it.
pub async fn paste(
    shell: &mut Shell,
    blocks: &[Block],
    are_pasted: impl Fn(&Block) -> bool,
    here: impl Fn(&str) -> String,
) -> Result<usize> {
    let mut pasted = 0;
    for (at, block) in blocks.iter().enumerate().filter(|(_, block)| are_pasted(block)) {
        let answer = blocks.get(at + 1).filter(|next| next.words.first().is_some_and(|word| word == "text"));
        let done = match answer {
            None => shell.paste(&here(&block.text)).await.map(drop),
            Some(answer) => paste_until(shell, &here(&block.text), &here(&answer.text)).await,
        };
        done.with_context(|| format!("the block of line {}", block.line))?;
        pasted += 1;
    }
    Ok(pasted)
}

async fn paste_until(shell: &mut Shell, commands: &str, answer: &str) -> Result<()> {
    let (before, last) = last_line(commands)?;
    shell.paste(before).await?;
    let began = Instant::now();
    loop {
        let said = shell.paste(last).await?;
        if shows(answer, &said) {
            return Ok(());
        }
        ensure!(began.elapsed() < LIMIT, "{last}\nis to print\n{answer}\nand prints\n{said}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// What stands before the last line, and that.
///
/// # Errors
/// When there is none.
pub fn last_line(text: &str) -> Result<(&str, &str)> {
    let text = text.trim_end();
    ensure!(!text.is_empty(), "an empty block");
    Ok(text.rsplit_once('\n').unwrap_or(("", text)))
}

fn line_shows(page: &str, came: &str) -> bool {
    let mut parts = page.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = came.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_what_stands_between_fences() {
        let page = "a\n```sh\nx\ny\n```\nb\n```sh cluster\n```\n```text\nz\n```\n";
        let found = blocks(page);
        let told: Vec<_> = found.iter().map(|b| (b.words.join(" "), b.text.as_str(), b.line)).collect();
        assert_eq!(told, [("sh".into(), "x\ny\n", 2), ("sh cluster".into(), "", 7), ("text".into(), "z\n", 9)]);
    }

    #[test]
    fn dots_stand_for_anything_in_a_line() {
        assert!(shows("a … c\nd\n", "a b c  \nd"));
        assert!(shows("took … ms, …", "took 1 ms, or 2 ms, all"));
        assert!(shows("x…", "x"));
        for (page, came) in [("a", "ab"), ("a … c", "a b d"), ("a\nb", "a"), ("a … b … c", "a b c"), ("…b", "bc")]
        {
            assert!(!shows(page, came), "{page} / {came}");
        }
    }
}
