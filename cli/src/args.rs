//! The command line.

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 used wrongly, 3 not found, 4 not in time.";

/// Functions that sleep at zero, wake on a call and bill by the call.
#[derive(Debug, Parser)]
#[command(name = "dormouse", bin_name = "dormouse", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads the command line; help and mistakes end the process. Installed as `kubectl-dormouse` it is a plugin of
/// kubectl, and help says so.
pub(crate) fn parse() -> Cli {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let plugin = called.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("kubectl-"));
    let command = Cli::command().bin_name(if plugin { "kubectl dormouse" } else { "dormouse" });
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the functions of a folder on this machine, without Kubernetes
    Dev(DevArgs),
    /// Serve the sample function: a small HTTP server on $PORT
    Sample(SampleArgs),
    /// List functions
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one function: conditions, instances, recent events
    Describe(DescribeArgs),
    /// Call a function and print its answer
    Invoke(InvokeArgs),
    /// Write a new function's folder: handler, manifest, a request to try
    Init(crate::init::InitArgs),
    /// Send the functions of a folder to a cluster, and wait until they serve
    Deploy(crate::deploy::DeployArgs),
    /// List what a function ran before, and go back to it
    Rollback(crate::rollback::RollbackArgs),
    /// Show what a function's instances log
    Logs(crate::logs::LogsArgs),
    /// Open a function in a browser
    Open(crate::open::OpenArgs),
    /// Show what functions used
    Usage(UsageArgs),
    /// Show a month's statement, line by line
    Bill(BillArgs),
    /// Show what tenants may spend in this month, and what they did
    Budgets(BudgetsArgs),
    /// Move a ledger, into a file and from there into another folder or a PostgreSQL database; take single calls back
    #[command(
        subcommand,
        after_help = "\
export and import move everything: records, sums, what is closed. The file is whole or of no use, and so is the ledger that
takes it. reverse asks the usage API of what runs.

