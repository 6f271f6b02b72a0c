//! A policy tree that a test writes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::Lab;

/// The workloads of the shop, for tests that write their own policies about them.
pub const SHOP_WORKLOADS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, addresses: [10.77.1.2, 'fd77:1::2']}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {interface: veth-api, addresses: [10.77.12.2, 'fd77:12::2']}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interface: veth-db, addresses: [10.77.22.2, 'fd77:22::2']}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: scraper, namespace: shop, labels: {app: scraper}}
spec: {cgroup: /shop/scraper, addresses: [10.77.3.2, 'fd77:3::2']}
";

/// A folder of policy files.
#[derive(Clone, Debug)]
pub struct Tree(PathBuf);

impl Tree {
    /// An empty folder in the lab.
    pub fn empty(lab: &Lab, name: &str) -> Result<Self> {
        let path = lab.folder().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// The shop's workloads and one further file, `policy.yaml`.
    pub fn of_shop(lab: &Lab, policy: &str) -> Result<Self> {
        let tree = Self::empty(lab, "policies")?;
        tree.write("workloads.yaml", SHOP_WORKLOADS)?;
        tree.write("policy.yaml", policy)?;
        Ok(tree)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file as careful programs do: beside, then renamed over the old one.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.join(name);
        let beside = self.0.join(format!(".{name}.new"));
        fs::write(&beside, text)?;
        fs::rename(&beside, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }
}
