//! What every bench of the activator stands on: an origin, a scripted controller with the real ledger, and the release
//! activator, each a process of its own.

use crate::proxy::Proxy;
use anyhow::{Context, Result};
use dormouse_controller::ledger::Place;
use dormouse_proto::v1;
use dormouse_tests::env::Env;
use dormouse_tests::ground;
use dormouse_tests::pair::free_ports;
use dormouse_tests::proc::Program;
use dormouse_tests::script::{self, Script};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The token that activator and script share.
pub(crate) const TOKEN: &str = "bench";

/// Name of the one function that `bench script` tells.
pub(crate) const FUNCTION: &str = "warm";

/// This program.
pub(crate) fn this() -> Result<PathBuf> {
    std::env::current_exe().context("this program's path")
}

/// On these cores, or with all of the machine's.
fn on(program: Program, cores: Option<&str>) -> Program {
    match cores {
        Some(cores) => program.on_cores(cores),
        None => program,
    }
}

/// Starts `bench origin`.
pub(crate) async fn origin(folder: &Path, cores: Option<&str>) -> Result<Proxy> {
    let this = this()?;
    Proxy::start("the origin", |addr| {
        let args = ["origin".to_owned(), "--listen".into(), addr.to_string()];
        Ok(on(Program::new(this, folder.join("origin.log")).args(args), cores))
    })
    .await
}

/// Starts `bench script`: one function with one instance, which is the origin. Where it shares a core it yields to the
/// client and the instance: elsewhere the ledger has a machine of its own.
pub(crate) async fn script(folder: &Path, origin: SocketAddr, cores: Option<&str>) -> Result<Proxy> {
    scripted(folder, origin, cores, None, Program::yielding).await
}

/// The same for who waits for the ledger: it yields to nobody. The ledger may be in a database.
pub(crate) async fn ledger(
    folder: &Path,
    origin: SocketAddr,
    cores: Option<&str>,
    database: Option<&str>,
) -> Result<Proxy> {
    scripted(folder, origin, cores, database, |program| program).await
}

async fn scripted(
    folder: &Path,
    origin: SocketAddr,
    cores: Option<&str>,
    database: Option<&str>,
    rank: fn(Program) -> Program,
) -> Result<Proxy> {
    let this = this()?;
    Proxy::start("the script", |addr| {
        let ledger = folder.join("ledger");
        let ledger = ledger.to_str().context("a path that is no text")?.to_owned();
        let args = [format!("--listen={addr}"), format!("--instance={origin}"), format!("--ledger-dir={ledger}")];
        let program = Program::new(this, folder.join("script.log")).args(["script"]).args(args);
        Ok(on(rank(program.args(database.map(|url| format!("--database={url}")))), cores))
    })
    .await
}

/// Starts the release activator of a controller at `controller`.
pub(crate) async fn activator(folder: &Path, name: &str, controller: SocketAddr, cores: Option<&str>) -> Result<Proxy> {
    let program = Env::read()?.program("dormouse-activator")?;
    let spool = folder.join(format!("{name}-spool"));
    let spool = spool.to_str().context("a path that is no text")?.to_owned();
    let [admin] = free_ports()?;
    Proxy::start("the activator", |addr| {
        let args = [format!("--listen={addr}"), format!("--admin={admin}"), format!("--name={name}")];
        let program = Program::new(program, folder.join(format!("{name}.log")))
            .args(args)
            .args([format!("--controller=http://{controller}"), format!("--spool-dir={spool}")])
            .env("DORMOUSE_TOKEN", TOKEN);
        Ok(on(program, cores))
    })
    .await
}

/// `bench script`: serves until it is ended. Besides [`FUNCTION`] it tells one function for each mode of durability, by
/// its name.
pub(crate) async fn serve_script(listen: SocketAddr, instance: SocketAddr, place: Place) -> Result<()> {
    let script = Script::start_on(listen, TOKEN, place).await?;
    let modes = ground::MODES.map(|mode| v1::Function {
        durability: v1::Durability::from(mode).into(),
        ..script::awake(ground::name(mode), instance)
    });
    script.tell(modes.into_iter().chain([script::awake(FUNCTION, instance)]).collect());
    std::future::pending().await
}
