//! The functions of `examples/`, the README's tour and the tutorial, run as their pages say: their commands are taken out of
//! the pages and pasted.

mod clock;
mod dev;
mod hello;
mod orders;
mod payments;
mod pictures;
mod place;
mod tour;

use std::time::Duration;

/// Longest wait for anything; what is waited for usually takes well under a second.
const LIMIT: Duration = Duration::from_secs(60);

/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Who adds an example adds its test, and its line in the table.
#[test]
fn every_example_is_tested_and_listed() -> anyhow::Result<()> {
    const TESTED: [&str; 8] = [
        "close-orders",
        "hello",
        "hello-nodejs",
        "hello-python",
        "nightly-report",
        "payment-webhook",
        "place-order",
        "thumbnail",
    ];
    let folder = std::path::Path::new(ROOT).join("examples");
    let listed = std::fs::read_to_string(folder.join("README.md"))?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    anyhow::ensure!(found == TESTED, "{found:?}");
    let unlisted: Vec<_> = found.iter().filter(|name| !listed.contains(&format!("]({name})"))).collect();
    anyhow::ensure!(unlisted.is_empty(), "{unlisted:?}");
    Ok(())
}

/// An image that copies its folder would hold the Secret beside the code, and the token of a `dormouse dev`.
#[test]
fn images_hold_no_manifest_and_no_token() -> anyhow::Result<()> {
    let mut copied = 0;
    for entry in std::fs::read_dir(std::path::Path::new(ROOT).join("examples"))? {
        let folder = entry?.path();
        let Ok(dockerfile) = std::fs::read_to_string(folder.join("Dockerfile")) else { continue };
        if !dockerfile.contains("COPY . ") {
            continue;
        }
        copied += 1;
        let ignored = std::fs::read_to_string(folder.join(".dockerignore")).unwrap_or_default();
        let missing: Vec<_> =
            ["**/*.yaml", "**/.*"].into_iter().filter(|p| !ignored.lines().any(|l| l == *p)).collect();
        anyhow::ensure!(missing.is_empty(), "{}: .dockerignore lacks {missing:?}", folder.display());
    }
    anyhow::ensure!(copied > 0, "no example is an image");
    Ok(())
}
