//! A workload that knows nothing but where the SPIFFE Workload API is: the `spiffe` crate is the
//! client.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command};

use anyhow::Context;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use spiffe::{WorkloadApiClient, X509Context};

use super::tell;

/// What the Workload API says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum SvidEvent {
    /// An SVID.
    Svid {
        /// Whose it is.
        spiffe_id: String,
        /// The leaf in DER.
        leaf: Vec<u8>,
        /// Roots of its trust domain in DER.
        roots: Vec<Vec<u8>>,
        /// The trust domains that have a bundle, the own one among them.
        domains: Vec<String>,
    },
    /// There is none, or no more.
    End {
        /// Why.
        message: String,
    },
}

/// Tells of every SVID until there are no more.
pub fn follow(socket: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let message = told_until_end(socket, out).await?;
        tell(&SvidEvent::End { message });
        Ok(())
    })
}

/// Tells of SVIDs; why there are no more.
async fn told_until_end(socket: &Path, out: Option<&Path>) -> anyhow::Result<String> {
    let endpoint = format!("unix://{}", socket.display());
    let client = match WorkloadApiClient::connect_to(&endpoint).await {
        Ok(client) => client,
        Err(error) => return Ok(error.to_string()),
    };
    let mut stream = match client.stream_x509_contexts().await {
        Ok(stream) => stream,
        Err(error) => return Ok(error.to_string()),
    };
    while let Some(context) = stream.next().await {
        match context {
            Ok(context) => say(&context, out)?,
            Err(error) => return Ok(error.to_string()),
        }
    }
    Ok("the stream ended".to_owned())
}

fn say(context: &X509Context, out: Option<&Path>) -> anyhow::Result<()> {
    let svid = context.default_svid().context("no SVID")?;
    let bundles = context.bundle_set();
    let domain = svid.spiffe_id().trust_domain();
    let bundle = bundles.get(domain).context("no bundle")?;
    let roots = bundle.authorities().iter();
    let mut domains: Vec<_> = bundles.iter().map(|(name, _)| name.to_string()).collect();
    domains.sort();
    if let Some(out) = out {
        fs::create_dir_all(out)?;
        fs::write(out.join("svid.der"), svid.leaf().as_bytes())?;
        fs::write(out.join("key.der"), svid.private_key().as_bytes())?;
    }
    tell(&SvidEvent::Svid {
        spiffe_id: svid.spiffe_id().to_string(),
        leaf: svid.leaf().as_bytes().to_vec(),
        roots: roots.map(|root| root.as_bytes().to_vec()).collect(),
        domains,
    });
    Ok(())
}

/// Connects, and ends while a child has the connection.
pub fn bequeath(socket: &Path) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket)?;
    // Duplicates are not closed on exec, and standard input is one.
    let child = Command::new("sleep")
        .arg("600")
        .stdin(std::os::fd::OwnedFd::from(stream))
        .spawn()?;
    tell(&child.id());
    Ok(())
}
