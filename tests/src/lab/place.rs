//! Where a process of the lab runs: a network namespace and a cgroup.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use serde::de::DeserializeOwned;

use super::{Namespace, cgroup};

/// A network namespace and a cgroup.
#[derive(Clone, Debug)]
pub struct Place {
    /// For messages and for the names of processes.
    pub name: String,
    network: Arc<File>,
    cgroup: PathBuf,
}

impl Place {
    /// Makes the cgroup if it is not there.
    pub fn new(name: &str, namespace: &Namespace, cgroup: PathBuf) -> Result<Self> {
        cgroup::make(&cgroup)?;
        Ok(Self {
            name: name.to_owned(),
            network: namespace.file().clone(),
            cgroup,
        })
    }

    /// The cgroup's folder.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Runs `work` in the network of this place, on a thread of its own that stays in the
    /// cgroup of this process.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        super::namespace::enter(&self.network, work)
    }

    /// A command that enters the namespace and the cgroup before it becomes `program`. It has a
    /// process group of its own, so that a Ctrl-C at the terminal reaches only the lab.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let network = self.network.clone();
        let members = OpenOptions::new()
            .write(true)
            .open(self.cgroup.join("cgroup.procs"))
            .with_context(|| format!("opening {}/cgroup.procs", self.cgroup.display()))?;
        let mut command = Command::new(program.as_ref());
        command.process_group(0);
        // SAFETY: between fork and exec only write(2) and setns(2) are called, on descriptors
        // that the closure owns; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                (&members).write_all(b"0")?;
                setns(network.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        Ok(command)
    }

    /// The probe, as a program named after the place.
    pub fn probe(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = self.command(program("probe")?)?;
        command.args(["--name", &self.name]).args(arguments);
        Process::spawn(command)
    }
}

/// Path of a program that is built beside this one.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase())) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "{name} is not built beside {}: cargo build --bin {name}",
                own.display()
            )
        })
}

/// A running program whose standard output is JSON lines. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts the command with pipes at standard input and output.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let output = child.stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// The next line of output.
    pub fn line(&mut self, within: Duration) -> Result<String> {
        match self.lines.recv_timeout(super::patient(within)) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => anyhow::bail!("no answer within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                anyhow::bail!("ended without an answer: {}", self.child.wait()?)
            }
        }
    }

    /// The next line of output as a value.
    pub fn event<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        let line = self.line(within)?;
        serde_json::from_str(&line).with_context(|| format!("unexpected output: {line}"))
    }

    /// The next line, if one has come.
    pub fn poll_line(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + super::patient(within);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "still running after {within:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it run on when this value is dropped.
    pub fn leave_running(mut self) {
        self.input = None;
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
