//! Real servers as instances, and two proxies in front of the same ones; all of them write down what they saw.

use crate::cases::{INSTANCES, Meant};
use crate::common::{free_addr, until};
use dormouse_tests::proc::{Process, Program};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

/// Who is between the client and the instance, besides us.
pub(crate) const PROXIES: [&str; 2] = ["nginx", "haproxy"];

/// One line of an instance's log.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    event: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, String)>,
    #[serde(default)]
    bytes: serde_json::Value,
    #[serde(default)]
    pub(crate) trailers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn is_whole(&self) -> bool {
        self.event == "whole"
    }

    pub(crate) fn is_head(&self) -> bool {
        self.event == "head"
    }

    /// Whether the request carries the name of a case.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let named = self.target.match_indices(id).any(|(at, _)| {
            let (before, after) = (&self.target[..at], &self.target[at + id.len()..]);
            !before.ends_with(inside) && !after.starts_with(inside)
        });
        named || self.header("x-case") == [id]
    }

    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn meant(&self) -> Meant {
        // nginx writes the Content-Length as it stands: nothing for none.
        let bytes = self.bytes.as_u64().or_else(|| self.bytes.as_str()?.parse().ok()).unwrap_or(0);
        Meant { method: self.method.clone(), target: self.target.clone(), bytes }
    }
}

pub(crate) struct Origins {
    folder: PathBuf,
    instances: BTreeMap<&'static str, SocketAddr>,
    proxies: BTreeMap<(&'static str, &'static str), SocketAddr>,
    running: Vec<Process>,
}

impl Origins {
    /// Starts everything, and waits until it listens.
    pub(crate) async fn start(folder: &Path) -> Self {
        let instances: BTreeMap<_, _> = INSTANCES.map(|name| (name, free_addr())).into();
        let pairs = PROXIES.iter().flat_map(|&proxy| INSTANCES.map(|name| ((proxy, name), free_addr())));
        let proxies: BTreeMap<_, _> = pairs.collect();
        let mut origins = Self { folder: folder.to_owned(), instances, proxies, running: Vec::new() };
        let programs =
            [origins.node(), origins.python(), origins.nginx(), origins.proxy_nginx(), origins.proxy_haproxy()];
        for program in &programs {
            origins.running.push(program.start().unwrap());
        }
        for addr in origins.instances.values().chain(origins.proxies.values()) {
            until(&format!("something listens on {addr}"), || TcpStream::connect(addr).ok()).await;
        }
        origins
    }

    pub(crate) fn instance(&self, name: &str) -> SocketAddr {
        self.instances[name]
    }

    pub(crate) fn proxy(&self, proxy: &str, instance: &str) -> SocketAddr {
        *self.proxies.iter().find(|(names, _)| **names == (proxy, instance)).unwrap().1
    }

    /// Everything an instance has seen so far.
    pub(crate) fn seen(&self, instance: &str) -> Vec<Seen> {
        let text = std::fs::read(self.seen_log(instance)).unwrap();
        let text = String::from_utf8_lossy(&text);
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    fn seen_log(&self, instance: &str) -> PathBuf {
        let path = self.folder.join(format!("{instance}.seen"));
        std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        path
    }

    fn program(&self, path: &str, name: &str) -> Program {
        Program::new(path, self.folder.join(format!("{name}.log")))
    }

    fn node(&self) -> Program {
        let (script, port) = (source("node.js"), self.instances["node"].port());
        let log = self.seen_log("node");
        self.program("node", "node").args([text(&script), port.to_string(), text(&log)])
    }

    fn python(&self) -> Program {
        let bind = self.instances["python"].to_string();
        let folder = text(source("seen.py").parent().unwrap());
        // Debian's: another Python in PATH does not know its packages.
        self.program("/usr/bin/gunicorn", "python")
            .args(["--worker-class=gthread", "--threads=32", "--keep-alive=5", "--worker-tmp-dir=/dev/shm"])
            .args([format!("--chdir={folder}"), format!("--bind={bind}"), "seen:app".into()])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SEEN_LOG", text(&self.seen_log("python")))
    }

    fn nginx(&self) -> Program {
        let more = [("INNER", free_addr().port().to_string()), ("LOG", text(&self.seen_log("nginx")))];
        let ports = [("PORT", self.instances["nginx"].port().to_string())];
        let file = self.filled("nginx.conf", more.into_iter().chain(ports));
        self.program("/usr/sbin/nginx", "nginx").args(["-p".into(), text(&self.folder), "-c".into(), text(&file)])
    }

    fn proxy_nginx(&self) -> Program {
        let file = self.filled("nginx-proxy.conf", self.ports("nginx"));
        let folder = text(&self.folder);
        self.program("/usr/sbin/nginx", "nginx-proxy").args(["-p".into(), folder, "-c".into(), text(&file)])
    }

    fn proxy_haproxy(&self) -> Program {
        let file = self.filled("haproxy.cfg", self.ports("haproxy"));
        self.program("/usr/sbin/haproxy", "haproxy").args(["-db".into(), "-f".into(), text(&file)])
    }

    /// Ports of the instances and of a proxy's fronts, by their names in a configuration.
    fn ports(&self, proxy: &str) -> impl Iterator<Item = (&'static str, String)> {
        let names =
            [("node", "NODE", "NODE_FRONT"), ("python", "PYTHON", "PYTHON_FRONT"), ("nginx", "NGINX", "NGINX_FRONT")];
        names.into_iter().flat_map(move |(name, back, front)| {
            [(back, self.instances[name].port().to_string()), (front, self.proxy(proxy, name).port().to_string())]
        })
    }

    fn filled(&self, name: &str, values: impl Iterator<Item = (&'static str, String)>) -> PathBuf {
        let mut content = std::fs::read_to_string(source(name)).unwrap();
        for (key, value) in values.chain([("FOLDER", text(&self.folder))]) {
            content = content.replace(&format!("{{{key}}}"), &value);
        }
        let file = self.folder.join(name);
        std::fs::write(&file, content).unwrap();
        file
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("origins").join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
