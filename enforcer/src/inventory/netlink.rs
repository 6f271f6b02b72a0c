//! Blocking netlink requests, for the few that rtnetlink does not know. A netlink socket speaks
//! for the network namespace that it was opened in, whichever thread uses it later.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            sendto, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// `struct nlmsghdr`: length (4), type (2), flags (2), sequence (4), port (4).
const HEADER: usize = 16;

/// The kernel never makes a dump's datagram larger than 32 KiB (netlink_dump).
const BUFFER: usize = 64 * 1024;

/// How often a listing is repeated that the kernel says was torn by a change.
const ATTEMPTS: u32 = 8;

/// An open netlink socket.
#[derive(Debug)]
pub(super) struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl NetlinkSocket {
    /// In the network namespace of the calling thread.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // The kernel answers at once; this only keeps a surprise from becoming a hang.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Asks for one object; the body of the answer.
    pub(super) fn query(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = None;
        self.exchange(kind, libc::NLM_F_ACK, body, &mut |part| {
            answer.get_or_insert_with(|| part.to_vec());
        })?;
        answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Has something done.
    pub(super) fn command(&mut self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.exchange(kind, libc::NLM_F_ACK, body, &mut |_| {})
            .map(drop)
    }

    /// Lists objects; the body of each. A listing that a change tore is repeated, and after some
    /// attempts taken as it is: then an object that came or went meanwhile may be missing.
    pub(super) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut parts = Vec::new();
        for _ in 0..ATTEMPTS {
            parts.clear();
            let whole = self.exchange(kind, libc::NLM_F_DUMP, body, &mut |part| {
                parts.push(part.to_vec());
            })?;
            if whole {
                break;
            }
        }
        Ok(parts)
    }

    /// Sends a request and reads to the end of its answer. Whether the answer is consistent.
    fn exchange(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = u16_flags(libc::NLM_F_REQUEST | flags);
        let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend(0_u32.to_ne_bytes());
        request.extend(body);
        sendto(
            self.fd.as_raw_fd(),
            &request,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut whole = true;
        loop {
            let received = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(received) => received,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            for message in messages(&self.buffer[..received]) {
                // What is left of an earlier exchange that failed half-way.
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & u16_flags(libc::NLM_F_DUMP_INTR) == 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                        return match message.body.first_chunk().map(|c| i32::from_ne_bytes(*c)) {
                            Some(0) => Ok(whole),
                            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    libc::NLMSG_NOOP => {}
                    _ => each(message.body),
                }
            }
        }
    }
}

/// The attributes (`struct nlattr`: length, type, value, padding to 4) of a message's body, as
/// type and value.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The two highest bits say how the value is encoded.
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute with a 32-bit value.
pub(super) fn push_u32(body: &mut Vec<u8>, kind: u16, value: u32) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value.to_ne_bytes());
}

/// A number in host byte order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*chunk))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let chunk = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*chunk))
}

fn u16_flags(flags: i32) -> u16 {
    u16::try_from(flags).expect("netlink flags have 16 bits")
}

/// A message of a datagram.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages of a datagram, up to one that is cut off or lies about its length.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_they_are_cut_or_lie_about_their_length() {
        let mut body = Vec::new();
        push_u32(&mut body, 5, 7);
        body.extend([5, 0, 1, 0x80, 9, 0, 0, 0]);
        let read: Vec<_> = attributes(&body).collect();
        assert_eq!(
            read,
            [(5, &7_u32.to_ne_bytes()[..]), (1, &[9_u8][..])],
            "a value of one byte is padded, and its type has a flag"
        );
        assert_eq!(attributes(&body[..6]).count(), 0);
        assert_eq!(attributes(&[0; 8]).count(), 0, "no endless loop");
        assert_eq!(messages(&[0; 64]).count(), 0, "no endless loop");
    }
}
