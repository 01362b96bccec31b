//! A part of `dev` that runs until it is told to stop: the controller, the activator.

use crate::exit::Failure;
use std::fmt::Display;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

/// A task, and how to tell it to stop.
pub(crate) struct Part {
    name: &'static str,
    /// Gives why it ended, in words.
    task: JoinHandle<Result<(), String>>,
    stop: CancellationToken,
}

impl Part {
    pub(crate) fn start<F, E>(name: &'static str, begin: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let stop = CancellationToken::new();
        let runs = begin(stop.clone());
        Self { name, task: tokio::spawn(async move { runs.await.map_err(|e| e.to_string()) }), stop }
    }

    /// Waits until it ends though nobody told it to. Not to be asked again afterwards, but for [`Part::end`].
    pub(crate) async fn broke(&mut self) -> Failure {
        let why = match (&mut self.task).await {
            Ok(Ok(())) => "it does not say why".into(),
            Ok(Err(why)) => why,
            Err(panicked) => JoinError::to_string(&panicked),
        };
        Failure::failed(format!("the {} ended: {why}", self.name))
    }

    /// Tells it to stop and waits until it has.
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        // One that is over may have been asked already: a task tells its end only once.
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn panics() -> Result<(), String> {
        panic!("no way on")
    }

    #[tokio::test]
    async fn a_part_that_breaks_says_why_and_can_still_be_ended() {
        let mut part = Part::start("controller", |_| async { Err("its port is gone") });
        assert_eq!(part.broke().await.message(), "the controller ended: its port is gone");
        part.end().await;
        let mut part = Part::start("activator", |_| panics());
        let told = part.broke().await;
        assert!(told.message().contains("no way on"), "{}", told.message());
        part.end().await;
    }

    #[tokio::test]
    async fn a_part_that_runs_ends_when_told() {
        let part = Part::start("activator", |stop| async move {
            stop.cancelled().await;
            Ok::<(), String>(())
        });
        part.end().await;
    }
}
