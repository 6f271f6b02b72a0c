//! The sockets of a network namespace, by the kernel's sock_diag (sock_diag(7)): who talks to
//! whom, from which cgroup, and an end to a connection that its owner notices.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use nix::sys::socket::SockProtocol;

use super::{
    namespaces,
    netlink::{NetlinkSocket, attributes, messages, u32_at},
};

// linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Bits of states as in net/tcp_states.h: 1 shifted by the number of the state.
const EVERY_STATE: u32 = u32::MAX;
const LISTEN: u32 = 1 << 10;
/// Of UDP sockets: those that are not connected.
const CLOSE: u32 = 1 << 7;
/// `struct inet_diag_msg` without its attributes.
const MESSAGE: usize = 72;

/// Why sockets cannot be listed or destroyed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No netlink socket.
    #[error("cannot open a sock_diag socket")]
    Open(#[source] io::Error),
    /// The listing failed.
    #[error("cannot list {0} sockets (is the kernel module {0}_diag there?)", protocol.name())]
    List {
        /// Of which protocol.
        protocol: Protocol,
        /// The kernel's answer.
        source: io::Error,
    },
    /// This kernel cannot destroy sockets.
    #[error("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY is off)")]
    Unsupported,
    /// It was refused.
    #[error("cannot destroy the socket {local} to {remote}")]
    Destroy {
        /// The socket's own end.
        local: SocketAddr,
        /// Its peer.
        remote: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A protocol whose sockets can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// State of a socket; numbers as in net/tcp_states.h of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// TCP: open in both directions. UDP: connected.
    Established,
    /// TCP: opened from here, no answer yet.
    SynSent,
    /// TCP: opened by the peer, not complete yet.
    SynReceived,
    /// TCP: waits for connections.
    Listen,
    /// TCP: no connection. UDP: not connected.
    Close,
    /// TCP: on the way to its end, or its memory in the kernel without an owner.
    Closing,
}

impl State {
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 | 12 => Self::SynReceived,
            7 => Self::Close,
            10 => Self::Listen,
            _ => Self::Closing,
        }
    }
}

/// A socket as it was when it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Protocol.
    pub protocol: Protocol,
    /// State.
    pub state: State,
    /// Its own end. IPv4 as IPv4 also on an IPv6 socket; a wildcard is unspecified.
    pub local: SocketAddr,
    /// Its peer; unspecified and port 0 where there is none.
    pub remote: SocketAddr,
    /// Interface that it is bound to, or 0.
    pub ifindex: u32,
    /// Its owner; 0 also where it has none any more.
    pub uid: u32,
    /// Inode of its file, or 0 where no process has it open.
    pub inode: u32,
    /// The cgroup that it was made in; `None` on kernels before 5.9, and in the states after
    /// its owner closed it.
    pub cgroup: Option<u64>,
    /// IPv6 only: takes no IPv4 connections.
    pub v6_only: bool,
    /// How the kernel knows it: family, and `struct inet_diag_sockid` with its cookie, so that
    /// another one on the same ports is never meant.
    handle: (u8, [u8; 48]),
}

impl Socket {
    /// Whether it talks to one peer.
    pub fn is_connected(&self) -> bool {
        self.remote.port() != 0
    }
}

/// What became of a socket that was to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// It is dead: its owner sees ECONNABORTED, a TCP peer a reset.
    Now,
    /// It was gone already.
    Before,
}

/// The sockets of one network namespace. It stays with that namespace on whatever thread it is
/// used; it keeps the namespace alive, so do not keep it for long where that is not the host's.
#[derive(Debug)]
pub struct SocketTable {
    netlink: NetlinkSocket,
}

impl SocketTable {
    /// Of the calling thread's network namespace.
    pub fn here() -> Result<Self, SocketError> {
        let netlink =
            NetlinkSocket::open(SockProtocol::NetlinkSockDiag).map_err(SocketError::Open)?;
        Ok(Self { netlink })
    }

