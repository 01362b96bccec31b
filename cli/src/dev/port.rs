//! The two ports, and who has one that we cannot have, as far as /proc tells.

use crate::exit::{Failure, Outcome};
use dormouse_activator::BindError;
use dormouse_controller::ControllerError;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// Where we listen; both on this machine only.
pub(crate) struct Ports {
    /// Calls.
    pub(crate) traffic: SocketAddr,
    /// The usage API.
    pub(crate) usage: SocketAddr,
}

impl Ports {
    const FLAGS: [&str; 2] = ["--port", "--usage-port"];

    pub(crate) fn new(traffic: u16, usage: u16) -> Self {
        let [traffic, usage] = [traffic, usage].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { traffic, usage }
    }

    /// Whether they are to be had now; nothing is kept.
    pub(crate) fn check(&self) -> Outcome {
        if self.traffic.port() != 0 && self.traffic == self.usage {
            return Err(Failure::usage("--port and --usage-port are the same"));
        }
        for (address, flag) in [self.traffic, self.usage].into_iter().zip(Self::FLAGS) {
            std::net::TcpListener::bind(address).map_err(|e| failure(address, flag, &e))?;
        }
        Ok(())
    }

    pub(crate) fn activator_failure(&self, error: BindError) -> Failure {
        match error {
            BindError::Listen { addr, source } => failure(addr, Self::FLAGS[0], &source),
            other => Failure::failed(other),
        }
    }

    pub(crate) fn controller_failure(&self, error: ControllerError) -> Failure {
        match error {
            ControllerError::Bind { address, source, .. } if address == self.usage => {
                failure(address, Self::FLAGS[1], &source)
            }
            other => Failure::failed(other),
        }
    }
}

/// Why a port could not be had, and what to do.
fn failure(address: SocketAddr, flag: &str, error: &io::Error) -> Failure {
    let port = address.port();
    let next = port.checked_add(1).unwrap_or(0);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who =
                holder(port).map_or_else(|| "another process".into(), |(pid, name)| format!("{name} (process {pid})"));
            Failure::failed(format!(
                "port {port} is taken by {who}: stop it, or choose another with {flag} (for example {flag} {next})"
            ))
        }
        io::ErrorKind::PermissionDenied => Failure::failed(format!(
            "port {port} needs more rights than this user has: choose one above 1023 with {flag}"
        )),
        _ => Failure::failed(format!("cannot listen on {address}: {error}; choose another port with {flag}")),
    }
}

/// The process that listens on a local TCP port.
fn holder(port: u16) -> Option<(u32, String)> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|f| fs::read_to_string(f).ok())
        .flat_map(|t| listeners(&t, port))
        .collect();
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if links.is_empty() {
        return None;
    }
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // Other users' descriptors cannot be read: then nobody is named.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |d: fs::DirEntry| {
            fs::read_link(d.path()).is_ok_and(|l| l.to_str().is_some_and(|l| links.iter().any(|s| s == l)))
        };
        if descriptors.flatten().any(holds) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().into()));
        }
    }
    None
}

/// Inodes of the sockets that listen on a port, from a table of the kernel: the second column is the local address
/// (hexadecimal), the fourth the state (0A listens), the tenth the inode.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|c| c.get(1).is_some_and(|a| a.ends_with(&wanted)) && c.get(3) == Some(&"0A"))
        .filter_map(|c| c.get(9).map(ToString::to_string))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (pid, _) = holder(address.port()).unwrap();
        assert_eq!(pid, std::process::id());
        let taken = std::net::TcpListener::bind(address).unwrap_err();
        let failure = failure(address, "--port", &taken);
        assert!(failure.message().contains(&format!("(process {pid})")), "{}", failure.message());
        assert!(failure.message().contains("--port"), "{}", failure.message());
    }

    #[test]
    fn only_listeners_count() {
        let table = "sl local rem st tx tr retr uid timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n\
            1: 0100007F:1F90 0100007F:9999 01 0:0 0:0 0 0 0 78 1\n\
            2: 0100007F:1F91 00000000:0000 0A 0:0 0:0 0 0 0 79 1\n";
        assert_eq!(listeners(table, 8080), ["77"]);
    }
}
