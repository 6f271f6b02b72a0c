//! What most tests begin with: a shop with its servers and a policy tree, nothing enforced yet.

use anyhow::Result;

use super::{
    Daemon, Lab, Process,
    shop::{Host, Shop},
    tree::Tree,
};

/// A shop, ready for a test.
#[derive(Debug)]
pub struct Scene {
    /// Its servers.
    pub servers: Vec<Process>,
    /// Its hosts and parties.
    pub shop: Shop,
    /// Its policies.
    pub tree: Tree,
    /// Last: it removes what the others use.
    pub lab: Lab,
}

impl Scene {
    /// A shop with servers, and `policy` about its workloads written but not enforced.
    pub fn new(policy: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let shop = Shop::build(&lab)?;
        Ok(Self {
            servers: shop.serve()?,
            tree: Tree::of_shop(&lab, policy)?,
            shop,
            lab,
        })
    }

    /// Starts the daemon of a host in mode enforce.
    pub fn enforce(&self, host: &Host) -> Result<Daemon> {
        host.start_daemon(&self.lab, self.tree.path())
    }
}
