//! A client that stays and plays rounds of many flows at once, one thread for all of them.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket, sockopt},
};
use serde::{Deserialize, Serialize};

use super::{
    flow::{FlowOutcome, FlowProtocol, outcome_of, unspecified},
    sctp::{SctpSocket, free_port},
    tell,
};

const MESSAGE: &[u8] = b"probe";

/// What should be answered is tried again this often: a busy machine loses and cuts some.
const AGAIN: Duration = Duration::from_millis(250);

/// A connection that is not open after this long is begun anew: the kernel sends a lost SYN again
/// too, but waits twice as long each time.
const ANEW: Duration = Duration::from_secs(2);

/// Longest pause between two looks; an emulated processor has other things to do.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

/// What is said at standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum MeshEvent {
    /// Rounds may be told.
    Ready,
    /// A round is over; in the order of its flows.
    Played {
        /// What became of each.
        outcomes: Vec<FlowOutcome>,
    },
}

/// A flow of a round: TCP, UDP or SCTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFlow {
    /// Protocol.
    pub protocol: FlowProtocol,
    /// To whom.
    pub to: IpAddr,
    /// Port.
    pub port: u16,
    /// Whether an answer is waited for. Otherwise exactly one packet is sent, unless the kernel
    /// sends a SYN again, which it does after a second.
    pub wanted: bool,
}

/// A round: all of its flows are begun at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The flows.
    pub flows: Vec<MeshFlow>,
    /// Milliseconds after which it is over even if wanted answers are missing.
    pub patience: u64,
    /// Milliseconds for which answers that are not wanted are looked out for at least.
    pub linger: u64,
}

/// Plays the rounds that standard input tells, each on a line, until it ends.
pub fn run() -> Result<()> {
    tell(&MeshEvent::Ready);
    for line in io::stdin().lines() {
        let round: Round = serde_json::from_str(&line?)?;
        tell(&MeshEvent::Played {
            outcomes: play(&round)?,
        });
    }
    Ok(())
}

/// How a flow is going on.
enum Try {
    /// Nothing came back yet.
    Tcp {
        stream: TcpStream,
        said: bool,
        since: Instant,
    },
    /// Waits for a datagram or packet at one of the sockets of all.
    Datagram,
    /// It is decided.
    Over(FlowOutcome),
}

/// The sockets of one family that all flows of a round share.
struct Shared {
    udp: UdpSocket,
    sctp: SctpSocket,
    sctp_port: u16,
}

impl Shared {
    fn open(v6: bool) -> io::Result<Self> {
        let any = unspecified(if v6 {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        });
        let udp = UdpSocket::bind(any)?;
        udp.set_nonblocking(true)?;
        let sctp = SctpSocket::open(v6)?;
        sctp.set_nonblocking(true)?;
        Ok(Self {
            udp,
            sctp,
            sctp_port: free_port(any.ip())?,
        })
    }

    fn send(&self, flow: &MeshFlow) -> io::Result<()> {
        if flow.protocol == FlowProtocol::Sctp {
            return self.sctp.ask(self.sctp_port, flow.to, flow.port);
        }
        let to = SocketAddr::new(flow.to, flow.port);
        self.udp.send_to(MESSAGE, to).map(drop)
    }

