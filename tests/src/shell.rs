//! A shell in which commands are pasted one after the other, as a person does.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Longest time of one paste.
const LIMIT: Duration = Duration::from_secs(300);

/// Most that commands of a page may print: more is a command that does not end.
const MOST: u64 = 1 << 20;
/// What the shell prints when a command has ended: nothing else prints this byte.
const END: u8 = 0x1e;

/// A shell, which a command that fails ends. What it started ends with this.
#[derive(Debug)]
pub struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Shell {
    /// Opens one in a folder; what it says on stderr goes to a file.
    ///
    /// # Errors
    /// When there is no bash, or the file cannot be made.
    pub fn open(folder: &Path, envs: &[(String, String)], errors: PathBuf) -> Result<Self> {
        let mut command = Command::new("bash");
        command.args(["-eu", "-o", "pipefail"]).current_dir(folder).envs(envs.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&errors)?);
        // A group of its own: what runs behind it is ended with it.
        let mut child = command.process_group(0).spawn().context("bash")?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, input, output, errors })
    }

    /// Pastes commands and gives what they print.
    ///
    /// # Errors
    /// When one of them fails, or they do not end in time: what they printed, and all that the shell said on stderr.
    pub async fn paste(&mut self, commands: &str) -> Result<String> {
        self.input.write_all(format!("{commands}\nprintf '\\036'\n").as_bytes()).await?;
        let mut said = Vec::new();
        let read = timeout(LIMIT, (&mut self.output).take(MOST).read_until(END, &mut said)).await;
        let ended = said.pop_if(|last| *last == END).is_some();
        let said = String::from_utf8_lossy(&said).into_owned();
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        ensure!(read.is_ok(), "not within {} s:\n{commands}\n{said}{errors}", LIMIT.as_secs());
        ensure!(ended, "it failed:\n{commands}\n{said}{errors}");
        Ok(said)
    }

    /// Ends what runs behind it and waits for that.
    ///
    /// # Errors
    /// As [`Shell::paste`].
    pub async fn end(mut self) -> Result<()> {
        self.paste("for job in $(jobs -p); do kill $job; done; wait").await.map(drop)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(group) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // One that has ended by now is what is wanted.
            let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path) -> Shell {
        Shell::open(folder, &[("WHO".into(), "Ada".into())], folder.join("errors")).unwrap()
    }

    #[tokio::test]
    async fn what_is_pasted_follows_what_was_pasted_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = shell(folder.path());
        assert_eq!(shell.paste("cat > a <<'END'\n$WHO\nEND\nword=b").await.unwrap(), "");
        assert_eq!(shell.paste("cat a; echo $word $WHO").await.unwrap(), "$WHO\nb Ada\n");
        shell.paste("sleep 600 > log 2>&1 &").await.unwrap();
        shell.end().await.unwrap();
    }

    #[tokio::test]
    async fn a_failure_is_told_with_what_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = shell(folder.path());
        let failed = shell.paste("echo before\nls no-such-file\necho after").await.unwrap_err().to_string();
        assert!(
            failed.contains("before\n") && failed.contains("no-such-file'") && !failed.ends_with("after\n"),
            "{failed}"
        );
        assert!(shell.paste("echo more").await.is_err());
    }
}
