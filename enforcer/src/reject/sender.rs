//! Raw sockets that send whole packets.

use std::{
    io,
    net::{IpAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};

use super::answer::Answer;
use crate::datapath::Refusals;

/// One socket for each family, made when it is needed: most nodes never answer.
#[derive(Debug, Default)]
pub(super) struct Sender {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Sender {
    /// Sends an answer. `ifindex`: where the refused packet was met, for addresses that mean
    /// something on one link only.
    pub fn send(&mut self, answer: &Answer, ifindex: u32, refusals: &Refusals) -> io::Result<()> {
        match answer.to {
            IpAddr::V4(to) => {
                let socket = ready(&mut self.v4, AddressFamily::Inet, refusals)?;
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(socket.as_raw_fd(), &answer.bytes, &to, MsgFlags::empty())?;
            }
            IpAddr::V6(to) => {
                let socket = ready(&mut self.v6, AddressFamily::Inet6, refusals)?;
                let scope = if to.is_unicast_link_local() {
                    ifindex
                } else {
                    0
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, scope));
                sendto(socket.as_raw_fd(), &answer.bytes, &to, MsgFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn ready<'s>(
    slot: &'s mut Option<OwnedFd>,
    family: AddressFamily,
    refusals: &Refusals,
) -> io::Result<&'s OwnedFd> {
    let ready = if let Some(ready) = slot.take() {
        ready
    } else {
        // IPPROTO_RAW: the header is ours, and nothing is received.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let made = socket(family, SockType::Raw, flags, SockProtocol::Raw)?;
        refusals.let_answer(made.as_fd())?;
        made
    };
    Ok(slot.insert(ready))
}
