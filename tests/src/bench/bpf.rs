//! The few `bpf(2)` calls that the benchmarks need beside the product's own: small programs from
//! instructions, one map, test runs. Every `unsafe` of the benchmarks is here.
#![expect(unsafe_code, reason = "system calls that no library at hand offers")]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};

// Commands of `enum bpf_cmd` (linux/bpf.h).
const MAP_CREATE: libc::c_long = 0;
#[cfg(test)]
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_MAP_TYPE_HASH`, and that its elements are made one by one (`BPF_F_NO_PREALLOC`).
const HASH: u32 = 1;
const NO_PREALLOC: u32 = 1;
/// `BPF_MAP_TYPE_LRU_HASH`.
const LRU_HASH: u32 = 9;
/// Elements that one batch call moves.
const BATCH: usize = 4096;

/// Kinds of programs that can be test-run (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`.
    Tc,
    /// `BPF_PROG_TYPE_XDP`.
    Xdp,
    /// `BPF_PROG_TYPE_CGROUP_SKB`.
    CgroupSkb,
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Tc => 3,
            Self::Xdp => 6,
            Self::CgroupSkb => 8,
        }
    }
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    descriptor: OwnedFd,
    /// What it is.
    pub kind: Kind,
}

/// What a test run said.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// The program's return value.
    pub value: u32,
    /// Nanoseconds per repetition.
    pub nanoseconds: u32,
}

/// Runs a command on a `union bpf_attr`, given as 32-bit words.
///
/// # Safety
/// Addresses among the words are valid for what the command does with them.
unsafe fn bpf(command: libc::c_long, attributes: &mut [u32]) -> io::Result<i32> {
    // SAFETY: the kernel touches only as many bytes of the attributes as it is told there are,
    // and, by this function's contract, what they point to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).unwrap_or(0))
}

/// The two words of an address, low one first: this is a little-endian ABI, as the programs are.
fn address<T>(of: *const T) -> [u32; 2] {
    bytemuck::cast(of as u64)
}

fn length(of: usize) -> u32 {
    u32::try_from(of).expect("a few kilobytes")
}

