//! A fleet: the hosts of the shop, each with a policy tree of its own, and etcd behind the router.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use enforcer::registry::{
    Listing, Registry, RegistryError,
    etcd::EtcdRegistry,
    node_identity::{FileIdentity, node_id},
    settings::{EtcdSettings, NodeIdentitySettings},
    status::{FleetStatus, NodeStatus},
};

use super::{
    Daemon, Lab, Place, Tree,
    authority::{Authority, Files},
    etcd::Etcd,
    patient,
    shop::{Host, Shop},
};

/// The trust domain of the fleet.
pub const TRUST_DOMAIN: &str = "fleet.test";
/// Lease of every node.
pub const LEASE: Duration = Duration::from_secs(4);

/// The document of a workload of the namespace `shop`, with a label `app` as it is called and
/// further ones (`, key: value`).
pub fn document(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}{labels}}}}}
spec: {{{spec}}}
---
"
    )
}

/// etcd, and who the nodes are.
pub struct Fleet {
    /// The registry.
    pub etcd: Etcd,
    /// Signs the nodes' identities.
    pub nodes: Authority,
    runtime: tokio::runtime::Runtime,
    place: Place,
}

impl Fleet {
    /// Starts three members at the router of a shop.
    pub fn start(lab: &Lab, shop: &Shop) -> Result<Self> {
        let place = Place::new("etcd", &shop.router, lab.cgroup("etcd")?)?;
        let address = IpAddr::from([10, 77, 1, 1]);
        Self::at(lab, place, address, 3)
    }

    /// Starts so many members at a place.
    pub fn at(lab: &Lab, place: Place, address: IpAddr, members: usize) -> Result<Self> {
        let etcd = Etcd::start(place.clone(), address, &lab.folder().join("etcd"), members)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            etcd,
            nodes: Authority::new(&lab.folder().join("nodes"))?,
            runtime,
            place,
        })
    }

    /// Who a node is.
    pub fn svid(&self, node: &str) -> Result<NodeIdentitySettings> {
        self.identity(node, &node_id(TRUST_DOMAIN, node))
    }

    /// Whoever has this SPIFFE ID.
    pub fn identity(&self, name: &str, id: &str) -> Result<NodeIdentitySettings> {
        let Files { certificate, key } = self.nodes.svid(name, id)?;
        Ok(NodeIdentitySettings {
            certificate,
            key,
            bundle: self.nodes.root(),
        })
    }

    /// Prepares a host's daemon, with a tree of its own.
    pub fn daemon(&self, lab: &Lab, host: &Host, tree: &Tree, extra: &[&str]) -> Result<Daemon> {
        let mut options = host.daemon_options(tree.path())?;
        let etcd = self.etcd_settings(host.name)?;
        let svid = self.svid(host.name)?;
        let mut flag = |name: &str, value: String| {
            options.extra.extend([format!("--{name}"), value]);
        };
        let path = |path: PathBuf| path.display().to_string();
        flag("etcd", etcd.endpoints.join(","));
        flag("etcd-ca", path(etcd.authority));
        flag("etcd-cert", path(etcd.certificate));
        flag("etcd-key", path(etcd.key));
        // Who is given another source has no files.
        if !extra.contains(&"--identity-from") {
            flag("node-cert", path(svid.certificate));
            flag("node-key", path(svid.key));
            flag("node-bundle", path(svid.bundle));
        }
        flag("fleet-lease", format!("{}s", LEASE.as_secs()));
        options.extra.extend(extra.iter().map(|e| (*e).to_owned()));
        Daemon::prepare(lab, options)
    }

    /// A tree for a host alone: its workloads, and a policy.
    pub fn tree(lab: &Lab, host: &Host, workloads: &[String], policy: &str) -> Result<Tree> {
        let tree = Tree::empty(lab, &format!("tree-{}", host.name))?;
        tree.write("workloads.yaml", &workloads.concat())?;
        tree.write("policy.yaml", policy)?;
        Ok(tree)
    }

    /// How a client of this common name connects.
    pub fn etcd_settings(&self, client: &str) -> Result<EtcdSettings> {
        let files = self.etcd.authority.client(&format!("client-{client}"))?;
        Ok(EtcdSettings {
            endpoints: self.etcd.endpoints(),
            authority: self.etcd.authority.root(),
            certificate: files.certificate,
            key: files.key,
            prefix: "/enforcer".to_owned(),
        })
    }

    /// Whoever has got hold of credentials for etcd, and writes under the name of a node.
    pub fn intruder(&self, name: &str) -> Result<Arc<EtcdRegistry>> {
        let settings = self.etcd_settings("intruder")?;
        Ok(EtcdRegistry::new(settings, name, Duration::from_mins(10)))
    }

    /// Publishes bytes under a node's name.
    pub fn publish(&self, name: &str, record: Vec<u8>) -> Result<()> {
        let registry = self.intruder(name)?;
        Ok(self.wait_on(async move { registry.publish(record).await })?)
    }

    /// What is in the registry.
    pub fn list(&self) -> Result<Listing> {
        let registry = self.intruder("nobody")?;
        Ok(self.wait_on(async move { registry.list().await })?)
    }

    /// The record under a name.
    pub fn record(&self, name: &str) -> Result<Vec<u8>> {
        let records = self.list()?.records;
        let found = records.into_iter().find(|(node, _)| node == name);
        Ok(found
            .with_context(|| format!("{name} is not in the registry"))?
            .1)
    }

    /// Runs a question to the registry in its network.
    pub fn wait_on<T: Send>(
        &self,
        question: impl Future<Output = Result<T, RegistryError>> + Send,
    ) -> Result<T, RegistryError> {
        self.place
            .enter(|| self.runtime.block_on(question))
            .unwrap_or_else(|error| panic!("entering the network of etcd: {error:#}"))
    }
}

/// An identity of files, as a daemon uses it.
pub fn of_files(settings: NodeIdentitySettings) -> FileIdentity {
    FileIdentity(settings)
}

/// What a daemon shows of its fleet.
pub fn status(daemon: &Daemon) -> Result<FleetStatus> {
    let status: Option<FleetStatus> = daemon.ask_json(&["nodes"])?;
    status.context("it is not part of a fleet")
}

/// Waits until a daemon's view of the fleet is as wanted.
pub fn wait_for(
    daemon: &Daemon,
    what: &str,
    wanted: impl Fn(&FleetStatus) -> bool,
) -> Result<FleetStatus> {
    let deadline = Instant::now() + patient(Duration::from_secs(90));
    loop {
        let status = status(daemon)?;
        if wanted(&status) {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("{what}: not so: {status:#?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// A node in a status.
pub fn node<'s>(status: &'s FleetStatus, name: &str) -> Option<&'s NodeStatus> {
    status.nodes.iter().find(|node| node.name == name)
}
