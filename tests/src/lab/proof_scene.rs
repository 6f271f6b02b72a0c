//! What tests of proven identity begin with: a shop, an authority that issues to its workloads, and
//! a policy tree; nothing enforced yet.

use std::path::PathBuf;

use anyhow::Result;

use super::{
    Daemon, Lab,
    pki::{Pki, trust_domain},
    shop::{Host, Shop},
    tree::Tree,
};

/// A shop whose workloads can prove who they are.
#[derive(Debug)]
pub struct ProofScene {
    /// The authority.
    pub pki: Pki,
    /// The policies.
    pub tree: Tree,
    /// Hosts and parties.
    pub shop: Shop,
    /// Last: it removes what the others use.
    pub lab: Lab,
}

impl ProofScene {
    /// With documents in files of these names.
    pub fn new(documents: &[(&str, &str)]) -> Result<Self> {
        let lab = Lab::new()?;
        let shop = Shop::build(&lab)?;
        let pki = Pki::new(&lab, "pki")?;
        let tree = Tree::empty(&lab, "policies")?;
        for (file, text) in documents {
            tree.write(file, text)?;
        }
        Ok(Self {
            pki,
            tree,
            shop,
            lab,
        })
    }

    /// As [`Self::new`], and the authority is believed.
    pub fn trusting(documents: &[(&str, &str)]) -> Result<Self> {
        let scene = Self::new(documents)?;
        scene.revoke(&[])?;
        Ok(scene)
    }

    /// The authority is believed, but for certificates with these serial numbers.
    pub fn revoke(&self, serials: &[&str]) -> Result<()> {
        let document = trust_domain(&self.pki.bundle(), serials);
        self.tree.write("trust.yaml", &document)
    }

    /// Starts the daemon of a host with further flags. Its security events go to its flow log.
    pub fn start(&self, host: &Host, flags: &[String]) -> Result<Daemon> {
        let mut options = host.daemon_options(self.tree.path())?;
        options.extra = flags.to_vec();
        let mut daemon = Daemon::prepare(&self.lab, options)?;
        let log = daemon.flow_log_flags();
        daemon.options().extra.extend(log);
        daemon.launch()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts the daemon of a host so that it attests.
    pub fn start_attesting(&self, host: &Host) -> Result<Daemon> {
        self.start(host, &self.pki.daemon_flags(host.name)?)
    }

    /// Flags of a daemon that serves the Workload API at [`Self::socket`], and issues.
    pub fn issuing(&self, host: &Host) -> Vec<String> {
        vec![
            "--workload-api".to_owned(),
            self.socket(host).display().to_string(),
            "--ca".to_owned(),
            self.pki.folder().display().to_string(),
        ]
    }

    /// Where a host's Workload API is served.
    pub fn socket(&self, host: &Host) -> PathBuf {
        self.lab.folder().join(format!("{}.sock", host.name))
    }
}

impl Daemon {
    /// How often something was refused for a reason at a door (`attestation`, `workload_api`).
    pub fn refusals(&self, door: &str, reason: &str) -> Result<u64> {
        let reason = format!("reason=\"{reason}\"");
        let labels = ["event=\"refuse\"", reason.as_str()];
        self.metric(&format!("enforcer_{door}_events_total"), &labels)
    }
}
