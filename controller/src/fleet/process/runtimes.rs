//! The language runtimes, written out of this program and run as they are run in a cluster: parked, and loaded once.

use super::{Shared, leftover::MARK};
use crate::load;
use dormouse_core::function::Runtime;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tokio::process::{Child, Command};

macro_rules! files {
    ($($path:literal),+ $(,)?) => { [$(($path, include_str!(concat!("../../../../runtimes/", $path)))),+] };
}

/// Every file that a runtime is made of, below `runtimes/`.
const FILES: [(&str, &str); 37] = files![
    "nodejs/lib/answer.js",
    "nodejs/lib/base64.js",
    "nodejs/lib/calls.js",
    "nodejs/lib/door.js",
    "nodejs/lib/event.js",
    "nodejs/lib/guard.js",
    "nodejs/lib/handler.js",
    "nodejs/lib/init.js",
    "nodejs/lib/log.js",
    "nodejs/lib/rehearse.js",
    "nodejs/lib/result.js",
    "nodejs/lib/runtime.js",
    "nodejs/lib/server.js",
    "nodejs/lib/signature.js",
    "nodejs/lib/spec.js",
    "nodejs/lib/where.js",
    "nodejs/index.d.ts",
    "nodejs/main.js",
    "nodejs/package.json",
    "python/dormouse/__init__.py",
    "python/dormouse/py.typed",
    "python/dormouse/runtime/__init__.py",
    "python/dormouse/runtime/calls.py",
    "python/dormouse/runtime/door.py",
    "python/dormouse/runtime/ed25519.py",
    "python/dormouse/runtime/event.py",
    "python/dormouse/runtime/handler.py",
    "python/dormouse/runtime/http1.py",
    "python/dormouse/runtime/log.py",
    "python/dormouse/runtime/main.py",
    "python/dormouse/runtime/rehearse.py",
    "python/dormouse/runtime/result.py",
    "python/dormouse/runtime/spec.py",
    "python/dormouse/runtime/traffic.py",
    "python/dormouse/runtime/user.py",
    "python/dormouse/runtime/watch.py",
    "python/main.py",
];

/// Parked processes of each runtime: who claims one starts the next.
const PARKED: usize = 1;

/// Writes the runtimes below a folder, whatever another version left there.
fn write(folder: &Path) -> io::Result<()> {
    for (path, text) in FILES {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(file, text)?;
    }
    Ok(())
}

/// Interpreter and first file of a runtime.
fn program(runtime: Runtime) -> (&'static str, &'static str) {
    match runtime {
        Runtime::Nodejs => ("node", "nodejs/main.js"),
        Runtime::Python => ("python3", "python/main.py"),
    }
}

/// A runtime that runs and was given nothing yet.
pub(super) struct ParkedProcess {
    pub(super) child: Child,
    /// Who it was told that it is.
    pub(super) pod: String,
    /// Where it takes its load.
    pub(super) door: SocketAddr,
    /// Where it will take calls.
    pub(super) calls: SocketAddr,
}

/// The parked processes.
#[derive(Default)]
pub(super) struct Parked {
    by_runtime: HashMap<Runtime, Vec<ParkedProcess>>,
    /// The runtimes were written.
    written: bool,
    /// No process is parked any more.
    closed: bool,
}

impl Shared {
    /// A command that runs a runtime, with its ports.
    pub(super) fn runtime_command(&self, runtime: Runtime) -> io::Result<Command> {
        let folder = self.runtimes()?;
        let (interpreter, file) = program(runtime);
        let mut command = Command::new(interpreter);
        command.arg(folder.join(file)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Our own settings, the token among them, are not the function's to see.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("DORMOUSE_")) {
            command.env_remove(name);
        }
        command.env("HOST", Ipv4Addr::LOCALHOST.to_string()).env(MARK, &self.config.mark).process_group(0);
        Ok(command)
    }

    fn runtimes(&self) -> io::Result<PathBuf> {
        let mut parked = self.parked.lock();
        if !parked.written {
            write(&self.config.runtimes)?;
            parked.written = true;
        }
        Ok(self.config.runtimes.clone())
    }

