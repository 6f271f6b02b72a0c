//! The arguments of `run` about a git source.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context, bail};
use clap::Args;

use super::{duration, run::size};
use crate::git::{
    mirror::shell_word,
    remote::{Remote, Scheme},
    settings::{GitSettings, SignedCommits, WebhookSettings},
    signers::Signers,
    webhook::{self, Secret},
};

/// Where policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyOrigin {
    /// A directory of YAML files, or one file.
    Path(PathBuf),
    /// A git repository.
    Git(Remote),
}

impl FromStr for PolicyOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Remote::is_meant(text) {
            return text.parse().map(Self::Git).map_err(|error| {
                let error: crate::git::remote::RemoteError = error;
                error.to_string()
            });
        }
        if text.contains("://") {
            return Err(format!(
                "`{text}` is no path: a git repository is written git+https://HOST/REPOSITORY#BRANCH:PATH"
            ));
        }
        Ok(Self::Path(text.into()))
    }
}

/// Git as the source of policy.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Policy from git (with --policies git+…)")]
pub struct GitArgs {
    /// Let only commits take effect that one of these signed: files in the format of
    /// ssh-keygen's allowed signers, armored OpenPGP public keys, or directories of both. They
    /// are read anew for every commit.
    #[arg(long, value_name = "FILE", num_args = 1.., value_delimiter = ',')]
    pub require_signed: Vec<PathBuf>,
    /// Which commits must be signed.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "every")]
    pub signed_commits: SignedCommits,
    /// Let commits take effect that do not follow the one in force: older ones, and those of a
    /// branch that was rewritten. (Once: `enforcer fetch --allow-rollback`.)
    #[arg(long)]
    pub allow_rollback: bool,
    /// Time between two fetches, a tenth more or less.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration::parse)]
    pub git_poll: Duration,
    /// What a fetch may take.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
    pub git_timeout: Duration,
    /// What the mirror of the repository may take on disk.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub git_max_size: u64,
    /// Private key for ssh, without a passphrase: a deploy key that may only read.
    #[arg(long, value_name = "FILE")]
    pub git_ssh_key: Option<PathBuf>,
    /// Keys of ssh hosts. Without it: /etc/ssh/ssh_known_hosts.
    #[arg(long, value_name = "FILE")]
    pub git_known_hosts: Option<PathBuf>,
    /// Names and passwords for https, a line each: https://NAME:TOKEN@HOST.
    #[arg(long, value_name = "FILE")]
    pub git_credentials: Option<PathBuf>,
    /// Certificates of the authorities that are believed for https. Without it: the system's.
    #[arg(long, value_name = "FILE")]
    pub git_ca: Option<PathBuf>,
    /// Await web hooks, by the secret in this file: GitHub's signature or GitLab's token.
    #[arg(long, value_name = "FILE")]
    pub webhook_secret: Option<PathBuf>,
    /// Where web hooks are awaited, at /webhook. Without TLS: put a proxy before it.
    #[arg(long, value_name = "ADDRESS", default_value_t = webhook::DEFAULT_ADDRESS)]
    pub webhook_listen: SocketAddr,
}

/// Shortest time between polls.
const SHORTEST_POLL: Duration = Duration::from_secs(1);

