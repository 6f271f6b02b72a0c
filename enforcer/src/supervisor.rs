//! The daemon's tasks live and die together: when one ends for whatever reason, all do, and the
//! reason is known. A daemon that is half dead would enforce a policy that nobody updates while
//! it looks well.

use std::{any::Any, collections::HashMap, future::Future};

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// A set of tasks.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task failed.
    #[error("the {task} failed")]
    Fail {
        /// Which.
        task: &'static str,
        /// Why.
        source: anyhow::Error,
    },
    /// A task ended although nobody asked it to.
    #[error("the {task} ended without a reason")]
    End {
        /// Which.
        task: &'static str,
    },
    /// A task panicked.
    #[error("the {task} panicked: {message}")]
    Panic {
        /// Which.
        task: &'static str,
        /// What it said.
        message: String,
    },
}

impl Supervisor {
    /// Is cancelled when the tasks are to end by themselves.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It is to end only after the stop token was cancelled.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits until the first task ends (or for ever), and says why.
    pub async fn first_end(&mut self) -> TaskError {
        match self.tasks.join_next_with_id().await {
            Some(result) => self
                .reason(result)
                .unwrap_or_else(|task| TaskError::End { task }),
            None => std::future::pending().await,
        }
    }

    /// Asks every task to end and waits until all have.
    pub async fn stop(mut self) -> Result<(), TaskError> {
        self.stop.cancel();
        let mut first = Ok(());
        while let Some(result) = self.tasks.join_next_with_id().await {
            if let Ok(error) = self.reason(result)
                && first.is_ok()
            {
                first = Err(error);
            }
        }
        first
    }

    /// The failure, or the name of a task that ended well.
    fn reason(
        &self,
        result: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> Result<TaskError, &'static str> {
        let name = |id: Id| self.names.get(&id).copied().unwrap_or("task");
        match result {
            Ok((id, Ok(()))) => Err(name(id)),
            Ok((id, Err(source))) => Ok(TaskError::Fail {
                task: name(id),
                source,
            }),
            Err(error) => {
                let task = name(error.id());
                let message = match error.try_into_panic() {
                    Ok(panic) => panic_message(panic.as_ref()),
                    Err(error) => error.to_string(),
                };
                Ok(TaskError::Panic { task, message })
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_idle_task() -> Supervisor {
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop_token();
        supervisor.spawn("idler", async move {
            stop.cancelled().await;
            Ok(())
        });
        supervisor
    }

    #[tokio::test]
    async fn any_end_is_named() {
        let mut supervisor = with_idle_task();
        supervisor.spawn("failer", async { Err(anyhow::anyhow!("broken")) });
        let error = supervisor.first_end().await;
        assert!(matches!(error, TaskError::Fail { task: "failer", .. }));
        supervisor.stop().await.unwrap();

        let mut supervisor = with_idle_task();
        supervisor.spawn("panicker", async { panic!("at the {}", "disco") });
        assert_eq!(
            supervisor.first_end().await.to_string(),
            "the panicker panicked: at the disco"
        );

        let mut supervisor = with_idle_task();
        supervisor.spawn("quitter", async { Ok(()) });
        let error = supervisor.first_end().await;
        assert!(matches!(error, TaskError::End { task: "quitter" }));
    }

    #[tokio::test]
    async fn a_graceful_stop_reports_what_failed_on_the_way() {
        with_idle_task().stop().await.unwrap();
        let mut supervisor = with_idle_task();
        let stop = supervisor.stop_token();
        supervisor.spawn("sore loser", async move {
            stop.cancelled().await;
            Err(anyhow::anyhow!("not fair"))
        });
        assert!(supervisor.stop().await.is_err());
    }
}
