//! Other network namespaces: the one at the far end of a veth, and work inside it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::SockProtocol,
};

use super::netlink::{NetlinkSocket, attributes, push_u32, u32_at};

// linux/rtnetlink.h, linux/if_link.h, linux/net_namespace.h
const RTM_GETLINK: u16 = 18;
const RTM_GETNSID: u16 = 90;
const IFLA_LINK: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// `struct rtgenmsg`, padded.
const NSID_HEADER: usize = 4;

/// Where tools keep names of network namespaces: iproute2 and CNI, and Docker.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Runs `f` in another network namespace, on a thread made for it that ends with it: no other
/// thread ever changes its namespace. Needs `CAP_SYS_ADMIN`.
pub fn run_in<T: Send>(namespace: &OwnedFd, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })?;
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Finds the namespaces at the far ends of the links of one namespace.
///
/// The kernel numbers the other namespaces that a namespace's links lead to; a candidate is the
/// right one when it has the number that the link says. So a match is exact, whatever interface
/// indices are the same elsewhere.
#[derive(Debug)]
pub struct NamespaceFinder {
    route: NetlinkSocket,
    own: OwnedFd,
    /// Where the namespace of a number was found. Paths, because a descriptor would keep the
    /// namespace, and its veths, alive.
    found: HashMap<u32, PathBuf>,
}

impl NamespaceFinder {
    /// For the links of the calling thread's network namespace.
    pub fn here() -> io::Result<Self> {
        Ok(Self {
            route: NetlinkSocket::open(SockProtocol::NetlinkRoute)?,
            own: File::open("/proc/thread-self/ns/net")?.into(),
            found: HashMap::new(),
        })
    }

    /// The network namespace that the other end of the link is in (this one included); `None`
    /// where the link is gone or has no other end, or where no process is in that namespace, no
    /// tool gave it a name, and so nothing leads there. The descriptor keeps the namespace
    /// alive: do not keep it.
    pub fn of_peer(&mut self, ifindex: u32) -> io::Result<Option<OwnedFd>> {
        let Some(link) = self.link(ifindex)? else {
            return Ok(None);
        };
        let Some(number) = link.namespace else {
            return link.peer.map(|_| self.own.try_clone()).transpose();
        };
        if let Some(path) = self.found.get(&number).cloned() {
            if let Some(namespace) = self.open_if_numbered(&path, number) {
                return Ok(Some(namespace));
            }
            self.found.remove(&number);
        }
        for path in candidates() {
            if let Some(namespace) = self.open_if_numbered(&path, number) {
                self.found.insert(number, path);
                return Ok(Some(namespace));
            }
        }
        Ok(None)
    }

    fn link(&mut self, ifindex: u32) -> io::Result<Option<Link>> {
        let mut body = vec![0; LINK_HEADER];
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        let answer = match self.route.query(RTM_GETLINK, &body) {
            Ok(answer) => answer,
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut link = Link::default();
        for (kind, value) in attributes(answer.get(LINK_HEADER..).unwrap_or_default()) {
            match kind {
                IFLA_LINK => link.peer = u32_at(value, 0).filter(|index| *index != 0),
                IFLA_LINK_NETNSID => link.namespace = u32_at(value, 0),
                _ => {}
            }
        }
        Ok(Some(link))
    }

    /// Processes come and go while they are looked at: what cannot be opened is not it.
    fn open_if_numbered(&mut self, path: &Path, number: u32) -> Option<OwnedFd> {
        let namespace: OwnedFd = File::open(path).ok()?.into();
        let found = self.number(namespace.as_fd()).ok()?;
        (found == Some(number)).then_some(namespace)
    }

    /// The number that this namespace has for another one, as
    /// [`super::Interface::peer_netns`] has it; `None` where no link leads there.
    pub fn number_of(&mut self, namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        let number = self.number(namespace)?;
        // -1 is NETNSA_NSID_NOT_ASSIGNED.
        Ok(number.and_then(|number| i32::try_from(number).ok()))
    }

    fn number(&mut self, namespace: BorrowedFd<'_>) -> io::Result<Option<u32>> {
        let mut body = vec![0; NSID_HEADER];
        let fd = u32::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
        push_u32(&mut body, NETNSA_FD, fd);
        // What is not a network namespace is refused.
        let answer = self.route.query(RTM_GETNSID, &body)?;
        let mut found = attributes(answer.get(NSID_HEADER..).unwrap_or_default());
        Ok(found
            .find_map(|(kind, value)| (kind == NETNSA_NSID).then(|| u32_at(value, 0)).flatten()))
    }
}

/// The network namespace at the other end of a link of the calling thread's namespace: see
/// [`NamespaceFinder::of_peer`]. Keep a finder where many are asked for.
pub fn netns_of_interface(ifindex: u32) -> io::Result<Option<OwnedFd>> {
    NamespaceFinder::here()?.of_peer(ifindex)
}

#[derive(Default)]
struct Link {
    peer: Option<u32>,
    namespace: Option<u32>,
}

/// Paths that lead to network namespaces, one for each namespace. Processes come last: a name
/// lives longer.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let named = NAMED.iter().flat_map(|directory| entries(directory));
    let processes = entries("/proc")
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.iter().all(u8::is_ascii_digit)
        })
        .map(|path| path.join("ns/net"));
    let mut seen = HashSet::new();
    named.chain(processes).filter(move |path| {
        fs::metadata(path).is_ok_and(|namespace| seen.insert((namespace.dev(), namespace.ino())))
    })
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_without_another_end_leads_nowhere() {
        // Every namespace has its loopback at 1.
        assert!(netns_of_interface(1).unwrap().is_none());
        assert!(netns_of_interface(u32::from(u16::MAX)).unwrap().is_none());
    }

    #[test]
    fn each_namespace_is_a_candidate_once() {
        let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let same = candidates()
            .filter(|path| fs::metadata(path).is_ok_and(|m| m.ino() == own))
            .count();
        assert_eq!(same, 1);
    }
}
