//! `dormouse open`: a function's address, in a browser where there is one.

use crate::args::WhereArgs;
use crate::exit::{Failure, Outcome};
use crate::say;
use crate::target::Target;
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// The programs that open an address hand it over and end. One that is the browser itself goes on: it is left alone.
const HANDED_OVER: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
#[command(after_help = "\
Prints the address, and opens it with $BROWSER, `open` (macOS) or `xdg-open`. Where there is no browser it says so, and the
exit code is 0 all the same.

Examples:
  dormouse open hello
  dormouse open hello /orders?page=2 -n shop
  dormouse open hello --print")]
pub(crate) struct OpenArgs {
    /// The function
    pub(crate) name: String,
    /// Path and query
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// Namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Print the address and open nothing
    #[arg(long)]
    pub(crate) print: bool,
    #[command(flatten)]
    pub(crate) target: WhereArgs,
}

pub(crate) async fn run(args: &OpenArgs) -> Outcome {
    let target = Target::find(&args.target).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| target.default_namespace());
    let view = target.function(&namespace, &args.name).await?;
    let url = view.function.status.as_ref().and_then(|s| s.url.as_deref()).ok_or_else(|| {
        let name = &args.name;
        Failure::failed(format!("{namespace}/{name} has no address yet: `dormouse describe {name}` says how it is"))
    })?;
    let url = address(url, &args.path);
    say::out(&url);
    if args.print {
        return Ok(());
    }
    let Some(program) = browser(&|name| std::env::var_os(name), cfg!(target_os = "macos")) else {
        say::note("no browser was found here: set BROWSER, or open the address elsewhere");
        return Ok(());
    };
    if let Err(why) = show(&program, &url).await {
        say::note(format_args!("{} did not open it: {why}", program.display()));
    }
    Ok(())
}

/// The function's address with a path in it.
fn address(url: &str, path: &str) -> String {
    format!("{}/{}", url.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// The program that opens addresses. Without a display `xdg-open` would take over the terminal, or fail.
fn browser(variable: &dyn Fn(&str) -> Option<OsString>, macos: bool) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(program) = set("BROWSER") {
        return Some(program.into());
    }
    let name = match (macos, set("DISPLAY").or_else(|| set("WAYLAND_DISPLAY"))) {
        (true, _) => "open",
        (false, Some(_)) => "xdg-open",
        (false, None) => return None,
    };
    let folders = set("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|program| program.is_file())
}

async fn show(program: &PathBuf, url: &str) -> Result<(), String> {
    let mut command = Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    match timeout(HANDED_OVER, child.wait()).await {
        Ok(Ok(status)) if !status.success() => Err(status.to_string()),
        Ok(Err(e)) => Err(e.to_string()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_once() {
        assert_eq!(address("http://a.b:8080/", "/"), "http://a.b:8080/");
        assert_eq!(address("http://a.b", "x?y=1"), "http://a.b/x?y=1");
    }

    #[test]
    fn a_browser_needs_a_place_to_show_itself() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["open", "xdg-open"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |set: &[(&str, &str)], macos| {
            let variable = |name: &str| match name {
                "PATH" => Some(folder.path().as_os_str().to_owned()),
                _ => set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()),
            };
            browser(&variable, macos).map(|p| p.file_name().unwrap().to_owned())
        };
        assert_eq!(found(&[], false), None);
        assert_eq!(found(&[("DISPLAY", "")], false), None);
        assert_eq!(found(&[("DISPLAY", ":0")], false), Some("xdg-open".into()));
        assert_eq!(found(&[], true), Some("open".into()));
        assert_eq!(found(&[("BROWSER", "/usr/bin/firefox")], false), Some("firefox".into()));
    }
}
