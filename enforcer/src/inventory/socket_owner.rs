//! Which process has a socket open, by looking through `/proc/PID/fd`: for reports, not for
//! decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// Process id.
    pub pid: u32,
    /// Name of the program, at most 15 bytes, as the kernel keeps it.
    pub program: String,
}

/// The owner of the socket with this inode number, as far as one can be seen.
pub fn owner_of_socket(inode: u32) -> Option<SocketOwner> {
    owners_of_sockets(&BTreeSet::from([inode])).remove(&inode)
}

/// The owners of several sockets, in one pass over the processes. Where several processes share
/// a socket it is the first one found; a socket that nobody has open is left out.
pub fn owners_of_sockets(inodes: &BTreeSet<u32>) -> BTreeMap<u32, SocketOwner> {
    let mut owners = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        if owners.len() == inodes.len() {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process may end, or be another user's: then it is not seen.
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        for file in files {
            let Ok(target) = fs::read_link(file.path()) else {
                continue;
            };
            if let Some(inode) = target.to_str().and_then(socket_inode)
                && inodes.contains(&inode)
            {
                owners.entry(inode).or_insert_with(|| SocketOwner {
                    pid,
                    program: program(pid),
                });
            }
        }
    }
    owners
}

fn program(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| name.trim_end().to_owned())
        .unwrap_or_default()
}

/// The inode number in `socket:[4711]`.
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn an_own_socket_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let file = fs::File::from(std::os::fd::OwnedFd::from(listener));
        let inode = u32::try_from(file.metadata().unwrap().ino()).unwrap();
        let owner = owner_of_socket(inode).expect("this process has it");
        assert_eq!(owner.pid, std::process::id());
        assert!(!owner.program.is_empty());
        drop(file);
        assert_eq!(owner_of_socket(inode), None);
    }

    #[test]
    fn only_sockets_have_an_inode_here() {
        assert_eq!(socket_inode("socket:[12]"), Some(12));
        for other in ["pipe:[12]", "/dev/null", "socket:[", "socket:[x]"] {
            assert_eq!(socket_inode(other), None);
        }
    }
}
