//! Where policy is kept: `git+https://HOST/REPO#REFERENCE:PATH`.

use std::{fmt, net::IpAddr, path::Component, path::Path, str::FromStr};

/// A repository, what of it is followed, and where in it policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// How it is reached.
    pub scheme: Scheme,
    /// For the `git` program: without `git+` and without the fragment.
    pub url: String,
    /// What is followed.
    pub reference: Reference,
    /// Path of the policy tree from the top of the repository; empty for everything.
    pub path: String,
}

/// How a repository is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP over TLS.
    Https,
    /// SSH.
    Ssh,
    /// A repository on this machine.
    File,
    /// HTTP in the clear: from loopback only.
    Http,
}

/// What of a repository is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The branch that the remote calls its own.
    Head,
    /// A branch or a tag by its full name, as in `refs/heads/main`.
    Name(String),
    /// One commit, for ever: its full id.
    Commit(String),
}

/// Why a text names no repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Another scheme, or none.
    #[error(
        "`{0}` is no git source: write git+https://HOST/REPOSITORY#BRANCH:PATH (or git+ssh://, git+file://)"
    )]
    Scheme(String),
    /// In the clear over the network.
    #[error(
        "git+http is for loopback only, because who is in between could read and change it: write git+https or git+ssh"
    )]
    Clear,
    /// A password that every user of the machine could read.
    #[error(
        "the address holds a password, which all processes of this machine can read: put it into the file of --git-credentials"
    )]
    Password,
    /// Host or path of the address.
    #[error("bad address of a repository: {0}")]
    Address(&'static str),
    /// What is behind `#`.
    #[error("`{0}` is no branch (a tag is written refs/tags/NAME, a commit with all its digits)")]
    Reference(String),
    /// What is behind the colon.
    #[error("`{0}` is no path in a repository: write it from the top, without `..`")]
    Path(String),
}

/// Longest address.
const LONGEST: usize = 2_048;

impl Scheme {
    /// As git names the protocol.
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Ssh => "ssh",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

impl Reference {
    /// As git is asked for it.
    pub fn wanted(&self) -> &str {
        match self {
            Self::Head => "HEAD",
            Self::Name(name) | Self::Commit(name) => name,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.wanted();
        f.write_str(name.strip_prefix("refs/heads/").unwrap_or(name))
    }
}

impl Remote {
    /// Whether a text is meant as a git source, and not as a path.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("git+")
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let scheme = || RemoteError::Scheme(shown(address));
        let url = address.strip_prefix("git+").ok_or_else(scheme)?;
        let (name, rest) = url.split_once("://").ok_or_else(scheme)?;
        let scheme = match name {
            "https" => Scheme::Https,
            "ssh" => Scheme::Ssh,
            "file" => Scheme::File,
            "http" => Scheme::Http,
            _ => return Err(scheme()),
        };
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '`');
        if url.len() > LONGEST || !rest.chars().all(plain) {
            return Err(RemoteError::Address(
                "it is too long, or has a character that belongs percent-encoded",
            ));
        }
        check_address(scheme, rest)?;
        let (reference, path) = match fragment {
            Some(fragment) => fragment.split_once(':').unwrap_or((fragment, "")),
            None => ("", ""),
        };
        Ok(Self {
            scheme,
            url: url.to_owned(),
            reference: reference_of(reference)?,
            path: path_of(path)?,
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "git+{}", self.url)?;
        match (&self.reference, self.path.as_str()) {
            (Reference::Head, "") => Ok(()),
            (Reference::Head, path) => write!(f, "#:{path}"),
            (reference, "") => write!(f, "#{reference}"),
            (reference, path) => write!(f, "#{reference}:{path}"),
        }
    }
}

fn check_address(scheme: Scheme, rest: &str) -> Result<(), RemoteError> {
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if path.len() < 2 {
        return Err(RemoteError::Address("it has no path of the repository"));
    }
    if scheme == Scheme::File {
        return match authority {
            "" => Ok(()),
            _ => Err(RemoteError::Address(
                "a file has no host: write git+file:///PATH",
            )),
        };
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err(RemoteError::Password);
    }
    // To the programs behind git, what begins with a dash is an option.
    if user.is_some_and(|user| user.is_empty() || user.starts_with('-')) || host.starts_with('-') {
        return Err(RemoteError::Address(
            "user or host begin with a dash or are empty",
        ));
    }
    let name = host_name(host).ok_or(RemoteError::Address("the host is no name and no address"))?;
    if scheme == Scheme::Http && !is_loopback(name) {
        return Err(RemoteError::Clear);
    }
    Ok(())
}

/// The host without its port and brackets.
fn host_name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']')?;
            name.parse::<std::net::Ipv6Addr>().ok()?;
            (name, port)
        }
        None => match host.find(':') {
            Some(at) => host.split_at(at),
            None => (host, ""),
        },
    };
    let port_is_good = port.is_empty() || port.strip_prefix(':')?.parse::<u16>().is_ok();
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    (port_is_good && !name.is_empty() && name.bytes().all(letters)).then_some(name)
}

fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn reference_of(text: &str) -> Result<Reference, RemoteError> {
    if text.is_empty() {
        return Ok(Reference::Head);
    }
    if is_object_id(text) {
        return Ok(Reference::Commit(text.to_ascii_lowercase()));
    }
    let name = if text.starts_with("refs/") {
        text.to_owned()
    } else {
        format!("refs/heads/{text}")
    };
    if is_reference_name(&name) {
        Ok(Reference::Name(name))
    } else {
        Err(RemoteError::Reference(shown(text)))
    }
}

/// Whether a text is the full id of an object: SHA-1 or SHA-256 in hexadecimal digits.
pub fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The rules of git-check-ref-format(1).
fn is_reference_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\\"'`$".contains(c);
    name.len() <= 255
        && !name.chars().any(forbidden)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name.split('/').count() >= 3
        && name.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with(['.', '-'])
                && !part.to_ascii_lowercase().ends_with(".lock")
        })
}

fn path_of(text: &str) -> Result<String, RemoteError> {
    let path = text.trim_end_matches('/');
    let mut parts = Path::new(path).components();
    let inside = parts.all(|part| matches!(part, Component::Normal(_)));
    let plain = !path.chars().any(char::is_control) && path.len() <= LONGEST;
    // As git has it: no `./` and no `//` either, which components leave out.
    let exact = path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if inside && plain && exact {
        Ok(path.to_owned())
    } else {
        Err(RemoteError::Path(shown(text)))
    }
}

/// For messages.
fn shown(text: &str) -> String {
    text.chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Remote, RemoteError> {
        text.parse()
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let remote = parse("git+https://git.example.org/net/policy.git").unwrap();
        assert_eq!(remote.scheme, Scheme::Https);
        assert_eq!(remote.url, "https://git.example.org/net/policy.git");
        assert_eq!(
            (remote.reference, remote.path.as_str()),
            (Reference::Head, "")
        );
        let remote = parse("git+ssh://git@git.example.org:2222/policy#prod:hosts/web/").unwrap();
        assert_eq!(remote.reference, Reference::Name("refs/heads/prod".into()));
        assert_eq!(remote.path, "hosts/web");
        let remote = parse("git+file:///srv/policy.git#:policies").unwrap();
        assert_eq!(
            (remote.reference, remote.path.as_str()),
            (Reference::Head, "policies")
        );
    }

    #[test]
    fn branches_tags_and_commits() {
        let reference = |text: &str| parse(&format!("git+https://h/r#{text}")).map(|r| r.reference);
        let name = |name: &str| Ok(Reference::Name(name.into()));
        assert_eq!(reference("feature/x"), name("refs/heads/feature/x"));
        assert_eq!(reference("refs/tags/v1.2"), name("refs/tags/v1.2"));
        let id = "0123456789ABCDEF0123456789abcdef01234567";
        assert_eq!(
            reference(id),
            Ok(Reference::Commit(id.to_ascii_lowercase()))
        );
        for bad in [
            "-x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a@{1}",
            "a.lock",
            "a/",
            "/a",
            ".a",
            "a\\b",
            "refs/x",
            "a?",
            "refs/heads/-b",
        ] {
            assert!(
                matches!(reference(bad), Err(RemoteError::Reference(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_could_be_an_option_or_a_secret_is_refused() {
        for bad in [
            "git+ssh://-oProxyCommand=touch/x",
            "git+ssh://-l@host/x",
            "git+https://@host/x",
            "git+https:///x",
            "git+https://host",
            "git+https://host/",
            "git+https://ho st/x",
            "git+https://host:x/x",
            "git+https://host/x\ny",
            "git+file://host/x",
            "git+https://[::1/x",
        ] {
            assert!(matches!(parse(bad), Err(RemoteError::Address(_))), "{bad}");
        }
        for bad in [
            "/etc/policies",
            "https://h/r",
            "git+ext::sh -c x",
            "git+ftp://h/r",
            "git+",
        ] {
            assert!(matches!(parse(bad), Err(RemoteError::Scheme(_))), "{bad}");
        }
        assert_eq!(
            parse("git+https://me:secret@h/r"),
            Err(RemoteError::Password)
        );
        for bad in ["../x", "/x", "a/../b", "a//b", "./a", "a/./b"] {
            let text = format!("git+https://h/r#main:{bad}");
            assert!(matches!(parse(&text), Err(RemoteError::Path(_))), "{bad}");
        }
    }

    #[test]
    fn nothing_goes_in_the_clear_over_the_network() {
        for good in ["127.0.0.1:80", "127.9.9.9", "[::1]:8080", "localhost"] {
            assert!(parse(&format!("git+http://{good}/r")).is_ok(), "{good}");
        }
        for bad in ["10.0.0.1", "localhost.example.org", "[::2]"] {
            assert_eq!(
                parse(&format!("git+http://{bad}/r")),
                Err(RemoteError::Clear),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn nearly_good_text_never_becomes_an_option(
            text in "git\\+(https|ssh|file|http)://[-a-z@:/.%]{0,20}(#[-a-z/.:~^]{0,20})?",
        ) {
            if let Ok(remote) = parse(&text) {
                prop_assert!(!remote.url.starts_with('-'));
                prop_assert!(!remote.reference.wanted().starts_with('-'));
                prop_assert!(!remote.path.split('/').any(|part| part == ".."));
                prop_assert_eq!(parse(&remote.to_string()), Ok(remote));
            }
        }
    }
}
