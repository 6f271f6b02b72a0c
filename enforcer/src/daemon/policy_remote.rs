//! Policy from git, up to the first fetch.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};

use crate::{
    api::git::GitStatus,
    git::{
        follow::{self, Follower, GitHandle},
        settings::GitSettings,
        webhook::Webhook,
    },
    metrics::git::GitStats,
    reconcile::{command::Command, in_force::InForce},
    settings::Settings,
};

/// A git source before its tasks run.
pub(super) struct Remote {
    pub follower: Follower,
    pub webhook: Option<Webhook>,
    pub handle: GitHandle,
}

impl Remote {
    /// Takes the web hook's address, and fetches what is there for the first time.
    pub async fn prepare(
        git: &GitSettings,
        settings: &Settings,
        counts: Arc<GitStats>,
        in_force: watch::Receiver<Arc<InForce>>,
        commands: mpsc::Sender<Command>,
    ) -> anyhow::Result<Self> {
        let bell = Arc::new(Notify::new());
        let webhook = match &git.webhook {
            Some(webhook) => Some(Webhook::bind(webhook, bell.clone(), counts.clone()).await?),
            None => None,
        };
        let (published, status) = watch::channel(GitStatus::default());
        let (wishes, wish_receiver) = mpsc::channel(super::COMMANDS);
        let wiring = follow::Wiring {
            in_force,
            commands,
            wishes: wish_receiver,
            bell,
            published,
            stats: counts,
        };
        let root = follow::directory(&std::path::absolute(&settings.state_dir)?);
        let mut follower = Follower::new(&root, Arc::new(git.clone()), wiring)?;
        follower.first().await;
        Ok(Self {
            follower,
            webhook,
            handle: GitHandle { status, wishes },
        })
    }
}
