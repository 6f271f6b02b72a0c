//! A commit as it is stored (`git cat-file commit`): who wrote it, what was signed, and by which
//! kind of signature.

use thiserror::Error;
use time::OffsetDateTime;

/// A commit's own words. What it says of its author is worth as much as its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitObject {
    /// Name and address of the author, as in `Ada <ada@example.org>`.
    pub author: String,
    /// When it was committed, by its own account.
    pub time: OffsetDateTime,
    /// The signature, where there is one.
    pub signature: Option<Signature>,
    /// What a signature is about: the commit without its signature.
    pub payload: Vec<u8>,
}

/// A signature that nobody has verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// As `ssh-keygen -Y sign` makes them.
    Ssh(String),
    /// OpenPGP, armored.
    OpenPgp(String),
    /// Another kind, by its first line.
    Other(String),
}

/// Why bytes are no commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the commit cannot be read: {0}")]
pub struct CommitObjectError(&'static str);

/// Longest signature.
const SIGNATURE_BYTES: usize = 64 << 10;

impl CommitObject {
    /// Reads a commit as git stores it. A signature is taken out in the way of git
    /// (`parse_buffer_signed_by_header` in its commit.c): the header and the lines that go on
    /// with a space, of either hash function.
    pub fn parse(object: &[u8]) -> Result<Self, CommitObjectError> {
        let mut payload = Vec::with_capacity(object.len());
        let mut signatures: Vec<Vec<u8>> = Vec::new();
        let (mut author, mut committer) = (None, None);
        let mut in_signature = false;
        let mut rest = object;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, after) = rest.split_at(end.map_or(rest.len(), |end| end + 1));
            rest = after;
            if line == b"\n" {
                // The message is whatever follows.
                payload.extend_from_slice(line);
                payload.extend_from_slice(rest);
                break;
            }
            if in_signature && line.starts_with(b" ") {
                if let Some(signature) = signatures.last_mut() {
                    signature.extend_from_slice(&line[1..]);
                }
                continue;
            }
            let begun = ["gpgsig ", "gpgsig-sha256 "]
                .iter()
                .find_map(|header| line.strip_prefix(header.as_bytes()));
            in_signature = begun.is_some();
            if let Some(begun) = begun {
                signatures.push(begun.to_vec());
                continue;
            }
            payload.extend_from_slice(line);
            let own = |header: &str| line.strip_prefix(header.as_bytes());
            // The first counts, and git's own check of objects refuses a second.
            if let Some(person) = own("author ") {
                author = author.or(Some(person));
            } else if let Some(person) = own("committer ") {
                committer = committer.or(Some(person));
            }
        }
        let author = author.ok_or(CommitObjectError("it has no author"))?;
        let committer = committer.ok_or(CommitObjectError("it has no committer"))?;
        let (author, _) = person(author)?;
        let (_, time) = person(committer)?;
        let signature = match signatures.as_slice() {
            [] => None,
            [signature] => Some(Signature::of(signature)?),
            _ => return Err(CommitObjectError("it has more than one signature")),
        };
        Ok(Self {
            author,
            time,
            signature,
            payload,
        })
    }
}

impl Signature {
    fn of(bytes: &[u8]) -> Result<Self, CommitObjectError> {
        if bytes.len() > SIGNATURE_BYTES {
            return Err(CommitObjectError("its signature is too long"));
        }
        let text = std::str::from_utf8(bytes);
        let text = text.map_err(|_| CommitObjectError("its signature is no text"))?;
        let first = text.lines().next().unwrap_or_default().trim_end();
        Ok(match first {
            "-----BEGIN SSH SIGNATURE-----" => Self::Ssh(text.to_owned()),
            "-----BEGIN PGP SIGNATURE-----" => Self::OpenPgp(text.to_owned()),
            other => Self::Other(clean(other.trim_matches('-'))),
        })
    }
}

/// `NAME <ADDRESS> SECONDS ZONE`.
fn person(bytes: &[u8]) -> Result<(String, OffsetDateTime), CommitObjectError> {
    let text = String::from_utf8_lossy(bytes);
    let error = CommitObjectError("it has a person without address or time");
    let (name, time) = text.trim_end().rsplit_once('>').ok_or(error)?;
    let seconds = time.split_ascii_whitespace().next().ok_or(error)?;
    let time = seconds
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    Ok((format!("{}>", clean(name)), time.ok_or(error)?))
}

/// Without what a terminal would obey.
pub(super) fn clean(text: &str) -> String {
    let letters = text.chars().filter(|c| !c.is_control());
    letters.take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
                        parent 0123456789abcdef0123456789abcdef01234567\n\
                        author Ada L <ada@example.org> 1700000000 +0100\n\
                        committer Bob <bob@example.org> 1700000060 +0000\n";

    #[test]
    fn an_unsigned_commit() {
        let object = format!("{HEAD}\nmessage\n");
        let commit = CommitObject::parse(object.as_bytes()).unwrap();
        assert_eq!(commit.author, "Ada L <ada@example.org>");
        assert_eq!(commit.time.unix_timestamp(), 1_700_000_060);
        assert_eq!(commit.signature, None);
        assert_eq!(commit.payload, object.as_bytes());
    }

    #[test]
    fn the_signature_is_taken_out_and_nothing_else() {
        let signed = format!(
            "{HEAD}gpgsig -----BEGIN SSH SIGNATURE-----\n U1NI\n -----END SSH SIGNATURE-----\n\
             encoding latin1\n\n gpgsig in the message\ngpgsig x\n"
        );
        let commit = CommitObject::parse(signed.as_bytes()).unwrap();
        let text = "-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\n";
        assert_eq!(commit.signature, Some(Signature::Ssh(text.into())));
        let rest = format!("{HEAD}encoding latin1\n\n gpgsig in the message\ngpgsig x\n");
        assert_eq!(String::from_utf8(commit.payload).unwrap(), rest);
    }

    #[test]
    fn kinds_of_signatures() {
        let kind = |first: &str| {
            let object = format!("{HEAD}gpgsig {first}\n x\n\nm\n");
            CommitObject::parse(object.as_bytes())
                .unwrap()
                .signature
                .unwrap()
        };
        let pgp = kind("-----BEGIN PGP SIGNATURE-----");
        assert!(matches!(pgp, Signature::OpenPgp(_)), "{pgp:?}");
        let x509 = kind("-----BEGIN SIGNED MESSAGE-----");
        assert_eq!(x509, Signature::Other("BEGIN SIGNED MESSAGE".into()));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let two = format!("{HEAD}gpgsig a\ngpgsig-sha256 b\n\nm\n");
        assert!(CommitObject::parse(two.as_bytes()).is_err());
        assert!(CommitObject::parse(b"").is_err());
        assert!(CommitObject::parse(b"author a <b> x +0000\n\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = CommitObject::parse(&bytes);
        }

        #[test]
        fn what_is_signed_has_no_signature_in_its_head(
            lines in prop::collection::vec("(gpgsig |gpgsig-sha256 | |encoding |x)[-a-z ]{0,9}", 0..8),
        ) {
            let object = format!("{HEAD}{}\n\nm", lines.join("\n"));
            if let Ok(commit) = CommitObject::parse(object.as_bytes()) {
                let payload = String::from_utf8(commit.payload).unwrap();
                let (head, _) = payload.split_once("\n\n").unwrap();
                prop_assert!(!head.lines().any(|line| line.starts_with("gpgsig")));
            }
        }
    }
}
