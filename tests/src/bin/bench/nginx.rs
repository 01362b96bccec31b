//! nginx as a plain reverse proxy with kept connections: what a warm call is compared with.

use anyhow::{Context, Result};
use dormouse_tests::client::Target;
use dormouse_tests::proc::{Process, Program, children};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// A running nginx.
pub(crate) struct Nginx {
    process: Process,
    address: SocketAddr,
}

impl Nginx {
    /// Starts one worker in front of `upstream`.
    pub(crate) async fn start(folder: &Path, upstream: SocketAddr) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = folder.join("nginx");
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, config_text(&folder, address, upstream))?;
        let text = config.to_str().context("a path that is no text")?;
        let process = Program::new("nginx", folder.join("log")).args(["-p", ".", "-c", text]).start()?;
        let mut nginx = Self { process, address };
        for _ in 0..250 {
            nginx.process.check()?;
            if nginx.target().call(0).await.is_ok_and(|a| a.status == 200) {
                return Ok(nginx);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("nginx does not answer: {}", nginx.process.tail())
    }

    /// The function through it.
    pub(crate) fn target(&self) -> Target {
        Target::new(self.address, "localhost", "/")
    }

    /// Its processes: the master and its worker.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let mut pids = vec![self.process.pid()];
        pids.extend(children(self.process.pid())?);
        Ok(pids)
    }

    /// Ends it.
    pub(crate) fn end(self) -> Result<()> {
        self.process.end(Duration::from_secs(10)).map(drop)
    }
}

fn config_text(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream function {{ server {upstream}; keepalive 64; keepalive_requests 100000000; }}
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
