//! The shop: three hosts behind a router, four workloads and an intruder.
//!
//! ```text
//!  front  uplink up0  10.77.1.2 fd77:1::2   web:     cgroup /shop/web
//!  back   uplink up0  10.77.2.2 fd77:2::2   api:     veth-api  10.77.12.2 fd77:12::2
//!                                           db:      veth-db   10.77.22.2 fd77:22::2
//!  ops    uplink up0  10.77.3.2 fd77:3::2   scraper: cgroup /shop/scraper
//!  intruder           10.77.9.2 fd77:9::2
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Daemon, DaemonOptions, Lab, Namespace, Place, Process, cgroup,
    frame::Hop,
    namespace::{End, cable},
};

/// Name of the uplink on every host.
pub const UPLINK: &str = "up0";

/// TCP ports on which everybody in the shop listens, so that a denial is told from a
/// closed port.
pub const TCP_PORTS: [u16; 5] = [8080, 9000, 5432, 9100, 2222];

/// The UDP port on which everybody listens.
pub const UDP_PORT: u16 = 9999;

/// A host of the shop.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name.
    pub name: &'static str,
    /// Its network.
    pub namespace: Namespace,
    /// The root of its cgroup tree.
    pub cgroup_root: PathBuf,
    /// Its addresses.
    pub addresses: (Ipv4Addr, Ipv6Addr),
}

/// A workload, or whoever else has addresses.
#[derive(Clone, Debug)]
pub struct Party {
    /// Where its processes run.
    pub place: Place,
    /// Its addresses.
    pub addresses: (Ipv4Addr, Ipv6Addr),
}

impl Party {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Its address of one family.
    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 {
            self.addresses.1.into()
        } else {
            self.addresses.0.into()
        }
    }

    /// Its IPv4 address and a port.
    pub fn v4(&self, port: u16) -> SocketAddr {
        (self.addresses.0, port).into()
    }

    /// Its IPv6 address and a port.
    pub fn v6(&self, port: u16) -> SocketAddr {
        (self.addresses.1, port).into()
    }
}

impl Host {
    /// A process of the host itself, in no workload's cgroup.
    pub fn party(&self) -> Result<Party> {
        Ok(Party {
            place: self.place("system")?,
            addresses: self.addresses,
        })
    }

    /// A place on this host, by cgroup path below its root.
    pub fn place(&self, path: &str) -> Result<Place> {
        let path = path.trim_start_matches('/');
        let name = path.rsplit('/').next().unwrap_or(path);
        Place::new(name, &self.namespace, self.cgroup_root.join(path))
    }

    /// How its daemon is started.
    pub fn daemon_options(&self, policies: &Path) -> Result<DaemonOptions> {
        Ok(DaemonOptions {
            name: self.name.to_owned(),
            place: self.place("/enforcer")?,
            cgroup_root: self.cgroup_root.clone(),
            uplinks: vec![UPLINK.to_owned()],
            policies: policies.to_owned(),
            mode: Some("enforce"),
            extra: Vec::new(),
        })
    }

    /// Starts its daemon in mode enforce.
    pub fn start_daemon(&self, lab: &Lab, policies: &Path) -> Result<Daemon> {
        Daemon::start(lab, self.daemon_options(policies)?)
    }
}

/// The shop.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Between all.
    pub router: Namespace,
    /// Of the intruder.
    pub outside: Namespace,
    /// Of `api`.
    pub api_inside: Namespace,
    /// Of `db`.
    pub db_inside: Namespace,
    /// Host of `web`.
    pub front: Host,
    /// Host of `api` and `db`.
    pub back: Host,
    /// Host of `scraper`.
    pub ops: Host,
    /// A cgroup workload on `front`.
    pub web: Party,
    /// A namespace behind `veth-api` on `back`.
    pub api: Party,
    /// A namespace behind `veth-db` on `back`.
    pub db: Party,
    /// A cgroup workload on `ops`.
    pub scraper: Party,
    /// Nobody that policy knows.
    pub intruder: Party,
}

impl Shop {
    /// Builds the shop, without daemons and servers.
    pub fn build(lab: &Lab) -> Result<Self> {
        let router = lab.namespace("router")?;
        router.forward()?;
        let front = host(lab, &router, "front", 1)?;
        let back = host(lab, &router, "back", 2)?;
        let ops = host(lab, &router, "ops", 3)?;
        back.namespace.forward()?;
        let web = Party {
            place: front.place("/shop/web")?,
            addresses: front.addresses,
        };
        let scraper = Party {
            place: ops.place("/shop/scraper")?,
            addresses: ops.addresses,
        };
        let (api_inside, api) = behind_veth(lab, &back, "api", 12)?;
        let (db_inside, db) = behind_veth(lab, &back, "db", 22)?;
        for net in [12, 22] {
            route_to(&router, &back, net)?;
        }
        let outside = lab.namespace("intruder")?;
        let addresses = join(&router, "to-intruder", &outside, "eth0", 9)?;
        let intruder = Party {
            place: Place::new("intruder", &outside, lab.cgroup("/intruder")?)?,
            addresses,
        };
        Ok(Self {
            router,
            outside,
            api_inside,
            db_inside,
            front,
            back,
            ops,
            web,
            api,
            db,
            scraper,
            intruder,
        })
    }

