//! By which interface a TCP connection came in: the kernel keeps it with the accepted socket.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// Has the kernel note the interface of every connection that a listener accepts.
pub fn note(listener: impl AsFd, v6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    set(listener.as_fd(), level, name, on)?;
    if v6 {
        // For connections of IPv4 that a wildcard takes.
        set(listener.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, on)?;
    }
    Ok(())
}

/// Index of the interface by which the connection came in, or 0.
pub fn interface(stream: impl AsFd, v6: bool) -> io::Result<u32> {
    // linux/in6.h: IPV6_2292PKTOPTIONS; linux/in.h: IP_PKTOPTIONS. Both give control messages.
    const IPV6_PKTOPTIONS: libc::c_int = 6;
    const IP_PKTOPTIONS: libc::c_int = 9;
    let (level, name) = if v6 {
        (libc::IPPROTO_IPV6, IPV6_PKTOPTIONS)
    } else {
        (libc::IPPROTO_IP, IP_PKTOPTIONS)
    };
    let mut bytes = [0_u8; 256];
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the buffer and its length are valid for writes of what the length says.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            level,
            name,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(length).map_err(io::Error::other)?;
    Ok(found(bytes.get(..length).unwrap_or_default()))
}

/// The interface among control messages (`struct cmsghdr`, then `struct in_pktinfo`, which
/// begins with it, or `struct in6_pktinfo`, which ends with it).
fn found(mut bytes: &[u8]) -> u32 {
    const HEADER: usize = mem::size_of::<libc::cmsghdr>();
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(i32::from_ne_bytes(*word))
    };
    while let Some(length) = bytes.first_chunk::<8>() {
        let length = usize::try_from(u64::from_ne_bytes(*length)).unwrap_or(0);
        if length < HEADER || length > bytes.len() {
            return 0;
        }
        let data = &bytes[HEADER..length];
        let index = match (word(bytes, 8), word(bytes, 12)) {
            (Some(libc::IPPROTO_IP), Some(libc::IP_PKTINFO)) => word(data, 0),
            (Some(libc::IPPROTO_IPV6), Some(libc::IPV6_PKTINFO)) => word(data, 16),
            _ => None,
        };
        if let Some(index) = index {
            return u32::try_from(index).unwrap_or(0);
        }
        let next = length.next_multiple_of(mem::size_of::<usize>());
        bytes = bytes.get(next..).unwrap_or_default();
    }
    0
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the value is valid for reads of its own length.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_over_loopback_came_by_loopback() {
        for (address, v6) in [("127.0.0.1:0", false), ("[::1]:0", true)] {
            let listener = TcpListener::bind(address).unwrap();
            note(&listener, v6).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
            assert_eq!(interface(&server, v6).unwrap(), loopback, "{address}");
        }
    }
}