fn word(descriptor: &OwnedFd) -> u32 {
    u32::try_from(descriptor.as_raw_fd()).expect("descriptors are not negative")
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// A new LRU hash table.
pub fn lru_hash(key: usize, value: usize, entries: u32) -> Result<OwnedFd> {
    let mut attributes = [LRU_HASH, length(key), length(value), entries, 0, 0, 0, 0];
    // SAFETY: no addresses.
    let map = unsafe { bpf(MAP_CREATE, &mut attributes) }.context("creating a map")?;
    Ok(owned(map))
}

/// Makes a plain hash table with keys and values of 16 bytes, fills it in batches, and empties it
/// in batches: the least that replacing so many elements takes.
pub fn fill_and_empty(elements: usize) -> Result<()> {
    let most = length(elements);
    let mut attributes = [HASH, 16, 16, most, NO_PREALLOC, 0, 0, 0];
    // SAFETY: no addresses.
    let map = owned(unsafe { bpf(MAP_CREATE, &mut attributes) }.context("creating a map")?);
    let keys: Vec<u128> = (1..=elements as u128).collect();
    for command in [MAP_UPDATE_BATCH, MAP_DELETE_BATCH] {
        for chunk in keys.chunks(BATCH) {
            let [k0, k1] = address(chunk.as_ptr());
            // The keys are the values, too.
            let [v0, v1] = match command {
                MAP_UPDATE_BATCH => [k0, k1],
                _ => [0, 0],
            };
            let count = length(chunk.len());
            let mut attributes = [0, 0, 0, 0, k0, k1, v0, v1, count, word(&map), 0, 0, 0, 0];
            // SAFETY: the keys outlive the call, and have the length of the map's keys and values.
            unsafe { bpf(command, &mut attributes) }.context("a batch")?;
        }
    }
    Ok(())
}

/// Writes one entry of a map.
pub fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> Result<()> {
    let ([k0, k1], [v0, v1]) = (address(key.as_ptr()), address(value.as_ptr()));
    let mut attributes = [word(map), 0, k0, k1, v0, v1, 0, 0];
    // SAFETY: both slices outlive the call; their lengths are the map's, by its creation.
    unsafe { bpf(MAP_UPDATE, &mut attributes) }.context("writing an entry")?;
    Ok(())
}

/// Whether a map has an entry.
#[cfg(test)]
pub fn contains(map: &OwnedFd, key: &[u8]) -> Result<bool> {
    // As long as any value that is looked for here.
    let mut value = [0_u8; 64];
    let ([k0, k1], [v0, v1]) = (address(key.as_ptr()), address(value.as_mut_ptr()));
    let mut attributes = [word(map), 0, k0, k1, v0, v1, 0, 0];
    // SAFETY: key and value outlive the call and are as long as the map's, or longer.
    match unsafe { bpf(MAP_LOOKUP, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Program {
    /// Loads a program from its instructions.
    pub fn load(kind: Kind, instructions: &[u64]) -> Result<Self> {
        let licence = c"GPL";
        let mut log = vec![0_u8; 1 << 16];
        let [i0, i1] = address(instructions.as_ptr());
        let [l0, l1] = address(licence.as_ptr());
        let [g0, g1] = address(log.as_mut_ptr());
        let mut attributes = [0_u32; 32];
        attributes[..10].copy_from_slice(&[
            kind.number(),
            length(instructions.len()),
            i0,
            i1,
            l0,
            l1,
            1,
            length(log.len()),
            g0,
            g1,
        ]);
        // SAFETY: instructions, licence and log outlive the call, with the lengths given.
        match unsafe { bpf(PROG_LOAD, &mut attributes) } {
            Ok(descriptor) => Ok(Self {
                descriptor: owned(descriptor),
                kind,
            }),
            Err(error) => {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
                let log = String::from_utf8_lossy(&log[..end]).into_owned();
                Err(error).with_context(|| format!("loading a {kind:?} program: {log}"))
            }
        }
    }

    /// The program behind a pinned link.
    pub fn behind_link(kind: Kind, link: &Path) -> Result<Self> {
        let path = CString::new(link.as_os_str().as_encoded_bytes())?;
        let [p0, p1] = address(path.as_ptr());
        let mut attributes = [p0, p1, 0, 0];
        // SAFETY: the path outlives the call.
        let link_fd = owned(
            unsafe { bpf(OBJ_GET, &mut attributes) }
                .with_context(|| format!("opening {}", link.display()))?,
        );
        // `struct bpf_link_info`: type, id, program id, then what the type adds.
        let mut info = [0_u32; 32];
        let [n0, n1] = address(info.as_mut_ptr());
        let mut attributes = [word(&link_fd), length(size_of_val(&info)), n0, n1];
        // SAFETY: `info` outlives the call, with the length given.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }.context("asking a link")?;
        let mut attributes = [info[2], 0, 0];
        // SAFETY: no addresses.
        let program = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) }.context("a program")?;
        Ok(Self {
            descriptor: owned(program),
            kind,
        })
    }

    /// Attaches a program for cgroups, to what leaves the cgroup's sockets (`outward`) or to what
    /// arrives at them, until the link is dropped.
    pub fn attach(&self, cgroup: &Path, outward: bool) -> Result<OwnedFd> {
        let folder = File::open(cgroup)?.into();
        // `BPF_CGROUP_INET_INGRESS` and `BPF_CGROUP_INET_EGRESS`.
        let kind = u32::from(outward);
        let mut attributes = [word(&self.descriptor), word(&folder), kind, 0];
        // SAFETY: no addresses.
        let link = unsafe { bpf(LINK_CREATE, &mut attributes) }
            .with_context(|| format!("attaching to {}", cgroup.display()))?;
        Ok(owned(link))
    }

    /// Runs the program `repeat` times on a frame that arrived at, or leaves through, a device of
    /// the calling thread's network namespace.
    pub fn run(&self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Ran> {
        // `struct __sk_buff` in words; the eleventh is the device.
        let mut context = [0_u32; 48];
        context[10] = ifindex;
        let context_length = if self.kind == Kind::Xdp {
            0
        } else {
            length(size_of_val(&context))
        };
        let ([f0, f1], [c0, c1]) = (address(frame.as_ptr()), address(context.as_ptr()));
        let mut attributes = [0_u32; 20];
        attributes[..14].copy_from_slice(&[
            word(&self.descriptor),
            0,
            length(frame.len()),
            0,
            f0,
            f1,
            0,
            0,
            repeat,
            0,
            context_length,
            0,
            if context_length == 0 { 0 } else { c0 },
            if context_length == 0 { 0 } else { c1 },
        ]);
        // SAFETY: frame and context outlive the call, with the lengths given; nothing is written
        // to either, since the lengths out are zero.
        unsafe { bpf(PROG_TEST_RUN, &mut attributes) }.context("test run")?;
        Ok(Ran {
            value: attributes[1],
            nanoseconds: attributes[9],
        })
    }
}

/// CPU time of the calling thread so far, in nanoseconds. What the network stack does for the
/// thread's packets in softirqs on the way is in it.
pub fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for a write.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "this clock exists on every Linux");
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Binds the calling thread to one CPU.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

/// Sum of what the kernel charges for the BPF maps that a process has open, in bytes.
pub fn map_memory(pid: u32) -> Result<u64> {
    let mut seen = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = io::read_to_string(File::open(entry?.path())?).unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            seen.insert(id, bytes);
        }
    }
    Ok(seen.values().sum())
}
