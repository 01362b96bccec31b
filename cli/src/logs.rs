//! `dormouse logs`: what a function's instances say, over all of them.
//!
//! [`line`] makes a line readable, [`tail`] reads one instance, [`all`] finds the instances and brings their lines
//! together.

mod all;
mod line;
mod tail;

use crate::args::WhereArgs;
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::target::Target;
use crate::target::cluster::words;
use clap::{Args, ValueEnum};
use dormouse_core::function::Function;
use kube::{Api, ResourceExt};
use line::{Paint, Wanted};
use tail::Instances;

const OF_DEV: &str = "a `dormouse dev` prints the logs of its instances itself, where it runs";

/// Longest time that is looked back: nodes keep less.
const MAX_SINCE: u64 = 366 * 86_400;

#[derive(Args, Debug)]
#[command(after_help = "\
Lines of all instances in the order of their times, each behind its instance. The language runtimes' JSON lines are made
readable, and control characters are shown as \\u{1b}; -o json prints every line as it was written, without its instance.
NO_COLOR is heeded. Instances that are gone have left nothing to read: collect logs for longer memory. The cluster is asked,
also where a `dormouse dev` runs: that prints its logs itself.

Examples:
  dormouse logs hello
  dormouse logs hello -f --since 10m
  dormouse logs hello --request-id 3f1c5f0e00004000-1-2a
  dormouse logs hello -n shop --instance hello-bcdf-7xk2p -o json")]
pub(crate) struct LogsArgs {
    /// The function
    pub(crate) name: String,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Go on with what is written from now on, also by instances that start later
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only what was written in this time: 90s, 10m, 2h, 1d
    #[arg(long, value_parser = seconds)]
    pub(crate) since: Option<u64>,
    /// Only lines of this call: those that are JSON and name it
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Only this instance
    #[arg(long, value_name = "POD")]
    pub(crate) instance: Option<String>,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: LogFormat,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// Every line as it was written
    Json,
}

pub(crate) async fn run(args: &LogsArgs) -> Outcome {
    if args.target.dev.is_some() {
        return Err(Failure::usage(OF_DEV));
    }
    let target = Target::of_cluster(&args.target, "logs").await;
    let target = target.map_err(|why| Failure::failed(format!("{}; {OF_DEV}", why.message())))?;
    let client = target.cluster_api()?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let name = &args.name;
    let found = Api::<Function>::namespaced(client.clone(), &namespace).get_opt(name).await;
    let found = found.map_err(|e| Failure::failed(format!("cannot read the function: {}", words(&e))))?;
    let missing = || Failure::not_found(format!("there is no function {namespace}/{name}"));
    let function = found.ok_or_else(missing)?.uid().unwrap_or_default();
    let instances = Instances {
        pods: Api::namespaced(client, &namespace),
        function: function.as_str().into(),
        only: args.instance.clone(),
        since: args.since.and_then(|s| i64::try_from(s).ok()),
    };
    let wanted = Wanted {
        request_id: args.request_id.clone(),
        raw: args.output == LogFormat::Json,
        paint: Paint::new(say::in_colour()),
    };
    let seen =
        if args.follow { all::follow(&instances, &wanted).await? } else { all::so_far(&instances, &wanted).await? };
    if !seen {
        say::note(format_args!("{namespace}/{name} has no instance now; with --follow the next one is waited for"));
    }
    Ok(())
}

/// `90s`, `10m`, `2h`, `1d`, or seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time: write for example 90s, 10m, 2h or 1d");
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        Some(b'd') => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(0) => Err("must be at least a second".into()),
        Some(seconds) if seconds <= MAX_SINCE => Ok(seconds),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_have_units() {
        let read: Vec<_> = ["90s", "10m", "2h", "1d", "45"].map(seconds).into_iter().map(Result::unwrap).collect();
        assert_eq!(read, [90, 600, 7200, 86_400, 45]);
        for wrong in ["", "m", "-1m", "1.5h", "10 m", "0s", "400d", "99999999999999999999s", "ä"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
