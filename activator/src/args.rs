//! What the command line says; each flag is also an environment variable.

use clap::Parser;
use dormouse_activator::{AccessLog, Config, Limits, Network, memory_allowance};
use dormouse_daemon::Token;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The data path of Dormouse: takes calls, wakes functions, forwards, meters.
#[derive(Parser, Debug)]
#[command(name = "dormouse-activator", version)]
pub(crate) struct Args {
    /// Where calls come in.
    #[arg(long, env = "DORMOUSE_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where /livez, /readyz, /startupz, /metrics and /loglevel are served.
    #[arg(long, env = "DORMOUSE_ADMIN", default_value = "0.0.0.0:9090")]
    pub(crate) admin: SocketAddr,
    /// The controller's gRPC address.
    #[arg(long, env = "DORMOUSE_CONTROLLER", default_value = "http://dormouse-controller:7070")]
    controller: String,
    /// File with the shared token; without it the token is taken from DORMOUSE_TOKEN.
    #[arg(long, env = "DORMOUSE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The shared token itself. Not a flag: command lines are visible to everyone.
    #[arg(skip = std::env::var("DORMOUSE_TOKEN").ok())]
    token: Option<String>,
    /// Name of this activator: its pod.
    #[arg(long, env = "DORMOUSE_NAME", default_value = "activator")]
    name: String,
    /// Where other activators hand over calls that they may not run themselves; without it they do not, and a call waits
    /// where it came in.
    #[arg(long, env = "DORMOUSE_PEER_LISTEN")]
    peer_listen: Option<SocketAddr>,
    /// Where they reach that port: an IP address (the pod's), with or without a port. Needed when it is bound to every
    /// address.
    #[arg(long, env = "DORMOUSE_PEER_ADVERTISE")]
    peer_advertise: Option<String>,
    /// Folder of the spool: records wait there for the ledger.
    #[arg(long, env = "DORMOUSE_SPOOL_DIR", default_value = "/var/spool/dormouse")]
    spool_dir: PathBuf,
    /// Bound of the spool in bytes; over it calls are refused with 503.
    #[arg(long, env = "DORMOUSE_SPOOL_MAX_BYTES", default_value_t = 256 << 20, value_parser = spool_bytes)]
    spool_max_bytes: u64,
    /// Write a word of each call to the spool before it is dispatched, so that after a kill of the process every call has a
    /// record, aborted and billed 0 where its end is not known. Without it the same is so of calls that had run for 10 ms
    /// (and either another call had ended since, or a second was over). Costs each call a write(2).
    #[arg(long, env = "DORMOUSE_EVERY_INTENT")]
    every_intent: bool,
    /// Networks of proxies whose Forwarded and X-Forwarded-* headers are kept (CIDR, separated by commas).
    #[arg(long, env = "DORMOUSE_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxies: Vec<Network>,
    /// Connections at once.
    #[arg(long, env = "DORMOUSE_MAX_CONNECTIONS", default_value_t = Limits::default().connections)]
    max_connections: usize,
    /// Connections at once from one address.
    #[arg(long, env = "DORMOUSE_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = Limits::default().connections_per_address)]
    max_connections_per_address: usize,
    /// Calls that wait at once, over all functions; of one function at most half as many.
    #[arg(long, env = "DORMOUSE_MAX_WAITING", default_value_t = Limits::default().waiting)]
    max_waiting: usize,
    /// Bytes buffered of calls that wait at once, over all functions: request line, headers, and what was read along
    /// with them of the body; of one function at most half as many. The default holds the most calls that may wait with
    /// 12.8 KiB each.
    #[arg(long, env = "DORMOUSE_MAX_WAITING_BYTES", default_value_t = Limits::default().waiting_bytes,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1 << 20..))]
    max_waiting_bytes: usize,
    /// Memory of the process in bytes over which new calls are refused with 503 until it is below; 0: unbounded
    /// [default: nine tenths of the container's memory limit]
    #[arg(long, env = "DORMOUSE_MAX_MEMORY_BYTES")]
    max_memory_bytes: Option<u64>,
    /// Bytes of a request head.
    #[arg(long, env = "DORMOUSE_MAX_HEAD_BYTES", default_value_t = Limits::default().head_bytes,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(8192..=1 << 20))]
    max_head_bytes: usize,
    /// Header lines of a request. Each takes about 100 bytes beside its text while its call lasts.
    #[arg(long, env = "DORMOUSE_MAX_HEADER_LINES", default_value_t = Limits::default().header_lines,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(16..=1000))]
    max_header_lines: usize,
    /// Calls at once on one HTTP/2 connection: each holds up to 160 KiB of body and response in buffers.
    #[arg(long, env = "DORMOUSE_MAX_HTTP2_STREAMS", default_value_t = Limits::default().http2_streams,
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_http2_streams: u32,
    /// Bytes of a request head on HTTP/2: names, values and 32 for each header.
    #[arg(long, env = "DORMOUSE_MAX_HTTP2_HEAD_BYTES", default_value_t = Limits::default().http2_head_bytes,
        value_parser = clap::value_parser!(u32).range(8192..=1 << 20))]
    max_http2_head_bytes: u32,
    /// Seconds from the first byte of a request head to its last one; also from a connection to its first byte.
    #[arg(long, env = "DORMOUSE_HEAD_LIMIT_SECONDS", default_value_t = Limits::default().head.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    head_limit_seconds: u64,
    /// Seconds that a connection may idle between two calls; more than whatever is in front keeps its own.
    #[arg(long, env = "DORMOUSE_IDLE_LIMIT_SECONDS", default_value_t = Limits::default().idle.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..=86400))]
    idle_limit_seconds: u64,
    /// Write a JSON line for each call that was dispatched or refused: to standard output, or to the end of a file. Lines
    /// that nobody takes in time are dropped and counted; no call waits for one.
    #[arg(long, env = "DORMOUSE_ACCESS_LOG", value_name = "FILE", num_args = 0..=1, require_equals = true,
        default_missing_value = "-")]
    access_log: Option<AccessLog>,
    /// Send the traces of sampled calls to this collector (OTLP over gRPC), such as http://collector:4317.
    #[arg(long, env = "DORMOUSE_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Part of the calls whose caller has not decided (no valid traceparent) that are sampled: 0 to 1. The function is
    /// told, with or without a collector. A caller's own decision is kept.
    #[arg(long, env = "DORMOUSE_TRACE_RATIO", default_value_t = 1.0, value_parser = ratio)]
    trace_ratio: f64,
    /// Seconds to keep serving after SIGTERM, until whoever routes to us has noticed.
    #[arg(long, env = "DORMOUSE_DRAIN_DELAY_SECONDS", default_value_t = 0)]
    drain_delay_seconds: u64,
    /// Seconds that running calls have after that.
    #[arg(long, env = "DORMOUSE_DRAIN_LIMIT_SECONDS", default_value_t = 30)]
    drain_limit_seconds: u64,
    /// Seconds that records have after that to leave for the ledger.
    #[arg(long, env = "DORMOUSE_SHIP_LIMIT_SECONDS", default_value_t = 5)]
    ship_limit_seconds: u64,
}

