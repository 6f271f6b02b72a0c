//! Traffic from the places of a lab, and what is expected of it.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};

pub use crate::probe::flow::{FlowOutcome as Outcome, FlowProtocol, FlowResult, FlowSpec};
use crate::probe::{churn::ChurnEvent, hold::HoldEvent, link::LinkEvent, serve::ServeEvent};

use super::{Place, Process, place::program};

/// What is expected of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// It is answered.
    Open,
    /// It is not: the system call is refused or nothing comes back.
    Denied,
}

impl Expect {
    /// Whether an outcome is as expected. A refusal by the other host is neither: the packet
    /// arrived and nobody listened.
    pub const fn accepts(self, outcome: Outcome) -> bool {
        match self {
            Self::Open => matches!(outcome, Outcome::Open),
            Self::Denied => matches!(
                outcome,
                Outcome::NotPermitted | Outcome::Timeout | Outcome::Aborted
            ),
        }
    }
}

/// A flow as it is to be tried for an expectation: one that should be open is tried for seconds,
/// since a busy machine loses and delays; one that should be denied only once and shortly, and
/// the daemon's records tell a denial from a loss.
pub fn flow(protocol: FlowProtocol, to: IpAddr, port: u16, expect: Expect) -> FlowSpec {
    let (timeout, attempts) = match expect {
        Expect::Open => (1500, 6),
        Expect::Denied => (600, 1),
    };
    FlowSpec {
        protocol,
        to,
        port,
        timeout,
        attempts,
        connected: false,
        size: 5,
    }
}

/// Whether what takes minutes is to be left out.
pub fn is_short() -> bool {
    std::env::var_os("ENFORCER_TEST_SHORT").is_some()
}

/// How long an answer of the probe may take when nothing of the network is waited for.
const PROMPT: Duration = Duration::from_secs(20);

impl Place {
    /// Starts echo servers on these ports.
    pub fn serve(&self, tcp: &[u16], udp: &[u16]) -> Result<Process> {
        self.serve_with(tcp, udp, &[], &[])
    }

    /// The same, and on these ports of SCTP.
    pub fn serve_sctp_too(&self, tcp: &[u16], udp: &[u16], sctp: &[u16]) -> Result<Process> {
        self.serve_with(tcp, udp, sctp, &[])
    }

    /// As [`Self::serve`], with a report of every connection that is accepted or ends.
    pub fn serve_reporting(&self, tcp: &[u16]) -> Result<Process> {
        self.serve_with(tcp, &[], &[], &["--report"])
    }

    /// As [`Self::serve`], where others may listen at the same ports.
    pub fn serve_sharing(&self, tcp: &[u16]) -> Result<Process> {
        self.serve_with(tcp, &[], &[], &["--shared"])
    }

