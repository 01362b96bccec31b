//! The HTTP/2 conformance run of h2spec: no failure but those that are waived, each with its reason, in h2spec.txt.

use crate::common::{Origin, ready};
use crate::stand::Stand;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// For the whole run; a test of it that waits for an answer gives up after 2 s.
const LIMIT: Duration = Duration::from_secs(300);
/// Fewer than these means that it did not run.
const AT_LEAST: usize = 140;

#[tokio::test(flavor = "multi_thread")]
async fn h2spec_finds_nothing_but_what_is_waived() {
    let program = std::env::var_os("DORMOUSE_H2SPEC").expect("DORMOUSE_H2SPEC names h2spec: tests/checks/h2spec.sh");
    let stand = Stand::start(&[]).await;
    let origin = Origin::echo().await;
    stand.publish(ready("hello", origin.addr, 100)).await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.xml");
    let run = Command::new(program)
        .args(["generic", "http2", "hpack", "--host", "127.0.0.1", "--path", "/fn/ns/hello/", "--timeout", "2"])
        .args(["--port", &stand.traffic.port().to_string(), "--junit-report", report.to_str().unwrap()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, run).await.expect("h2spec ends").unwrap();
    let report =
        std::fs::read_to_string(&report).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)));
    let (all, failed) = read(&report);
    let waived: BTreeSet<String> = include_str!("h2spec.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.rsplit_once(" | ").expect("SECTION | TEST | REASON").0.to_owned())
        .collect();
    let new: Vec<_> = failed.difference(&waived).collect();
    let gone: Vec<_> = waived.difference(&failed).collect();
    println!("h2spec: {} tests, {} failed, {} waived", all.len(), failed.len(), waived.len());
    assert!(all.len() >= AT_LEAST, "only {} tests ran", all.len());
    assert!(new.is_empty(), "not waived: {new:#?}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(gone.is_empty(), "waived and not failing any more: {gone:#?}");
}

/// Every test of a report, and those that failed, as `SECTION | TEST`.
fn read(report: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut all, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for case in report.split("<testcase ").skip(1) {
        let of = |name: &str| {
            let value = case.split_once(&format!("{name}=\""))?.1.split('"').next()?;
            Some(
                value
                    .replace("&#39;", "'")
                    .replace("&#34;", "\"")
                    .replace("&lt;", "<")
                    .replace("&gt;", ">")
                    .replace("&amp;", "&"),
            )
        };
        let name = format!("{} | {}", of("package").unwrap_or_default(), of("classname").unwrap_or_default());
        if case.contains("<failure") || case.contains("<error") {
            failed.insert(name.clone());
        }
        all.insert(name);
    }
    (all, failed)
}