impl Args {
    /// The configuration; reads the token file.
    pub(crate) fn config(self) -> anyhow::Result<Config> {
        let token = match (&self.token_file, self.token) {
            (Some(file), _) => {
                std::fs::read_to_string(file).map_err(|e| anyhow::anyhow!("token file {}: {e}", file.display()))?
            }
            (None, Some(token)) => token,
            (None, None) => anyhow::bail!("no token: set DORMOUSE_TOKEN or --token-file"),
        };
        let token = Token::new(&token).ok_or_else(|| anyhow::anyhow!("the token is empty"))?;
        let mut config = Config::new(self.listen, self.controller, token, self.spool_dir);
        config.name = self.name;
        config.spool_max_bytes = self.spool_max_bytes;
        config.every_intent = self.every_intent;
        config.peer_listen = self.peer_listen;
        config.peer_advertise = self.peer_advertise;
        config.trusted_proxies = self.trusted_proxies;
        config.limits.connections = self.max_connections;
        config.limits.connections_per_address = self.max_connections_per_address;
        config.limits.waiting = self.max_waiting;
        config.limits.waiting_bytes = self.max_waiting_bytes;
        config.max_memory_bytes = self.max_memory_bytes.or_else(memory_allowance).filter(|&bytes| bytes > 0);
        config.limits.head_bytes = self.max_head_bytes;
        config.limits.header_lines = self.max_header_lines;
        config.limits.http2_streams = self.max_http2_streams;
        config.limits.http2_head_bytes = self.max_http2_head_bytes;
        config.limits.head = Duration::from_secs(self.head_limit_seconds);
        config.limits.first_byte = config.limits.head;
        config.limits.idle = Duration::from_secs(self.idle_limit_seconds);
        config.access_log = self.access_log;
        config.otlp_endpoint = self.otlp_endpoint;
        config.trace_ratio = self.trace_ratio;
        config.drain_delay = Duration::from_secs(self.drain_delay_seconds);
        config.drain_limit = Duration::from_secs(self.drain_limit_seconds);
        config.ship_limit = Duration::from_secs(self.ship_limit_seconds);
        Ok(config)
    }
}