    fn serve_with(
        &self,
        tcp: &[u16],
        udp: &[u16],
        sctp: &[u16],
        further: &[&str],
    ) -> Result<Process> {
        let (tcp, udp, sctp) = (comma_list(tcp), comma_list(udp), comma_list(sctp));
        let mut arguments = vec!["serve"];
        for (flag, list) in [("--tcp", &tcp), ("--udp", &udp), ("--sctp", &sctp)] {
            if !list.is_empty() {
                arguments.extend([flag, list]);
            }
        }
        arguments.extend(further);
        let mut server = self.probe(&arguments)?;
        match server.event(PROMPT)? {
            ServeEvent::Ready => Ok(server),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Tries all flows at once from here; results in the same order.
    pub fn try_flows(&self, flows: &[FlowSpec]) -> Result<Vec<FlowResult>> {
        let mut child = self
            .command(program("probe")?)?
            .args(["--name", &self.name, "flows"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no stdin")?;
        serde_json::to_writer(&input, flows)?;
        input.flush()?;
        drop(input);
        let output = child.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "the probe failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Tries one flow.
    pub fn try_flow(&self, spec: FlowSpec) -> Result<FlowResult> {
        self.try_flows(&[spec])?.pop().context("no result")
    }

    /// Tries one flow and says whether it is as expected.
    pub fn expect(
        &self,
        protocol: FlowProtocol,
        to: IpAddr,
        port: u16,
        expect: Expect,
    ) -> Result<FlowResult> {
        let result = self.try_flow(flow(protocol, to, port, expect))?;
        anyhow::ensure!(
            expect.accepts(result.outcome),
            "{} -> {to} {protocol:?} {port}: expected {expect:?}, got {result:?}",
            self.name
        );
        Ok(result)
    }

    /// Opens TCP connections and keeps them, with an echo each `every`, or idle.
    pub fn hold(
        &self,
        to: SocketAddr,
        connections: usize,
        every: Option<Duration>,
    ) -> Result<Holder> {
        let to = to.to_string();
        let connections = connections.to_string();
        let every = every.map(|every| every.as_millis().to_string());
        let mut arguments = vec!["hold", "--to", &to, "--connections", &connections];
        if let Some(every) = &every {
            arguments.extend(["--every", every]);
        }
        let mut process = self.probe(&arguments)?;
        match process.event(PROMPT)? {
            HoldEvent::Connected { local_ports } => Ok(Holder {
                process,
                local_ports,
                deaths: Vec::new(),
            }),
            other => anyhow::bail!("{} -> {to}: {other:?}", self.name),
        }
    }

    /// Opens flow after flow on `threads` threads.
    pub fn churn(
        &self,
        protocol: FlowProtocol,
        to: SocketAddr,
        threads: usize,
        timeout: Duration,
        pause: Duration,
    ) -> Result<Churner> {
        let to = to.to_string();
        let threads = threads.to_string();
        let timeout = timeout.as_millis().to_string();
        let pause = pause.as_millis().to_string();
        let mut arguments = vec![
            "churn",
            "--to",
            &to,
            "--threads",
            &threads,
            "--timeout",
            &timeout,
            "--pause",
            &pause,
        ];
        if protocol == FlowProtocol::Udp {
            arguments.push("--udp");
        }
        let mut process = self.probe(&arguments)?;
        match process.event(PROMPT)? {
            ChurnEvent::Ready => Ok(Churner(process)),
            other @ ChurnEvent::Summary { .. } => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Sends frames at a link of this place's namespace.
    pub fn send_frames(&self, link: &str, frames: &[Vec<u8>]) -> Result<()> {
        let mut process = self.probe(&["send", "--link", link])?;
        for frame in frames {
            process.tell(&crate::probe::link::to_hex(frame))?;
        }
        process.close_input();
        match process.event(PROMPT)? {
            LinkEvent::Total { frames: sent } if sent == frames.len() as u64 => Ok(()),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Starts sending one frame `count` times at `rate` a second, with the 16 bits at each
    /// place of `vary` counted up as one number.
    pub fn flood(
        &self,
        link: &str,
        frame: &[u8],
        vary: &[usize],
        count: u64,
        rate: u64,
    ) -> Result<Flood> {
        let frame = crate::probe::link::to_hex(frame);
        let mut process = self.probe(&[
            "flood",
            "--link",
            link,
            "--frame",
            &frame,
            "--vary",
            &comma_list(vary),
            "--count",
            &count.to_string(),
            "--rate",
            &rate.to_string(),
        ])?;
        match process.event(PROMPT)? {
            LinkEvent::Ready => Ok(Flood(process)),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Watches a link of this place's namespace for frames that come in and contain `mark`.
    pub fn sniff(&self, link: &str, mark: &[u8]) -> Result<Sniffer> {
        let mark = crate::probe::link::to_hex(mark);
        let mut process = self.probe(&["sniff", "--link", link, "--mark", &mark, "--incoming"])?;
        match process.event(PROMPT)? {
            LinkEvent::Ready => Ok(Sniffer(process)),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
}

fn comma_list(numbers: &[impl ToString]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(",")
}

/// Open connections.
#[derive(Debug)]
pub struct Holder {
    process: Process,
    local_ports: Vec<u16>,
    deaths: Vec<Death>,
}

/// The end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Port of the holder's side.
    pub local_port: u16,
    /// Name of the error that its owner saw; `closed` for an end in good order.
    pub error: String,
}

/// What became of held connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldSummary {
    /// Still open at the end.
    pub alive: u64,
    /// Echoes.
    pub beats: u64,
    /// The longest that one echo took.
    pub longest: Duration,
    /// Those that died.
    pub deaths: Vec<Death>,
}

impl Holder {
    /// Ports of the holder's side.
    pub fn local_ports(&self) -> &[u16] {
        &self.local_ports
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for a connection to die.
    pub fn wait_for_death(&mut self, within: Duration) -> Result<Death> {
        match self.process.event(within)? {
            HoldEvent::Died {
                local_port, error, ..
            } => {
                let death = Death { local_port, error };
                self.deaths.push(death.clone());
                Ok(death)
            }
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Fails if a connection has died.
    pub fn ensure_alive(&mut self) -> Result<()> {
        match self.process.poll_line() {
            None => Ok(()),
            Some(line) => anyhow::bail!("a connection died: {line}"),
        }
    }

    /// Closes the connections.
    pub fn stop(mut self) -> Result<HoldSummary> {
        self.process.tell("stop")?;
        loop {
            match self.process.event(PROMPT)? {
                HoldEvent::Died {
                    local_port, error, ..
                } => self.deaths.push(Death { local_port, error }),
                HoldEvent::Summary {
                    alive,
                    beats,
                    longest,
                } => {
                    return Ok(HoldSummary {
                        alive,
                        beats,
                        longest: Duration::from_millis(longest),
                        deaths: std::mem::take(&mut self.deaths),
                    });
                }
                other => anyhow::bail!("unexpected {other:?}"),
            }
        }
    }
}

/// Load of short flows.
#[derive(Debug)]
pub struct Churner(Process);

/// How the flows of a load ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChurnSummary {
    /// Answered.
    pub open: u64,
    /// Not answered, by name of the error.
    pub failed: BTreeMap<String, u64>,
}

impl Churner {
    /// Ends the load.
    pub fn stop(mut self) -> Result<ChurnSummary> {
        self.0.tell("stop")?;
        match self.0.event(PROMPT)? {
            ChurnEvent::Summary { open, failed } => Ok(ChurnSummary { open, failed }),
            ChurnEvent::Ready => anyhow::bail!("unexpected second start"),
        }
    }
}

/// Frames being sent.
#[derive(Debug)]
pub struct Flood(Process);

impl Flood {
    /// Waits for the last frame.
    pub fn finish(mut self, within: Duration) -> Result<u64> {
        match self.0.event(within)? {
            LinkEvent::Total { frames } => Ok(frames),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }
}

/// Frames being watched for.
#[derive(Debug)]
pub struct Sniffer(Process);

impl Sniffer {
    /// Waits for the next frame with the mark.
    pub fn frame(&mut self, within: Duration) -> Result<Vec<u8>> {
        match self.0.event(within)? {
            LinkEvent::Frame { hex } => crate::probe::link::from_hex(&hex),
            other => anyhow::bail!("unexpected {other:?}"),
        }
    }

    /// Ends the watch; the frames that were not taken yet.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        self.0.tell("stop")?;
        let mut frames = Vec::new();
        loop {
            match self.0.event(PROMPT)? {
                LinkEvent::Frame { hex } => frames.push(crate::probe::link::from_hex(&hex)?),
                LinkEvent::Total { .. } => return Ok(frames),
                LinkEvent::Ready => anyhow::bail!("unexpected second start"),
            }
        }
    }
}
