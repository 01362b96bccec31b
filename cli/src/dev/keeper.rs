//! The process that ends what is left when this one is killed, see [`leftover`].

use dormouse_controller::fleet::process::leftover::{self, MARK};
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long the keeper may take to look once more and end: twice its own limit.
const END: Duration = Duration::from_secs(4);

/// Our end of the keeper; it acts when this is dropped or we are killed.
pub(crate) struct Keeper {
    child: Child,
}

impl Keeper {
    /// Ends what an earlier `dev` left behind, then starts the keeper of this one.
    pub(crate) async fn start(program: &Path, mark: &str) -> io::Result<(Self, usize)> {
        let old = mark.to_owned();
        let killed = tokio::task::spawn_blocking(move || leftover::kill_all(&old)).await.map_err(io::Error::other)?;
        // A group of its own: Ctrl-C on the terminal is not for it.
        let child = Command::new(program)
            .args(["__keep", mark])
            .env_remove(MARK)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok((Self { child }, killed))
    }

    /// Lets it look for what is left, and end.
    pub(crate) async fn end(mut self) {
        drop(self.child.stdin.take());
        let _ = timeout(END, self.child.wait()).await;
    }
}
