//! `enforcer ca`: the embedded certificate authority.

use std::{
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, OutputFormat, duration, output};
use crate::{
    identity::{
        ca::{self, Authority, CaError, Order, Passphrase, Rotation},
        spiffe_id::{SpiffeId, TrustDomain},
    },
    observe::clock::rfc3339,
};

/// Arguments of `ca`.
#[derive(Debug, Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make an authority for a trust domain: a root, its key and the bundle.
    Init(InitArgs),
    /// Issue an X.509-SVID: certificate, key and bundle in a folder.
    Issue(IssueArgs),
    /// Take a step of a rotation: make the next root; let it sign; forget the old one.
    Rotate(RotateArgs),
    /// Print the bundle: every root whose certificates are believed.
    Bundle(BundleArgs),
}

#[derive(Debug, Args)]
struct FolderArgs {
    /// Folder of the authority. Its keys are readable by their owner only.
    #[arg(long, value_name = "DIR", default_value = ca::DEFAULT_FOLDER)]
    dir: PathBuf,
    /// File whose first line encrypts the keys at rest. It must be readable by its owner only.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Name of the trust domain, as in example.org.
    trust_domain: TrustDomain,
    /// How long the root is valid.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration::parse)]
    lifetime: Duration,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// Whose it is, as in spiffe://example.org/ns/shop/sa/web.
    id: SpiffeId,
    /// Folder for svid.pem, svid.key and bundle.pem.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid; at most 168h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    lifetime: Duration,
    /// A DNS name beside the SPIFFE ID, for clients that look for one.
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// An address beside it, for the same.
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Do not end: issue again each time that half of the lifetime is over.
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The next root signs from now on. Do this once everybody has the new bundle.
    #[arg(long, conflicts_with_all = ["retire", "now"])]
    activate: bool,
    /// The old root is not believed any more. Do this once its last leaf has ended.
    #[arg(long, conflicts_with = "now")]
    retire: bool,
    /// Make the next root and let it sign at once: for an authority whose bundle is read where
    /// it is written.
    #[arg(long)]
    now: bool,
    /// How long the next root is valid.
    #[arg(long, value_name = "DURATION", default_value = "8760h", value_parser = duration::parse)]
    lifetime: Duration,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Debug, Args)]
struct BundleArgs {
    #[command(flatten)]
    folder: FolderArgs,
}

/// What was done.
#[derive(Serialize)]
struct Done<'a> {
    dir: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<&'a TrustDomain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<&'a SpiffeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// Does what is asked.
pub fn run(args: &CaArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    match &args.command {
        CaCommand::Init(args) => init(args, format),
        CaCommand::Issue(args) => issue(args, format),
        CaCommand::Rotate(args) => rotate(args, format),
        CaCommand::Bundle(args) => {
            let bundle = Authority::bundle(&args.folder.dir)?;
            std::io::stdout().write_all(bundle.as_bytes())?;
            Ok(Exit::Done)
        }
    }
}

impl FolderArgs {
    fn passphrase(&self) -> Result<Option<Passphrase>, CaError> {
        self.passphrase_file
            .as_deref()
            .map(Passphrase::read)
            .transpose()
    }
}

fn init(args: &InitArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let passphrase = args.folder.passphrase()?;
    let dir = &args.folder.dir;
    let authority = Authority::init(dir, &args.trust_domain, args.lifetime, passphrase.as_ref())?;
    let done = Done {
        dir,
        trust_domain: Some(authority.domain()),
        spiffe_id: None,
        until: Some(crate::identity::svid::moment(authority.until())),
    };
    output::print(format, &done, |out| {
        writeln!(
            out,
            "made the authority of {} in {}; its root is valid until {}\n\
             to believe it, put this into the policy tree:\n\n\
             apiVersion: enforcer.dev/v1alpha1\n\
             kind: TrustDomain\n\
             metadata:\n  name: {}\n\
             spec:\n  bundleFile: {}",
            authority.domain(),
            dir.display(),
            crate::identity::svid::moment(authority.until()),
            authority.domain(),
            std::path::absolute(dir)?.join("bundle.pem").display(),
        )
    })?;
    Ok(Exit::Done)
}

fn issue(args: &IssueArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let passphrase = args.folder.passphrase()?;
    let order = Order {
        lifetime: args.lifetime,
        dns: args.dns.clone(),
        addresses: args.ip.clone(),
    };
    loop {
        // Opened each time: the root may have been rotated.
        let authority = Authority::open(&args.folder.dir, passphrase.as_ref())?;
        let issued = authority.issue(&args.id, &order)?;
        ca::write_issued(&args.out, &issued, &authority.own_bundle()?)?;
        let until = rfc3339(issued.until);
        let done = Done {
            dir: &args.out,
            trust_domain: None,
            spiffe_id: Some(&args.id),
            until: Some(until.clone()),
        };
        output::print(format, &done, |out| {
            writeln!(
                out,
                "{} is valid until {until}: svid.pem, svid.key and bundle.pem are in {}",
                args.id,
                args.out.display()
            )
        })?;
        if !args.renew {
            return Ok(Exit::Done);
        }
        std::thread::sleep(args.lifetime / 2);
    }
}

fn rotate(args: &RotateArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let passphrase = args.folder.passphrase()?;
    let dir = &args.folder.dir;
    let (steps, what): (&[_], _) = if args.now {
        (
            &[Rotation::Prepare, Rotation::Activate],
            "a new root signs; the old one is believed until `enforcer ca rotate --retire`",
        )
    } else if args.activate {
        (
            &[Rotation::Activate],
            "the new root signs; the old one is believed until `enforcer ca rotate --retire`",
        )
    } else if args.retire {
        (
            &[Rotation::Retire],
            "only the root that signs is believed now",
        )
    } else {
        (
            &[Rotation::Prepare],
            "the next root is in the bundle; bring it to everybody who verifies, then \
             `enforcer ca rotate --activate`",
        )
    };
    for step in steps {
        Authority::rotate(dir, *step, args.lifetime, passphrase.as_ref())?;
    }
    let done = Done {
        dir,
        trust_domain: None,
        spiffe_id: None,
        until: None,
    };
    output::print(format, &done, |out| writeln!(out, "{what}"))?;
    Ok(Exit::Done)
}
