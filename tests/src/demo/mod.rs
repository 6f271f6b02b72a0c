//! The demo: a shop of network namespaces, a real daemon on each of its hosts, and real traffic
//! that shows what is enforced and what survives.

pub mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::lab::{
    Daemon, Expect, FlowProtocol, Lab, Process, Tree,
    shop::{self, Shop},
    shop_flows::{self, Denial, Observed, ShopFlow, Who},
    traffic::Holder,
};

/// What of the shop's flows is shown: all that is allowed, and denials of every kind.
fn shown() -> Vec<ShopFlow> {
    use FlowProtocol::{Icmp, Tcp, Udp};
    use Who::{Api, Db, Intruder, Scraper, Web};
    [
        (Intruder, Web, Tcp, 8080),
        (Web, Api, Tcp, 9000),
        (Api, Db, Tcp, 5432),
        (Api, Db, Udp, 9999),
        (Scraper, Web, Tcp, 9100),
        (Scraper, Api, Tcp, 9100),
        (Scraper, Db, Tcp, 9100),
        (Web, Api, Icmp, 0),
        (Db, Scraper, Icmp, 0),
        (Intruder, Web, Tcp, 9100),
        (Intruder, Api, Tcp, 9000),
        (Intruder, Db, Tcp, 5432),
        (Intruder, Db, Udp, 9999),
        (Intruder, Api, Icmp, 0),
        (Web, Db, Tcp, 5432),
        (Web, Api, Tcp, 2222),
        (Api, Web, Tcp, 8080),
        (Scraper, Db, Tcp, 5432),
        (Scraper, Db, Udp, 9999),
        (Db, Intruder, Tcp, 2222),
        (Web, Intruder, Icmp, 0),
    ]
    .map(|(from, to, protocol, port)| ShopFlow::new(from, to, protocol, port))
    .to_vec()
}

/// A flow that was tried, and how its denial was recorded.
#[derive(Debug)]
pub struct Row {
    /// What became of it.
    pub observed: Observed,
    /// What was expected.
    pub expected: Expect,
    /// The denials recorded on IPv4 and IPv6; none are looked for where it should be open.
    pub denials: [Option<Denial>; 2],
}

impl Row {
    /// Whether all is as expected: the outcome, and for a denial also that it was recorded with
    /// the rule and its line.
    pub fn ok(&self) -> bool {
        self.observed.is(self.expected)
            && (self.expected == Expect::Open
                || self.denials.iter().all(|denial| {
                    denial.as_ref().is_some_and(|d| {
                        d.record
                            .rule
                            .as_ref()
                            .is_some_and(|rule| rule.file.is_some() && rule.line.is_some())
                    })
                }))
    }
}

/// Something that was shown: a sentence and whether it held.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What was claimed.
    pub claim: String,
    /// Whether it held.
    pub ok: bool,
    /// What was seen.
    pub seen: String,
}

/// All that the demo found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Without enforcement.
    pub before: Vec<Row>,
    /// With the shop's policies.
    pub enforced: Vec<Row>,
    /// A policy change reaches open connections.
    pub change: Vec<Finding>,
    /// A daemon dies and comes back.
    pub death: Vec<Finding>,
}

impl Findings {
    /// Whether everything was as expected.
    pub fn ok(&self) -> bool {
        let rows = || self.before.iter().chain(&self.enforced);
        let findings = || self.change.iter().chain(&self.death);
        // Nothing shown is nothing proven.
        rows().count() > 0
            && findings().count() > 0
            && rows().all(Row::ok)
            && findings().all(|finding| finding.ok)
    }
}

/// The shop, up and enforced.
#[derive(Debug)]
pub struct Demo {
    /// By host: front, back, ops.
    pub daemons: Vec<Daemon>,
    /// Echo servers.
    pub servers: Vec<Process>,
    /// Its policies, a copy of the examples.
    pub tree: Tree,
    /// The shop.
    pub shop: Shop,
    /// Last: it removes what the others use.
    pub lab: Lab,
}

/// Says what is being done; the demo's results go elsewhere.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Runs the demo to its end.
pub fn run(progress: Progress<'_>) -> Result<(Demo, Findings)> {
    progress("building the shop: three hosts behind a router, four workloads, an intruder");
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let servers = shop.serve()?;
    let mut findings = Findings::default();
    let flows = shown();
    progress("sending traffic before anything is enforced");
    findings.before = shop_flows::try_flows(&shop, &flows, |_| Expect::Open)?
        .into_iter()
        .map(|observed| Row {
            observed,
            expected: Expect::Open,
            denials: [None, None],
        })
        .collect();

    progress("starting the daemons of front, back and ops in mode enforce");
    let tree = Tree::empty(&lab, "policies")?;
    shop::copy_tree(&shop::example_policies()?, tree.path())?;
    let daemons = shop.start_daemons(&lab, tree.path())?;
    let mut demo = Demo {
        daemons,
        servers,
        tree,
        shop,
        lab,
    };
    progress("sending the same traffic again, and asking the daemons what they denied");
    findings.enforced = demo.enforced(&flows)?;
    progress("changing the policy while connections are open");
    findings.change = demo.change()?;
    progress("killing a daemon under traffic");
    findings.death = demo.death()?;
    Ok((demo, findings))
}

impl Demo {
    fn enforced(&self, flows: &[ShopFlow]) -> Result<Vec<Row>> {
        let observed = shop_flows::try_flows(&self.shop, flows, ShopFlow::expected)?;
        let denied: Vec<ShopFlow> = flows
            .iter()
            .copied()
            .filter(|flow| flow.expected() == Expect::Denied)
            .collect();
        let mut recorded =
            shop_flows::denials(&self.shop, &self.daemons, &denied, Duration::from_secs(5))?
                .into_iter();
        Ok(observed
            .into_iter()
            .map(|observed| {
                let expected = observed.flow.expected();
                let denials = match expected {
                    Expect::Denied => recorded.next().unwrap_or_default(),
                    Expect::Open => [None, None],
                };
                Row {
                    observed,
                    expected,
                    denials,
                }
            })
            .collect())
    }

