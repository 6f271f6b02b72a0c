//! Runs programs that look at what others wrote: with an environment of our own, and bounds.

use std::{
    ffi::OsString,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use super::confinement::confine;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

/// Most that is kept of what a program complains.
const COMPLAINT_BYTES: u64 = 16 << 10;
/// Where programs are looked for if the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// All that is taken over from the daemon's own environment.
const TAKEN_OVER: [&str; 9] = [
    "PATH",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
];

/// What a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From start to end.
    pub time: Duration,
    /// Bytes that it may write to its standard output.
    pub output: usize,
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// As it said itself.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained, as far as it is kept.
    pub stderr: String,
}

/// Why a program did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error("cannot run `{program}`: is it installed?")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was ended.
    #[error("`{program}` took longer than {} s and was ended", after.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// How long it could take.
        after: Duration,
    },
    /// It was ended.
    #[error("`{program}` wrote more than {limit} bytes and was ended")]
    Output {
        /// The program.
        program: String,
        /// How much it could write.
        limit: usize,
    },
    /// Talking to it failed.
    #[error("cannot talk to `{program}`")]
    Talk {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// A command without anything of our own environment but where programs and proxies are, with a
/// home directory in which nothing is, without capabilities, and with bounded memory.
pub fn command(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", DEFAULT_PATH);
    for name in TAKEN_OVER {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .env("LC_ALL", "C")
        .current_dir(home)
        // With helpers of its own it is a group, which ends as a whole.
        .process_group(0)
        .kill_on_drop(true);
    confine(&mut command);
    command
}

/// Runs a command to its end, within bounds. What it starts ends with it.
pub async fn run(
    mut command: Command,
    input: Vec<u8>,
    bounds: Bounds,
) -> Result<Finished, RunError> {
    let name: OsString = command.as_std().get_program().to_owned();
    let program = || name.to_string_lossy().into_owned();
    let talk = |source| RunError::Talk {
        program: program(),
        source,
    };
    command
        .stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| RunError::Start {
        program: program(),
        source,
    })?;
    let group = Group(child.id());
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // Who ends before having read everything says so by the exit status.
            let _ = stdin.write_all(&input).await;
        }
    };
    let limit = bounds.output as u64;
    let ended = timeout(bounds.time, async {
        let (read, complained, ()) = tokio::join!(take(stdout, limit + 1), complaint(stderr), feed);
        let stdout = read.map_err(talk)?;
        if stdout.len() as u64 > limit {
            return Err(RunError::Output {
                program: program(),
                limit: bounds.output,
            });
        }
        let status = child.wait().await.map_err(talk)?;
        Ok(Finished {
            status,
            stdout,
            stderr: String::from_utf8_lossy(&complained).into_owned(),
        })
    })
    .await;
    drop(group);
    ended.unwrap_or_else(|_| {
        Err(RunError::Timeout {
            program: program(),
            after: bounds.time,
        })
    })
}

/// A process group that ends with this value, however that ends.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(Ok(leader)) = self.0.map(i32::try_from) {
            // It fails where nothing of the group is left.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
    }
}

async fn take(from: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The first of what is complained; the rest is read, so that nobody waits for a reader.
async fn complaint(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        let mut first = (&mut from).take(COMPLAINT_BYTES);
        if first.read_to_end(&mut bytes).await.is_ok() {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
    }
    bytes
}

/// Why a fetch failed, for metrics and for what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchCause {
    /// The program is missing, too old, or does not work here.
    Program,
    /// It took too long.
    Timeout,
    /// The repository is larger than it may be.
    TooLarge,
    /// The host cannot be reached.
    Unreachable,
    /// The host does not let us in, or is not the one that we know.
    Denied,
    /// There is no such repository, branch, tag or commit.
    NotFound,
    /// What was sent is damaged.
    Corrupt,
    /// Anything else.
    Other,
}

impl FetchCause {
    /// Every cause.
    pub const ALL: [Self; 8] = [
        Self::Program,
        Self::Timeout,
        Self::TooLarge,
        Self::Unreachable,
        Self::Denied,
        Self::NotFound,
        Self::Corrupt,
        Self::Other,
    ];

    /// In metrics and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Timeout => "timeout",
            Self::TooLarge => "too-large",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::NotFound => "not-found",
            Self::Corrupt => "corrupt",
            Self::Other => "other",
        }
    }
}

