//! Verifies signatures of commits, with ssh-keygen and gpg, by nothing but the allowed signers:
//! no keyring, no agent and no configuration of a user has a say.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    commit_object::{Signature, clean},
    program::{self, Bounds, Finished, RunError},
    signers::Signers,
};

/// Who signed a commit: verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// As the allowed signers call it (ssh), or the key's own name (OpenPGP).
    pub name: String,
    /// Fingerprint of the key: `SHA256:…` (ssh), or 40 or more digits (OpenPGP, the primary key).
    pub key: String,
    /// `ssh` or `openpgp`.
    pub kind: SignatureKind,
}

/// Kinds of signatures that can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureKind {
    /// By an ssh key.
    Ssh,
    /// By an OpenPGP key.
    OpenPgp,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureRefusal {
    /// There is none.
    #[error("it is not signed")]
    Unsigned,
    /// It is not about this commit, or damaged.
    #[error("its signature is bad: {0}")]
    Bad(String),
    /// The key is no allowed signer's.
    #[error("its signer is unknown: the key {0} is not among the allowed signers")]
    Unknown(String),
    /// The key is an allowed signer's, but not now.
    #[error("its signer's key is not valid now: {0}")]
    NotValidNow(String),
    /// The key may not sign commits.
    #[error("its signer's key is not for the namespace `git`")]
    NotForGit,
    /// Neither ssh nor OpenPGP.
    #[error(
        "its signature is of a kind that cannot be verified here ({0}): sign with ssh or OpenPGP"
    )]
    Unsupported(String),
}

/// What a program may take to look at one signature.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(30),
    output: 256 << 10,
};
/// Names of one key that are tried.
const MOST_NAMES: usize = 16;

/// Verifies, in a directory of its own.
#[derive(Debug)]
pub struct Verifier {
    directory: PathBuf,
    has_ssh: bool,
    has_openpgp: bool,
}