Examples:
  dormouse ledger export --dir .dormouse/ledger ledger.dormouse
  dormouse ledger import --url-file database-url ledger.dormouse
  dormouse ledger reverse 3f1c5f0e00004000-1-2a --reason 'our outage of 24 November'"
    )]
    Ledger(LedgerCommand),
    /// Check an installation in a cluster: one function's whole life, step by step
    Selftest(crate::selftest::SelftestArgs),
    /// Print a script with which a shell completes the words of this command line
    Completion(crate::completion::CompletionArgs),
    /// Ends what a killed `dev` left running; started by `dev` itself
    #[command(name = "__keep", hide = true)]
    Keep {
        /// The mark that the processes carry.
        mark: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    #[command(flatten)]
    Move(dormouse_controller::ledger::transfer::Command),
    /// Take calls back, so that they are not billed: in their month, or where that is closed by a correction
    Reverse(Box<ReverseArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Takes the request ids that callers were given (dormouse-request-id), or with --all every call that the filters match. A
call is taken back once, and for ever; who did it, when and why stands in /v1/records and /v1/reversals. Needs the operator's
token, or the right to create functions/usage in all namespaces (ClusterRole dormouse-usage-corrector).

Examples:
  dormouse ledger reverse 3f1c5f0e00004000-1-2a --reason 'our outage of 24 November'
  dormouse ledger reverse --all -n shop --function cart --from 2026-11-24T10:00:00Z --to 2026-11-24T11:00:00Z \\
      --reason 'our outage of 24 November' --dry-run")]
pub(crate) struct ReverseArgs {
    /// Calls by their request ids
    #[arg(value_name = "REQUEST-ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) request_ids: Vec<dormouse_core::RequestId>,
    /// Why: one line, kept for ever
    #[arg(long)]
    pub(crate) reason: String,
    /// Every call that the filters match
    #[arg(long, requires = "from")]
    pub(crate) all: bool,
    /// From, inclusive: a date or a time, as 2026-11-24 or 2026-11-24T10:00:00Z [default: an hour before --to]
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// To, exclusive [default: now]
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// Only calls that this tenant pays for
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Only this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Only this function
    #[arg(long)]
    pub(crate) function: Option<String>,
    /// Say what would be taken back, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Reads *.yaml, *.yml and *.json of the folder (not of folders in it), the same manifests that `kubectl apply` takes.
A function's command is its annotation dormouse.dev/local-command; it runs in the manifest's folder and serves HTTP
on $PORT. Handler code (spec.source) is in the manifest or beside it. Secrets and ConfigMaps among the manifests give the
variables that functions name of them. Calls are metered into a ledger in the state directory, which the next start
continues. While it runs, the token of the usage API stands in the file `token` there: commands find it by themselves,
curl is told it as -H \"Authorization: Bearer $(cat .dormouse/token)\".

Examples:
  dormouse dev examples/hello
  dormouse dev . --port 9000
  dormouse dev functions --state-dir /var/tmp/functions")]
pub(crate) struct DevArgs {
    /// Folder with Function manifests, or one manifest
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Port of the functions, on 127.0.0.1; 0 picks a free one
    #[arg(long, env = "DORMOUSE_PORT", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Port of the usage API, on 127.0.0.1; 0 picks a free one
    #[arg(long, env = "DORMOUSE_USAGE_PORT", default_value_t = 8081)]
    pub(crate) usage_port: u16,
    /// Where ledger and spool are kept [default: FOLDER/.dormouse]
    #[arg(long, env = "DORMOUSE_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Price plan, a YAML file [default: the plan `article`]
    #[arg(long, env = "DORMOUSE_PRICE_PLAN")]
    pub(crate) price_plan: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Routes:
  GET  /                     greets with function, revision and instance
  ANY  /echo                 gives the request back: method, path and headers in the head, the body as body
  GET  /delay?ms=100         answers after so many milliseconds (at most 60000)
  GET  /status/503           answers with that status (200 to 599)
  GET  /stream?chunks=5&ms=100   so many lines (at most 1000), one every so many milliseconds
  GET  /env                  the variables that the platform sets
  GET  /memory?mib=N         uses so much memory until it has answered
  GET  /crash                ends the process with status 1 before it answers
SIGTERM: takes no new connections, ends running calls, then exits with 0.

Examples:
  dormouse sample
  PORT=9000 dormouse sample")]
pub(crate) struct SampleArgs {
    /// Port to serve
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,
    /// Address to serve on
    #[arg(long, env = "HOST", default_value = "0.0.0.0")]
    pub(crate) host: std::net::IpAddr,
    /// Memory that it uses from the start on, in MiB
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1024))]
    pub(crate) hold_mib: u64,
}

/// Which Dormouse is asked: a `dev` on this machine, or a cluster.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct WhereArgs {
    /// Ask the `dormouse dev` of this folder
    #[arg(long, value_name = "FOLDER", help_heading = "Which Dormouse")]
    pub(crate) dev: Option<PathBuf>,
    /// Ask the cluster of this kubeconfig context
    #[arg(long, help_heading = "Which Dormouse")]
    pub(crate) context: Option<String>,
    /// Kubeconfig file
    #[arg(long, help_heading = "Which Dormouse")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Ask the cluster even where a `dormouse dev` runs
    #[arg(long, help_heading = "Which Dormouse")]
    pub(crate) cluster: bool,
    /// Namespace that Dormouse is installed in
    #[arg(long, env = "DORMOUSE_SYSTEM_NAMESPACE", default_value = "dormouse-system", help_heading = "Which Dormouse")]
    pub(crate) system_namespace: String,
    /// Usage API (http or https), in place of a port-forward to it
    #[arg(long, env = "DORMOUSE_USAGE_URL", help_heading = "Which Dormouse")]
    pub(crate) usage_url: Option<String>,
    /// Activator, in place of a port-forward to it
    #[arg(long, env = "DORMOUSE_ACTIVATOR_URL", help_heading = "Which Dormouse")]
    pub(crate) activator_url: Option<String>,
    /// Token of the usage API [default: the one of `dev`, or of the Secret dormouse-token; with --usage-url, where that
    /// may not be read, the kubeconfig's]
    #[arg(long, env = "DORMOUSE_TOKEN", hide_env_values = true, help_heading = "Which Dormouse")]
    pub(crate) token: Option<String>,
    /// File with the token of the usage API; goes before --token
    #[arg(long, value_name = "FILE", help_heading = "Which Dormouse")]
    pub(crate) token_file: Option<PathBuf>,
}

impl WhereArgs {
    /// The flags with which another command looks into this namespace of the same cluster, also where a `dev` runs.
    pub(crate) fn flags(&self, namespace: &str) -> String {
        let cluster = self.kubectl();
        let cluster = if cluster.is_empty() { "--cluster".into() } else { cluster.join(" ") };
        format!("-n {namespace} {cluster}")
    }

