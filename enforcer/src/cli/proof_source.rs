//! What `enforcer attest` proves itself with: files, or a server of the SPIFFE Workload API. Both
//! are followed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::identity::{
    bundle::Bundle,
    files::{self, Sight, SvidFiles},
    material::OwnSvid,
    spiffe_id::SpiffeId,
    svid::Usage,
    trust::{Trust, Trusted},
    workload_api::client::{ENDPOINT_VARIABLE, Provided, ProvidedWatch, Provider, ProviderAddress},
};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);

/// Where the SVID and the roots come from.
#[derive(Debug, Args)]
pub struct ProofArgs {
    /// Server of the SPIFFE Workload API from which this workload's certificate, key and roots
    /// come, as in unix:///run/enforcer/workload.sock; what is new there is taken up. Files that
    /// are named come before it.
    #[arg(long, value_name = "SOURCE", env = ENDPOINT_VARIABLE, hide_env_values = true)]
    identity_from: Option<String>,
    /// Certificate of this workload in PEM, its intermediate certificates behind it. Watched.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "identity_from",
        requires_all = ["svid_key", "bundle"]
    )]
    svid: Option<PathBuf>,
    /// Its key in PEM. Watched.
    #[arg(long, value_name = "FILE", requires = "svid")]
    svid_key: Option<PathBuf>,
    /// Roots in PEM by which the daemon's certificate is verified. Watched.
    #[arg(long, value_name = "FILE", requires = "svid")]
    bundle: Option<PathBuf>,
}

/// Where the SVID and the roots come from, followed.
pub(super) enum ProofSource {
    Files {
        svid: SvidFiles,
        bundle: PathBuf,
        /// What they were when they were read last.
        sight: Sight,
    },
    Provider {
        address: ProviderAddress,
        heard: ProvidedWatch,
        /// What was proven with last.
        taken: Option<Arc<OwnSvid>>,
    },
}

/// A provider that has given no SVID, or none that is still valid.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoProof {
    #[error("{0}")]
    Note(String),
    #[error("the identity provider {0} has not answered yet")]
    Wait(ProviderAddress),
}

impl ProofSource {
    /// Begins to follow what the arguments say. To be called in a runtime.
    pub(super) fn open(args: &ProofArgs) -> anyhow::Result<Self> {
        if let (Some(svid), Some(key), Some(bundle)) = (&args.svid, &args.svid_key, &args.bundle) {
            return Ok(Self::Files {
                svid: SvidFiles {
                    certificate: svid.clone(),
                    key: key.clone(),
                },
                bundle: bundle.clone(),
                sight: Sight::default(),
            });
        }
        let address = args.identity_from.as_deref().unwrap_or_default();
        let address: ProviderAddress = address
            .parse()
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("--identity-from, or {ENDPOINT_VARIABLE}"))?;
        let provider = Provider {
            address: address.clone(),
            path: None,
            usage: Usage::Client,
            stats: Arc::default(),
            memory: None,
        };
        let (published, heard) = watch::channel(Arc::new(Provided::default()));
        // It ends with the process.
        tokio::spawn(provider.follow(published, CancellationToken::new()));
        Ok(Self::Provider {
            address,
            heard,
            taken: None,
        })
    }

    /// Waits until a provider has said something, if only that it is not there.
    pub(super) async fn first(&mut self) {
        if let Self::Provider { heard, .. } = self {
            let said = heard.wait_for(|said| said.own.is_some() || said.note.is_some());
            let _ = said.await;
        }
    }

    /// The SVID as it is now, and whom to believe.
    pub(super) fn read(
        &mut self,
        server: Option<&SpiffeId>,
    ) -> anyhow::Result<(Arc<OwnSvid>, Trust)> {
        match self {
            Self::Files {
                svid,
                bundle,
                sight,
            } => {
                *sight = seen(svid, bundle);
                let own = files::read_own(svid, Usage::Client).map_err(anyhow::Error::msg)?;
                let roots = files::read_certificates(bundle).map_err(anyhow::Error::msg)?;
                let trusted = Trusted {
                    bundle: Bundle::from_der(roots).with_context(|| {
                        format!("the bundle {} cannot be used", bundle.display())
                    })?,
                    ..Trusted::default()
                };
                // Whose roots these are is not written in them: they count for the domain of
                // whoever is to answer.
                let id = server.unwrap_or(own.svid.id());
                let trust = Trust::new([(id.domain().clone(), Arc::new(trusted))].into());
                Ok((Arc::new(own), trust))
            }
            Self::Provider {
                address,
                heard,
                taken,
            } => {
                let provided = heard.borrow_and_update().clone();
                taken.clone_from(&provided.own);
                let own = taken.clone().ok_or_else(|| match &provided.note {
                    Some(note) => NoProof::Note(note.clone()),
                    None => NoProof::Wait(address.clone()),
                })?;
                Ok((own, Trust::new(provided.domains.clone())))
            }
        }
    }

    /// Waits until there is something else to prove with.
    pub(super) async fn changed(&mut self) {
        match self {
            Self::Files {
                svid,
                bundle,
                sight,
            } => {
                while seen(svid, bundle) == *sight {
                    sleep(LOOK).await;
                }
            }
            Self::Provider { heard, taken, .. } => {
                let is_new = |provided: &Arc<Provided>| match (&provided.own, &*taken) {
                    (Some(now), Some(then)) => !Arc::ptr_eq(now, then),
                    (now, _) => now.is_some(),
                };
                if heard.wait_for(is_new).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn seen(svid: &SvidFiles, bundle: &Path) -> Sight {
    Sight::of(&[&*svid.certificate, &*svid.key, bundle])
}
