//! A folder as a reader of the pages has it: with `examples/` in it, and URLs and ports that are this test's.

use crate::ROOT;
use crate::dev::Dev;
use anyhow::{Context, Result, ensure};
use dormouse_tests::env::Env;
use dormouse_tests::page::{self, Block, POSTGRES, REDIS, last_line};
use dormouse_tests::ports;
use dormouse_tests::postgres::Postgres;
use dormouse_tests::redis::Redis;
use dormouse_tests::shell::Shell;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;

/// What the pages name: the ports of `dormouse dev`.
const PORT: &str = "127.0.0.1:8080";
const USAGE_PORT: &str = "127.0.0.1:8081";

/// A place to try pages in.
pub(crate) struct Place {
    folder: TempDir,
    /// Commands of this place find no other `dev` and no cluster; holds logs.
    home: TempDir,
    pub(crate) calls: SocketAddr,
    pub(crate) envs: Vec<(String, String)>,
    changes: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) fn new(redis: Option<&Redis>, postgres: Option<&str>) -> Result<Self> {
        let (folder, home, [calls, usage]) = (tempfile::tempdir()?, tempfile::tempdir()?, ports::free()?);
        let mut changes = vec![(PORT, calls.to_string()), (USAGE_PORT, usage.to_string())];
        changes.extend(redis.map(|redis| (REDIS, redis.url())));
        changes.extend(postgres.map(|url| (POSTGRES, url.to_owned())));
        let programs = Env::read()?.bin_dir;
        let programs = programs.canonicalize().with_context(|| programs.display().to_string())?;
        // The distribution's interpreter goes before another one: it has the distribution's packages.
        let path = format!("{}:/usr/bin:/bin:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut envs = vec![("PATH", path), ("PYTHONDONTWRITEBYTECODE", "1".into())];
        envs.push(("XDG_RUNTIME_DIR", home.path().display().to_string()));
        envs.push(("KUBECONFIG", home.path().join("none").display().to_string()));
        envs.push(("DORMOUSE_PORT", calls.port().to_string()));
        envs.push(("DORMOUSE_USAGE_PORT", usage.port().to_string()));
        let envs = envs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { folder, home, calls, envs, changes })
    }

    /// A place with one of the examples, its database made.
    pub(crate) fn of(example: &str, redis: Option<&Redis>, postgres: Option<&Postgres>) -> Result<Self> {
        let url = postgres.map(Postgres::database).transpose()?;
        let place = Self::new(redis, url.as_deref())?;
        place.bring(example)?;
        Ok(place)
    }

    /// Puts an example here.
    pub(crate) fn bring(&self, example: &str) -> Result<()> {
        let (from, to) = (Path::new(ROOT).join("examples").join(example), self.example(example));
        std::fs::create_dir_all(&to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            let mut content = std::fs::read(entry.path())?;
            if entry.path().extension().is_some_and(|kind| kind == "yaml") {
                content = self.here(&String::from_utf8(content)?).into_bytes();
            }
            std::fs::write(to.join(entry.file_name()), content)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of an example.
    pub(crate) fn example(&self, example: &str) -> std::path::PathBuf {
        self.path().join("examples").join(example)
    }

    pub(crate) fn log(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// A text of a page with this place's ports and URLs.
    pub(crate) fn here(&self, text: &str) -> String {
        self.changes.iter().fold(text.to_owned(), |text, (page, here)| text.replace(page, here))
    }

    /// The URL of the database, as functions get it.
    pub(crate) fn database(&self) -> Result<&str> {
        let found = self.changes.iter().find(|(page, _)| *page == POSTGRES);
        found.map(|(_, url)| url.as_str()).context("it has no database")
    }

    pub(crate) fn shell(&self) -> Result<Shell> {
        let name = format!("shell-{}", std::fs::read_dir(self.home.path())?.count());
        Shell::open(self.path(), &self.envs, self.log(&name))
    }

    /// Starts an example as its README says, and gives what the README's call answers.
    pub(crate) async fn by_its_readme(&self, example: &str) -> Result<(Dev, String)> {
        let blocks = page::read(&format!("examples/{example}/README.md"))?;
        let [start, call]: [Block; 2] = blocks.try_into().ok().context("a start and a call are expected")?;
        let (before, last) = last_line(&start.text)?;
        let words: Vec<&str> = last.split(' ').collect();
        ensure!(words == ["dormouse", "dev", &format!("examples/{example}")], "{last}");
        let mut shell = self.shell()?;
        shell.paste(&self.here(before)).await?;
        let dev = Dev::start(self, &words[1..]).await?;
        let said = shell.paste(&self.here(&call.text)).await?;
        Ok((dev, said))
    }

    /// Pastes the blocks of a page that `are_pasted`, in one shell, and ends what they left running.
    pub(crate) async fn paste(&self, blocks: &[Block], are_pasted: impl Fn(&Block) -> bool) -> Result<usize> {
        let mut shell = self.shell()?;
        let pasted = page::paste(&mut shell, blocks, are_pasted, |text| self.here(text)).await?;
        shell.end().await?;
        Ok(pasted)
    }
}
