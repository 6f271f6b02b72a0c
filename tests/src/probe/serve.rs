//! Servers: TCP and UDP echo, and who answers SCTP, on IPv4 and IPv6 at once.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use serde::{Deserialize, Serialize};

use super::{errno_name, sctp, tell};

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ServeEvent {
    /// All sockets are open.
    Ready,
    /// A TCP connection was accepted (only with reports on).
    Accepted {
        /// Address and port of the client.
        peer: String,
    },
    /// A TCP connection ended (only with reports on).
    Closed {
        /// Address and port of the client.
        peer: String,
        /// Name of the error, if it did not end in good order.
        error: Option<String>,
    },
}

/// Serves until killed. `shared`: others may listen at the same ports of TCP.
pub fn serve(
    tcp: &[u16],
    udp: &[u16],
    sctp: &[u16],
    report: bool,
    shared: bool,
) -> anyhow::Result<()> {
    for &port in tcp {
        let listener = if shared {
            share(port)?
        } else {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo(stream, report));
            }
        });
    }
    for &port in udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
    }
    if !sctp.is_empty() {
        sctp::serve(sctp)?;
    }
    tell(&ServeEvent::Ready);
    loop {
        thread::park();
    }
}

fn share(port: u16) -> nix::Result<TcpListener> {
    let socket = socket(
        AddressFamily::Inet6,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket.into())
}

fn echo(mut stream: TcpStream, report: bool) {
    let peer = stream
        .peer_addr()
        .map_or_else(|_| "gone".to_owned(), |address| address.to_string());
    let _ = stream.set_nodelay(true);
    if report {
        tell(&ServeEvent::Accepted { peer: peer.clone() });
    }
    let mut buffer = [0; 4096];
    let error = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(length) => {
                if let Err(error) = stream.write_all(&buffer[..length]) {
                    break Some(errno_name(&error));
                }
            }
            Err(error) => break Some(errno_name(&error)),
        }
    };
    if report {
        tell(&ServeEvent::Closed { peer, error });
    }
}