/// Sixteen segments of the smallest size, so that trimming frees room long before the bound.
const LEAST_SPOOL: u64 = 64 << 10;

fn spool_bytes(text: &str) -> Result<u64, String> {
    let bytes: u64 = text.parse().map_err(|_| "write a number of bytes".to_owned())?;
    if bytes < LEAST_SPOOL {
        return Err(format!("a spool needs at least {LEAST_SPOOL} bytes (64 KiB)"));
    }
    Ok(bytes)
}

fn ratio(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|r| (0.0..=1.0).contains(r)).ok_or_else(|| "write a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Args, String> {
        let words = ["dormouse-activator"].iter().chain(more);
        Args::try_parse_from(words).map_err(|e| e.to_string())
    }

    #[test]
    fn bounds_are_taken_from_flags_and_checked() {
        let args =
            parse(&["--spool-max-bytes", "65536", "--idle-limit-seconds", "9", "--max-waiting-bytes", "2097152"]);
        let args = args.map_err(|e| panic!("{e}")).ok();
        let taken = args.map(|a| (a.spool_max_bytes, a.idle_limit_seconds, a.head_limit_seconds, a.max_waiting_bytes));
        assert_eq!(taken, Some((65536, 9, 10, 2 << 20)));
        assert!(parse(&["--spool-max-bytes", "65535"]).is_err_and(|e| e.contains("64 KiB")));
        assert!(parse(&["--spool-max-bytes", "1GB"]).is_err_and(|e| e.contains("number of bytes")));
        assert!(parse(&["--head-limit-seconds", "0"]).is_err());
        assert!(parse(&["--max-header-lines", "15"]).is_err() && parse(&["--max-header-lines", "16"]).is_ok());
    }

    #[test]
    fn what_is_told_of_calls_is_off_until_asked_for() {
        let told = |more: &[&str]| parse(more).map(|a| (a.access_log, a.otlp_endpoint, a.trace_ratio));
        assert_eq!(told(&[]), Ok((None, None, 1.0)));
        assert_eq!(told(&["--access-log"]), Ok((Some(AccessLog::StandardOutput), None, 1.0)));
        let more = ["--access-log=/a", "--otlp-endpoint", "http://c:4317", "--trace-ratio", "0.01"];
        let expected = (Some(AccessLog::File("/a".into())), Some("http://c:4317".into()), 0.01);
        assert_eq!(told(&more), Ok(expected));
        for bad in ["--trace-ratio=2", "--trace-ratio=-1", "--trace-ratio=NaN", "--access-log="] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
