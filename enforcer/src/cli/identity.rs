//! `enforcer identity`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use clap::{Args, Subcommand, ValueEnum};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;

use super::{Exit, OutputFormat, output, socket};
use crate::{
    api::{identity::IdentityStatus, status::EndpointStatus},
    identity::{
        attest::journal::SecurityEvent,
        bundle::Bundle,
        files::{self, FileSource},
        refusal::Refusal,
        spiffe_id::TrustDomain,
        svid::{Svid, Usage, moment},
        trust::{Trust, Trusted},
    },
    policy,
};

/// Arguments of `identity`.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    #[command(subcommand)]
    command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// Say whether a certificate is accepted as an X.509-SVID, and why not (exit code 1).
    Verify(VerifyArgs),
    /// Show what a certificate says, whether it is accepted or not.
    Show(ShowArgs),
    /// List who is believed, and whose proof is bound to which endpoint.
    List(ListArgs),
    /// Print the latest security events of attestation and of the Workload API, oldest first.
    Events(ListArgs),
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// The certificate, in PEM or DER; in PEM with its intermediate certificates behind it.
    certificate: PathBuf,
    /// Policy tree whose TrustDomain documents say who is believed.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/enforcer/policies",
        conflicts_with = "bundle"
    )]
    policies: PathBuf,
    /// Bundle in PEM that is believed instead, for the trust domain of the certificate.
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Which side of TLS shows it.
    #[arg(long, value_enum, value_name = "SIDE", default_value = "client")]
    usage: UsageArg,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The certificate, in PEM or DER.
    certificate: PathBuf,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// A side of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UsageArg {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

impl From<UsageArg> for Usage {
    fn from(usage: UsageArg) -> Self {
        match usage {
            UsageArg::Client => Self::Client,
            UsageArg::Server => Self::Server,
        }
    }
}

/// What is said of a certificate.
#[derive(Debug, Serialize)]
struct Verdict {
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    shown: Option<Shown>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// What a certificate says.
#[derive(Debug, Serialize)]
struct Shown {
    spiffe_id: String,
    serial: String,
    not_before: String,
    not_after: String,
    /// Certificates in the chain.
    chain: usize,
}

impl Shown {
    fn of(svid: &Svid) -> Self {
        Self {
            spiffe_id: svid.id().to_string(),
            serial: svid.serial().to_string(),
            not_before: moment(svid.not_before()),
            not_after: moment(svid.not_after()),
            chain: svid.chain().len(),
        }
    }

    fn render(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "SPIFFE ID  {}", self.spiffe_id)?;
        writeln!(out, "serial     {}", self.serial)?;
        writeln!(out, "valid      {} to {}", self.not_before, self.not_after)?;
        writeln!(out, "chain      {} certificates", self.chain)
    }
}

/// Does what is asked.
pub fn run(args: &IdentityArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    match &args.command {
        IdentityCommand::Verify(args) => verify(args, format),
        IdentityCommand::Show(args) => show(args, format),
        IdentityCommand::List(args) => list(args, format),
        IdentityCommand::Events(args) => events(args, format),
    }
}

fn verify(args: &VerifyArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let chain = files::read_certificates(&args.certificate).map_err(anyhow::Error::msg)?;
    let usage = args.usage.into();
    let (trust, notes) = trust(args, &chain, usage)?;
    let result = trust.verify(&chain, usage, UnixTime::now());
    let shown = Svid::parse(&chain, usage).ok().map(|svid| Shown::of(&svid));
    let verdict = Verdict {
        accepted: result.is_ok(),
        code: result.as_ref().err().map(Refusal::code),
        reason: result.as_ref().err().map(ToString::to_string),
        shown,
        notes,
    };
    output::print(format, &verdict, |out| {
        match &verdict.reason {
            None => writeln!(out, "accepted")?,
            Some(reason) => writeln!(out, "refused: {reason}")?,
        }
        if let Some(shown) = &verdict.shown {
            shown.render(out)?;
        }
        let mut notes = verdict.notes.iter();
        notes.try_for_each(|note| writeln!(out, "note: {note}"))
    })?;
    Ok(if verdict.accepted {
        Exit::Done
    } else {
        Exit::Refuse
    })
}

