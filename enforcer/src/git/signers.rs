//! Who may sign: files in the format of ssh-keygen(1), section ALLOWED SIGNERS, and armored
//! OpenPGP keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Allowed signers, as their files are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    /// Lines of allowed signers for ssh-keygen.
    pub ssh: String,
    /// Armored public keys, one file each.
    pub openpgp: Vec<Vec<u8>>,
}

/// Why files of allowed signers cannot be used.
#[derive(Debug, Error)]
pub enum SignersError {
    /// A file cannot be read.
    #[error("cannot read the allowed signers {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {error}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        error: SignerLineError,
    },
    /// A file is no key.
    #[error("{} has no whole OpenPGP key: export it with `gpg --armor --export NAME`", .0.display())]
    OpenPgp(PathBuf),
    /// A private key is where a public one belongs.
    #[error("{} holds a private key: put the public one there, and the private one back to its owner", .0.display())]
    Private(PathBuf),
    /// Nobody could sign.
    #[error("no signer is named in {0}: nothing could ever take effect")]
    Nobody(String),
}

/// What is wrong with a line of allowed signers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignerLineError {
    /// Too few fields.
    #[error(
        "this is no signer: write `NAME@HOST ssh-ed25519 KEY` (ssh-keygen(1), ALLOWED SIGNERS)"
    )]
    Fields,
    /// An unknown kind of key.
    #[error("`{0}` is no kind of key: take the line from the signer's .pub file")]
    KeyType(String),
    /// A key that is none.
    #[error("the key is not base64: take it whole from the signer's .pub file")]
    Key,
    /// An unknown option.
    #[error(
        "`{0}` is no option: there are cert-authority, namespaces=\"git\", valid-after=\"TIME\" and valid-before=\"TIME\""
    )]
    Option(String),
    /// A time that is none.
    #[error("`{0}` is no time: write YYYYMMDD or YYYYMMDDHHMM[SS], with Z for UTC")]
    Time(String),
}

/// Largest file.
const FILE_BYTES: u64 = 4 << 20;