    /// Those that say which cluster, as kubectl takes them, too.
    pub(crate) fn kubectl(&self) -> Vec<String> {
        let context = self.context.iter().map(|context| format!("--context {context}"));
        let kubeconfig = self.kubeconfig.iter().map(|file| format!("--kubeconfig {}", file.display()));
        context.chain(kubeconfig).collect()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs; field names are stable
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BillFormat {
    /// For people
    #[default]
    Table,
    /// For programs; field names are stable
    Json,
    /// For spreadsheets
    Csv,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dormouse list
  dormouse list -n shop -o json
  dormouse list --all-namespaces --context prod")]
pub(crate) struct ListArgs {
    /// Namespace [default: the kubeconfig's in a cluster, all in `dev`]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dormouse describe hello
  dormouse describe hello -n shop -o json")]
pub(crate) struct DescribeArgs {
    /// The function
    pub(crate) name: String,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The answer's body goes to standard output; a status of 400 or above is exit code 1, 404 of an unknown function 3,
a timeout 4.

Examples:
  dormouse invoke hello
  dormouse invoke hello /delay?ms=20 --timing
  dormouse invoke hello --cold
  dormouse invoke hello /echo -X PUT -H 'content-type: application/json' -d '{\"a\":1}'
  dormouse invoke hello -d @order.json
  cat order.json | dormouse invoke hello -d @-")]
pub(crate) struct InvokeArgs {
    /// The function
    pub(crate) name: String,
    /// Path and query
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Body: text, @FILE, or @- for standard input
    #[arg(short, long, value_name = "BODY")]
    pub(crate) data: Option<String>,
    /// Method [default: GET, or POST with a body]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Header, as `Name: value`; may be given more than once
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Call it by an event of this type now, as a schedule does; with --data as what it carries. http: an ordinary call
    #[arg(long, value_name = "TYPE")]
    pub(crate) event: Option<String>,
    /// Print where the time went, on standard error
    #[arg(long)]
    pub(crate) timing: bool,
    /// Put the function to sleep first, so that the call wakes it; with --timing
    #[arg(long)]
    pub(crate) cold: bool,
    /// Longest wait for the whole answer, in seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=7200))]
    pub(crate) timeout: u64,
    /// Output: json has status, headers, body and timing
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    Function,
    Namespace,
    Tenant,
    Hour,
    Day,
    Month,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Times are UTC: 2026-11, 2026-11-24, 2026-11-24T10:00:00Z, or `now`.

Examples:
  dormouse usage
  dormouse usage --by day --from 2026-11-01 --to 2026-12-01
  dormouse usage --by function,hour -o json
  dormouse usage --usage-url https://usage.example.com --token-file token -n shop")]
pub(crate) struct UsageArgs {
    /// From, inclusive [default: the first of this month]
    #[arg(long)]
    pub(crate) from: Option<String>,
    /// To, exclusive [default: now]
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// What a line is about
    #[arg(long, value_enum, value_delimiter = ',', default_value = "function")]
    pub(crate) by: Vec<By>,
    /// Only this function
    #[arg(long)]
    pub(crate) function: Option<String>,
    /// Only this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A Budget is an object of the cluster (kind Budget, dormouse.dev/v1alpha1); `dormouse dev` reads it from its folder.

Examples:
  dormouse budgets
  dormouse budgets --tenant shop
  dormouse budgets -o json")]
pub(crate) struct BudgetsArgs {
    /// Only this tenant's
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

/// What an export is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// RFC 4180
    Csv,
    /// A JSON object on each line
    Jsonl,
    Parquet,
}

/// Versions of the FOCUS specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum FocusVersion {
    /// With the providers' columns of 1.3
    #[default]
    #[value(name = "1.2")]
    V1_2,
    #[value(name = "1.3")]
    V1_3,
    #[value(name = "1.4")]
    V1_4,
}

impl ExportFormat {
    /// As the usage API names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

impl FocusVersion {
    /// As the usage API names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
            Self::V1_4 => "1.4",
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dormouse bill
  dormouse bill --month 2026-11 --tenant shop -o csv
  dormouse bill --fixed-server 350
  dormouse bill --as lambda
  dormouse bill --explain compute -o csv > calls.csv
  dormouse bill --month 2026-11 --tenant shop --export parquet --file shop-2026-11.parquet")]
pub(crate) struct BillArgs {
    /// Tenant [default: `default`]
    #[arg(long, default_value = "default")]
    pub(crate) tenant: String,
    /// Month, as 2026-11 [default: this one]
    #[arg(long)]
    pub(crate) month: Option<String>,
    /// What a server that is always on would cost, to compare with
    #[arg(long, value_name = "PRICE")]
    pub(crate) fixed_server: Option<String>,
    /// Price the same usage by another plan: lambda, alibaba-fc, article, or one of your own
    #[arg(long = "as", value_name = "PLAN")]
    pub(crate) as_plan: Option<String>,
    /// List the calls behind a line, and check that they add up to it: calls, compute, cpu, reversals, ...
    #[arg(long, value_name = "LINE", conflicts_with = "fixed_server")]
    pub(crate) explain: Option<String>,
    /// Output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: BillFormat,
    /// Write the statement as FOCUS rows, one for each function, hour and price, that add up to it
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with_all = ["output", "explain", "fixed_server"])]
    pub(crate) export: Option<ExportFormat>,
    /// Where the export goes, whole or not at all; - is standard output [default: -]
    #[arg(long, requires = "export")]
    pub(crate) file: Option<PathBuf>,
    /// Version of the FOCUS specification
    #[arg(long, value_enum, default_value_t, requires = "export")]
    pub(crate) focus_version: FocusVersion,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            assert!(help.contains(&format!("dormouse {}", command.get_name())), "{}", command.get_name());
        }
    }

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(line.split_whitespace()).unwrap().command
    }

    #[test]
    fn dev_has_defaults_and_flags() {
        let Command::Dev(args) = parse("dormouse dev") else { panic!() };
        assert_eq!((args.folder, args.port, args.usage_port), (PathBuf::from("."), 8080, 8081));
        let Command::Dev(args) = parse("dormouse dev f --port 0 --usage-port 1 --state-dir s") else { panic!() };
        assert_eq!((args.port, args.usage_port, args.state_dir), (0, 1, Some(PathBuf::from("s"))));
    }

    #[test]
    fn invoke_takes_body_method_and_headers() {
        let Command::Invoke(args) = parse("dormouse invoke f /a?b=c -X PUT -H a:b -H c:d -d @- --timing --cold") else {
            panic!()
        };
        assert_eq!((args.name.as_str(), args.path.as_str()), ("f", "/a?b=c"));
        assert_eq!(args.headers, ["a:b", "c:d"]);
        assert_eq!(
            (args.method.as_deref(), args.data.as_deref(), args.timing, args.cold),
            (Some("PUT"), Some("@-"), true, true)
        );
    }

    #[test]
    fn hints_lead_to_the_same_cluster() {
        let mut target = WhereArgs::default();
        assert_eq!(target.flags("shop"), "-n shop --cluster");
        target.context = Some("kind".into());
        assert_eq!(target.flags("shop"), "-n shop --context kind");
        target.kubeconfig = Some("k.yaml".into());
        assert_eq!(target.flags("shop"), "-n shop --context kind --kubeconfig k.yaml");
    }

    #[test]
    fn usage_groups_by_several() {
        let Command::Usage(args) = parse("dormouse usage --by function,day") else { panic!() };
        assert_eq!(args.by, [By::Function, By::Day]);
    }

    #[test]
    fn what_is_taken_back_is_named_or_all() {
        let id = "3f1c5f0e00004000-1-2a";
        let line = format!("dormouse ledger reverse {id} --reason ours --tenant acme");
        let Command::Ledger(LedgerCommand::Reverse(args)) = parse(&line) else { panic!() };
        assert_eq!((args.request_ids[0].to_string().as_str(), args.tenant.as_deref()), (id, Some("acme")));
        let Command::Ledger(LedgerCommand::Move(_)) = parse("dormouse ledger export --dir d f") else { panic!() };
        for wrong in ["", "--all", "3f1c-1-2a", &format!("{id} --all --from 2026-11-01")] {
            let line = format!("dormouse ledger reverse --reason ours {wrong}");
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
        assert!(Cli::try_parse_from(["dormouse", "ledger", "reverse", id]).is_err(), "a reason is a must");
    }

    #[test]
    fn wrong_use_is_told() {
        for line in ["dormouse", "dormouse invoke", "dormouse list -n a -A", "dormouse bill -o xml"] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
