//! What `dev` says once it takes calls.

use super::DOMAIN;
use super::first::counted;
use super::state::{DevFile, StateDir};
use crate::manifest::Reading;
use crate::say;
use dormouse_core::FunctionKey;

/// Where the functions are called and where the rest is; `left` processes of an earlier `dev` were ended.
pub(crate) fn show(dev: &DevFile, reading: &Reading, state: &StateDir, left: usize) {
    if left > 0 {
        say::note(format_args!(
            "note: {} of an earlier `dormouse dev` still ran and {} ended",
            counted(left, "process"),
            if left == 1 { "was" } else { "were" }
        ));
    }
    let count = counted(reading.manifests.len(), "function");
    say::out(format_args!("dormouse dev: {count} from {}", dev.folder.display()));
    let port = dev.activator_url.rsplit(':').next().unwrap_or_default();
    for manifest in &reading.manifests {
        let FunctionKey { namespace, name } = &manifest.key;
        say::out(format_args!("  {name:<14} http://{name}.{namespace}.{DOMAIN}:{port}/"));
        say::out(format_args!("  {:<14} curl {}/fn/{namespace}/{name}/", "", dev.activator_url));
    }
    say::out(format_args!("  {:<14} {}", "ledger", state.ledger().display()));
    say::out(format_args!(
        "  {:<14} {}   (`dormouse usage`, `dormouse bill`, `dormouse list` in another terminal)",
        "usage API", dev.usage_url
    ));
    say::out(
        "A new function is started once to see that it opens its port (startCheck), then sleeps until it is called. Ctrl-C ends.",
    );
}
