//! The platform on a real cluster, from `helm install` to `helm uninstall`.
//!
//! Run by ./test. One release; cases that leave each other alone go side by side, the others one after the other, each in a
//! namespace of its own; arguments are parts of case names to run (install and uninstall always run). With `DORMOUSE_TEST_INSTALLED=1` the release that stands is used
//! and left. Pod and service addresses must be reachable from here: inside the test cluster's network namespace they
//! are.

mod activators;
mod away;
mod budgets;
mod calls;
mod chaos;
#[path = "../suite_runtimes/client.rs"]
#[allow(dead_code, reason = "part of it is for the suite of the runtimes alone")]
mod client;
mod code;
mod commands;
mod concurrency;
mod contract;
mod deletion;
mod examples;
mod faults;
mod hello;
mod idle;
mod inside;
mod install;
mod pages;
mod restarts;
mod revisions;
mod schedules;
#[path = "../suite_runtimes/table.rs"]
#[allow(dead_code, reason = "part of it is for the suite of the runtimes alone")]
mod table;
mod tenants;
mod told;
mod usage_api;
mod wall;
mod warm;
mod world;

use anyhow::Result;
use futures::StreamExt;
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;
use world::World;

type Case = fn(World) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

macro_rules! cases {
    ($($module:ident::$case:ident),+ $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($case)), (|world| Box::pin($module::$case(world))) as Case)),+]
    };
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    match all(&wanted).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            say(&format!("\nsuite_cluster: {failed} failed"));
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("suite_cluster: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// So many of [`BESIDE`] at once: mostly they wait, for what starts and for what falls asleep.
const LANES: usize = 2;

/// In a namespace of its own each, and with nothing to do with the others.
const BESIDE: &[(&str, Case)] = &cases![
    code::many_functions_share_a_small_pool,
    examples::they_run_as_their_pages_say,
    usage_api::rights_decide_who_reads_what,
    usage_api::a_token_that_is_over_is_refused,
    wall::only_the_traffic_port_is_open_to_all,
    wall::a_namespace_with_functions_is_walled_in,
    wall::a_policy_of_somebody_else_is_left_alone,
    wall::only_activators_reach_a_function,
    wall::a_function_reaches_only_the_traffic_port,
    calls::every_call_is_recorded_and_counted,
    calls::what_is_no_function_is_not_found,
    tenants::a_label_says_who_pays,
    budgets::a_budget_stops_and_serves_again,
    faults::bad_manifests_are_refused_with_our_words,
    faults::a_broken_image_is_told_and_mended,
    faults::a_crashing_function_is_told,
    told::a_full_quota,
    told::a_refusal_of_admission,
    told::a_missing_secret,
    told::a_command_that_is_not_there,
    told::a_crash_at_the_start,
    told::too_little_memory,
    told::a_crash_in_a_claimed_pod,
    concurrency::twenty_calls_at_once_on_zero,
    concurrency::one_at_a_time_is_a_hard_limit,
    revisions::a_changed_env_rolls_without_a_failed_call,
    revisions::a_revision_that_cannot_start_takes_no_traffic,
    revisions::scaling_fields_roll_nothing,
    deletion::a_running_call_ends_before_the_function_does,
    warm::a_function_wakes_in_a_parked_pod,
    warm::a_claimed_pod_has_its_functions_memory,
    warm::the_deployment_helps_an_empty_pool,
    warm::demand_that_lasts_settles_on_the_deployment,
    warm::a_refused_graft_falls_back,
    warm::warm_capacity_is_ready_without_calls,
    warm::a_cold_call_says_where_its_time_went,
    code::a_handler_runs_from_its_manifest,
    code::broken_code_is_told_and_mended,
    code::code_in_a_config_map_is_followed,
    code::a_function_is_loaded_into_a_parked_runtime,
    commands::a_folder_is_deployed_changed_and_gone_back_from,
    commands::the_last_revisions_are_kept,
    commands::logs_are_those_of_all_instances,
    commands::what_others_wrote_is_not_taken_over,
    pages::the_tutorial_goes_to_the_cluster,
    pages::the_tour_of_the_readme_goes_to_the_cluster,
];

/// What ends processes, closes nodes, changes the release or keeps both cores busy; in this order, the first before all others.
const ALONE: &[(&str, Case)] = &cases![
    hello::one_function_from_apply_to_delete,
    install::the_activator_has_no_rights,
    contract::functions_give_what_the_contract_says,
    told::no_room,
    restarts::the_controller_goes_and_comes_back,
    restarts::killed_processes_lose_no_record,
    schedules::a_due_time_is_called_once_whoever_is_killed,
    activators::replaced_activators_fail_no_call,
    activators::a_killed_activator_takes_only_its_own_calls,
    activators::a_lost_activator_keeps_no_instance_awake,
    away::the_api_server_goes_and_comes_back,
    warm::an_evicted_warm_instance_is_stood_in_for,
    warm::warm_time_is_metered_once,
    warm::the_values_name_warm_pools,
    warm::no_kill_leaks_a_claim,
    code::no_kill_leaks_a_load,
    code::no_kill_loses_a_graft_of_code,
    wall::who_opts_out_has_none,
    chaos::calls_survive_what_goes_wrong,
    idle::calls_at_the_idle_edge_never_fail,
    install::helm_test_passes,
];

async fn all(wanted: &[String]) -> Result<usize> {
    let installed = std::env::var("DORMOUSE_TEST_INSTALLED").is_ok_and(|v| v == "1");
    let (cluster, mut failed) = (dormouse_tests::cluster::Cluster::connect().await?, 0);
    if !installed {
        timed("install::helm_install", install::install(cluster.clone())).await?;
    }
    let world = World::of(cluster.clone()).await?;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w.as_str()));
    let of = |cases: &'static [(&'static str, Case)]| cases.iter().filter(move |(name, _)| is_wanted(name));
    let run = |&(name, case): &(&'static str, Case)| timed(name, case(world.clone()));
    let (first, rest) = ALONE.split_at(1);
    for case in of(first) {
        failed += usize::from(run(case).await.is_err());
    }
    let mut beside = futures::stream::iter(of(BESIDE)).map(|case| tokio::spawn(run(case))).buffer_unordered(LANES);
    while let Some(result) = beside.next().await {
        failed += usize::from(!matches!(result, Ok(Ok(()))));
    }
    for case in of(rest) {
        failed += usize::from(run(case).await.is_err());
    }
    if failed > 0 {
        say(&install::logs(&cluster));
    }
    if !installed {
        failed += usize::from(timed("install::uninstall_leaves_nothing", install::uninstall(cluster)).await.is_err());
    }
    Ok(failed)
}

async fn timed(name: &str, case: impl Future<Output = Result<()>>) -> Result<()> {
    let began = Instant::now();
    let result = case.await;
    let seconds = began.elapsed().as_secs_f64();
    match &result {
        Ok(()) => say(&format!("test {name} ... ok ({seconds:.1} s)")),
        Err(error) => say(&format!("test {name} ... FAILED ({seconds:.1} s)\n    {error:#}\n")),
    }
    result
}

#[expect(clippy::print_stdout, reason = "a test program tells how its cases went")]
fn say(text: &str) {
    println!("{text}");
}
