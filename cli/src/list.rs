//! `dormouse list`.

use crate::args::{Format, ListArgs};
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::table::{table, text};
use crate::target::Target;

pub(crate) async fn run(args: &ListArgs) -> Outcome {
    let target = Target::find(&args.target).await?;
    let namespace = match &args.namespace {
        Some(namespace) => Some(namespace.clone()),
        None if args.all_namespaces || target.is_dev() => None,
        None => Some(target.default_namespace()),
    };
    let views = target.functions(namespace.as_deref()).await?;
    if args.output == Format::Json {
        let functions: Vec<_> = views.iter().map(|v| &v.function).collect();
        say::out(serde_json::to_string_pretty(&functions).map_err(Failure::failed)?);
        return Ok(());
    }
    if views.is_empty() {
        let place = namespace.map_or_else(String::new, |n| format!(" in namespace {n}"));
        say::note(format_args!("no functions{place}"));
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    let mut rows = table(&["NAMESPACE", "NAME", "URL", "READY", "REASON", ">INSTANCES", "STATE", "NEXT", ">AGE"]);
    for view in &views {
        let (ready, reason) = view.ready();
        let (instances, state, age) = (view.ready_instances().to_string(), view.state(), view.age(now));
        let next = view.next();
        rows.add_row([view.namespace(), view.name(), view.url(), ready, reason, &instances, &state, &next, &age]);
    }
    say::out(text(&rows));
    Ok(())
}
