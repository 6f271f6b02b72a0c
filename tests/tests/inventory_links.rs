//! The inventory's interfaces, addresses and default routes against a real namespace, and the
//! namespaces at the far ends of veths.

use std::{
    fs::File,
    future::Future,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use enforcer::inventory::{
    Inventory, InventorySettings, Snapshot,
    namespaces::{NamespaceFinder, netns_of_interface, run_in},
};
use tests::lab::{
    Lab, Namespace,
    namespace::{End, cable},
};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a future inside a namespace.
fn inside<T: Send>(
    namespace: &Namespace,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    namespace.enter(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(work)
    })?
}

async fn until(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    what: &str,
    reached: impl Fn(&Snapshot) -> bool,
) -> Result<Arc<Snapshot>> {
    let wait = snapshots.wait_for(|snapshot| reached(snapshot));
    let found = tokio::time::timeout(PATIENCE, wait).await;
    let found = found.with_context(|| format!("waiting for: {what}"))?;
    Ok(found.context("the inventory ended")?.clone())
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot
        .interfaces
        .iter()
        .map(|i| i.name.as_str())
        .collect()
}

fn has_address(snapshot: &Snapshot, address: &str) -> bool {
    let address: IpAddr = address.parse().expect("an address");
    snapshot.host_addresses.contains(&address)
}

#[test]
fn links_addresses_and_default_routes_are_followed() -> Result<()> {
    let lab = Lab::new()?;
    let (host, pod) = (lab.namespace("host")?, lab.namespace("pod")?);
    let settings = InventorySettings {
        cgroup_root: Some(lab.cgroups().to_owned()),
        ..InventorySettings::default()
    };
    inside(&host, async {
        let (_handle, mut snapshots) = Inventory::start(settings).await?;
        let first = snapshots.borrow().clone();
        assert_eq!(names(&first), ["lo"], "this namespace, not the test's");
        assert!(first.interfaces[0].loopback && first.interfaces[0].up);
        assert!(has_address(&first, "127.0.0.1") && has_address(&first, "::1"));
        assert!(first.default_route_interfaces.is_empty());

        host.ip(&[format!(
            "link add veth-pod type veth peer name eth0 netns {}",
            pod.name()
        )])?;
        let down = until(&mut snapshots, "a veth", |s| {
            s.interface("veth-pod").is_some()
        })
        .await?;
        let veth = down.interface("veth-pod").context("it is there")?;
        assert!(!veth.up);
        assert_eq!(veth.kind.as_deref(), Some("veth"));
        assert_eq!(veth.ifindex, host.ifindex("veth-pod")?);
        assert_eq!(veth.peer, Some(pod.ifindex("eth0")?));
        assert!(veth.peer_netns.is_some());

        host.ip(&["link set veth-pod up"])?;
        until(&mut snapshots, "up", |s| {
            s.interface("veth-pod").is_some_and(|i| i.up)
        })
        .await?;

        host.ip(&[
            "addr add 10.9.0.1 peer 10.9.0.2/32 dev veth-pod",
            "addr add fd09::1/64 dev veth-pod nodad",
        ])?;
        let addressed = until(&mut snapshots, "addresses", |s| {
            has_address(s, "10.9.0.1") && has_address(s, "fd09::1")
        })
        .await?;
        assert!(!has_address(&addressed, "10.9.0.2"), "that is the peer's");

        pod.ip(&["link set eth0 up"])?;
        host.ip(&[
            "link add wan1 type veth peer name net1",
            "link set wan1 up",
            "link set net1 up",
            "addr add 192.0.2.1/24 dev wan1",
            "route add default nexthop via 10.9.0.2 dev veth-pod nexthop via 192.0.2.9",
        ])?;
        until(&mut snapshots, "both hops of a default route", |s| {
            s.default_route_interfaces == ["veth-pod", "wan1"]
        })
        .await?;
        host.ip(&["route del default", "route add default dev wan1 table 100"])?;
        until(&mut snapshots, "a default route of another table", |s| {
            s.default_route_interfaces == ["wan1"]
        })
        .await?;
        host.ip(&["route flush table 100", "route add default via fd09::2"])?;
        until(&mut snapshots, "an IPv6 default route", |s| {
            s.default_route_interfaces == ["veth-pod"]
        })
        .await?;

        host.ip(&["link set wan1 down", "link set wan1 name wan2"])?;
        until(&mut snapshots, "a new name", |s| {
            s.interface("wan1").is_none() && s.interface("wan2").is_some()
        })
        .await?;

        // The kernel takes the routes of a link with it and does not say so.
        host.ip(&["link del veth-pod"])?;
        let gone = until(&mut snapshots, "the veth's end", |s| {
            s.interface("veth-pod").is_none()
        })
        .await?;
        assert!(!has_address(&gone, "10.9.0.1"));
        assert!(gone.default_route_interfaces.is_empty());
        Ok(())
    })
}