/// Why nothing can be verified.
#[derive(Debug, Error)]
pub enum VerifierError {
    /// A program failed.
    #[error("signatures cannot be verified")]
    Run(#[from] RunError),
    /// Files cannot be written.
    #[error("cannot write to {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// gpg does not take a key.
    #[error("gpg does not take the allowed keys: {0}")]
    Import(String),
}

impl Verifier {
    /// Prepares `directory`, which is emptied first, for these signers.
    pub async fn new(directory: &Path, signers: &Signers) -> Result<Self, VerifierError> {
        let verifier = Self {
            directory: directory.to_owned(),
            has_ssh: !signers.ssh.is_empty(),
            has_openpgp: !signers.openpgp.is_empty(),
        };
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(verifier.io(directory, error));
            }
            _ => {}
        }
        for path in [directory.to_owned(), verifier.gnupg()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|error| verifier.io(&path, error))?;
        }
        verifier.write("allowed-signers", signers.ssh.as_bytes())?;
        // Without it, newer versions of gpg keep keys in a daemon.
        verifier.write("gnupg/common.conf", b"")?;
        if !signers.openpgp.is_empty() {
            let mut files = Vec::new();
            for (number, key) in signers.openpgp.iter().enumerate() {
                files.push(verifier.write(&format!("key-{number}.asc"), key)?);
            }
            let mut gpg = verifier.gpg();
            gpg.arg("--import").arg("--").args(files);
            let finished = program::run(gpg, Vec::new(), BOUNDS).await?;
            if !finished.status.success() {
                let complaint = program::short_complaint(&finished.stderr);
                return Err(VerifierError::Import(complaint));
            }
        }
        Ok(verifier)
    }

    /// Who signed these bytes. `Ok(Err(…))`: nobody who counts.
    pub async fn verify(
        &self,
        payload: &[u8],
        signature: Option<&Signature>,
    ) -> Result<Result<Signer, SignatureRefusal>, VerifierError> {
        match signature {
            None => Ok(Err(SignatureRefusal::Unsigned)),
            Some(Signature::Other(kind)) => Ok(Err(SignatureRefusal::Unsupported(kind.clone()))),
            Some(Signature::Ssh(text)) => self.verify_ssh(payload, text).await,
            Some(Signature::OpenPgp(text)) => self.verify_openpgp(payload, text).await,
        }
    }

    async fn verify_ssh(
        &self,
        payload: &[u8],
        signature: &str,
    ) -> Result<Result<Signer, SignatureRefusal>, VerifierError> {
        let signature = self.write("signature", signature.as_bytes())?;
        let keygen = |action: &'static str, more: &[&str]| {
            let mut keygen = program::command("ssh-keygen", &self.directory);
            keygen
                .args(["-Y", action])
                .args(more)
                .arg("-s")
                .arg(&signature);
            keygen
        };
        let run = |command, input: &[u8]| program::run(command, input.to_vec(), BOUNDS);
        // First whether it is about this commit at all, by whatever key.
        let check = keygen("check-novalidate", &["-n", "git"]);
        let checked = run(check, payload).await?;
        if !checked.status.success() {
            return Ok(Err(SignatureRefusal::Bad(complaint(&checked))));
        }
        let key = ssh_fingerprint(&String::from_utf8_lossy(&checked.stdout));
        if !self.has_ssh {
            return Ok(Err(SignatureRefusal::Unknown(key)));
        }
        let mut find = keygen("find-principals", &[]);
        find.args(["-f", "allowed-signers"]);
        let found = run(find, b"").await?;
        if !found.status.success() {
            return Ok(Err(ssh_refusal(&found.stderr, key)));
        }
        let names = String::from_utf8_lossy(&found.stdout).into_owned();
        let mut refusal = SignatureRefusal::Unknown(key.clone());
        for name in names.lines().filter(|n| !n.is_empty()).take(MOST_NAMES) {
            if name.starts_with('-') {
                continue;
            }
            let mut verify = keygen("verify", &["-n", "git", "-I", name]);
            verify.args(["-f", "allowed-signers"]);
            let verified = run(verify, payload).await?;
            if verified.status.success() {
                return Ok(Ok(Signer {
                    name: clean(name),
                    key,
                    kind: SignatureKind::Ssh,
                }));
            }
            refusal = ssh_refusal(&verified.stderr, key.clone());
        }
        Ok(Err(refusal))
    }

    async fn verify_openpgp(
        &self,
        payload: &[u8],
        signature: &str,
    ) -> Result<Result<Signer, SignatureRefusal>, VerifierError> {
        let signature = self.write("signature", signature.as_bytes())?;
        if !self.has_openpgp {
            let unknown = "(OpenPGP; only ssh keys are allowed)".to_owned();
            return Ok(Err(SignatureRefusal::Unknown(unknown)));
        }
        let payload = self.write("payload", payload)?;
        let mut gpg = self.gpg();
        gpg.args(["--status-fd", "1", "--verify", "--"])
            .arg(signature)
            .arg(payload);
        let finished = program::run(gpg, Vec::new(), BOUNDS).await?;
        let said = gpg_status(&String::from_utf8_lossy(&finished.stdout));
        Ok(match said {
            Ok(_) if !finished.status.success() => Err(SignatureRefusal::Bad(complaint(&finished))),
            said => said,
        })
    }

    fn gpg(&self) -> tokio::process::Command {
        let mut gpg = program::command("gpg", &self.directory);
        gpg.env("GNUPGHOME", self.gnupg()).args([
            "--no-options",
            "--batch",
            "--quiet",
            "--no-tty",
            "--no-autostart",
            "--no-auto-key-retrieve",
            "--no-auto-key-locate",
            // All keys that are there are allowed signers'.
            "--trust-model",
            "always",
            "--weak-digest",
            "SHA1",
        ]);
        gpg
    }

    fn gnupg(&self) -> PathBuf {
        self.directory.join("gnupg")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, VerifierError> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).map_err(|error| self.io(&path, error))?;
        Ok(path)
    }

    #[expect(clippy::unused_self, reason = "reads better at its callers")]
    fn io(&self, path: &Path, source: io::Error) -> VerifierError {
        VerifierError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

fn complaint(finished: &Finished) -> String {
    match program::short_complaint(&finished.stderr) {
        text if text.is_empty() => format!("the program ended with {}", finished.status),
        text => text,
    }
}

/// Why ssh-keygen knows no signer. Only the reason depends on its words; that it refuses is told
/// by its exit status.
pub fn ssh_refusal(complaint: &str, key: String) -> SignatureRefusal {
    let validity = ["key has expired", "key is not yet valid"];
    let line = |sign: &str| complaint.lines().find(|line| line.contains(sign));
    if let Some(line) = validity.iter().find_map(|sign| line(sign)) {
        // FILE:LINE: WHAT
        let what = line.splitn(3, ':').nth(2).unwrap_or(line);
        return SignatureRefusal::NotValidNow(format!("{key}: {}", clean(what.trim())));
    }
    if line("not permitted for use in signature namespace").is_some() {
        return SignatureRefusal::NotForGit;
    }
    if line("incorrect signature").is_some() {
        return SignatureRefusal::Bad(program::short_complaint(complaint));
    }
    SignatureRefusal::Unknown(key)
}

/// The fingerprint in `Good "git" signature with ED25519 key SHA256:…`.
pub fn ssh_fingerprint(said: &str) -> String {
    let words = said.split_ascii_whitespace();
    let found = words.rev().find(|word| word.starts_with("SHA256:"));
    clean(found.unwrap_or("(no fingerprint)"))
}

/// What gpg's status lines (doc/DETAILS of GnuPG) say about the one signature that there must be.
pub fn gpg_status(text: &str) -> Result<Signer, SignatureRefusal> {
    let bad = |what: &str| Err(SignatureRefusal::Bad(what.to_owned()));
    let (mut signatures, mut name, mut key) = (0, None, None);
    for line in text.lines() {
        let Some(line) = line.strip_prefix("[GNUPG:] ") else {
            continue;
        };
        let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<_> = rest.split(' ').collect();
        let who = || clean(rest);
        match keyword {
            "NEWSIG" => signatures += 1,
            "GOODSIG" if name.is_none() => {
                name = Some(clean(rest.split_once(' ').map_or("", |(_, name)| name)));
            }
            "VALIDSIG" if key.is_none() => {
                // The last of ten words is the primary key's fingerprint.
                key = words.get(9).or(words.first()).map(|key| clean(key));
            }
            "GOODSIG" | "VALIDSIG" => return bad("there is more than one"),
            "BADSIG" => return bad(&format!("it is not about this commit (key {})", who())),
            "EXPSIG" => {
                return Err(SignatureRefusal::NotValidNow(format!(
                    "the signature has expired ({})",
                    who()
                )));
            }
            "EXPKEYSIG" => {
                return Err(SignatureRefusal::NotValidNow(format!(
                    "the key has expired ({})",
                    who()
                )));
            }
            "REVKEYSIG" => {
                return Err(SignatureRefusal::NotValidNow(format!(
                    "the key was revoked ({})",
                    who()
                )));
            }
            "ERRSIG" => {
                // KEYID PKALGO HASHALGO CLASS TIME RC FPR; 9: no such key.
                let key = words.get(6).filter(|key| **key != "-").or(words.first());
                let key = clean(key.unwrap_or(&"?"));
                return if words.get(5) == Some(&"9") {
                    Err(SignatureRefusal::Unknown(key))
                } else {
                    bad(&format!("gpg cannot check it (key {key})"))
                };
            }
            "NODATA" | "UNEXPECTED" | "PLAINTEXT" => return bad("it is no detached signature"),
            _ => {}
        }
    }
    match (signatures, name, key) {
        (1, Some(name), Some(key)) if !key.is_empty() => Ok(Signer {
            name,
            key,
            kind: SignatureKind::OpenPgp,
        }),
        (0 | 1, ..) => bad("gpg finds no good signature"),
        _ => bad("there is more than one"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FINGERPRINT: &str = "0123456789ABCDEF0123456789ABCDEF01234567";

    fn good() -> String {
        format!(
            "[GNUPG:] NEWSIG\n[GNUPG:] KEY_CONSIDERED {FINGERPRINT} 0\n\
             [GNUPG:] GOODSIG 89ABCDEF01234567 Ada <ada@example.org>\n\
             [GNUPG:] VALIDSIG AAAA 2026-01-01 1767225600 0 4 0 22 10 00 {FINGERPRINT}\n"
        )
    }

    #[test]
    fn a_good_signature_names_the_primary_key() {
        let signer = gpg_status(&good()).unwrap();
        assert_eq!(signer.name, "Ada <ada@example.org>");
        assert_eq!(signer.key, FINGERPRINT);
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = |text: &str| gpg_status(text).unwrap_err();
        let is_bad = |text: &str| matches!(refused(text), SignatureRefusal::Bad(_));
        assert!(is_bad(""));
        assert!(is_bad(&format!("{}{}", good(), good())));
        assert!(is_bad(&good().replace("[GNUPG:] NEWSIG\n", "")));
        assert!(is_bad(&format!("{}[GNUPG:] PLAINTEXT 62 0\n", good())));
        assert!(is_bad("[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 89AB Ada\n"));
        assert!(is_bad(&good().replace("VALIDSIG", "TRUST_UNDEFINED")));
        for (sign, word) in [
            ("EXPKEYSIG", "expired"),
            ("REVKEYSIG", "revoked"),
            ("EXPSIG", "expired"),
        ] {
            let error = refused(&good().replace("GOODSIG", sign));
            assert!(
                matches!(&error, SignatureRefusal::NotValidNow(t) if t.contains(word)),
                "{error}"
            );
        }
        let missing =
            format!("[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 89AB 22 10 00 1767225600 9 {FINGERPRINT}\n");
        assert_eq!(
            refused(&missing),
            SignatureRefusal::Unknown(FINGERPRINT.into())
        );
        assert!(is_bad(&missing.replace(" 9 ", " 4 ")));
    }

    #[test]
    fn ssh_keygen_says_why() {
        let refusal = |complaint: &str| ssh_refusal(complaint, "SHA256:x".into());
        let expired = refusal("/x/al:1: key has expired: verify time 2026 > valid-before 2020");
        assert_eq!(
            expired,
            SignatureRefusal::NotValidNow(
                "SHA256:x: key has expired: verify time 2026 > valid-before 2020".into()
            )
        );
        let namespace = "al:1: key is not permitted for use in signature namespace \"git\"";
        assert_eq!(refusal(namespace), SignatureRefusal::NotForGit);
        let unknown = SignatureRefusal::Unknown("SHA256:x".into());
        assert_eq!(refusal("No principal matched."), unknown);
        let said = "Good \"git\" signature with ED25519 key SHA256:abc\n";
        assert_eq!(ssh_fingerprint(said), "SHA256:abc");
    }

    proptest! {
        /// Whatever is accepted has exactly one of each line that makes a
        /// status good and none that makes it bad. Other lines come between
        /// those of a good one; some only begin like a keyword.
        #[test]
        fn any_status_is_read(others in prop::collection::vec(
            prop::collection::vec(
                "(NEWSIG|GOODSIG|VALIDSIG|BADSIG|ERRSIG|EXPSIG|\\PC{0,9})(|[a-z]{1,3}| [ a-z0-9]{0,30})",
                0..2,
            ),
            4,
        )) {
            let good = ["NEWSIG", "GOODSIG 89AB Ada", "VALIDSIG ABCD", ""].map(str::to_owned);
            let lines: Vec<_> = others
                .into_iter()
                .zip(good)
                .flat_map(|(others, good)| others.into_iter().chain([good]))
                .collect();
            let text = format!("[GNUPG:] {}\n", lines.join("\n[GNUPG:] "));
            let count = |keyword: &str| {
                let has = |line: &&String| line.split(' ').next() == Some(keyword);
                lines.iter().filter(has).count()
            };
            let is_good = ["NEWSIG", "GOODSIG", "VALIDSIG"].map(count) == [1, 1, 1]
                && ["BADSIG", "ERRSIG", "EXPSIG"].map(count) == [0, 0, 0];
            prop_assert_eq!(gpg_status(&text).is_ok(), is_good);
        }

        #[test]
        fn any_words_of_ssh_keygen_are_read(text in "\\PC*") {
            let _ = (ssh_refusal(&text, String::new()), ssh_fingerprint(&text));
        }
    }
}
