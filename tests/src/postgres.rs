//! A PostgreSQL server for a test: the distribution's own programs, in a folder that goes with it.

use crate::ports;
use crate::proc::blocking;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Where distributions put the programs, the newest version last.
const FOLDERS: &str = "/usr/lib/postgresql";
/// How long a start or an end may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// PostgreSQL refuses to run as root: then it runs as this user, which its package makes.
const USER: &str = "postgres";

/// A server on a port of its own. It ends with this.
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    /// Removes the folder in the end, if it is this server's own.
    _own: Option<tempfile::TempDir>,
    address: SocketAddr,
    process: Option<Child>,
    databases: AtomicU32,
}

impl Postgres {
    /// Makes and starts a server in a folder of its own.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same at an address of this machine, for whoever reaches that.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start_at(ip: IpAddr) -> Result<Self> {
        let own = tempfile::tempdir()?;
        Self::make(own.path().to_owned(), Some(own), ip, &["--no-sync"]).await
    }

    /// Makes and starts a server in an empty folder that may lose its power from then on.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub async fn start_in(folder: &Path) -> Result<Self> {
        Self::make(folder.to_owned(), None, Ipv4Addr::LOCALHOST.into(), &[]).await
    }

    async fn make(folder: PathBuf, own: Option<tempfile::TempDir>, ip: IpAddr, flags: &[&str]) -> Result<Self> {
        let programs = programs()?;
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name(USER)?.with_context(|| format!("there is no user {USER}"))?;
            std::os::unix::fs::chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let data = folder.join("data");
        let mut init = command(&programs.join("initdb"), &folder);
        init.args(["--auth=trust", "--username=dormouse", "--encoding=UTF8"]).args(flags).arg("-D").arg(&data);
        let made = blocking(|| init.output()).context("initdb")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        if !ip.is_loopback() {
            // Only those of this machine are let in else.
            let mut access = std::fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf"))?;
            writeln!(access, "host all all all trust")?;
        }
        let [free] = ports::free()?;
        let address = SocketAddr::new(ip, free.port());
        let mut server = Self { programs, folder, _own: own, address, process: None, databases: AtomicU32::new(0) };
        server.run().await?;
        Ok(server)
    }

    /// Starts the server again after [`Postgres::kill`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn run(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None))) {
                // After a kill it refuses to start until the last of its former processes has noticed.
                self.process = Some(self.spawn()?);
            }
            match self.sql("postgres", "SELECT 1") {
                Ok(_) => return Ok(()),
                Err(error) => ensure!(began.elapsed() < PATIENCE, "PostgreSQL does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
        let mut server = command(&self.programs.join("postgres"), &self.folder);
        server.arg("-D").arg(self.folder.join("data"));
        server.arg("-c").arg(format!("listen_addresses={}", self.address.ip()));
        server.arg("-c").arg(format!("port={}", self.address.port()));
        // What connects is counted there.
        server.args(["-c", "log_connections=on"]);
        server.arg("-c").arg(format!("unix_socket_directories={}", self.folder.display()));
        server.stdout(Stdio::null()).stderr(log).spawn().context("postgres")
    }

    /// Ends all of it at once, as a crash does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        // Whoever it runs as was set by a program that then became it: the process is the server's first.
        if let Some(mut process) = self.process.take() {
            // Those that serve connections end a moment after it, and may answer one more question until then.
            let servers = crate::proc::children(process.id())?;
            process.kill()?;
            process.wait()?;
            for pid in servers {
                // One that has ended by now is what is wanted.
                let _ = crate::proc::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Its processes.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let first = self.process.as_ref().context("it does not run")?.id();
        let mut pids = vec![first];
        pids.extend(crate::proc::children(first)?);
        Ok(pids)
    }

    /// Makes an empty database and answers its URL.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn database(&self) -> Result<String> {
        let name = format!("ledger{}", self.databases.fetch_add(1, Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://dormouse@{}/{name}?sslmode=disable", self.address))
    }

    /// Connections that an application has made to a database, closed ones included.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn connections(&self, url: &str, application: &str) -> Result<usize> {
        let database = name_of(url);
        let of = format!(" database={database} application_name={application}");
        let log = std::fs::read_to_string(self.folder.join("log"))?;
        Ok(log.lines().filter(|line| line.contains("connection authorized:") && line.ends_with(&of)).count())
    }

    /// Breaks an application's connections to all databases.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn disconnect(&self, application: &str) -> Result<()> {
        let of = format!("FROM pg_stat_activity WHERE application_name = '{application}'");
        self.sql("postgres", &format!("SELECT pg_terminate_backend(pid, 10000) {of}")).map(drop)
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-h", &self.address.ip().to_string(), "-p", &self.address.port().to_string()]);
        psql.args(["-U", "dormouse", "-d", database]);
        psql.args(["-At", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// Begins a transaction with a statement and leaves it open until what is answered is dropped.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn begin(&self, database: &str, statement: &str) -> Result<Transaction> {
        let mut psql = self.psql(database);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = psql.spawn().context("psql")?;
        let mut input = process.stdin.take().context("no input")?;
        writeln!(input, "BEGIN;\n{statement};\n\\echo begun")?;
        let mut told = String::new();
        let mut output = std::io::BufReader::new(process.stdout.take().context("no output")?);
        while !told.contains("begun") {
            ensure!(output.read_line(&mut told)? > 0, "{statement}: {told}");
        }
        Ok(Transaction { process, input: Some(input) })
    }

    /// What a statement answers, as text.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = self.psql(database);
        psql.args(["-c", statement]);
        let told = blocking(|| psql.output()).context("psql")?;
        ensure!(told.status.success(), "{statement}: {}", String::from_utf8_lossy(&told.stderr));
        Ok(String::from_utf8(told.stdout)?.trim().to_owned())
    }
}

/// A transaction that is open.
pub struct Transaction {
    process: Child,
    input: Option<std::process::ChildStdin>,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends with its input.
        let _ = self.process.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGKILL to its first process: the others see that and end. Nothing of its data is needed.
        let _ = self.kill();
    }
}

/// The name of a database in its URL.
#[must_use]
pub fn name_of(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, rest)| rest).split('?').next().unwrap_or_default()
}

/// A command that runs as a user that PostgreSQL accepts.
fn command(program: &Path, folder: &Path) -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--init-groups"]).arg(program);
        command.current_dir(folder);
        return command;
    }
    Command::new(program)
}

fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir(FOLDERS).context("PostgreSQL is not installed: install the package postgresql")?;
    let mut folders: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    folders.retain(|bin| bin.join("initdb").exists());
    folders.sort();
    folders.pop().context("PostgreSQL's server is not installed: install the package postgresql")
}
