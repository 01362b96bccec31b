//! `dormouse describe`: everything about one function on one page.

use crate::args::{DescribeArgs, Format};
use crate::exit::{Failure, Outcome};
use crate::rollback;
use crate::say;
use crate::table::{table, text};
use crate::target::Target;
use crate::target::details::Details;
use crate::view::{View, age};
use dormouse_core::function::ScheduleStatus;
use jiff::Timestamp;
use serde::Serialize;
use std::fmt::Write as _;

pub(crate) async fn run(args: &DescribeArgs) -> Outcome {
    let target = Target::find(&args.target).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let view = target.function(&namespace, &args.name).await?;
    let whole = Whole { details: target.details(&view).await?, view };
    match args.output {
        Format::Json => say::out(serde_json::to_string_pretty(&whole).map_err(Failure::failed)?),
        // Conditions, ends and events hold words of the function.
        Format::Table => say::out(say::harmless(page(&whole, Timestamp::now()).trim_end())),
    }
    Ok(())
}

/// All that is shown.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    view: View,
    #[serde(flatten)]
    details: Details,
}

fn page(Whole { view, details }: &Whole, now: Timestamp) -> String {
    let mut page = String::new();
    head(&mut page, view, now);
    let status = view.function.status.as_ref();
    let conditions = status.map(|s| s.conditions.as_slice()).unwrap_or_default();
    if !conditions.is_empty() {
        let mut rows = table(&["CONDITION", "STATUS", "REASON", ">SINCE", "MESSAGE"]);
        for c in conditions {
            let since = age(now.duration_since(c.last_transition_time.0).as_secs());
            rows.add_row([&c.type_, &c.status, &c.reason, &since, &c.message]);
        }
        section(&mut page, &text(&rows));
    }
    let schedules = status.map(|s| s.schedules.as_slice()).unwrap_or_default();
    if !schedules.is_empty() {
        section(&mut page, &self::schedules(schedules));
    }
    if !view.instances.is_empty() {
        let mut rows = table(&["INSTANCE", "PHASE", "REVISION", "ADDRESS", ">PID", ">RESTARTS", "TROUBLE"]);
        for i in &view.instances {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            let pid = i.pid.map_or_else(|| "-".into(), |p| p.to_string());
            let (revision, address, trouble) = (or_dash(&i.revision), or_dash(&i.address), or_dash(&i.trouble));
            rows.add_row([&i.name, &i.phase, &revision, &address, &pid, &i.restarts.to_string(), &trouble]);
        }
        section(&mut page, &text(&rows));
    }
    if !details.ends.is_empty() {
        let mut rows = table(&["ENDED", ">AGO", ">EXIT CODE", "REASON", "LAST LINE"]);
        for end in &details.ends {
            let ago = end.time.map_or_else(|| "-".into(), |t| age(now.duration_since(t).as_secs()));
            let line = end.last_line.as_deref().unwrap_or("-");
            rows.add_row([&end.instance, &ago, &end.exit_code.to_string(), &end.reason, line]);
        }
        section(&mut page, &text(&rows));
    }
    if !details.revisions.is_empty() {
        section(&mut page, &rollback::rows(&details.revisions, now));
    }
    if !view.events.is_empty() {
        let mut rows = table(&["EVENT", ">AGE", "REASON", "MESSAGE"]);
        for e in &view.events {
            let when = e.time.map_or_else(|| "-".into(), |t| age(now.duration_since(t).as_secs()));
            rows.add_row([&e.kind, &when, &e.reason, &e.message]);
        }
        section(&mut page, &text(&rows));
    }
    page
}

fn schedules(schedules: &[ScheduleStatus]) -> String {
    let mut rows = table(&["SCHEDULE", "CRON AND ZONE", "NEXT", "LAST", "OUTCOME", ">RUNNING"]);
    let or_dash = |time: Option<String>| time.unwrap_or_else(|| "-".into());
    for schedule in schedules {
        let next = or_dash(schedule.next_due.as_ref().map(|at| at.0.to_string()));
        let last = or_dash(schedule.last.as_ref().map(|last| last.due.0.to_string()));
        let outcome = or_dash(schedule.last.as_ref().map(|last| format!("{:?} ({})", last.outcome, last.reason)));
        rows.add_row([&schedule.name, &schedule.rule, &next, &last, &outcome, &schedule.open.len().to_string()]);
    }
    text(&rows)
}

