//! SCTP by raw packets: not every kernel has SCTP sockets. An INIT asks, an INIT ACK answers;
//! no more of an association is made.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{FromRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use super::flow::unspecified;

/// Chunk types of RFC 9260.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A raw socket. It gets a copy of every SCTP packet that reaches this network.
#[derive(Debug)]
pub struct SctpSocket {
    socket: UdpSocket,
    v6: bool,
}

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SctpPacket {
    /// From whom.
    pub from: IpAddr,
    /// Port of the sender.
    pub from_port: u16,
    /// Port that it is for.
    pub to_port: u16,
    /// Whether it is an INIT ACK; otherwise it is an INIT.
    pub is_answer: bool,
}

impl SctpSocket {
    /// For one family of addresses.
    pub fn open(v6: bool) -> io::Result<Self> {
        let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is passed; the descriptor, if there is one, is nobody else's.
        let descriptor = unsafe {
            let descriptor = libc::socket(domain, kind, libc::IPPROTO_SCTP);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        let socket = UdpSocket::from(descriptor);
        Ok(Self { socket, v6 })
    }

    /// Whether to give up at once when there is nothing to read.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.socket.set_nonblocking(on)
    }

    /// Sends an INIT.
    pub fn ask(&self, from_port: u16, to: IpAddr, port: u16) -> io::Result<()> {
        self.send(&packet(INIT, from_port, port), to)
    }

    fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        // A raw socket takes no port but 0.
        self.socket
            .send_to(packet, SocketAddr::new(to, 0))
            .map(drop)
    }

    /// The next INIT or INIT ACK.
    pub fn receive(&self) -> io::Result<SctpPacket> {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer)?;
            // Of IPv4 the header is before it.
            let start = if self.v6 {
                0
            } else {
                usize::from(buffer[0] & 15) * 4
            };
            let Some(&[a, b, c, d, .., chunk]) = buffer[..length].get(start..start + 13) else {
                continue;
            };
            if matches!(chunk, INIT | INIT_ACK) {
                return Ok(SctpPacket {
                    from: from.ip().to_canonical(),
                    from_port: u16::from_be_bytes([a, b]),
                    to_port: u16::from_be_bytes([c, d]),
                    is_answer: chunk == INIT_ACK,
                });
            }
        }
    }
}

/// Answers INITs to these ports, until the process ends.
pub fn serve(ports: &[u16]) -> io::Result<()> {
    for v6 in [false, true] {
        let socket = SctpSocket::open(v6)?;
        let ports = ports.to_vec();
        thread::spawn(move || {
            loop {
                if let Ok(got) = socket.receive()
                    && !got.is_answer
                    && ports.contains(&got.to_port)
                {
                    let answer = packet(INIT_ACK, got.to_port, got.from_port);
                    let _ = socket.send(&answer, got.from);
                }
            }
        });
    }
    Ok(())
}

/// Asks once and waits for the answer.
pub fn try_once(to: IpAddr, port: u16, timeout: Duration) -> io::Result<u16> {
    let socket = SctpSocket::open(to.is_ipv6())?;
    socket.socket.set_read_timeout(Some(timeout))?;
    let own = free_port(to)?;
    let deadline = Instant::now() + timeout;
    socket.ask(own, to, port)?;
    while Instant::now() < deadline {
        let got = socket.receive()?;
        if got.is_answer && (got.from, got.from_port, got.to_port) == (to, port, own) {
            return Ok(own);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// A port of this side that no other try of this moment uses: the kernel numbers UDP sockets,
/// and SCTP has as many ports.
pub fn free_port(like: IpAddr) -> io::Result<u16> {
    Ok(UdpSocket::bind(unspecified(like))?.local_addr()?.port())
}

/// A packet of one chunk. INIT and INIT ACK have the same fields: initiate tag, window, numbers
/// of streams, first sequence number. The checksum is 0: only an SCTP stack asks for it.
fn packet(chunk: u8, from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let tag = u32::from(chunk == INIT_ACK);
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(1_u32.to_be_bytes());
    packet.extend(65_536_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1]);
    packet.extend(1_u32.to_be_bytes());
    packet
}
