//! nginx as a plain reverse proxy, one worker, connections kept on both sides.

use crate::proxy::Proxy;
use anyhow::{Context, Result};
use dormouse_tests::proc::Program;
use std::net::SocketAddr;
use std::path::Path;

/// Starts it in front of `upstream`; with `log` it writes a line for every call, as its packages do by default.
pub(crate) async fn start(folder: &Path, upstream: SocketAddr, cores: &str, log: bool) -> Result<Proxy> {
    let folder = folder.join(if log { "nginx-log" } else { "nginx" });
    std::fs::create_dir_all(&folder)?;
    Proxy::start("nginx", |address| {
        let config = folder.join("nginx.conf");
        std::fs::write(&config, config_text(&folder, address, upstream, log))?;
        let text = config.to_str().context("a path that is no text")?;
        Ok(Program::new("nginx", folder.join("output")).args(["-p", ".", "-c", text]).on_cores(cores))
    })
    .await
}

/// Buffers hold the largest body of the bench (100 KiB) either way: nothing goes to a file, which would be unfair.
fn config_text(folder: &Path, listen: SocketAddr, upstream: SocketAddr, log: bool) -> String {
    let folder = folder.display();
    let log = if log { format!("{folder}/access.log combined") } else { "off".into() };
    format!(
        "daemon off;
master_process off; # so that ending it leaves no worker
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log {log};
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  client_body_buffer_size 128k;
  proxy_buffers 32 8k;
  upstream function {{ server {upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://function;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
    }}
  }}
}}
"
    )
}

/// Its name and version.
pub(crate) fn version() -> Result<String> {
    let output =
        std::process::Command::new("nginx").arg("-v").output().context("nginx (Debian package nginx-light)")?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: ", ""))
}
