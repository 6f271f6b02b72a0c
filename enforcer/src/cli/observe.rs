//! `enforcer observe`: flow records, as people read them.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    net::IpAddr,
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;

use super::{Exit, OutputFormat, duration, socket};
use crate::{
    api::client::Client,
    compile::image::RuleDirection,
    observe::{
        filter::FlowQuery,
        patterns::{
            LabelPattern, PortRange, ProtocolName, ReasonName, RulePattern, WorkloadPattern,
            direction_name, parse_direction, parse_network,
        },
        record::{FlowRecord, RecordRule, Side, SideKind, StreamLine, Verdict},
    },
};

/// Arguments of `observe`. Values of one filter are alternatives; all filters must hold.
#[derive(Debug, Args)]
pub struct ObserveArgs {
    /// Go on with what comes. Without --since and --last it begins with the last 10.
    #[arg(long, short)]
    follow: bool,
    /// Not older than this, like 5m.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    since: Option<Duration>,
    /// Of those before now, the last N.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// On either side, this workload, or `host`.
    #[arg(long, short, value_name = "[NAMESPACE/]NAME", value_delimiter = ',')]
    workload: Vec<WorkloadPattern>,
    /// On either side, a workload with this label (and with the others given).
    #[arg(long, short, value_name = "KEY=VALUE")]
    label: Vec<LabelPattern>,
    /// Verdict: deny, audit (would have been denied) or allow (if allowed flows are reported).
    #[arg(
        long,
        value_name = "VERDICT",
        value_delimiter = ',',
        default_value = "deny,audit"
    )]
    verdict: Vec<Verdict>,
    /// Reason of the verdict, like isolation or source-guard.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<ReasonName>,
    /// Port that the flow is addressed to, or FIRST-LAST.
    #[arg(long, short, value_name = "PORT", value_delimiter = ',')]
    port: Vec<PortRange>,
    /// Protocol: a name or a number.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<ProtocolName>,
    /// Seen from the workload that judged: egress or ingress.
    #[arg(long, value_name = "DIRECTION", value_parser = parse_direction)]
    direction: Option<RuleDirection>,
    /// Address or network of the side that did not judge.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = parse_network)]
    peer: Vec<IpNet>,
    /// Policy, or rule of a policy, that decided.
    #[arg(long, value_name = "[NAMESPACE/]POLICY[:RULE]")]
    policy: Vec<RulePattern>,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// How much of the past `--follow` alone shows, as `tail -f` does.
const FOLLOWED_PAST: usize = 10;

impl ObserveArgs {
    /// As the API understands it.
    pub fn to_query(&self) -> FlowQuery {
        let past = (self.follow && self.since.is_none()).then_some(FOLLOWED_PAST);
        FlowQuery {
            workloads: self.workload.clone(),
            labels: self.label.clone(),
            verdicts: self.verdict.clone(),
            reasons: self.reason.clone(),
            ports: self.port.clone(),
            protocols: self.protocol.clone(),
            direction: self.direction,
            peers: self.peer.clone(),
            rules: self.policy.clone(),
            since: self.since,
            last: self.last.or(past),
            follow: self.follow,
        }
    }
}

/// Shows records until there are no more.
pub fn run(args: &ObserveArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    socket::block_on(stream(args, format))?
}

async fn stream(args: &ObserveArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client: Client = args.socket.client();
    let path = format!("/v1/flows?{}", args.to_query().to_url_query());
    let mut lines = client.lines(&path).await?;
    let renderer = Renderer::for_stdout();
    while let Some(line) = lines.next().await? {
        let mut out = io::stdout().lock();
        match format {
            // Passed on as it is: a newer daemon may say more than this program knows.
            OutputFormat::Json | OutputFormat::Sarif => out.write_all(&line)?,
            OutputFormat::Human => {
                let text = match serde_json::from_slice::<StreamLine>(&line) {
                    Ok(line) => renderer.line(&line),
                    Err(error) => format!("a record that cannot be read: {error}"),
                };
                out.write_all(text.as_bytes())?;
            }
        }
        out.write_all(b"\n")?;
        out.flush()?;
    }
    if args.follow {
        eprintln!("enforcer: the daemon ended the stream");
        return Ok(Exit::Unreachable);
    }
    Ok(Exit::Done)
}

/// Writes records as lines for people.
#[derive(Clone, Copy, Debug)]
pub struct Renderer {
    colour: bool,
}

/// Width of `source -> destination` up to which what follows stands in columns.
const FLOW_WIDTH: usize = 44;