    /// Of another network namespace. Needs `CAP_SYS_ADMIN`.
    pub fn of_namespace(namespace: impl AsFd) -> Result<Self, SocketError> {
        let namespace = namespace
            .as_fd()
            .try_clone_to_owned()
            .map_err(SocketError::Open)?;
        namespaces::run_in(&namespace, Self::here).map_err(SocketError::Open)?
    }

    /// Every socket of a protocol, IPv4 and IPv6, listening and closing ones too.
    pub fn list(&mut self, protocol: Protocol) -> Result<Vec<Socket>, SocketError> {
        self.in_states(protocol, EVERY_STATE)
    }

    /// Those that wait for somebody to talk to them. Costs what there are of them, however many
    /// connections there are.
    pub fn listeners(&mut self, protocol: Protocol) -> Result<Vec<Socket>, SocketError> {
        self.in_states(protocol, LISTEN | CLOSE)
    }

    fn in_states(&mut self, protocol: Protocol, states: u32) -> Result<Vec<Socket>, SocketError> {
        let mut sockets = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = request(family_byte(family), protocol, states, &[0; 48]);
            let parts = self
                .netlink
                .dump(SOCK_DIAG_BY_FAMILY, &request)
                .map_err(|source| SocketError::List { protocol, source })?;
            sockets.extend(parts.iter().filter_map(|part| parse(protocol, part)));
        }
        Ok(sockets)
    }

    /// The TCP socket with these ends, its own first; not one that only listens. One that is
    /// bound to a device is not found.
    pub fn find_tcp(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Socket>, SocketError> {
        let protocol = Protocol::Tcp;
        let mut id = [0; 48];
        id[0..2].copy_from_slice(&local.port().to_be_bytes());
        id[2..4].copy_from_slice(&remote.port().to_be_bytes());
        let family = match (local.ip(), remote.ip()) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                id[4..8].copy_from_slice(&local.octets());
                id[20..24].copy_from_slice(&remote.octets());
                libc::AF_INET
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                id[4..20].copy_from_slice(&local.octets());
                id[20..36].copy_from_slice(&remote.octets());
                libc::AF_INET6
            }
            _ => return Ok(None),
        };
        // INET_DIAG_NOCOOKIE: whichever socket it is.
        id[40..48].fill(0xff);
        let request = request(family_byte(family), protocol, EVERY_STATE, &id);
        let found = match self.netlink.query(SOCK_DIAG_BY_FAMILY, &request) {
            Ok(answer) => parse(protocol, &answer),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            Err(source) => return Err(SocketError::List { protocol, source }),
        };
        // Where no connection is, the kernel answers with who listens.
        Ok(found.filter(|socket| (socket.local, socket.remote) == (local, remote)))
    }

    /// Destroys a socket that was listed here. Needs `CAP_NET_ADMIN` in the namespace.
    pub fn destroy(&mut self, socket: &Socket) -> Result<Destroyed, SocketError> {
        let (family, id) = &socket.handle;
        let request = request(*family, socket.protocol, EVERY_STATE, id);
        match self.netlink.command(SOCK_DESTROY, &request) {
            Ok(()) => Ok(Destroyed::Now),
            Err(e) => match e.raw_os_error() {
                // ESTALE: the ports are another socket's now.
                Some(libc::ENOENT | libc::ESTALE) => Ok(Destroyed::Before),
                Some(libc::EOPNOTSUPP) => Err(SocketError::Unsupported),
                _ => Err(SocketError::Destroy {
                    local: socket.local,
                    remote: socket.remote,
                    source: e,
                }),
            },
        }
    }
}

/// Where a namespace listens: tells who opened a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListeningPorts {
    exact: HashSet<(Protocol, SocketAddr)>,
    /// On every IPv4 address.
    any_v4: HashSet<(Protocol, u16)>,
    /// On every IPv6 address.
    any_v6: HashSet<(Protocol, u16)>,
}