    /// Starts one that waits for its load.
    fn park(&self, runtime: Runtime) -> io::Result<ParkedProcess> {
        let [calls, door] = [self.free_port()?, self.free_port()?];
        let pod = uuid::Uuid::new_v4().to_string();
        let mut command = self.runtime_command(runtime)?;
        command
            .current_dir(self.runtimes()?)
            .env("PORT", calls.to_string())
            .env("DORMOUSE_LOAD_PORT", door.to_string())
            .env("DORMOUSE_LOAD_KEY", self.load_key.public())
            .env("DORMOUSE_POD_UID", &pod);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match command.spawn() {
            Ok(child) => Ok(ParkedProcess { child, pod, door: at(door), calls: at(calls) }),
            Err(e) => {
                self.give_ports_back([calls, door]);
                let (interpreter, _) = program(runtime);
                let how = match e.kind() {
                    io::ErrorKind::NotFound => format!("{interpreter} is not installed here, or not in PATH"),
                    _ => format!("{interpreter}: {e}"),
                };
                Err(io::Error::new(e.kind(), how))
            }
        }
    }

    pub(super) fn give_ports_back(&self, ports: impl IntoIterator<Item = u16>) {
        let mut taken = self.ports.lock();
        for port in ports {
            taken.remove(&port);
        }
    }

    /// A process that nobody else gets: one that is parked, if there is one that still runs.
    pub(super) fn claim(&self, runtime: Runtime) -> io::Result<ParkedProcess> {
        loop {
            let Some(mut found) = self.parked.lock().by_runtime.get_mut(&runtime).and_then(Vec::pop) else { break };
            if matches!(found.child.try_wait(), Ok(None)) {
                return Ok(found);
            }
            self.give_ports_back([found.calls.port(), found.door.port()]);
        }
        self.park(runtime)
    }

    /// Parks as many of a runtime as there are to be.
    pub(super) fn refill(self: &Arc<Self>, runtime: Runtime) {
        let missing = {
            let parked = self.parked.lock();
            let there = parked.by_runtime.get(&runtime).map_or(0, Vec::len);
            if parked.closed { 0 } else { PARKED.saturating_sub(there) }
        };
        for _ in 0..missing {
            // Whoever wants one will be told why there is none.
            let Ok(mut process) = self.park(runtime) else { return };
            let mut parked = self.parked.lock();
            if parked.closed {
                let _ = process.child.start_kill();
                return;
            }
            parked.by_runtime.entry(runtime).or_default().push(process);
        }
    }

    /// Ends those that are parked, and parks none any more.
    pub(super) async fn unpark(&self) {
        let parked: Vec<ParkedProcess> = {
            let mut parked = self.parked.lock();
            parked.closed = true;
            parked.by_runtime.drain().flat_map(|(_, list)| list).collect()
        };
        for mut process in parked {
            let _ = process.child.kill().await;
        }
    }
}

/// Why code could not be loaded, and whether it is the code's fault.
pub(super) fn why(error: &load::LoadError) -> (bool, String) {
    match error {
        load::LoadError::Broken { code, message } => (true, format!("{code}: {message}")),
        load::LoadError::Held(_) | load::LoadError::Failed(_) => (false, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every file of a runtime's folder but what is for images and tests.
    fn there(folder: &Path, below: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let no_code = ["Dockerfile", "README.md", "test", "tests", "__pycache__"];
            if no_code.contains(&name.as_str()) || name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                there(&path, below, found);
            } else {
                found.insert(path.strip_prefix(below).unwrap().to_str().unwrap().to_owned());
            }
        }
    }

    #[test]
    fn every_file_is_written() {
        let runtimes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimes");
        let mut wanted = BTreeSet::new();
        there(&runtimes, &runtimes, &mut wanted);
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let mut written = BTreeSet::new();
        there(folder.path(), folder.path(), &mut written);
        assert_eq!(written, wanted);
    }
}
