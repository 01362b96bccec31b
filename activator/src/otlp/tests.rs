use super::*;
use crate::trace::SpanId;
use crate::trail::tests::facts;

fn sampled(call: u64) -> Box<Facts> {
    let mut facts = facts(call);
    facts.trace.span = Some(SpanId(call));
    Box::new(facts)
}

#[tokio::test]
async fn a_full_queue_loses_traces_and_counts_them() {
    let metrics = Metrics::default();
    let (sender, exporter) = Exporter::new("http://127.0.0.1:1", "a", &metrics).unwrap();
    (0..QUEUE as u64 + 3).for_each(|call| sender.tell(sampled(call)));
    let line = "dormouse_traces_dropped_total{reason=\"queue_full\"} 3\n";
    assert!(metrics.text().contains(line), "{}", metrics.text());
    drop(exporter);
    sender.tell(sampled(1));
    assert!(metrics.text().contains("{reason=\"queue_full\"} 4\n"));
}

#[tokio::test]
async fn without_a_collector_the_end_comes_and_everything_is_counted() {
    let metrics = Metrics::default();
    // Nothing listens there: the connect is refused at once.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (sender, exporter) = Exporter::new(&format!("http://{free}"), "a", &metrics).unwrap();
    (0..BATCH as u64 + 3).for_each(|call| sender.tell(sampled(call)));
    let stop = CancellationToken::new();
    stop.cancel();
    exporter.run(stop).await;
    let line = format!("dormouse_traces_dropped_total{{reason=\"export_failed\"}} {}\n", BATCH + 3);
    assert!(metrics.text().contains(&line), "{}", metrics.text());
}

#[test]
fn what_cannot_be_an_address_is_refused() {
    let metrics = Metrics::default();
    for bad in ["", "collector:4317", "https://collector:4317", "ftp://a", "http://", "http://a b"] {
        let refused = Exporter::new(bad, "a", &metrics).err().map(|e| e.to_string());
        assert!(refused.as_ref().is_some_and(|e| e.contains("http://collector:4317")), "{bad:?}: {refused:?}");
    }
}

#[test]
fn a_batch_of_the_longest_stays_below_what_collectors_take() {
    use prost::Message;
    let metrics = Metrics::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _in = runtime.enter();
    let (_, exporter) = Exporter::new("http://127.0.0.1:1", "a", &metrics).unwrap();
    let mut longest = sampled(u64::MAX);
    longest.path = "x".repeat(1024);
    longest.host = Some("x".repeat(259));
    let calls: Vec<_> = (0..BATCH).map(|_| longest.clone()).collect();
    let bytes = exporter.request(&calls).encoded_len();
    // One span of seven; the parts add at most 6 x 150 bytes to each call.
    assert!(bytes + BATCH * 6 * 150 < 1 << 20, "{bytes}");
}