impl GitArgs {
    /// The settings for a repository. Whatever is wrong with the files that are named is said
    /// now, and not at the first commit.
    pub fn settings(&self, remote: &Remote) -> anyhow::Result<GitSettings> {
        if self.git_poll < SHORTEST_POLL || self.git_timeout < SHORTEST_POLL {
            bail!("--git-poll and --git-timeout take at least 1s");
        }
        let readable = |flag: &str, file: &Option<PathBuf>| -> anyhow::Result<Option<PathBuf>> {
            let Some(file) = file else {
                return Ok(None);
            };
            let file = std::path::absolute(file)?;
            shell_word(&file).with_context(|| format!("--{flag}"))?;
            std::fs::File::open(&file)
                .with_context(|| format!("--{flag}: cannot read {}", file.display()))?;
            Ok(Some(file))
        };
        if self.git_ssh_key.is_some() && remote.scheme != Scheme::Ssh {
            bail!("--git-ssh-key is for git+ssh:// only");
        }
        let signers: Vec<_> = self
            .require_signed
            .iter()
            .map(std::path::absolute)
            .collect();
        let signers = signers.into_iter().collect::<Result<Vec<_>, _>>()?;
        if !signers.is_empty() {
            Signers::load(&signers).context("--require-signed")?;
        }
        let webhook = match &self.webhook_secret {
            Some(secret) => {
                let secret = std::path::absolute(secret)?;
                Secret::read(&secret).context("--webhook-secret")?;
                Some(WebhookSettings {
                    address: self.webhook_listen,
                    secret,
                })
            }
            None => None,
        };
        Ok(GitSettings {
            remote: remote.clone(),
            poll: self.git_poll,
            timeout: self.git_timeout,
            max_bytes: self.git_max_size,
            ssh_key: readable("git-ssh-key", &self.git_ssh_key)?,
            known_hosts: readable("git-known-hosts", &self.git_known_hosts)?,
            credentials: readable("git-credentials", &self.git_credentials)?,
            ca: readable("git-ca", &self.git_ca)?,
            signers,
            signed: self.signed_commits,
            allow_rollback: self.allow_rollback,
            webhook,
        })
    }

    /// Refuses flags that say something about git where policy does not come from it: who
    /// demands signatures must not be left without them.
    pub fn refuse_without_git(&self) -> anyhow::Result<()> {
        let given = [
            ("require-signed", !self.require_signed.is_empty()),
            ("allow-rollback", self.allow_rollback),
            ("git-ssh-key", self.git_ssh_key.is_some()),
            ("git-known-hosts", self.git_known_hosts.is_some()),
            ("git-credentials", self.git_credentials.is_some()),
            ("git-ca", self.git_ca.is_some()),
            ("webhook-secret", self.webhook_secret.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!(
                "--{flag} says something about policy from git: give the repository with \
                 --policies git+https://HOST/REPOSITORY#BRANCH:PATH"
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        git: GitArgs,
    }

    fn parse(flags: &[&str]) -> GitArgs {
        Line::parse_from([&["run"], flags].concat()).git
    }

    #[test]
    fn a_path_and_a_repository_are_told_apart() {
        let origin = |text: &str| text.parse::<PolicyOrigin>();
        assert_eq!(origin("/etc/x"), Ok(PolicyOrigin::Path("/etc/x".into())));
        assert!(matches!(
            origin("git+https://h/r#main:p"),
            Ok(PolicyOrigin::Git(_))
        ));
        assert!(origin("https://h/r").unwrap_err().contains("git+https://"));
        assert!(origin("git+http://example.org/r").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_at_the_start() {
        let remote: Remote = "git+https://h/r".parse().unwrap();
        let said = |flags: &[&str]| format!("{:#}", parse(flags).settings(&remote).unwrap_err());
        assert!(said(&["--require-signed", "/nowhere"]).contains("/nowhere"));
        assert!(said(&["--git-ca", "/nowhere"]).contains("--git-ca"));
        assert!(said(&["--git-ssh-key", "/etc/passwd"]).contains("git+ssh"));
        assert!(said(&["--webhook-secret", "/nowhere"]).contains("/nowhere"));
        assert!(said(&["--git-poll", "1ms"]).contains("--git-poll"));
        let settings = parse(&[]).settings(&remote).unwrap();
        assert_eq!(settings.poll, Duration::from_mins(1));
        assert!(settings.webhook.is_none() && settings.signers.is_empty());
        assert!(
            parse(&["--require-signed", "/x"])
                .refuse_without_git()
                .is_err()
        );
        assert!(parse(&[]).refuse_without_git().is_ok());
        assert!(parse(&[]).webhook_listen.ip().is_loopback());
    }
}