fn section(page: &mut String, text: &str) {
    let _ = write!(page, "\n{text}\n");
}

fn head(page: &mut String, view: &View, now: Timestamp) {
    let spec = &view.function.spec;
    let status = view.function.status.as_ref();
    let (ready, reason) = view.ready();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(page, "{name:<14}{value}");
    };
    line("Function", &format!("{}/{}", view.namespace(), view.name()));
    line("URL", view.url());
    line("Ready", &format!("{ready} ({reason})"));
    line("State", &view.state());
    if let Some(counts) = status.and_then(|s| s.instances) {
        line("Instances", &format!("{} ready, {} wanted, {} warm", counts.ready, counts.wanted, counts.warm));
    }
    line("Revision", status.and_then(|s| s.revision.as_deref()).unwrap_or("-"));
    if let Some(source) = &spec.source {
        line("Handler", &format!("{} on {}", source.handler, source.runtime.name()));
    }
    if let Some(image) = &spec.image {
        line("Image", image);
    }
    if !spec.command.is_empty() {
        line("Command", &spec.command.join(" "));
    }
    line("Resources", &format!("memory {}, cpu {}", spec.resources.memory, spec.resources.cpu));
    line("Concurrency", &spec.concurrency_or_default().to_string());
    line("Timeouts", &format!("idle {} s, call {} s", spec.idle_timeout_seconds, spec.timeout_seconds));
    line("Queue", &format!("{} calls, {} s", spec.queue.max_calls, spec.queue.max_wait_seconds));
    line("Age", &view.age(now));
    if let Some(manifest) = &view.manifest {
        line("Manifest", manifest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::details::End;
    use crate::target::revisions::Kept;

    #[test]
    fn a_page_has_every_part() {
        let view: View = serde_json::from_value(serde_json::json!({
            "function": {
                "apiVersion": "dormouse.dev/v1alpha1", "kind": "Function",
                "metadata": {"name": "hello", "namespace": "shop", "creationTimestamp": "2026-11-24T10:00:00Z"},
                "spec": {"image": "dormouse/sample:0.1.0", "command": ["dormouse", "sample"]},
                "status": {
                    "url": "http://hello.shop.localhost:8080", "revision": "bcdf", "state": "Active",
                    "instances": {"wanted": 1, "ready": 1, "warm": 0},
                    "schedules": [{"name": "nightly", "rule": "0 3 * * * UTC", "nextDue": "2026-11-25T03:00:00Z",
                                   "last": {"due": "2026-11-24T03:00:00Z", "outcome": "Failed", "reason": "Status500"},
                                   "open": [{"due": "2026-11-24T03:00:00Z", "activator": "a/1/1"}]}],
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "m",
                                    "lastTransitionTime": "2026-11-24T10:00:00Z"}]
                }
            },
            "instances": [{"name": "hello-1", "phase": "Running", "revision": "bcdf", "pid": 7, "restarts": 0}],
            "events": [{"kind": "Normal", "reason": "Checked", "message": "port open", "time": "2026-11-24T10:00:30Z"}],
            "manifest": "function.yaml:1"
        }))
        .unwrap();
        let end = End {
            instance: "hello-0".into(),
            time: Some("2026-11-24T10:00:40Z".parse().unwrap()),
            reason: "Error".into(),
            exit_code: 7,
            last_line: Some("no such table".into()),
        };
        let kept = Kept { revision: "bcdf".into(), number: 3, made: None, serves: true, spec: serde_json::Map::new() };
        let whole = Whole { view, details: Details { revisions: vec![kept], ends: vec![end] } };
        let page = page(&whole, "2026-11-24T10:01:00Z".parse().unwrap());
        for part in [
            "Function      shop/hello\n",
            "Ready         True (Serving)\n",
            "Instances     1 ready, 1 wanted, 0 warm\n",
            "Command       dormouse sample\n",
            "Manifest      function.yaml:1\n",
            "Ready       True     Serving     60s   m\n",
            "nightly    0 3 * * * UTC   2026-11-25T03:00:00Z   2026-11-24T03:00:00Z   Failed (Status500)         1\n",
            "hello-1    Running   bcdf       -           7          0   -\n",
            "Normal   30s   Checked   port open\n",
            "hello-0   20s           7   Error    no such table\n",
            "bcdf            3      -   -      yes\n",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }
}
