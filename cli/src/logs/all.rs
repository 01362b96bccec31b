//! The logs of all instances of a function as one.

use super::line::{Line, Wanted};
use super::tail::{Instances, Reader, Stage};
use crate::exit::Failure;
use crate::say;
use crate::target::cluster::words;
use crate::target::details;
use dormouse_controller::labels;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use std::collections::HashSet;
use std::io;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most logs that are read at once, each a connection to the API server: eight times kubectl's default.
const MAX_LOGS: usize = 40;

/// Lines that wait to be printed.
const LINES: usize = 1024;

/// Most objects of one answer.
const PAGE: u32 = 500;

/// Every line that there is, in the order of their times. Answers whether any instance was seen.
pub(crate) async fn so_far(instances: &Instances, wanted: &Wanted) -> Result<bool, Failure> {
    let mut logs = Vec::new();
    let (mut seen, mut left) = (false, 0);
    for pod in list(instances).await? {
        let name = pod.name_any();
        match instances.stage(&pod) {
            None => continue,
            Some(Stage::Before) => say::note(format_args!("{name} has not started yet")),
            Some(Stage::Logs | Stage::Over) if logs.len() == MAX_LOGS => left += 1,
            Some(Stage::Logs | Stage::Over) => match instances.open((&name, details::name(&pod)), false, None).await {
                Ok(reader) => logs.push(Log { name, reader, next: None }),
                Err(error) => say::note(format_args!("{name}: {}", words(&error))),
            },
        }
        seen = true;
    }
    if left > 0 {
        say::note(format_args!("{left} more instances are left out: name one with --instance"));
    }
    for log in &mut logs {
        log.advance().await;
    }
    // The number of logs is small: the oldest of their next lines is looked for among all.
    while let Some(oldest) = oldest(&logs) {
        let Some(line) = logs[oldest].next.take() else { break };
        if !print(wanted, &logs[oldest].name, &line)? {
            break;
        }
        logs[oldest].advance().await;
    }
    Ok(seen)
}

/// A log and its next line.
struct Log {
    name: String,
    reader: Reader,
    next: Option<Line>,
}

impl Log {
    async fn advance(&mut self) {
        self.next = match self.reader.next().await {
            Ok(next) => next,
            Err(error) => {
                say::note(format_args!("{}: its log broke off: {error}", self.name));
                None
            }
        };
    }
}

/// A line without a time follows the one before it.
fn oldest(logs: &[Log]) -> Option<usize> {
    let waiting = logs.iter().enumerate().filter_map(|(n, log)| Some((log.next.as_ref()?.time, n)));
    waiting.min().map(|(_, n)| n)
}

/// Every line that there is and that comes, until nobody reads any more.
pub(crate) async fn follow(instances: &Instances, wanted: &Wanted) -> Result<bool, Failure> {
    // Told at once when it is not allowed; the watch would try for ever.
    list(instances).await?;
    let (sender, mut lines) = mpsc::channel::<(String, Line)>(LINES);
    let mut following =
        Following { instances, sender, known: HashSet::new(), left_out: HashSet::new(), tails: JoinSet::new() };
    let watched = watcher(instances.pods.clone(), watcher::Config::default().labels(labels::OURS)).default_backoff();
    let mut watched = pin!(watched);
    loop {
        tokio::select! {
            event = watched.next() => match event {
                Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) => following.see(&pod),
                Some(Ok(watcher::Event::Delete(pod))) => {
                    let uid = pod.uid().unwrap_or_default();
                    following.known.remove(&uid);
                    following.left_out.remove(&uid);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => say::note(format_args!("instances are not seen at the moment: {error}")),
                None => return Ok(true),
            },
            Some(ended) = following.tails.join_next() => if let Ok(Err(why)) = ended {
                say::note(why);
            },
            Some((name, line)) = lines.recv() => if !print(wanted, &name, &line)? {
                return Ok(true);
            },
        }
    }
}

struct Following<'a> {
    instances: &'a Instances,
    sender: mpsc::Sender<(String, Line)>,
    /// Uids of the pods whose logs are or were read.
    known: HashSet<String>,
    /// Uids of the pods that were told to be left out: their logs are read once others have ended.
    left_out: HashSet<String>,
    tails: JoinSet<Result<(), String>>,
}

impl Following<'_> {
    fn see(&mut self, pod: &Pod) {
        if !matches!(self.instances.stage(pod), Some(Stage::Logs | Stage::Over)) {
            return;
        }
        let (uid, name) = (pod.uid().unwrap_or_default(), pod.name_any());
        if self.known.contains(&uid) {
            return;
        }
        if self.tails.len() >= MAX_LOGS {
            if self.left_out.insert(uid) {
                say::note(format_args!(
                    "{name} is left out: {MAX_LOGS} logs are read at once; name one with --instance"
                ));
            }
            return;
        }
        self.known.insert(uid);
        let (instances, container, sender) = (self.instances.clone(), details::name(pod), self.sender.clone());
        self.tails.spawn(async move {
            let tailed = instances.tail(name.clone(), container, sender).await;
            tailed.map_err(|why| format!("{name}: {why}"))
        });
    }
}

/// Everything of ours in the namespace: a claimed pod has its function's labels only after its first call.
async fn list(instances: &Instances) -> Result<Vec<Pod>, Failure> {
    let mut pods = Vec::new();
    let mut params = ListParams::default().labels(labels::OURS).limit(PAGE);
    loop {
        let page = instances.pods.list(&params).await;
        let page = page.map_err(|e| Failure::failed(format!("cannot list instances: {}", words(&e))))?;
        pods.extend(page.items);
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

/// Answers whether anybody reads.
fn print(wanted: &Wanted, name: &str, line: &Line) -> Result<bool, Failure> {
    let Some(shown) = wanted.show(name, line) else { return Ok(true) };
    match say::bytes(format!("{shown}\n").as_bytes()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e.into()),
    }
}