const RED: &str = "\x1b[1;31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl Renderer {
    /// With colours or without.
    pub const fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// Colours on a terminal, unless `NO_COLOR` (<https://no-color.org>) or a dumb terminal
    /// forbids them.
    pub fn for_stdout() -> Self {
        let forbids = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Self::new(io::stdout().is_terminal() && !forbids("NO_COLOR") && !dumb)
    }

    /// One line, without its end.
    pub fn line(self, line: &StreamLine) -> String {
        match line {
            StreamLine::Lost { lost } => {
                let text = format!("({lost} records passed by unread: this reader is too slow)");
                self.paint(DIM, &text)
            }
            StreamLine::Record(record) => self.record(record),
        }
    }

    /// A record as one line:
    /// `TIME VERDICT DIRECTION SOURCE -> DESTINATION  PROTOCOL  REASON  RULE  FILE:LINE  …`.
    pub fn record(self, record: &FlowRecord) -> String {
        let (colour, verdict) = match record.verdict {
            Verdict::Allow => (GREEN, "ALLOW"),
            Verdict::Deny => (RED, "DENY "),
            Verdict::Audit => (YELLOW, "AUDIT"),
        };
        let flow = format!(
            "{} -> {}",
            source(record.source()),
            destination(record.destination())
        );
        let mut line = format!(
            "{} {} {:<7} {flow:<FLOW_WIDTH$}  {:<8}  {}",
            self.paint(DIM, &clock(&record.time)),
            self.paint(colour, verdict),
            direction_name(record.direction),
            protocol(record),
            plain(&record.reason),
        );
        if let Some(rule) = &record.rule {
            let _ = write!(line, "  {}", rule_text(rule));
            if let (Some(file), Some(number)) = (&rule.file, rule.line) {
                let place = format!("{}:{number}", plain(file));
                let _ = write!(line, "  {}", self.paint(DIM, &place));
            }
        }
        if record.broken {
            line.push_str("  cuts an open flow");
        }
        if record.packets > 1 {
            let _ = write!(line, "  x{}", record.packets);
        }
        if let Some(process) = &record.process {
            let _ = write!(line, "  [{} {}]", plain(&process.program), process.pid);
        }
        line
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("{colour}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }
}

/// `12:03:04.123456Z` of an RFC 3339 time.
fn clock(time: &str) -> String {
    plain(time.split_once('T').map_or(time, |(_, clock)| clock))
}

/// By name where it has one, else by address.
fn source(side: &Side) -> String {
    match (who(side), side.address) {
        (Some(name), _) if side.name.is_some() || side.kind == SideKind::Host => name,
        (Some(who), Some(address)) => format!("{address} ({who})"),
        (Some(who), None) => who,
        (None, Some(address)) => address.to_string(),
        (None, None) => "?".to_owned(),
    }
}

/// The address, because that is what the source has asked for, and who has it.
fn destination(side: &Side) -> String {
    let mut text = match (side.address, side.port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, Some(port)) => format!("?:{port}"),
        (None, None) => "?".to_owned(),
    };
    if let Some(who) = who(side) {
        let _ = write!(text, " ({who})");
    }
    text
}

/// `shop/web`; `shop/app=web` where several workloads have the identity; `host`; `world`.
fn who(side: &Side) -> Option<String> {
    match side.kind {
        SideKind::Host => Some("host".to_owned()),
        SideKind::RemoteHost => Some("remote-host".to_owned()),
        SideKind::World => Some("world".to_owned()),
        SideKind::Unknown => None,
        SideKind::Workload => {
            let name = side.name.clone().unwrap_or_else(|| {
                let labels: Vec<String> = side
                    .labels
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect();
                labels.join(",")
            });
            let namespace = side.namespace.as_deref().unwrap_or("default");
            Some(plain(&format!("{namespace}/{name}")))
        }
    }
}

fn protocol(record: &FlowRecord) -> String {
    let mut text = record.protocol.clone();
    if let Some(flags) = &record.tcp_flags {
        let _ = write!(text, " {flags}");
    }
    if let Some(kind) = record.icmp_type {
        let _ = write!(text, " type {kind}");
    }
    if let Some(code) = record.icmp_code.filter(|code| *code != 0) {
        let _ = write!(text, " code {code}");
    }
    plain(&text)
}

