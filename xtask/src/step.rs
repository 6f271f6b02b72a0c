//! One step of work, with progress on standard error and its output kept for when it fails.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace;

/// How many lines of a failed command's output are kept.
const TAIL: usize = 200;
/// How often a line is printed while a step runs where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// A step that took less says nothing when it ends.
const WORTH_SAYING: Duration = Duration::from_secs(2);

/// Runs a command whose output matters only if it fails.
///
/// # Errors
/// The command cannot be started, or fails; the error is one line, with the last line of the
/// output and the file where more of it is kept.
pub fn quietly(title: &str, command: &mut Command) -> Result<()> {
    let progress = Progress::start(title);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL)));
    let readers = [
        child
            .stdout
            .take()
            .map(|pipe| follow(pipe, &progress, &tail)),
        child
            .stderr
            .take()
            .map(|pipe| follow(pipe, &progress, &tail)),
    ];
    let status = child.wait()?;
    for reader in readers.into_iter().flatten() {
        // A reader can only end; its panic would already be on the terminal.
        let _ = reader.join();
    }
    progress.finish();
    if !status.success() {
        let tail = tail.lock().expect("no reader panics");
        let last = tail
            .iter()
            .rev()
            .map(|line| line.trim())
            .find(|line| !line.is_empty());
        let log = keep(title, command, tail.iter());
        bail!(
            "{} failed ({status}): {} (more in {log})",
            command.get_program().display(),
            last.unwrap_or("it said nothing")
        );
    }
    Ok(())
}

/// Appends the output of a failed command to a log and says where that is.
fn keep<'line>(
    title: &str,
    command: &Command,
    lines: impl Iterator<Item = &'line String>,
) -> String {
    let path = workspace::target().join("xtask.log");
    let mut text = format!("==> {title}: {command:?}\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let written = fs::create_dir_all(workspace::target())
        .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&path))
        .and_then(|mut log| log.write_all(text.as_bytes()));
    match written {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("no log: {error}"),
    }
}

/// Runs a command that shows its own progress; announces it first.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn openly(title: &str, command: &mut Command) -> Result<()> {
    let status = openly_status(title, command)?;
    if !status.success() {
        bail!("{title}: failed ({status})");
    }
    Ok(())
}

/// As [`openly`], but a failure of the command is the caller's to judge.
///
/// # Errors
/// The command cannot be started.
pub fn openly_status(title: &str, command: &mut Command) -> Result<ExitStatus> {
    say(title);
    command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// One line about what happens now.
pub fn say(title: &str) {
    eprintln!("==> {title}");
}

/// The standard output of a command that takes no time, trimmed; its errors are in the error.
///
/// # Errors
/// The command cannot be started, or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !done.status.success() {
        bail!(
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// A spinner on a terminal; elsewhere a line at the start, one every half minute, one at the end.
pub struct Progress {
    title: String,
    started: Instant,
    bar: Option<ProgressBar>,
    stop_heartbeat: Option<mpsc::Sender<()>>,
}

impl Progress {
    /// Starts to show that `title` is under way.
    pub fn start(title: &str) -> Self {
        let started = Instant::now();
        let (bar, stop_heartbeat) = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(title.to_owned());
            bar.set_style(
                ProgressStyle::with_template("{spinner:.cyan} {msg} [{elapsed}] {prefix:.dim}")
                    .expect("the template is constant"),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            (Some(bar), None)
        } else {
            say(title);
            let (stop, stopped) = mpsc::channel::<()>();
            let title = title.to_owned();
            thread::spawn(move || {
                while stopped.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                    say(&format!(
                        "{title}: {} s so far",
                        started.elapsed().as_secs()
                    ));
                }
            });
            (None, Some(stop))
        };
        Self {
            title: title.to_owned(),
            started,
            bar,
            stop_heartbeat,
        }
    }

    /// Ends the show, and says how long it took if that was noticeable.
    pub fn finish(self) {
        drop(self.stop_heartbeat);
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        let took = self.started.elapsed();
        if took >= WORTH_SAYING {
            say(&format!("{}: done in {} s", self.title, took.as_secs()));
        }
    }
}

/// Reads a child's output to its end, line by line, onto the spinner and into the tail.
fn follow(
    pipe: impl Read + Send + 'static,
    progress: &Progress,
    tail: &Arc<Mutex<VecDeque<String>>>,
) -> thread::JoinHandle<()> {
    let bar = progress.bar.clone();
    let tail = Arc::clone(tail);
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(bar) = &bar {
                bar.set_prefix(line.trim().chars().take(60).collect::<String>());
            }
            let mut tail = tail.lock().expect("no reader panics");
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    })
}