    /// Who answered since the last time.
    fn answers(&self) -> Vec<(FlowProtocol, IpAddr, u16)> {
        let mut answers = Vec::new();
        let mut buffer = [0; 64];
        loop {
            match self.udp.recv_from(&mut buffer) {
                Ok((length, from)) if &buffer[..length] == MESSAGE => {
                    answers.push((FlowProtocol::Udp, from.ip(), from.port()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Not what was said, or an ICMP error: the flow stays unanswered.
                Ok(_) | Err(_) => {}
            }
        }
        while let Ok(got) = self.sctp.receive() {
            if got.is_answer && got.to_port == self.sctp_port {
                answers.push((FlowProtocol::Sctp, got.from, got.from_port));
            }
        }
        answers
    }
}

fn play(round: &Round) -> io::Result<Vec<FlowOutcome>> {
    let start = Instant::now();
    let patience = Duration::from_millis(round.patience);
    let linger = Duration::from_millis(round.linger);
    let shared = [Shared::open(false)?, Shared::open(true)?];
    let of = |flow: &MeshFlow| &shared[usize::from(flow.to.is_ipv6())];
    let mut tries: Vec<Try> = round
        .flows
        .iter()
        .map(|flow| match flow.protocol {
            FlowProtocol::Tcp => begin_tcp(flow),
            _ => begun(of(flow).send(flow).map(|()| Try::Datagram)),
        })
        .collect();
    let by_peer: BTreeMap<_, _> = (0..)
        .zip(&round.flows)
        .map(|(index, flow)| ((flow.protocol, flow.to, flow.port), index))
        .collect();
    let mut sent = start;
    let mut pause = Duration::from_millis(1);
    loop {
        let mut progress = false;
        for answer in shared.iter().flat_map(Shared::answers) {
            if let Some(index) = by_peer.get(&answer) {
                let index: usize = *index;
                tries[index] = Try::Over(FlowOutcome::Open);
                progress = true;
            }
        }
        let again = sent.elapsed() > AGAIN;
        if again {
            sent = Instant::now();
        }
        let mut waiting = false;
        for (one, flow) in tries.iter_mut().zip(&round.flows) {
            if let Try::Tcp { stream, said, .. } = one
                && let Some(outcome) = go_on(stream, said)
            {
                *one = Try::Over(outcome);
                progress = true;
            }
            let is_final = matches!(
                one,
                Try::Over(FlowOutcome::Open | FlowOutcome::NotPermitted)
            );
            if again && flow.wanted && !is_final {
                match flow.protocol {
                    FlowProtocol::Tcp if matches!(one, Try::Tcp { since, .. } if since.elapsed() < ANEW) =>
                        {}
                    FlowProtocol::Tcp => *one = begin_tcp(flow),
                    _ => *one = begun(of(flow).send(flow).map(|()| Try::Datagram)),
                }
            }
            waiting |= flow.wanted && !is_final;
        }
        let elapsed = start.elapsed();
        if elapsed >= patience.max(linger) || (!waiting && elapsed >= linger) {
            break;
        }
        pause = if progress {
            Duration::from_millis(1)
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        thread::sleep(pause);
    }
    Ok(tries
        .iter()
        .map(|one| match one {
            Try::Over(outcome) => *outcome,
            Try::Tcp { .. } | Try::Datagram => FlowOutcome::Timeout,
        })
        .collect())
}

fn begun(one: io::Result<Try>) -> Try {
    one.unwrap_or_else(|error| Try::Over(outcome_of(&error)))
}

/// Connects without waiting. Its end is a RST: neither side keeps anything of the connection
/// into the next round.
fn begin_tcp(flow: &MeshFlow) -> Try {
    let begin = || -> Result<OwnedFd, Errno> {
        let family = if flow.to.is_ipv6() {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let descriptor = socket(family, SockType::Stream, flags, None)?;
        let abort = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        nix::sys::socket::setsockopt(&descriptor, sockopt::Linger, &abort)?;
        let to = SockaddrStorage::from(SocketAddr::new(flow.to, flow.port));
        match connect(descriptor.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(descriptor),
            Err(error) => Err(error),
        }
    };
    begun(begin().map_err(io::Error::from).map(|descriptor| Try::Tcp {
        stream: descriptor.into(),
        said: false,
        since: Instant::now(),
    }))
}

/// Says something when it is connected, and hears it back. What became of it, if that is
/// decided.
fn go_on(stream: &mut TcpStream, said: &mut bool) -> Option<FlowOutcome> {
    let step = if *said {
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(length) if &buffer[..length] == MESSAGE => return Some(FlowOutcome::Open),
            Ok(_) => return Some(FlowOutcome::Reset),
            Err(error) => error,
        }
    } else {
        // There is room for so little.
        match stream.write_all(MESSAGE) {
            Ok(()) => {
                *said = true;
                return None;
            }
            Err(error) => error,
        }
    };
    match step.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOTCONN) => None,
        // A socket that was destroyed while it waited for an answer to its SYN.
        Some(libc::ECONNABORTED | libc::EPIPE) if !*said => Some(FlowOutcome::Aborted),
        _ => Some(outcome_of(&step)),
    }
}
