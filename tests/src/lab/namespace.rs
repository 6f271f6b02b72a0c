//! Network namespaces, and the links between them.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use super::tag::Tag;

/// A named network namespace. Removed with its lab.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes the namespace with loopback up, IPv6 without duplicate address detection, pings
    /// for everybody and no source check of the kernel's own.
    pub(super) fn create(tag: &Tag, name: &str) -> Result<Self> {
        let name = format!("{tag}-{name}");
        let status = Command::new("ip").args(["netns", "add", &name]).status()?;
        anyhow::ensure!(status.success(), "ip netns add {name} failed");
        let file = File::open(PathBuf::from("/run/netns").join(&name))?;
        let namespace = Self {
            name,
            file: Arc::new(file),
        };
        namespace.sysctl(&[
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/all/accept_ra", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
        ])?;
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open namespace.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Runs `work` inside, on a thread of its own. Only the network is another: cgroups, bpffs
    /// and files stay as they are.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        enter(&self.file, work)
    }

    /// Writes settings below `/proc/sys/net`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("setting net/{key} to {value}"))
            })
        })?
    }

    /// Runs `ip` commands inside, all in one process.
    pub fn ip(&self, commands: &[impl AsRef<str>]) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("running ip (package iproute2)")?;
        let mut input = child.stdin.take().context("no stdin")?;
        for command in commands {
            writeln!(input, "{}", command.as_ref())?;
        }
        drop(input);
        let output = child.wait_with_output()?;
        anyhow::ensure!(
            output.status.success(),
            "ip in {}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Makes this namespace a router for IPv4 and IPv6.
    pub fn forward(&self) -> Result<()> {
        self.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // A router that tells of better ways would make hosts go round a test's path.
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ])
    }

    /// Whether a link of this name exists.
    pub fn has_link(&self, link: &str) -> bool {
        self.ip_show(&["link", "show", "dev", link]).is_ok()
    }

    /// Number of the link.
    pub fn ifindex(&self, link: &str) -> Result<u32> {
        let link = link.to_owned();
        self.enter(move || nix::net::if_::if_nametoindex(link.as_str()))?
            .context("looking up the link")
    }

    /// Hardware address of the link.
    pub fn mac(&self, link: &str) -> Result<[u8; 6]> {
        let text = self.ip_show(&["-o", "link", "show", "dev", link])?;
        let mac = text
            .split_whitespace()
            .skip_while(|word| *word != "link/ether")
            .nth(1)
            .context("the link has no hardware address")?;
        let mut bytes = [0; 6];
        for (byte, part) in bytes.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(part, 16)?;
        }
        Ok(bytes)
    }

    /// A counter of the link, by its name below `/sys/class/net/LINK/statistics`.
    pub fn link_counter(&self, link: &str, counter: &str) -> Result<u64> {
        let text = self.ip_show(&["-j", "-s", "-s", "link", "show", "dev", link])?;
        let parsed: serde_json::Value = serde_json::from_str(&text)?;
        let (direction, name) = counter.split_once('_').context("counter as rx_packets")?;
        parsed[0]["stats64"][direction][name]
            .as_u64()
            .with_context(|| format!("no counter {counter} in {text}"))
    }

    fn ip_show(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("ip")
            .args(["-n", &self.name])
            .args(arguments)
            .output()?;
        anyhow::ensure!(
            output.status.success(),
            "ip {arguments:?} in {}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Runs `work` on a thread of its own in a network namespace.
pub(super) fn enter<T: Send>(network: &File, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(network, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One end of a cable: namespace, link name, and its addresses with prefix length.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// Name of the link there.
    pub link: &'a str,
    /// IPv4, in a /24.
    pub v4: Ipv4Addr,
    /// IPv6, in a /64.
    pub v6: Ipv6Addr,
}

/// A veth pair between two namespaces, with addresses, up.
pub fn cable(a: &End<'_>, b: &End<'_>) -> Result<()> {
    a.namespace.ip(&[format!(
        "link add {} type veth peer name {} netns {}",
        a.link, b.link, b.namespace.name
    )])?;
    for end in [a, b] {
        end.namespace.ip(&[
            format!("addr add {}/24 dev {}", end.v4, end.link),
            format!("addr add {}/64 dev {} nodad", end.v6, end.link),
            format!("link set {} up", end.link),
        ])?;
    }
    Ok(())
}
