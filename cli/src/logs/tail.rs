//! The log of one instance: its container `fn`, which may be an ephemeral one, over its restarts.

use super::line::Line;
use crate::target::cluster::words;
use crate::target::details;
use dormouse_controller::fleet::kubernetes::instance;
use dormouse_controller::fleet::{FunctionUid, Phase};
use futures::io::{AsyncBufRead, AsyncBufReadExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Longest line in bytes; the rest of it is left out. The runtimes cut a message at 64 Ki characters, which as JSON are at
/// most 6 bytes each, and a stack is as long: below 1 MiB.
const MAX_LINE: usize = 1 << 20;

/// Before a log that ended is looked at again: its container may be started anew.
const AGAIN: Duration = Duration::from_secs(1);

/// The instances of a function, and what of their logs is wanted.
#[derive(Clone)]
pub(crate) struct Instances {
    pub(crate) pods: Api<Pod>,
    /// The function's uid.
    pub(crate) function: FunctionUid,
    /// Only this one.
    pub(crate) only: Option<String>,
    /// Only from so many seconds ago on.
    pub(crate) since: Option<i64>,
}

/// How far a pod is as an instance of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing can have been logged.
    Before,
    /// It logs, or may again.
    Logs,
    /// It has said what it had to say.
    Over,
}

impl Instances {
    /// How far a pod is; `None` when it is none of the function's, or not wanted.
    pub(crate) fn stage(&self, pod: &Pod) -> Option<Stage> {
        let seen = instance::read(pod).filter(|seen| seen.function == self.function)?;
        if self.only.as_ref().is_some_and(|only| *only != seen.name) {
            return None;
        }
        let container = details::container(pod);
        // Set with its first start.
        let begun = container.is_some_and(|c| c.container_id.as_ref().is_some_and(|id| !id.is_empty()));
        let runs = container.and_then(|c| c.state.as_ref()).is_some_and(|state| state.running.is_some());
        Some(match (begun, seen.phase) {
            (false, _) => Stage::Before,
            (true, Phase::Ending) if !runs => Stage::Over,
            (true, _) => Stage::Logs,
        })
    }

    /// Opens the log of a pod, from a moment on when it was read before.
    pub(crate) async fn open(
        &self,
        (pod, container): (&str, &str),
        follow: bool,
        from: Option<Timestamp>,
    ) -> kube::Result<Reader> {
        let params = LogParams {
            container: Some(container.into()),
            follow,
            timestamps: true,
            since_seconds: if from.is_some() { None } else { self.since },
            since_time: from,
            ..LogParams::default()
        };
        Ok(Reader { lines: Box::pin(self.pods.log_stream(pod, &params).await?), from })
    }

    /// Sends the lines of a pod until it has ended.
    pub(crate) async fn tail(
        self,
        pod: String,
        container: &'static str,
        out: mpsc::Sender<(String, Line)>,
    ) -> Result<(), String> {
        let mut from = None;
        loop {
            match self.open((&pod, container), true, from).await {
                Ok(mut reader) => {
                    // A connection that broke is made again.
                    while let Ok(Some(line)) = reader.next().await {
                        from = line.time.or(from);
                        if out.send((pod.clone(), line)).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Err(error) => match lasting(&error) {
                    Some(404) => return Ok(()),
                    Some(_) => return Err(words(&error)),
                    // Between two runs of its container, or its node or the API server is away for a moment.
                    None => {}
                },
            }
            sleep(AGAIN).await;
            match self.pods.get_opt(&pod).await {
                Ok(Some(pod)) if matches!(self.stage(&pod), Some(Stage::Before | Stage::Logs)) => {}
                Ok(_) => return Ok(()),
                Err(error) if lasting(&error).is_some() => return Err(words(&error)),
                Err(_) => {}
            }
        }
    }
}

/// The status of an answer that asking again does not change: no right, or no such thing.
fn lasting(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404) => Some(status.code),
        _ => None,
    }
}

/// An open log.
pub(crate) struct Reader {
    lines: Pin<Box<dyn AsyncBufRead + Send>>,
    /// What is not younger was read before: nodes go by whole seconds.
    from: Option<Timestamp>,
}

