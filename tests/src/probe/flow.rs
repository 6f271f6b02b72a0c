//! Clients that try one flow and say what became of it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde::{Deserialize, Serialize};

use super::{errno_name, sctp};

/// Protocol of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo.
    Icmp,
    /// SCTP, by raw packets.
    Sctp,
}

impl FlowProtocol {
    /// As records name it for this address family.
    pub const fn record_name(self, v6: bool) -> &'static str {
        match (self, v6) {
            (Self::Tcp, _) => "tcp",
            (Self::Udp, _) => "udp",
            (Self::Icmp, false) => "icmp",
            (Self::Icmp, true) => "icmpv6",
            (Self::Sctp, _) => "sctp",
        }
    }
}

/// A flow to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSpec {
    /// Protocol.
    pub protocol: FlowProtocol,
    /// To whom.
    pub to: IpAddr,
    /// Port; 0 for ICMP.
    pub port: u16,
    /// Milliseconds to wait for an answer, in each attempt.
    pub timeout: u64,
    /// How often to try until it is open. A packet may be lost on a busy machine; a verdict
    /// does not change.
    pub attempts: u32,
    /// UDP: whether to connect the socket first.
    #[serde(default)]
    pub connected: bool,
    /// Bytes to send and to get back.
    #[serde(default = "small")]
    pub size: usize,
}

const fn small() -> usize {
    5
}

impl FlowSpec {
    fn message(&self) -> Vec<u8> {
        b"probe".iter().copied().cycle().take(self.size).collect()
    }
}

/// What became of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowOutcome {
    /// An answer came to what was sent.
    Open,
    /// The system call was refused: EPERM or EACCES.
    NotPermitted,
    /// The other host answered that nobody listens.
    Refused,
    /// Nothing came back.
    Timeout,
    /// A router or this host answered that there is no way.
    Unreachable,
    /// It opened and was then cut.
    Reset,
    /// This host gave it up before it was open: its socket was destroyed.
    Aborted,
    /// Anything else.
    Failed,
}

/// The end of a try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowResult {
    /// What became of the last attempt.
    pub outcome: FlowOutcome,
    /// Name of the error, if there was one.
    pub error: Option<String>,
    /// Port of this side, where one was chosen.
    pub local_port: Option<u16>,
    /// Milliseconds, all attempts together.
    pub took: u64,
    /// Attempts made.
    pub attempts: u32,
}

/// Tries all flows at once; results in the same order.
pub fn try_all(flows: &[FlowSpec]) -> Vec<FlowResult> {
    thread::scope(|scope| {
        let running: Vec<_> = flows
            .iter()
            .map(|flow| scope.spawn(|| try_flow(flow)))
            .collect();
        running
            .into_iter()
            .map(|handle| handle.join().expect("no part of a try panics"))
            .collect()
    })
}

fn try_flow(flow: &FlowSpec) -> FlowResult {
    let start = Instant::now();
    let timeout = Duration::from_millis(flow.timeout);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut local_port = None;
        let ended = match flow.protocol {
            FlowProtocol::Tcp => try_tcp(flow, timeout, &mut local_port),
            FlowProtocol::Udp => try_udp(flow, timeout, &mut local_port),
            FlowProtocol::Icmp => try_icmp(flow, timeout),
            FlowProtocol::Sctp => {
                sctp::try_once(flow.to, flow.port, timeout).map(|port| local_port = Some(port))
            }
        };
        let outcome = match &ended {
            Ok(()) => FlowOutcome::Open,
            Err(error) => outcome_of(error),
        };
        if outcome == FlowOutcome::Open || attempts >= flow.attempts {
            return FlowResult {
                outcome,
                error: ended.err().map(|error| errno_name(&error)),
                local_port,
                took: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
                attempts,
            };
        }
        if outcome != FlowOutcome::Timeout {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What an error says about the flow.
pub fn outcome_of(error: &io::Error) -> FlowOutcome {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => FlowOutcome::NotPermitted,
        Some(libc::ECONNREFUSED) => FlowOutcome::Refused,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => FlowOutcome::Unreachable,
        Some(libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE) => FlowOutcome::Reset,
        Some(libc::ETIMEDOUT | libc::EAGAIN) => FlowOutcome::Timeout,
        _ => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => FlowOutcome::Timeout,
            ErrorKind::UnexpectedEof => FlowOutcome::Reset,
            ErrorKind::ConnectionAborted => FlowOutcome::Aborted,
            _ => FlowOutcome::Failed,
        },
    }
}

/// A socket was destroyed while it waited for an answer to its SYN.
#[derive(Debug)]
struct NotYetOpen;

impl std::fmt::Display for NotYetOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ECONNABORTED before it was open")
    }
}

impl std::error::Error for NotYetOpen {}

fn try_tcp(flow: &FlowSpec, timeout: Duration, local: &mut Option<u16>) -> io::Result<()> {
    let to = SocketAddr::new(flow.to, flow.port);
    let mut stream = match TcpStream::connect_timeout(&to, timeout) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, NotYetOpen));
        }
        stream => stream?,
    };
    *local = Some(stream.local_addr()?.port());
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(&flow.message())?;
    stream.read_exact(&mut vec![0; flow.size])
}

fn try_udp(flow: &FlowSpec, timeout: Duration, local: &mut Option<u16>) -> io::Result<()> {
    let socket = UdpSocket::bind(unspecified(flow.to))?;
    *local = Some(socket.local_addr()?.port());
    let to = SocketAddr::new(flow.to, flow.port);
    if flow.connected {
        socket.connect(to)?;
        socket.send(&flow.message())?;
    } else {
        socket.send_to(&flow.message(), to)?;
    }
    socket.set_read_timeout(Some(timeout))?;
    let (length, _) = socket.recv_from(&mut vec![0; 65_536])?;
    if length == flow.size {
        Ok(())
    } else {
        Err(io::Error::other("an answer of another length"))
    }
}

fn try_icmp(flow: &FlowSpec, timeout: Duration) -> io::Result<()> {
    let (family, protocol, request, reply) = match flow.to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    // A ping socket: the kernel fills in identifier and checksum and hands back only replies.
    let descriptor: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    let socket = UdpSocket::from(descriptor);
    socket.set_read_timeout(Some(timeout))?;
    let message = [request, 0, 0, 0, 0, 0, 0, 1, b'p', b'r', b'o', b'b', b'e'];
    socket.send_to(&message, SocketAddr::new(flow.to, 0))?;
    let mut answer = [0; 64];
    let (length, _) = socket.recv_from(&mut answer)?;
    if length > 0 && answer[0] == reply {
        Ok(())
    } else {
        Err(io::Error::other("an answer that is no echo reply"))
    }
}

/// The unspecified address and port 0 of the same family.
pub fn unspecified(like: IpAddr) -> SocketAddr {
    match like {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