/// What git, ssh and curl write (in the C locale), and what it means. The first that is found
/// counts: what is denied comes before git's guess that the repository may not exist.
const SIGNS: [(&str, FetchCause); 35] = [
    ("Out of memory", FetchCause::TooLarge),
    ("out of memory", FetchCause::TooLarge),
    ("SSL connection", FetchCause::Unreachable),
    ("Host key verification failed", FetchCause::Denied),
    ("Permission denied", FetchCause::Denied),
    ("Authentication failed", FetchCause::Denied),
    ("could not read Username", FetchCause::Denied),
    ("could not read Password", FetchCause::Denied),
    ("unable to get password", FetchCause::Denied),
    ("error: 401", FetchCause::Denied),
    ("error: 403", FetchCause::Denied),
    ("certificate", FetchCause::Denied),
    ("SSL", FetchCause::Denied),
    ("dubious ownership", FetchCause::Denied),
    ("not allowed", FetchCause::Denied),
    // Where a redirection leads.
    ("not supported or disabled", FetchCause::Denied),
    ("Could not resolve", FetchCause::Unreachable),
    ("Name or service not known", FetchCause::Unreachable),
    ("name resolution", FetchCause::Unreachable),
    ("Connection refused", FetchCause::Unreachable),
    ("Failed to connect", FetchCause::Unreachable),
    ("Couldn't connect", FetchCause::Unreachable),
    ("Network is unreachable", FetchCause::Unreachable),
    ("No route to host", FetchCause::Unreachable),
    ("Connection timed out", FetchCause::Unreachable),
    ("Connection closed", FetchCause::Unreachable),
    ("error: 5", FetchCause::Unreachable),
    ("couldn't find remote ref", FetchCause::NotFound),
    ("not our ref", FetchCause::NotFound),
    ("not found", FetchCause::NotFound),
    (
        "does not appear to be a git repository",
        FetchCause::NotFound,
    ),
    ("fsck error", FetchCause::Corrupt),
    ("fsckObjects", FetchCause::Corrupt),
    ("protocol error", FetchCause::Corrupt),
    ("index-pack", FetchCause::Corrupt),
];

/// What a failed fetch means, by what git complained.
pub fn classify(complaint: &str) -> FetchCause {
    let found = SIGNS.iter().find(|(sign, _)| complaint.contains(sign));
    found.map_or(FetchCause::Other, |(_, cause)| *cause)
}

/// The last lines of a complaint as one, without git's prefixes and without control characters.
pub fn short_complaint(complaint: &str) -> String {
    let lines: Vec<_> = complaint
        .lines()
        .map(|line| line.trim().trim_start_matches("fatal: "))
        .filter(|line| !line.is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    let text = last.join("; ");
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(600).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        time: Duration::from_secs(20),
        output: 1_000,
    };

    const LARGE: Bounds = Bounds {
        output: 10_000,
        ..BOUNDS
    };

    fn shell(script: &str) -> Command {
        let mut command = command("sh", Path::new("/"));
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_complaint_and_status_are_told() {
        let script = "cat; echo bad >&2; exit 3";
        let finished = run(shell(script), b"x".to_vec(), BOUNDS).await.unwrap();
        assert_eq!(finished.stdout, b"x");
        assert_eq!(finished.stderr, "bad\n");
        assert_eq!(finished.status.code(), Some(3));
    }

    #[tokio::test]
    async fn who_takes_too_long_or_writes_too_much_ends_with_all_its_helpers() {
        let root = tempfile::tempdir().unwrap();
        let marker = root.path().join("helper-is-alive");
        let script = format!("(sleep 2; touch {}) & sleep 60", marker.display());
        let short = Bounds {
            time: Duration::from_millis(200),
            ..BOUNDS
        };
        let ended = run(shell(&script), Vec::new(), short).await;
        assert!(matches!(ended, Err(RunError::Timeout { .. })), "{ended:?}");
        let ended = run(shell("yes"), Vec::new(), BOUNDS).await;
        assert!(matches!(ended, Err(RunError::Output { .. })), "{ended:?}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!marker.exists());
    }

    #[tokio::test]
    async fn a_missing_program_is_named_and_the_environment_is_ours() {
        let missing = command("enforcer-no-such-program", Path::new("/"));
        let error = run(missing, Vec::new(), BOUNDS).await.unwrap_err();
        assert!(error.to_string().contains("enforcer-no-such-program"));
        let finished = run(shell("env"), Vec::new(), BOUNDS).await.unwrap();
        let text = String::from_utf8(finished.stdout).unwrap();
        assert!(text.contains("HOME=/\n"), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
    }

    #[tokio::test]
    async fn programs_have_no_capability_whoever_runs_them() {
        let finished = run(shell("cat /proc/self/status"), Vec::new(), LARGE).await;
        let text = String::from_utf8(finished.unwrap().stdout).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let line = format!("{set}:\t0000000000000000\n");
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("NoNewPrivs:\t1\n"), "{text}");
    }

    #[test]
    fn complaints_have_causes() {
        for (complaint, cause) in [
            (
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                FetchCause::Denied,
            ),
            (
                "fatal: unable to access 'https://h/': Could not resolve host: h",
                FetchCause::Unreachable,
            ),
            (
                "fatal: couldn't find remote ref refs/heads/nowhere",
                FetchCause::NotFound,
            ),
            (
                "error: object 12: badTree\nfatal: fsck error in packed object",
                FetchCause::Corrupt,
            ),
            ("fatal: what?", FetchCause::Other),
        ] {
            assert_eq!(classify(complaint), cause, "{complaint}");
        }
        assert_eq!(short_complaint("\nfatal: a\tb\n\nc\n"), "a b; c");
    }

    proptest! {
        #[test]
        fn any_complaint_is_read(complaint in "\\PC*") {
            let _ = classify(&complaint);
            prop_assert!(short_complaint(&complaint).chars().count() <= 600);
        }
    }
}