/// The listening ports among the sockets of one namespace.
pub fn listening_ports(sockets: &[Socket]) -> ListeningPorts {
    let mut ports = ListeningPorts::default();
    for socket in sockets {
        let listens = match socket.protocol {
            Protocol::Tcp => socket.state == State::Listen,
            Protocol::Udp => !socket.is_connected(),
        };
        if !listens {
            continue;
        }
        let port = (socket.protocol, socket.local.port());
        match socket.local.ip() {
            ip if !ip.is_unspecified() => {
                ports.exact.insert((socket.protocol, socket.local));
            }
            IpAddr::V4(_) => {
                ports.any_v4.insert(port);
            }
            IpAddr::V6(_) => {
                ports.any_v6.insert(port);
                if !socket.v6_only {
                    ports.any_v4.insert(port);
                }
            }
        }
    }
    ports
}

impl ListeningPorts {
    /// Whether somebody listens where this local end is.
    pub fn contains(&self, protocol: Protocol, local: SocketAddr) -> bool {
        let any = match local.ip() {
            IpAddr::V4(_) => &self.any_v4,
            IpAddr::V6(_) => &self.any_v6,
        };
        any.contains(&(protocol, local.port())) || self.exact.contains(&(protocol, local))
    }

    /// Whether a connection was opened by its peer, as far as can be known afterwards: by the
    /// local port having a listener now.
    pub fn opened_by_peer(&self, socket: &Socket) -> bool {
        match socket.state {
            State::SynReceived => true,
            State::SynSent => false,
            _ => socket.is_connected() && self.contains(socket.protocol, socket.local),
        }
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let mut request = vec![family, protocol.number(), 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// The sockets in a datagram of the kernel's. What is cut off or is no socket is left out.
pub fn sockets_in(protocol: Protocol, datagram: &[u8]) -> Vec<Socket> {
    let found = messages(datagram).filter(|message| message.kind == SOCK_DIAG_BY_FAMILY);
    found
        .filter_map(|message| parse(protocol, message.body))
        .collect()
}

/// A `struct inet_diag_msg` and its attributes.
fn parse(protocol: Protocol, message: &[u8]) -> Option<Socket> {
    let (fixed, rest) = message.split_at_checked(MESSAGE)?;
    let (family, state) = (fixed[0], fixed[1]);
    let id: [u8; 48] = *fixed[4..].first_chunk()?;
    let mut socket = Socket {
        protocol,
        state: State::from_number(state),
        local: end(family, &id, 0, 4)?,
        remote: end(family, &id, 2, 20)?,
        ifindex: u32_at(&id, 36)?,
        uid: u32_at(fixed, 64)?,
        inode: u32_at(fixed, 68)?,
        cgroup: None,
        v6_only: false,
        handle: (family, id),
    };
    for (kind, value) in attributes(rest) {
        match kind {
            INET_DIAG_CGROUP_ID => {
                socket.cgroup = value.first_chunk().map(|c| u64::from_ne_bytes(*c));
            }
            INET_DIAG_SKV6ONLY => socket.v6_only = value.first() == Some(&1),
            _ => {}
        }
    }
    Some(socket)
}

/// One end of a `struct inet_diag_sockid`: port and address are in network byte order.
fn end(family: u8, id: &[u8; 48], port: usize, address: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*id[port..].first_chunk()?);
    let address = &id[address..];
    let ip = if family == family_byte(libc::AF_INET) {
        Ipv4Addr::from(*address.first_chunk::<4>()?).into()
    } else {
        Ipv6Addr::from(*address.first_chunk::<16>()?).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

fn family_byte(family: i32) -> u8 {
    u8::try_from(family).expect("address families are small")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, state: u8, local: (&[u8], u16), remote: (&[u8], u16)) -> Vec<u8> {
        let mut bytes = vec![0; MESSAGE];
        bytes[0] = family_byte(family);
        bytes[1] = state;
        bytes[4..6].copy_from_slice(&local.1.to_be_bytes());
        bytes[6..8].copy_from_slice(&remote.1.to_be_bytes());
        bytes[8..8 + local.0.len()].copy_from_slice(local.0);
        bytes[24..24 + remote.0.len()].copy_from_slice(remote.0);
        bytes[64..68].copy_from_slice(&1000_u32.to_ne_bytes());
        bytes[68..72].copy_from_slice(&4711_u32.to_ne_bytes());
        bytes
    }

    fn socket(family: i32, state: u8, local: (&[u8], u16), remote: (&[u8], u16)) -> Socket {
        parse(Protocol::Tcp, &message(family, state, local, remote)).unwrap()
    }

    const V4: [u8; 4] = [10, 0, 0, 1];

    #[test]
    fn fields_and_attributes_of_a_socket() {
        let mut bytes = message(libc::AF_INET, 1, (&V4, 80), (&[10, 0, 0, 2], 4000));
        bytes.extend(12_u16.to_ne_bytes());
        bytes.extend(INET_DIAG_CGROUP_ID.to_ne_bytes());
        bytes.extend(0x1_0000_0007_u64.to_ne_bytes());
        let socket = parse(Protocol::Tcp, &bytes).unwrap();
        assert_eq!(socket.state, State::Established);
        assert_eq!(socket.local, "10.0.0.1:80".parse().unwrap());
        assert_eq!(socket.remote, "10.0.0.2:4000".parse().unwrap());
        assert_eq!((socket.uid, socket.inode), (1000, 4711));
        assert_eq!(socket.cgroup, Some(0x1_0000_0007));
        for length in 0..MESSAGE {
            assert!(parse(Protocol::Tcp, &bytes[..length]).is_none());
        }
    }

    #[test]
    fn an_ipv4_connection_of_an_ipv6_socket_is_shown_as_ipv4() {
        let mapped = Ipv4Addr::from(V4).to_ipv6_mapped().octets();
        let socket = socket(libc::AF_INET6, 1, (&mapped, 80), (&mapped, 81));
        assert_eq!(socket.local, "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn who_opened_a_connection() {
        const LISTEN: u8 = 10;
        let nobody = [0; 16];
        let listening = listening_ports(&[
            socket(libc::AF_INET, LISTEN, (&V4, 80), (&[0; 4], 0)),
            socket(libc::AF_INET6, LISTEN, (&nobody, 443), (&nobody, 0)),
            socket(libc::AF_INET, 1, (&V4, 5000), (&V4, 5001)),
        ]);
        let opened_by_peer = |port| {
            let socket = socket(libc::AF_INET, 1, (&V4, port), (&[10, 0, 0, 2], 9));
            listening.opened_by_peer(&socket)
        };
        assert!(opened_by_peer(80), "listens on this address");
        assert!(opened_by_peer(443), "an IPv6 wildcard takes IPv4 too");
        assert!(!opened_by_peer(5000), "a connection is no listener");
        let elsewhere = socket(libc::AF_INET, 1, (&[10, 0, 0, 3], 80), (&V4, 9));
        assert!(!listening.opened_by_peer(&elsewhere));
    }

    #[test]
    fn an_ipv6_only_listener_takes_no_ipv4() {
        let nobody = [0; 16];
        let mut listener = socket(libc::AF_INET6, 10, (&nobody, 443), (&nobody, 0));
        listener.v6_only = true;
        let listening = listening_ports(&[listener]);
        assert!(!listening.contains(Protocol::Tcp, "10.0.0.1:443".parse().unwrap()));
        assert!(listening.contains(Protocol::Tcp, "[::1]:443".parse().unwrap()));
        assert!(!listening.contains(Protocol::Udp, "[::1]:443".parse().unwrap()));
    }
}
