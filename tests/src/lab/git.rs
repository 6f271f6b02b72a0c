//! A git repository of policies, and keys to sign commits with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::Lab;

/// A bare repository, and a work tree from which commits go there.
#[derive(Debug)]
pub struct Repository {
    folder: PathBuf,
}

/// A key to sign commits with.
#[derive(Debug)]
pub enum SigningKey {
    /// An ssh key: its private file.
    Ssh(PathBuf),
    /// An OpenPGP key in a keyring of its own.
    OpenPgp {
        /// The keyring.
        home: PathBuf,
        /// Its owner's name.
        name: String,
    },
}

impl Repository {
    /// A new repository with the branch `main` and no commit.
    pub fn create(lab: &Lab) -> Result<Self> {
        Self::with_object_format(lab, "sha1")
    }

    /// As [`Self::create`], with ids by `sha1` or `sha256`.
    pub fn with_object_format(lab: &Lab, format: &str) -> Result<Self> {
        let folder = lab.folder().join("git");
        fs::create_dir_all(&folder)?;
        let repository = Self { folder };
        let bare = repository.bare();
        let work = repository.work();
        fs::create_dir_all(&work)?;
        for (path, kind) in [(&bare, "--bare"), (&work, "--quiet")] {
            let path = path.to_str().context("path")?;
            let format = format!("--object-format={format}");
            let init = ["init", "--quiet", "--initial-branch=main", &format];
            repository.git(&[&init[..], &[kind, path]].concat())?;
        }
        repository.git(&["remote", "add", "origin", bare.to_str().context("path")?])?;
        Ok(repository)
    }

    /// Where both are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bare repository.
    pub fn bare(&self) -> PathBuf {
        self.folder.join("policy.git")
    }

    /// Folder of the work tree.
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Runs git in the work tree, and gives what it says.
    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        self.git_with(arguments, &[])
    }

    fn git_with(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> Result<String> {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
            .args(arguments)
            .current_dir(self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", &self.folder)
            .stdin(Stdio::null());
        for (name, value) in environment {
            command.env(name, value);
        }
        let output = command.output().context("running git")?;
        anyhow::ensure!(
            output.status.success(),
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Writes a file of the work tree.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.work().join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Commits everything, signed if there is a key; nothing is pushed. Gives the commit's id.
    pub fn commit(&self, message: &str, key: Option<&SigningKey>) -> Result<String> {
        self.git(&["add", "--all"])?;
        let commit = ["commit", "--quiet", "--allow-empty", "--message", message];
        match key {
            None => self.git(&[&commit[..], &["--no-gpg-sign"]].concat())?,
            Some(SigningKey::Ssh(path)) => {
                let key = format!("user.signingkey={}", path.display());
                let format = ["-c", "gpg.format=ssh", "-c", &key];
                self.git(&[&format[..], &commit, &["-S"]].concat())?
            }
            Some(SigningKey::OpenPgp { home, name }) => {
                let key = format!("user.signingkey={name}");
                let arguments = [&["-c", &key][..], &commit, &["-S"]].concat();
                self.git_with(&arguments, &[("GNUPGHOME", home)])?
            }
        };
        self.git(&["rev-parse", "HEAD"])
    }

    /// Makes the server's `main` what the work tree's is, whatever it was.
    pub fn push(&self) -> Result<()> {
        self.git(&[
            "push",
            "--quiet",
            "--force",
            "origin",
            "HEAD:refs/heads/main",
        ])?;
        Ok(())
    }

    /// As [`Self::commit`], and [`Self::push`].
    pub fn publish(&self, message: &str, key: Option<&SigningKey>) -> Result<String> {
        let id = self.commit(message, key)?;
        self.push()?;
        Ok(id)
    }
}

impl SigningKey {
    /// A new ssh key.
    pub fn ssh(lab: &Lab, name: &str) -> Result<Self> {
        let path = lab.folder().join(format!("key-{name}"));
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(made.status.success(), "ssh-keygen: {made:?}");
        Ok(Self::Ssh(path))
    }

    /// A new OpenPGP key.
    pub fn openpgp(lab: &Lab, name: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let home = lab.folder().join(format!("gpg-{name}"));
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        let key = Self::OpenPgp {
            home,
            name: format!("{name}@example.org"),
        };
        key.gpg(&[
            "--passphrase",
            "",
            "--quick-generate-key",
            &format!("{name} <{name}@example.org>"),
            "ed25519",
            "sign",
            "never",
        ])?;
        Ok(key)
    }

    /// What allowed signers say of it: a line for ssh (`options` before the key), or an armored
    /// key.
    pub fn allowed(&self, options: &str) -> Result<String> {
        match self {
            Self::Ssh(path) => {
                let public = fs::read_to_string(path.with_extension("pub"))?;
                Ok(format!("ada@example.org {options} {public}"))
            }
            Self::OpenPgp { name, .. } => self.gpg(&["--armor", "--export", name]),
        }
    }

    fn gpg(&self, arguments: &[&str]) -> Result<String> {
        let Self::OpenPgp { home, .. } = self else {
            anyhow::bail!("no OpenPGP key");
        };
        let output = Command::new("gpg")
            .args([
                "--batch",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                "--homedir",
            ])
            .arg(home)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "gpg {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        if let Self::OpenPgp { home, .. } = self {
            let _ = Command::new("gpgconf")
                .arg("--homedir")
                .arg(home)
                .args(["--kill", "all"])
                .output();
        }
    }
}
