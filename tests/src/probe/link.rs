//! Frames, as they are: sent and seen at a link, below IP.

use std::{
    ffi::CString,
    fmt::Write as _,
    io::{self, BufRead},
    mem::size_of,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

use super::tell;

/// What the commands about frames say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LinkEvent {
    /// The socket is open.
    Ready,
    /// A frame with the mark came by.
    Frame {
        /// The frame, in hex.
        hex: String,
    },
    /// Frames sent, or seen with the mark.
    Total {
        /// Count.
        frames: u64,
    },
}

/// A socket at a link that takes and gives whole frames.
pub struct LinkSocket {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl LinkSocket {
    /// Opens the link for all Ethernet types.
    pub fn open(link: &str) -> io::Result<Self> {
        let name = CString::new(link)?;
        let ifindex = nix::net::if_::if_nametoindex(name.as_c_str())?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = AF_PACKET;
        address.sll_protocol = ETH_P_ALL.to_be();
        address.sll_ifindex = ifindex.cast_signed();
        let this = Self { socket, address };
        // SAFETY: the pointer and the length describe `this.address`.
        let bound = unsafe { libc::bind(this.socket.as_raw_fd(), this.pointer(), ADDRESS_LENGTH) };
        if bound == 0 {
            Ok(this)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn pointer(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.address).cast()
    }

    /// Sends a frame; waits while the queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            // SAFETY: the pointers and lengths describe `frame` and `self.address`.
            let sent = unsafe {
                libc::sendto(
                    self.socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    self.pointer(),
                    ADDRESS_LENGTH,
                )
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOBUFS) {
                return Err(error);
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = nix::sys::socket::recv(
            self.socket.as_raw_fd(),
            buffer,
            nix::sys::socket::MsgFlags::empty(),
        )?;
        Ok(&buffer[..length])
    }
}

/// `AF_PACKET` and `ETH_P_ALL` of linux/socket.h and linux/if_ether.h, in the width that
/// `sockaddr_ll` wants.
const AF_PACKET: u16 = 17;
const ETH_P_ALL: u16 = 3;

/// Size of `sockaddr_ll`.
const ADDRESS_LENGTH: libc::socklen_t = 20;

const _: () = assert!(
    size_of::<libc::sockaddr_ll>() == 20 && size_of::<libc::c_int>() == 4,
    "sizes given to the kernel"
);

/// Sends the frames on standard input, one a line in hex.
pub fn send(link: &str) -> anyhow::Result<()> {
    let socket = LinkSocket::open(link)?;
    let mut frames = 0;
    for line in io::stdin().lock().lines() {
        socket.send(&from_hex(line?.trim())?)?;
        frames += 1;
    }
    tell(&LinkEvent::Total { frames });
    Ok(())
}

/// Sends one frame `count` times at `rate` a second, with the 16 bits at each of `vary` counted
/// up as one number, the last place fastest.
pub fn flood(link: &str, frame: &str, vary: &[usize], count: u64, rate: u64) -> anyhow::Result<()> {
    let socket = LinkSocket::open(link)?;
    let mut frame = from_hex(frame)?;
    anyhow::ensure!(
        vary.iter().all(|&at| at + 2 <= frame.len()),
        "a place to vary is beyond the frame"
    );
    let first: Vec<u16> = vary
        .iter()
        .map(|&at| u16::from_be_bytes([frame[at], frame[at + 1]]))
        .collect();
    tell(&LinkEvent::Ready);
    let start = Instant::now();
    for number in 0..count {
        let mut left = number;
        for (&at, first) in vary.iter().zip(&first).rev() {
            let low = u16::try_from(left & 0xffff).expect("16 bits");
            frame[at..at + 2].copy_from_slice(&first.wrapping_add(low).to_be_bytes());
            left >>= 16;
        }
        socket.send(&frame)?;
        // In bursts of 32: a sleep for each frame would be slower than the rate.
        if number % 32 == 31 {
            let due = Duration::from_nanos((number + 1) * 1_000_000_000 / rate.max(1));
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    tell(&LinkEvent::Total { frames: count });
    Ok(())
}

/// Reports frames that contain the mark, then their number after `stop`, or the end, of
/// standard input. With `incoming`, only those that come from the other end of the link.
pub fn sniff(link: &str, mark: &str, incoming: bool, quiet: bool) -> anyhow::Result<()> {
    let socket = LinkSocket::open(link)?;
    if incoming {
        // SAFETY: the option takes an int, whose address and size are given.
        let set = unsafe {
            let one: libc::c_int = 1;
            libc::setsockopt(
                socket.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                std::ptr::from_ref(&one).cast(),
                4,
            )
        };
        anyhow::ensure!(set == 0, "{}", io::Error::last_os_error());
    }
    nix::sys::socket::setsockopt(
        &socket.socket,
        nix::sys::socket::sockopt::RcvBuf,
        &(4 << 20),
    )?;
    nix::sys::socket::setsockopt(
        &socket.socket,
        nix::sys::socket::sockopt::ReceiveTimeout,
        &nix::sys::time::TimeVal::new(0, 20_000),
    )?;
    let mark = from_hex(mark)?;
    anyhow::ensure!(!mark.is_empty(), "the mark is empty");
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    thread::spawn(move || {
        let mut word = String::new();
        while word.trim() != "stop" {
            word.clear();
            if io::stdin().read_line(&mut word).is_ok_and(|n| n == 0) {
                break;
            }
        }
        stopper.store(true, Ordering::Relaxed);
    });
    tell(&LinkEvent::Ready);
    let mut frames = 0;
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.receive(&mut buffer) {
            Ok(frame) => {
                if frame.windows(mark.len()).any(|window| window == mark) {
                    frames += 1;
                    if !quiet {
                        tell(&LinkEvent::Frame { hex: to_hex(frame) });
                    }
                }
            }
            // Stop only when the queue is empty: what was sent before `stop` is seen.
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(_) => {}
        }
    }
    tell(&LinkEvent::Total { frames });
    Ok(())
}

/// Bytes from hex digits.
pub fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(
        text.is_ascii() && text.len().is_multiple_of(2),
        "not hex: {text}"
    );
    (0..text.len())
        .step_by(2)
        .map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?))
        .collect()
}

/// Hex digits of bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
