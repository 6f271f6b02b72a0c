//! A real daemon on a host of the lab.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::observe::record::{FlowRecord, StreamLine};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use super::{Lab, Place, patient, place};

mod waits;

/// Where every daemon of a lab serves its metrics, on its host's own loopback.
pub const METRICS: &str = "127.0.0.1:9464";

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Name of the node.
    pub name: String,
    /// Where the process runs: the host's namespace, and a cgroup that is no workload's.
    pub place: Place,
    /// `--cgroup-root`.
    pub cgroup_root: PathBuf,
    /// `--uplink`.
    pub uplinks: Vec<String>,
    /// `--policies`.
    pub policies: PathBuf,
    /// `--mode`; `None` leaves it to the default.
    pub mode: Option<&'static str>,
    /// Further arguments.
    pub extra: Vec<String>,
}

/// A running daemon. Dropping it stops it; what it pinned stays until the lab goes.
#[derive(Debug)]
pub struct Daemon {
    options: DaemonOptions,
    folder: PathBuf,
    pins: PathBuf,
    process: Option<std::process::Child>,
}

impl Daemon {
    /// Starts a daemon and waits until its policy is in force.
    pub fn start(lab: &Lab, options: DaemonOptions) -> Result<Self> {
        let mut daemon = Self::prepare(lab, options)?;
        daemon.launch()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// A daemon that does not run yet.
    pub fn prepare(lab: &Lab, options: DaemonOptions) -> Result<Self> {
        let folder = lab.folder().join(&options.name);
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(lab.pins()).context("making the folder for pins: is bpffs mounted?")?;
        Ok(Self {
            pins: lab.pins().join(&options.name),
            folder,
            options,
            process: None,
        })
    }

    /// Control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("enforcer.sock")
    }

    /// Folder of its pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Uses the other one's pins from the next start.
    pub fn share_pins_with(&mut self, other: &Self) {
        self.pins.clone_from(&other.pins);
    }

    /// Folder of its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// What it was started with; changes count from the next [`Self::launch`].
    pub fn options(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// The command that starts it.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.options.place.command(place::program("enforcer")?)?;
        command
            .arg("run")
            .args([OsStr::new("--policies"), self.options.policies.as_os_str()])
            .args([
                OsStr::new("--cgroup-root"),
                self.options.cgroup_root.as_os_str(),
            ])
            .args([OsStr::new("--state-dir"), self.state().as_os_str()])
            .args([OsStr::new("--pin-dir"), self.pins.as_os_str()])
            .args([OsStr::new("--socket"), self.socket().as_os_str()])
            .args(["--node", &self.options.name]);
        if !self.options.extra.iter().any(|a| a == "--metrics") {
            command.args(["--metrics", METRICS]);
        }
        if let Some(mode) = self.options.mode {
            command.args(["--mode", mode]);
        }
        for uplink in &self.options.uplinks {
            command.args(["--uplink", uplink]);
        }
        command.args(&self.options.extra);
        Ok(command)
    }

    /// Starts the process without waiting for it.
    pub fn launch(&mut self) -> Result<()> {
        anyhow::ensure!(self.process.is_none(), "the daemon runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = self.command()?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.process = Some(command.spawn().context("starting the enforcer")?);
        Ok(())
    }

    /// Waits until the daemon answers and its policy is in force.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + patient(Duration::from_secs(30));
        loop {
            let output = self.ask(&["wait", "--ready", "--timeout", "1s"])?;
            if output.status.success() {
                return Ok(());
            }
            if let Some(process) = &mut self.process
                && let Some(status) = process.try_wait()?
            {
                self.process = None;
                anyhow::bail!("the daemon ended with {status}:\n{}", self.log_tail());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the daemon does not become ready: {}\n{}",
                String::from_utf8_lossy(&output.stderr),
                self.log_tail()
            );
        }
    }