impl Signers {
    /// Reads files, and those in directories that are not hidden. Blocks.
    pub fn load(paths: &[PathBuf]) -> Result<Self, SignersError> {
        let mut signers = Self::default();
        for path in paths {
            let fail = |source| SignersError::Read {
                path: path.clone(),
                source,
            };
            if !fs::metadata(path).map_err(fail)?.is_dir() {
                signers.add(path)?;
                continue;
            }
            let mut files = Vec::new();
            for entry in fs::read_dir(path).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
                if !hidden && entry.path().is_file() {
                    files.push(entry.path());
                }
            }
            files.sort();
            for file in files {
                signers.add(&file)?;
            }
        }
        if signers.ssh.is_empty() && signers.openpgp.is_empty() {
            let shown: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
            return Err(SignersError::Nobody(shown.join(", ")));
        }
        Ok(signers)
    }

    fn add(&mut self, path: &Path) -> Result<(), SignersError> {
        let fail = |source| SignersError::Read {
            path: path.to_owned(),
            source,
        };
        let size = fs::metadata(path).map_err(fail)?.len();
        if size > FILE_BYTES {
            let limit = format!("larger than {FILE_BYTES} bytes");
            return Err(fail(io::Error::other(limit)));
        }
        let bytes = fs::read(path).map_err(fail)?;
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("PRIVATE KEY") {
            return Err(SignersError::Private(path.to_owned()));
        }
        if text.contains("-----BEGIN PGP ") {
            let is_key = text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----")
                && text.contains("-----END PGP PUBLIC KEY BLOCK-----");
            if !is_key {
                return Err(SignersError::OpenPgp(path.to_owned()));
            }
            self.openpgp.push(bytes);
            return Ok(());
        }
        for (index, line) in text.lines().enumerate() {
            match is_signer(line) {
                Ok(true) => {
                    self.ssh.push_str(line.trim());
                    self.ssh.push('\n');
                }
                Ok(false) => {}
                Err(error) => {
                    return Err(SignersError::Line {
                        path: path.to_owned(),
                        line: index + 1,
                        error,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Whether a line names a signer; comments and empty lines name none.
pub fn is_signer(line: &str) -> Result<bool, SignerLineError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(false);
    }
    let fields = fields(line);
    let mut fields = fields.iter().copied().skip(1).peekable();
    if let Some(options) = fields.next_if(|field| !is_key_type(field) && !is_bare_word(field)) {
        for option in split(options, |c| c == ',') {
            check_option(option)?;
        }
    }
    let kind = fields.next().ok_or(SignerLineError::Fields)?;
    if !is_key_type(kind) {
        return Err(SignerLineError::KeyType(kind.chars().take(60).collect()));
    }
    let key = fields.next().ok_or(SignerLineError::Fields)?;
    let base64 = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    if key.len() < 40 || !key.bytes().all(base64) {
        return Err(SignerLineError::Key);
    }
    Ok(true)
}

/// What can only be meant as a kind of key: options have a value or are `cert-authority`.
fn is_bare_word(field: &str) -> bool {
    !field.contains('=') && !field.eq_ignore_ascii_case("cert-authority")
}

fn is_key_type(field: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"]
        .iter()
        .any(|prefix| field.starts_with(prefix))
}

fn check_option(option: &str) -> Result<(), SignerLineError> {
    let unknown = || SignerLineError::Option(option.chars().take(60).collect());
    let Some((name, value)) = option.split_once('=') else {
        return if option.eq_ignore_ascii_case("cert-authority") {
            Ok(())
        } else {
            Err(unknown())
        };
    };
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let value = value.ok_or_else(unknown)?;
    match name.to_ascii_lowercase().as_str() {
        "namespaces" if !value.is_empty() => Ok(()),
        "valid-after" | "valid-before" => {
            let digits = value.strip_suffix(['Z', 'z']).unwrap_or(value);
            let good =
                matches!(digits.len(), 8 | 12 | 14) && digits.bytes().all(|b| b.is_ascii_digit());
            if good {
                Ok(())
            } else {
                Err(SignerLineError::Time(value.chars().take(60).collect()))
            }
        }
        _ => Err(unknown()),
    }
}

fn fields(line: &str) -> Vec<&str> {
    split(line, char::is_whitespace)
}

/// The parts between separators that are not in quotes, without empty ones.
fn split(text: &str, separator: impl Fn(char) -> bool) -> Vec<&str> {
    let mut quoted = false;
    let parts = text.split(|c: char| {
        quoted ^= c == '"';
        !quoted && separator(c)
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGSAlCFCPOTCRCuNmQj/QEwOKLE5/n3zcI1GtVVSrCkP";

    #[test]
    fn lines_of_allowed_signers() {
        for good in [
            format!("ada@example.org {KEY}"),
            format!("ada@example.org,*@ops.example.org {KEY} a comment"),
            format!("*@x cert-authority,namespaces=\"git,file\" {KEY}"),
            format!("a@x valid-after=\"20260101\",valid-before=\"202701010000Z\" {KEY}"),
            format!("a@x namespaces=\"git, file\" {KEY}"),
        ] {
            assert_eq!(is_signer(&good), Ok(true), "{good}");
        }
        for none in ["", "  ", "# ada"] {
            assert_eq!(is_signer(none), Ok(false), "{none}");
        }
        let error = |line: &str| is_signer(line).unwrap_err();
        assert_eq!(error("ada@example.org"), SignerLineError::Fields);
        assert_eq!(error(KEY), SignerLineError::KeyType(KEY[12..72].into()));
        assert_eq!(error("a@x ssh-ed25519 short"), SignerLineError::Key);
        let option = error(&format!("a@x valid-til=\"20260101\" {KEY}"));
        assert!(matches!(option, SignerLineError::Option(_)), "{option}");
        let time = error(&format!("a@x valid-after=\"soon\" {KEY}"));
        assert_eq!(time, SignerLineError::Time("soon".into()));
    }

    #[test]
    fn files_and_directories() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let load = |name: &str| Signers::load(&[at(name)]);
        fs::write(at("ssh"), format!("# people\nada@x {KEY}\n")).unwrap();
        assert_eq!(load("ssh").unwrap().ssh, format!("ada@x {KEY}\n"));
        let block = |what: &str| format!("-----BEGIN PGP {what}-----\n-----END PGP {what}-----\n");
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/bob.asc"), block("PUBLIC KEY BLOCK")).unwrap();
        fs::write(at("d/.hidden"), "nonsense").unwrap();
        fs::copy(at("ssh"), at("d/ssh")).unwrap();
        let both = load("d").unwrap();
        assert_eq!((both.openpgp.len(), both.ssh.lines().count()), (1, 1));
        fs::write(at("private"), block("PRIVATE KEY BLOCK")).unwrap();
        assert!(matches!(load("private"), Err(SignersError::Private(_))));
        fs::write(at("signature"), block("SIGNATURE")).unwrap();
        assert!(matches!(load("signature"), Err(SignersError::OpenPgp(_))));
        fs::write(at("empty"), "# nobody\n").unwrap();
        assert!(matches!(load("empty"), Err(SignersError::Nobody(_))));
        assert!(matches!(load("missing"), Err(SignersError::Read { .. })));
        fs::write(at("wrong"), format!("ada@x {KEY}\n\nbob@x\n")).unwrap();
        let error = load("wrong").unwrap_err().to_string();
        assert!(error.contains("wrong:3: "), "{error}");
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in "\\PC*") {
            let _ = is_signer(&line);
        }

        #[test]
        fn nearly_good_lines_too(line in "[a@\", ]{0,6}( [-a-z=\",0-9]{0,20})?( ssh-ed25519)? [A-Z]{38,42}") {
            let _ = is_signer(&line);
        }
    }
}