    /// All hosts.
    pub fn hosts(&self) -> [&Host; 3] {
        [&self.front, &self.back, &self.ops]
    }

    /// The workloads, and the intruder last.
    pub fn parties(&self) -> [&Party; 5] {
        [
            &self.web,
            &self.api,
            &self.db,
            &self.scraper,
            &self.intruder,
        ]
    }

    /// Starts servers of everybody on all ports of the shop.
    pub fn serve(&self) -> Result<Vec<Process>> {
        self.parties()
            .iter()
            .map(|party| party.place.serve(&TCP_PORTS, &[UDP_PORT]))
            .collect()
    }

    /// Starts the daemon of every host.
    pub fn start_daemons(&self, lab: &Lab, policies: &Path) -> Result<Vec<Daemon>> {
        let mut daemons = Vec::new();
        for host in self.hosts() {
            let mut daemon = Daemon::prepare(lab, host.daemon_options(policies)?)?;
            daemon.launch()?;
            daemons.push(daemon);
        }
        for daemon in &mut daemons {
            daemon.wait_ready()?;
        }
        Ok(daemons)
    }

    /// The hop of frames that `api` sends.
    pub fn api_hop(&self) -> Result<Hop> {
        Hop::between(
            (&self.api_inside, "eth0"),
            (&self.back.namespace, "veth-api"),
        )
    }

    /// The hop of frames that the intruder sends.
    pub fn intruder_hop(&self) -> Result<Hop> {
        Hop::between((&self.outside, "eth0"), (&self.router, "to-intruder"))
    }
}

/// The router's way to a network behind a host.
pub fn route_to(router: &Namespace, host: &Host, net: u8) -> Result<()> {
    router.ip(&[
        format!("route add 10.77.{net}.0/24 via {}", host.addresses.0),
        format!("route add fd77:{net}::/64 via {}", host.addresses.1),
    ])
}

fn host(lab: &Lab, router: &Namespace, name: &'static str, net: u8) -> Result<Host> {
    let namespace = lab.namespace(name)?;
    let addresses = join(router, &format!("to-{name}"), &namespace, UPLINK, net)?;
    let cgroup_root = lab.cgroup(name)?;
    // Where a process of the host itself runs when a test needs one.
    cgroup::make(&cgroup_root.join("system"))?;
    Ok(Host {
        name,
        namespace,
        cgroup_root,
        addresses,
    })
}

/// A workload in a network of its own behind a link of a host, at `10.77.NET.2`. The router learns
/// the way by [`route_to`].
pub fn behind_veth(
    lab: &Lab,
    host: &Host,
    name: &'static str,
    net: u8,
) -> Result<(Namespace, Party)> {
    let inside = lab.namespace(name)?;
    let addresses = join(
        &host.namespace,
        &format!("veth-{name}"),
        &inside,
        "eth0",
        net,
    )?;
    // As a container's: below the host's cgroup root, in another network.
    let cgroup = host.cgroup_root.join("containers").join(name);
    let party = Party {
        place: Place::new(name, &inside, cgroup)?,
        addresses,
    };
    Ok((inside, party))
}

/// A cable with addresses .1 and .2 of `10.77.NET.0/24` and `fd77:NET::/64`, and the way out of
/// `b` through `a`. Gives the addresses of `b`.
fn join(
    a: &Namespace,
    a_link: &str,
    b: &Namespace,
    b_link: &str,
    net: u8,
) -> Result<(Ipv4Addr, Ipv6Addr)> {
    // The decimal digits of NET are read as hexadecimal: fd77:12:: goes with 10.77.12.0.
    let group = u16::from_str_radix(&net.to_string(), 16)?;
    let v4 = |host| Ipv4Addr::new(10, 77, net, host);
    let v6 = |host| Ipv6Addr::new(0xfd77, group, 0, 0, 0, 0, 0, host);
    cable(
        &End {
            namespace: a,
            link: a_link,
            v4: v4(1),
            v6: v6(1),
        },
        &End {
            namespace: b,
            link: b_link,
            v4: v4(2),
            v6: v6(2),
        },
    )?;
    b.ip(&[
        format!("route add default via {}", v4(1)),
        format!("route add default via {}", v6(1)),
    ])?;
    Ok((v4(2), v6(2)))
}

/// The example policies of the shop, from the repository.
pub fn example_policies() -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/shop");
    path.canonicalize()
        .with_context(|| format!("no policies at {}", path.display()))
}

/// A copy of a tree of files in the lab's folder, to be changed by the test.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
