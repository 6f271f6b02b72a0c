//! What most tests begin with: a shop with its servers and a policy tree, nothing enforced yet.

use std::net::IpAddr;

use anyhow::{Context, Result};

use super::{
    Daemon, Expect, FlowProtocol, Lab, Process,
    shop::{Host, Party, Shop},
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

    /// Tries a flow on IPv4 and IPv6; both must be as expected.
    pub fn expect(
        &self,
        from: &Party,
        to: &Party,
        protocol: FlowProtocol,
        port: u16,
        expect: Expect,
    ) -> Result<()> {
        for v6 in [false, true] {
            from.place.expect(protocol, to.ip(v6), port, expect)?;
        }
        Ok(())
    }

    /// As [`Self::expect`], for TCP.
    pub fn expect_tcp(&self, from: &Party, to: &Party, port: u16, expect: Expect) -> Result<()> {
        self.expect(from, to, FlowProtocol::Tcp, port, expect)
    }

    /// Waits until the daemon has recorded the denial of a flow to `to` and `port`, and gives
    /// the reason.
    pub fn denied_reason(
        &self,
        daemon: &Daemon,
        from: IpAddr,
        to: IpAddr,
        port: u16,
    ) -> Result<String> {
        let record = daemon
            .wait_for_record(std::time::Duration::from_secs(5), |record| {
                record.verdict == enforcer::observe::record::Verdict::Deny
                    && record.source().address == Some(from)
                    && record.destination().address == Some(to)
                    && (port == 0 || record.destination().port == Some(port))
            })
            .with_context(|| format!("the denial of {from} -> {to} port {port}"))?;
        Ok(record.reason)
    }
}