    /// Process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the daemon is down")?.id())
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the daemon is down")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for a graceful end.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        let mut process = self.process.take().context("the daemon is down")?;
        kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + patient(Duration::from_secs(10));
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                anyhow::bail!("the daemon does not stop on SIGTERM:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for it to end by itself.
    pub fn wait_for_end(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        let deadline = Instant::now() + patient(within);
        let process = self.process.as_mut().context("the daemon is down")?;
        loop {
            if let Some(status) = process.try_wait()? {
                self.process = None;
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "the daemon runs on");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `enforcer` with these arguments against this daemon, in the host's namespace.
    pub fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.options.place.command(place::program("enforcer")?)?;
        let output = command
            .args(arguments)
            .env("ENFORCER_SOCKET", self.socket())
            .stdin(Stdio::null())
            .output()?;
        Ok(output)
    }

    /// Like [`Self::ask`] with JSON output, which must succeed.
    pub fn ask_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.ask(&[arguments, &["--output", "json"]].concat())?;
        anyhow::ensure!(
            output.status.success(),
            "enforcer {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "enforcer {arguments:?} wrote no such JSON: {}",
                String::from_utf8_lossy(&output.stdout)
            )
        })
    }

    /// The flow records that the daemon remembers, oldest first.
    pub fn records(&self) -> Result<Vec<FlowRecord>> {
        let output = self.ask(&[
            "observe",
            "--verdict",
            "deny,audit,allow",
            "--output",
            "json",
        ])?;
        anyhow::ensure!(
            output.status.success(),
            "enforcer observe: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut records = Vec::new();
        for line in String::from_utf8(output.stdout)?.lines() {
            match serde_json::from_str(line).with_context(|| format!("record: {line}"))? {
                StreamLine::Record(record) => records.push(record),
                StreamLine::Lost { lost } => anyhow::bail!("{lost} records went by unread"),
            }
        }
        Ok(records)
    }

    /// The sum of an integer metric over its series that have all of these labels (each as `key="value"`),
    /// as Prometheus would read it on this host.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let text = self.options.place.enter(|| -> Result<String> {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        anyhow::ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
        Ok(text
            .lines()
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (found, rest) = series.split_once('{').unwrap_or((series, ""));
                let wanted = found == name && labels.iter().all(|label| rest.contains(label));
                wanted.then(|| value.parse::<u64>().ok()).flatten()
            })
            .sum())
    }

    /// Puts the policy tree as it is now in force, and waits for that.
    pub fn apply(&self) -> Result<()> {
        let output = self.ask(&["apply"])?;
        anyhow::ensure!(
            output.status.success(),
            "enforcer apply: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Removes everything of the daemon from the kernel.
    pub fn detach(&self) -> Result<()> {
        let mut command = self.options.place.command(place::program("enforcer")?)?;
        let output = command
            .args(["detach", "--yes", "--pin-dir"])
            .arg(&self.pins)
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "enforcer detach: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Flags by which its records and events go to a file.
    pub fn flow_log_flags(&self) -> Vec<String> {
        let path = self.flow_log().display().to_string();
        vec!["--flow-log".to_owned(), path]
    }

    /// The file of [`Self::flow_log_flags`].
    pub fn flow_log(&self) -> PathBuf {
        self.folder.join("flows.jsonl")
    }

    /// File of its log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The log.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.log_path()) {
            let length = file.metadata().map_or(0, |m| m.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(6000)));
            let _ = file.read_to_end(&mut text);
        }
        format!(
            "log of {}:\n{}",
            self.options.name,
            String::from_utf8_lossy(&text)
        )
    }

    /// Lets it run on when this value is dropped.
    pub fn leave_running(mut self) {
        self.process = None;
    }
}

/// The last records, for messages.
fn listing(records: &[FlowRecord]) -> String {
    let lines: Vec<String> = records
        .iter()
        .skip(records.len().saturating_sub(20))
        .map(|record| serde_json::to_string(record).unwrap_or_default())
        .collect();
    lines.join("\n")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if std::env::var_os("ENFORCER_TEST_VERBOSE").is_some() {
            let records = self.records().unwrap_or_default();
            eprintln!("{}\n{}", self.log_tail(), listing(&records));
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
