//! HAProxy as a plain reverse proxy, one thread, connections kept on both sides.

use crate::proxy::Proxy;
use anyhow::{Context, Result};
use dormouse_tests::proc::Program;
use std::net::SocketAddr;
use std::path::Path;

/// Starts it in front of `upstream`.
pub(crate) async fn start(folder: &Path, upstream: SocketAddr, cores: &str) -> Result<Proxy> {
    Proxy::start("haproxy", |address| {
        let config = folder.join("haproxy.cfg");
        std::fs::write(&config, config_text(address, upstream))?;
        let text = config.to_str().context("a path that is no text")?;
        Ok(Program::new("haproxy", folder.join("haproxy.log")).args(["-db", "-f", text]).on_cores(cores))
    })
    .await
}

fn config_text(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend calls
  bind {listen} backlog 4096
  default_backend function
backend function
  server instance {upstream} pool-max-conn -1
"
    )
}

/// Its name and version.
pub(crate) fn version() -> Result<String> {
    let text = dormouse_tests::proc::run(std::process::Command::new("haproxy").arg("-v"))
        .context("haproxy (Debian package haproxy)")?;
    Ok(text.split_whitespace().take(3).collect::<Vec<_>>().join(" ").replace("version ", ""))
}