fn rule_text(rule: &RecordRule) -> String {
    // What has no tier is the node's own.
    let kind = if rule.tier.is_some() {
        "policy"
    } else {
        "node"
    };
    let text = match (&rule.namespace, rule.policy.as_str()) {
        (Some(namespace), policy) => format!("{kind} {namespace}/{policy} rule {}", rule.name),
        (None, "") => format!("{kind} rule {}", rule.name),
        (None, policy) => format!("{kind} {policy} rule {}", rule.name),
    };
    plain(&text)
}

/// Names that others chose must not steer the terminal.
fn plain(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::observe::{fixtures, record::Process};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ObserveArgs,
    }

    fn query(arguments: &str) -> FlowQuery {
        let arguments = arguments.split_ascii_whitespace();
        let line = Line::try_parse_from(std::iter::once("observe").chain(arguments)).unwrap();
        line.args.to_query()
    }

    #[test]
    fn flags_become_the_query() {
        let url = |arguments| query(arguments).to_url_query();
        assert_eq!(url(""), "verdict=deny&verdict=audit");
        assert_eq!(
            url("--follow --verdict allow"),
            "verdict=allow&last=10&follow=true"
        );
        assert_eq!(
            url("-f --since 5m -w shop/web,host --label app=web --port 80,8000-8080"),
            "workload=shop%2Fweb&workload=host&label=app%3Dweb&verdict=deny&verdict=audit\
             &port=80&port=8000-8080&since_milliseconds=300000&follow=true"
        );
        assert_eq!(
            url(
                "--last 3 --reason isolation --protocol 17 --direction ingress \
                 --peer 10.0.0.0/8 --policy shop/db:isolation --verdict deny"
            ),
            "verdict=deny&reason=isolation&protocol=udp&direction=ingress\
             &peer=10.0.0.0%2F8&policy=shop%2Fdb%3Aisolation&last=3"
        );
        for wrong in [
            "--port 0x50",
            "--verdict drop",
            "--peer nowhere",
            "--since 1y",
        ] {
            let arguments = std::iter::once("observe").chain(wrong.split(' '));
            assert!(Line::try_parse_from(arguments).is_err(), "{wrong}");
        }
    }

    #[test]
    fn records_are_lines() {
        let denied = fixtures::record();
        let mut call = fixtures::enricher()
            .event(&fixtures::refused_call())
            .unwrap();
        call.time = "2026-01-02T12:03:05.000000Z".into();
        call.process = Some(Process {
            pid: 1234,
            uid: 33,
            program: "curl".into(),
            executable: None,
        });
        let mut counted = denied.clone();
        (counted.packets, counted.tcp_flags) = (12, None);
        let mut ping = denied.clone();
        ping.protocol = "icmpv6".into();
        (ping.icmp_type, ping.icmp_code, ping.tcp_flags) = (Some(1), Some(4), None);
        ping.workload.port = None;
        ping.workload.kind = SideKind::Host;
        ping.workload.address = Some("2001:db8::1".parse().unwrap());
        (ping.peer.kind, ping.peer.name) = (SideKind::World, None);
        ping.peer.address = Some("2001:db8:ffff::9".parse().unwrap());
        ping.reason = "node-default".into();
        ping.rule.as_mut().unwrap().tier = None;
        ping.rule.as_mut().unwrap().namespace = None;
        let mut one_of_many = denied.clone();
        one_of_many.peer.name = None;
        one_of_many.broken = true;
        one_of_many.workload.address = Some("2001:db8::2".parse().unwrap());
        let mut bare = denied.clone();
        bare.verdict = Verdict::Allow;
        bare.rule = None;
        bare.protocol = "unknown".into();
        bare.tcp_flags = None;
        for side in [&mut bare.workload, &mut bare.peer] {
            (side.kind, side.address, side.port) = (SideKind::Unknown, None, None);
        }
        let lines: Vec<String> = [denied, call, counted, ping, one_of_many, bare]
            .into_iter()
            .map(StreamLine::Record)
            .chain([StreamLine::Lost { lost: 7 }])
            .map(|line| Renderer::new(false).line(&line))
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn colours_come_when_asked_for() {
        let record = fixtures::record();
        assert!(Renderer::new(true).record(&record).contains(RED));
        assert!(!Renderer::new(false).record(&record).contains('\x1b'));
    }

    #[test]
    fn a_program_cannot_steer_the_terminal() {
        let mut record = fixtures::record();
        record.process = Some(Process {
            pid: 1,
            uid: 0,
            program: "\x1b[2Jx\ny".into(),
            executable: None,
        });
        let line = Renderer::new(false).record(&record);
        assert!(line.ends_with("[\u{fffd}[2Jx\u{fffd}y 1]"), "{line}");
    }
}