#[test]
fn many_links_at_once_are_all_seen() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.namespace("host")?;
    let settings = InventorySettings {
        cgroup_root: Some(lab.cgroups().to_owned()),
        ..InventorySettings::default()
    };
    inside(&host, async {
        let (_handle, mut snapshots) = Inventory::start(settings).await?;
        let all = |verb: &str, rest: &str| -> Vec<String> {
            (0..60_u32)
                .map(|n| format!("link {verb} d{n}{}", rest.replace("{n}", &n.to_string())))
                .collect()
        };
        // Nothing reads the notifications meanwhile: this thread is the runtime's only one.
        for _ in 0..3 {
            host.ip(&all("add", " type veth peer name e{n}"))?;
            host.ip(&all("set", " up"))?;
            host.ip(&all("del", ""))?;
        }
        host.ip(&all("add", " type veth peer name e{n}"))?;
        until(&mut snapshots, "every link, and none twice", |s| {
            s.interfaces.len() == 121 && s.interfaces.iter().all(|i| !i.up || i.loopback)
        })
        .await?;
        Ok(())
    })
}

fn same_namespace(found: Option<OwnedFd>, wanted: &Namespace) -> Result<bool> {
    let found = File::from(found.context("no namespace found")?).metadata()?;
    let wanted = wanted.file().metadata()?;
    Ok((found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
}

#[test]
fn the_namespace_behind_a_veth_is_found_and_no_other() -> Result<()> {
    let lab = Lab::new()?;
    let host = lab.namespace("host")?;
    let pods = [
        lab.namespace("a")?,
        lab.namespace("b")?,
        lab.namespace("c")?,
    ];
    for (n, pod) in (1..).zip(&pods) {
        // Every pod's end has the same index there, as in any container.
        let end = |namespace, link, last| End {
            namespace,
            link,
            v4: [10, 9, n, last].into(),
            v6: [0xfd09, u16::from(n), 0, 0, 0, 0, 0, last.into()].into(),
        };
        cable(&end(&host, &format!("pod{n}"), 1), &end(pod, "eth0", 2))?;
        assert_eq!(pod.ifindex("eth0")?, pods[0].ifindex("eth0")?);
    }
    host.ip(&["link add here1 type veth peer name here2"])?;
    host.enter(|| -> Result<()> {
        let mut finder = NamespaceFinder::here()?;
        // Twice: found, and remembered.
        for _ in 0..2 {
            for (n, pod) in (1..).zip(&pods) {
                let ifindex = host.ifindex(&format!("pod{n}"))?;
                assert!(same_namespace(finder.of_peer(ifindex)?, pod)?);
                assert!(same_namespace(netns_of_interface(ifindex)?, pod)?);
            }
        }
        let here = finder.of_peer(host.ifindex("here1")?)?;
        assert!(same_namespace(here, &host)?, "both ends are here");
        Ok(())
    })??;
    // From the other side, the host is the far end.
    pods[0].enter(|| -> Result<()> {
        let ifindex = pods[0].ifindex("eth0")?;
        assert!(same_namespace(netns_of_interface(ifindex)?, &host)?);
        Ok(())
    })?
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_that_only_a_process_holds_is_found() -> Result<()> {
    let lab = Lab::new()?;
    let (host, pod) = (lab.namespace("host")?, lab.namespace("pod")?);
    host.ip(&[format!(
        "link add pod type veth peer name eth0 netns {}",
        pod.name()
    )])?;
    let ifindex = host.ifindex("pod")?;
    let mut finder = host.enter(NamespaceFinder::here)??;
    assert!(same_namespace(finder.of_peer(ifindex)?, &pod)?);
    let process = pod.enter(|| Command::new("sleep").arg("1000").spawn())??;
    let _process = KilledOnDrop(process);
    // The remembered name leads nowhere now.
    let deleted = Command::new("ip")
        .args(["netns", "del", pod.name()])
        .status()?;
    assert!(deleted.success());
    assert!(same_namespace(finder.of_peer(ifindex)?, &pod)?);
    Ok(())
}

#[test]
fn work_in_a_namespace_leaves_the_callers_thread_where_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let pod = lab.namespace("pod")?;
    let own = || std::fs::metadata("/proc/thread-self/ns/net").map(|m| m.ino());
    let before = own()?;
    let namespace = OwnedFd::from(pod.file().try_clone()?);
    let within = run_in(&namespace, own)??;
    assert_eq!(within, pod.file().metadata()?.ino());
    assert_eq!(own()?, before);
    Ok(())
}