    /// Open connections from `web` to `api`: one of each family, idle and busy.
    fn web_to_api(&self) -> Result<[Holder; 3]> {
        let web = &self.shop.web.place;
        let busy = Some(Duration::from_millis(20));
        Ok([
            web.hold(self.shop.api.v4(9000), 1, busy)?,
            web.hold(self.shop.api.v6(9000), 1, busy)?,
            web.hold(self.shop.api.v4(9000), 1, None)?,
        ])
    }

    fn try_one(&self, flow: ShopFlow, expect: Expect) -> Result<Finding> {
        let observed = shop_flows::try_flows(&self.shop, &[flow], |_| expect)?
            .pop()
            .context("no result")?;
        let [v4, v6] = observed.outcomes();
        Ok(Finding {
            claim: format!(
                "{flow} is {}",
                match expect {
                    Expect::Open => "open",
                    Expect::Denied => "denied",
                }
            ),
            ok: observed.is(expect),
            seen: format!("v4 {v4:?}, v6 {v6:?}"),
        })
    }

    fn change(&self) -> Result<Vec<Finding>> {
        let web_to_api = ShopFlow::new(Who::Web, Who::Api, FlowProtocol::Tcp, 9000);
        let mut findings = Vec::new();
        let mut other =
            self.shop
                .api
                .place
                .hold(self.shop.db.v4(5432), 1, Some(Duration::from_millis(20)))?;
        let held = self.web_to_api()?;
        let start = Instant::now();
        self.tree.write("incident.yaml", INCIDENT)?;
        for (mut holder, name) in held.into_iter().zip(["IPv4", "IPv6", "idle IPv4"]) {
            let death = holder.wait_for_death(Duration::from_secs(5));
            let took = start.elapsed();
            findings.push(Finding {
                claim: format!(
                    "an open {name} connection from web to api ends within a second of the \
                     file being written, and its owner sees it"
                ),
                // An end in good order would be the server's, not the enforcer's.
                ok: death.as_ref().is_ok_and(|d| d.error != "closed")
                    && took < Duration::from_secs(1),
                seen: match death {
                    Ok(death) => format!("{} after {} ms", death.error, took.as_millis()),
                    Err(error) => error.to_string(),
                },
            });
        }
        findings.push(self.try_one(web_to_api, Expect::Denied)?);
        let untouched = other.ensure_alive();
        findings.push(Finding {
            claim: "the connection from api to db, which the change is not about, goes on".into(),
            ok: untouched.is_ok(),
            seen: untouched.map_or_else(|e| e.to_string(), |()| "alive".into()),
        });
        self.tree.remove("incident.yaml")?;
        for daemon in &self.daemons {
            daemon.apply()?;
        }
        findings.push(self.try_one(web_to_api, Expect::Open)?);
        Ok(findings)
    }

    fn death(&mut self) -> Result<Vec<Finding>> {
        const BACK: usize = 1;
        let mut findings = Vec::new();
        let held = self.web_to_api()?;
        let db =
            self.shop
                .api
                .place
                .hold(self.shop.db.v6(5432), 1, Some(Duration::from_millis(20)))?;
        self.daemons[BACK].kill()?;
        for (from, to, protocol, port, expect) in [
            (Who::Web, Who::Api, FlowProtocol::Tcp, 9000, Expect::Open),
            (Who::Api, Who::Db, FlowProtocol::Udp, 9999, Expect::Open),
            (
                Who::Intruder,
                Who::Api,
                FlowProtocol::Tcp,
                9000,
                Expect::Denied,
            ),
            (
                Who::Intruder,
                Who::Db,
                FlowProtocol::Udp,
                9999,
                Expect::Denied,
            ),
        ] {
            let flow = ShopFlow::new(from, to, protocol, port);
            let mut finding = self.try_one(flow, expect)?;
            finding.claim = format!("with the daemon of back killed, {}", finding.claim);
            findings.push(finding);
        }
        self.daemons[BACK].launch()?;
        self.daemons[BACK].wait_ready()?;
        let mut finding = self.try_one(
            ShopFlow::new(Who::Intruder, Who::Db, FlowProtocol::Tcp, 5432),
            Expect::Denied,
        )?;
        finding.claim = format!("with the daemon started again, {}", finding.claim);
        findings.push(finding);
        for (holder, name) in held.into_iter().chain([db]).zip([
            "busy IPv4 connection from web to api",
            "busy IPv6 connection from web to api",
            "idle IPv4 connection from web to api",
            "busy IPv6 connection from api to db",
        ]) {
            let summary = holder.stop()?;
            findings.push(Finding {
                claim: format!("the {name} lives through kill and start"),
                ok: summary.alive == 1 && summary.deaths.is_empty(),
                seen: format!(
                    "{} echoes, the slowest took {} ms",
                    summary.beats,
                    summary.longest.as_millis()
                ),
            });
        }
        Ok(findings)
    }

    /// Leaves everything up.
    pub fn leave(self) -> Result<()> {
        self.lab.keep()?;
        for daemon in self.daemons {
            daemon.leave_running();
        }
        for server in self.servers {
            server.leave_running();
        }
        Ok(())
    }
}

/// The change that the demo makes: somebody cuts `web` off from `api`.
const INCIDENT: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: incident, namespace: shop}
spec:
  tier: quarantine
  selector: {matchLabels: {app: api}}
  ingress:
    - name: cut-off-web
      action: deny
      from: [{labels: {app: web}}]
";