impl Reader {
    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        while let Some(text) = line(&mut self.lines).await? {
            let line = Line::stamped(&text);
            if self.from.is_none_or(|from| line.time.is_none_or(|time| time > from)) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

async fn line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let (mut bytes, mut any) = (Vec::new(), false);
    loop {
        let buffer = reader.fill_buf().await?;
        let end = buffer.iter().position(|b| *b == b'\n');
        let (part, used) = end.map_or((buffer, buffer.len()), |end| (&buffer[..end], end + 1));
        let room = MAX_LINE.saturating_sub(bytes.len());
        bytes.extend_from_slice(&part[..part.len().min(room)]);
        let over = used == 0;
        any |= !over;
        reader.consume_unpin(used);
        if end.is_some() || over {
            return Ok(any.then(|| String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;
    use serde_json::{Value, json};

    async fn lines(text: &[u8]) -> Vec<String> {
        let mut reader = Cursor::new(text);
        let mut lines = Vec::new();
        while let Some(text) = line(&mut reader).await.unwrap() {
            lines.push(text);
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        assert_eq!(lines(b"").await, Vec::<String>::new());
        assert_eq!(lines(b"a\r\n\nb").await, ["a", "", "b"]);
        let long = [vec![b'x'; MAX_LINE + 5], b"\nnext\n".to_vec()].concat();
        let read = lines(&long).await;
        assert_eq!((read[0].len(), read[1].as_str(), read.len()), (MAX_LINE, "next", 2));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let of = |code: u16| {
            let status = serde_json::from_value(json!({"status": "Failure", "code": code, "message": "m"})).unwrap();
            lasting(&kube::Error::Api(Box::new(status)))
        };
        assert_eq!([401, 403, 404].map(of), [Some(401), Some(403), Some(404)]);
        assert_eq!([400, 409, 429, 500, 503].map(of), [None; 5]);
    }

    #[tokio::test]
    async fn what_was_read_is_not_read_again() {
        let text = "2026-11-24T10:00:00.1Z a\n2026-11-24T10:00:00.2Z b\n2026-11-24T10:00:00.3Z c\n";
        let from = Some("2026-11-24T10:00:00.2Z".parse().unwrap());
        let mut reader = Reader { lines: Box::pin(Cursor::new(text)), from };
        assert_eq!(reader.next().await.unwrap().unwrap().text, "c");
        assert_eq!(reader.next().await.unwrap(), None);
    }

    fn instances() -> Instances {
        dormouse_daemon::install_tls_provider();
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        Instances { pods: Api::default_namespaced(client), function: "f".into(), only: None, since: None }
    }

    fn stage(labels: Value, metadata: Value, spec: Value, status: Value) -> Option<Stage> {
        let mut object = json!({"name": "p", "namespace": "default", "uid": "u", "labels": labels});
        object.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
        let pod = json!({"metadata": object, "spec": spec, "status": status});
        instances().stage(&serde_json::from_value(pod).unwrap())
    }

    #[tokio::test]
    async fn pods_of_the_function_log_once_they_have_run() {
        let ours = || json!({"dormouse.dev/function-uid": "f", "dormouse.dev/revision": "abc"});
        let spec = || json!({"containers": [{"name": "fn"}]});
        let with = |container: Value| {
            let mut status = json!({"name": "fn", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
            status.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
            json!({"containerStatuses": [status]})
        };
        let running = || with(json!({"containerID": "c://1", "state": {"running": {}}}));
        let ended = || with(json!({"containerID": "c://1", "state": {"terminated": {"exitCode": 1}}}));
        let deleted = || json!({"deletionTimestamp": "2026-11-24T10:00:00Z"});
        assert_eq!(stage(ours(), json!({}), spec(), json!({})), Some(Stage::Before));
        assert_eq!(stage(ours(), json!({}), spec(), running()), Some(Stage::Logs));
        assert_eq!(stage(ours(), json!({}), spec(), ended()), Some(Stage::Logs), "it may be started anew");
        assert_eq!(stage(ours(), deleted(), spec(), running()), Some(Stage::Logs), "its calls end");
        assert_eq!(stage(ours(), deleted(), spec(), ended()), Some(Stage::Over));
        let other = json!({"dormouse.dev/function-uid": "g", "dormouse.dev/revision": "abc"});
        assert_eq!(stage(other, json!({}), spec(), running()), None);
    }

    /// Before it is relabelled, the environment of its added container alone says whose it is.
    #[tokio::test]
    async fn a_claimed_pod_is_the_functions() {
        let mark =
            r#"{"functionUid":"f","revision":"abc","claim":1,"port":8080,"h2c":false,"memoryMib":32,"cpuMillis":10}"#;
        let spec = json!({"containers": [{"name": "parker"}], "ephemeralContainers":
            [{"name": "fn", "env": [{"name": "DORMOUSE_CLAIM", "value": mark}]}]});
        let status = json!({"ephemeralContainerStatuses": [{"name": "fn", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "containerID": "c://1", "state": {"running": {}}}]});
        let pool = json!({"dormouse.dev/pool": "small"});
        assert_eq!(stage(pool.clone(), json!({}), spec, status.clone()), Some(Stage::Logs));
        assert_eq!(stage(pool, json!({}), json!({"containers": [{"name": "parker"}]}), status), None);
    }
}
