//! Processes by descriptors, which never mean another process that was given the same number.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// The process that connected, as the kernel noted it then. Before Linux 6.5 by its number: a
/// process that ended before this is called, and whose number another one has by now, is taken
/// for that one.
pub(super) fn of_peer(socket: impl AsFd, pid: u32) -> io::Result<OwnedFd> {
    match peer(socket.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => open(pid),
        found => found,
    }
}

fn peer(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // asm-generic/socket.h, from Linux 6.5 on.
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&fd)).map_err(io::Error::other)?;
    // SAFETY: the value and its length are valid for writes of what the length says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made the descriptor for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: pidfd_open takes two numbers, and touches no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made the descriptor for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Can be waited for: it is readable when the process has ended.
pub(super) fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor, never replaces it, and closes it only when it is
    // dropped, which the returned value, its owner, does after it has left the reactor.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    Ok(registered?)
}

/// Whether the process has ended.
pub(super) fn has_ended(process: impl AsFd) -> bool {
    let mut entry = libc::pollfd {
        fd: process.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry is valid for reads and writes, and the call does not wait.
    let ready = unsafe { libc::poll(&raw mut entry, 1, 0) };
    // What cannot be asked is not relied upon.
    ready != 0
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, process::Command};

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fd = open(child.id()).unwrap();
        assert!(!has_ended(&fd));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&fd));
        assert!(open(child.id()).is_err(), "its number is free");
    }

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let fd = of_peer(&one, std::process::id()).unwrap();
        assert!(!has_ended(&fd));
    }
}