/// Who is believed, and what is wrong with that.
fn trust(
    args: &VerifyArgs,
    chain: &[CertificateDer<'_>],
    usage: Usage,
) -> anyhow::Result<(Arc<Trust>, Vec<String>)> {
    let Some(path) = &args.bundle else {
        let policy = policy::load(&args.policies).map_err(|errors| {
            anyhow::anyhow!(
                "the policy tree {} cannot be read ({errors}): `enforcer check` it, or give \
                 --bundle FILE",
                args.policies.display()
            )
        })?;
        let material = FileSource::new(None, usage).read(&policy.trust_domains);
        return Ok((material.trust, material.notes));
    };
    let certificates = files::read_certificates(path).map_err(anyhow::Error::msg)?;
    let trusted = Trusted {
        bundle: Bundle::from_der(certificates)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?,
        ..Trusted::default()
    };
    // Whose bundle it is, the certificate says: what that means is said by whoever gave both.
    let domain: Option<TrustDomain> = Svid::parse(chain, usage)
        .ok()
        .map(|svid| svid.id().domain().clone());
    let domains: BTreeMap<_, _> = domain
        .map(|domain| (domain, Arc::new(trusted)))
        .into_iter()
        .collect();
    Ok((Arc::new(Trust::new(domains)), Vec::new()))
}

fn show(args: &ShowArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let chain = files::read_certificates(&args.certificate).map_err(anyhow::Error::msg)?;
    let svid = Svid::parse(&chain, Usage::Client)?;
    let shown = Shown::of(&svid);
    output::print(format, &shown, |out| shown.render(out))?;
    Ok(Exit::Done)
}

fn list(args: &ListArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let status: IdentityStatus = socket::block_on(client.get("/v1/identity"))??;
    output::print(format, &status, |out| render_status(&status, out))?;
    Ok(Exit::Done)
}

fn render_status(status: &IdentityStatus, out: &mut dyn Write) -> io::Result<()> {
    match &status.listen {
        Some(address) => writeln!(out, "attestation  at {address}")?,
        None => writeln!(out, "attestation  off (enforcer run --attest ADDRESS)")?,
    }
    match &status.own {
        Some(own) => writeln!(
            out,
            "own SVID     {} ({}) until {}, from {}",
            own.spiffe_id, own.serial, own.not_after, status.source
        )?,
        None => writeln!(out, "own SVID     none (from {})", status.source)?,
    }
    for domain in &status.trust_domains {
        writeln!(out, "believes     {} ({} roots)", domain.name, domain.roots)?;
    }
    for note in &status.notes {
        writeln!(out, "note         {note}")?;
    }
    if status.bindings.is_empty() {
        return writeln!(out, "\nno proof is bound to any endpoint");
    }
    let headings = [
        "ID",
        "WORKLOAD",
        "SPIFFE ID",
        "SERIAL",
        "UNTIL",
        "FROM",
        "PLACE",
    ];
    let mut table = output::table(&headings);
    for endpoint in &status.bindings {
        table.add_row(binding_row(endpoint));
    }
    writeln!(out, "\n{}", table.trim_fmt())
}

fn binding_row(endpoint: &EndpointStatus) -> Vec<String> {
    let attested = endpoint.attested.as_ref();
    let shown = |of: fn(&crate::api::status::AttestedStatus) -> String| {
        attested.map(of).unwrap_or_default()
    };
    vec![
        endpoint.id.to_string(),
        crate::identity::attest::origin::name_of(endpoint),
        endpoint.spiffe_id.clone().unwrap_or_default(),
        shown(|a| a.serial.clone()),
        shown(|a| a.until.clone()),
        shown(|a| match a.pid {
            Some(pid) => format!("{} process {pid}", a.source),
            None => a.source.clone(),
        }),
        endpoint.place.clone(),
    ]
}

/// Address and port, or the process of this host.
fn source_of(event: &SecurityEvent) -> String {
    match (&event.source, event.pid) {
        (Some(source), _) => source.clone(),
        (None, Some(pid)) => format!("process {pid}"),
        (None, None) => "?".to_owned(),
    }
}

fn events(args: &ListArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let events: Vec<SecurityEvent> = socket::block_on(client.get("/v1/identity/events"))??;
    output::print(format, &events, |out| {
        if events.is_empty() {
            return writeln!(out, "no events");
        }
        events.iter().try_for_each(|event| {
            writeln!(
                out,
                "{} {} {} from {}: {}",
                event.time,
                event.event.name(),
                event.reason,
                source_of(event),
                event.message
            )
        })
    })?;
    Ok(Exit::Done)
}
