//! Programs and hooks: every link is pinned, and a link that is there already gets the new
//! program in one step, so that no packet passes between two programs.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, LinkOrder, Program,
        SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::FdLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};

use super::{
    error::DatapathError,
    pin::{Pins, file},
    sys,
};

/// Where our filters stand in a `clsact` qdisc: first, under a handle of our own.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0xe4f);

/// The cgroup hooks, in the order in which they are attached: packets before calls, so that a
/// call that is let through never finds its packets unjudged.
const CGROUP_HOOKS: [&str; 6] = [
    "cgroup_ingress",
    "cgroup_egress",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
];

const CLASSIFIERS: [&str; 4] = [
    "workload_egress",
    "workload_ingress",
    "uplink_ingress",
    "uplink_egress",
];

const BLOCKER: &str = "uplink_block";

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Program.
    pub program: &'static str,
    /// Interface or cgroup.
    pub target: String,
    /// `tcx`, `clsact`, `native`, `generic` or `cgroup`.
    pub way: &'static str,
}

/// The two programs of a workload's interface, or of an uplink, with the side of the
/// interface that each is attached to.
pub(super) const WORKLOAD: [(&str, TcAttachType); 2] = [
    ("workload_egress", TcAttachType::Ingress),
    ("workload_ingress", TcAttachType::Egress),
];
/// As [`WORKLOAD`].
pub(super) const UPLINK: [(&str, TcAttachType); 2] = [
    ("uplink_ingress", TcAttachType::Ingress),
    ("uplink_egress", TcAttachType::Egress),
];

/// The loaded programs.
#[derive(Debug)]
pub(super) struct Programs {
    ebpf: Ebpf,
}

impl Programs {
    /// Hands every program to the kernel's verifier.
    pub fn load(mut ebpf: Ebpf) -> Result<Self, DatapathError> {
        for name in CLASSIFIERS {
            program::<SchedClassifier>(&mut ebpf, name)?
                .load()
                .map_err(refused(name))?;
        }
        program::<Xdp>(&mut ebpf, BLOCKER)?
            .load()
            .map_err(refused(BLOCKER))?;
        for name in &CGROUP_HOOKS[..2] {
            program::<CgroupSkb>(&mut ebpf, name)?
                .load()
                .map_err(refused(name))?;
        }
        for name in &CGROUP_HOOKS[2..] {
            program::<CgroupSockAddr>(&mut ebpf, name)?
                .load()
                .map_err(refused(name))?;
        }
        Ok(Self { ebpf })
    }

    /// The loaded object, for the tests that run programs on packets of their own.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Attaches the cgroup hooks at `root`, and removes those at any other place.
    pub fn attach_cgroups(
        &mut self,
        pins: &Pins,
        root: Option<&Path>,
    ) -> Result<Vec<Attachment>, DatapathError> {
        let mut attached = Vec::new();
        let mut wanted = Vec::new();
        if let Some(root) = root {
            let directory = fs::File::open(root).map_err(file("open", root))?;
            let id = directory.metadata().map_err(file("read", root))?.ino();
            for name in CGROUP_HOOKS {
                let hook = format!("{name}-{id}");
                self.attach_cgroup(pins, name, &hook, &directory, root)?;
                wanted.push(hook);
                attached.push(Attachment {
                    program: name,
                    target: root.display().to_string(),
                    way: "cgroup",
                });
            }
        }
        for hook in pins.links()? {
            let is_cgroup = CGROUP_HOOKS
                .iter()
                .any(|name| hook.strip_prefix(name).is_some_and(|r| r.starts_with('-')));
            if is_cgroup && !wanted.contains(&hook) {
                remove_pin(&pins.link(&hook))?;
            }
        }
        Ok(attached)
    }

    fn attach_cgroup(
        &mut self,
        pins: &Pins,
        name: &'static str,
        hook: &str,
        directory: &fs::File,
        root: &Path,
    ) -> Result<(), DatapathError> {
        if self.replace(pins, name, hook)? {
            return Ok(());
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Attach {
            name,
            target: root.display().to_string(),
            source,
        };
        // Links are multi-attach by nature; the flag for it is refused on them.
        let mode = CgroupAttachMode::Single;
        let link: FdLink = if name.starts_with("cgroup_") {
            let side = if name == "cgroup_ingress" {
                CgroupSkbAttachType::Ingress
            } else {
                CgroupSkbAttachType::Egress
            };
            let program = program::<CgroupSkb>(&mut self.ebpf, name)?;
            let id = program
                .attach(directory, side, mode)
                .map_err(|e| failed(Box::new(e)))?;
            let link = program.take_link(id).map_err(|e| failed(Box::new(e)))?;
            link.try_into().map_err(|e| failed(Box::new(e)))?
        } else {
            let program = program::<CgroupSockAddr>(&mut self.ebpf, name)?;
            let id = program
                .attach(directory, mode)
                .map_err(|e| failed(Box::new(e)))?;
            let link = program.take_link(id).map_err(|e| failed(Box::new(e)))?;
            link.try_into().map_err(|e| failed(Box::new(e)))?
        };
        pin(link, &pins.link(hook))
    }

    /// Attaches the two programs of an interface. Returns the ways that were taken.
    pub fn attach_interface(
        &mut self,
        pins: &Pins,
        programs: &[(&'static str, TcAttachType); 2],
        ifindex: u32,
        interface: &str,
    ) -> Result<Vec<Attachment>, DatapathError> {
        let mut attached = Vec::new();
        for (name, side) in programs {
            let way = self.attach_classifier(pins, name, *side, ifindex, interface)?;
            attached.push(Attachment {
                program: name,
                target: interface.to_owned(),
                way,
            });
        }
        Ok(attached)
    }

    fn attach_classifier(
        &mut self,
        pins: &Pins,
        name: &'static str,
        side: TcAttachType,
        ifindex: u32,
        interface: &str,
    ) -> Result<&'static str, DatapathError> {
        let hook = format!("{name}-{ifindex}");
        if self.replace(pins, name, &hook)? {
            return Ok("tcx");
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Attach {
            name,
            target: interface.to_owned(),
            source,
        };
        let program = program::<SchedClassifier>(&mut self.ebpf, name)?;
        if has_tcx() {
            // First, so that a CNI that redirects packets does not lead them past us.
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program
                .attach_with_options(interface, side, order)
                .map_err(|e| failed(Box::new(e)))?;
            let link = program.take_link(id).map_err(|e| failed(Box::new(e)))?;
            let link: FdLink = link.try_into().map_err(|e| failed(Box::new(e)))?;
            pin(link, &pins.link(&hook))?;
            return Ok("tcx");
        }
        // It is there already more often than not, and the answer does not say so reliably.
        let qdisc = tc::qdisc_add_clsact(interface);
        let there =
            SchedClassifierLink::attached(interface, side, CLSACT_PRIORITY, CLSACT_HANDLE, None)
                .map_err(|e| failed(Box::new(e)))?;
        let attached = match program.attach_to_link(there) {
            Ok(id) => Ok(id),
            Err(_) => program.attach_with_options(
                interface,
                side,
                TcAttachOptions::Netlink(NlOptions {
                    priority: CLSACT_PRIORITY,
                    handle: CLSACT_HANDLE,
                    classid: None,
                }),
            ),
        };
        let id = match (attached, qdisc) {
            (Ok(id), _) => id,
            (Err(_), Err(error)) => return Err(failed(Box::new(error))),
            (Err(error), Ok(())) => return Err(failed(Box::new(error))),
        };
        let link = program.take_link(id).map_err(|e| failed(Box::new(e)))?;
        // The filter stays when we go.
        std::mem::forget(link);
        let marker = pins.link(&format!("clsact-{hook}"));
        let _ = fs::remove_file(&marker);
        program.pin(&marker).map_err(|e| failed(Box::new(e)))?;
        Ok("clsact")
    }

    /// Attaches the block list to an uplink.
    pub fn attach_blocker(
        &mut self,
        pins: &Pins,
        ifindex: u32,
        interface: &str,
    ) -> Result<Attachment, DatapathError> {
        let mut way = "native";
        let hook = format!("{BLOCKER}-{ifindex}");
        if !self.replace(pins, BLOCKER, &hook)? {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| DatapathError::Attach {
                name: BLOCKER,
                target: interface.to_owned(),
                source,
            };
            let program = program::<Xdp>(&mut self.ebpf, BLOCKER)?;
            let native = program.attach_to_if_index(ifindex, XdpMode::Driver);
            let id = if let Ok(id) = native {
                id
            } else {
                way = "generic";
                program
                    .attach_to_if_index(ifindex, XdpMode::Skb)
                    .map_err(|e| failed(Box::new(e)))?
            };
            let link = program.take_link(id).map_err(|e| failed(Box::new(e)))?;
            let link: FdLink = link.try_into().map_err(|e| failed(Box::new(e)))?;
            pin(link, &pins.link(&hook))?;
        }
        Ok(Attachment {
            program: BLOCKER,
            target: interface.to_owned(),
            way,
        })
    }

    /// Puts the program behind the hook's pinned link. `false`: there is none that lives.
    fn replace(
        &mut self,
        pins: &Pins,
        name: &'static str,
        hook: &str,
    ) -> Result<bool, DatapathError> {
        let path = pins.link(hook);
        let Some(link) = pinned(&path)? else {
            return Ok(false);
        };
        let descriptor = self
            .ebpf
            .program(name)
            .ok_or(DatapathError::Missing { name })?
            .fd()
            .map_err(refused(name))?;
        if sys::link_update(link.as_fd(), descriptor.as_fd()).is_err() {
            // Its interface or cgroup is gone (ENOLINK), and another one has its number.
            fs::remove_file(&path).map_err(file("remove", &path))?;
            return Ok(false);
        }
        Ok(true)
    }
}

/// Removes the programs `names` from an interface; `interface` is its name while it exists.
pub(super) fn detach_interface(
    pins: &Pins,
    names: &[&str],
    ifindex: u32,
    interface: Option<&str>,
) -> Result<(), DatapathError> {
    for name in names {
        remove_hook(pins, &format!("{name}-{ifindex}"), interface)?;
        remove_hook(pins, &format!("clsact-{name}-{ifindex}"), interface)?;
    }
    Ok(())
}

/// Removes everything from one hook.
pub(super) fn remove_hook(
    pins: &Pins,
    hook: &str,
    interface: Option<&str>,
) -> Result<(), DatapathError> {
    if let (Some(rest), Some(interface)) = (hook.strip_prefix("clsact-"), interface)
        && let Some((name, _)) = rest.rsplit_once('-')
        && pins.link(hook).exists()
    {
        let sides: &[_] = match name {
            "workload_egress" | "uplink_ingress" => &[TcAttachType::Ingress],
            "workload_ingress" | "uplink_egress" => &[TcAttachType::Egress],
            // Of another version.
            _ => &[TcAttachType::Ingress, TcAttachType::Egress],
        };
        for side in sides {
            if let Err(error) = tc::qdisc_detach_program(interface, *side, name) {
                tracing::debug!(%error, interface, name, "the filter was not there");
            }
        }
    }
    remove_pin(&pins.link(hook))
}

/// Removes what is pinned at `path`, if anything is. Of a link the program is off its hook when
/// this returns: the kernel itself would see to that some time after the pin has gone, and until
/// then refuse to attach the same program there again.
fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    let object = pinned(path);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("remove", path)(error));
        }
        _ => {}
    }
    if let Ok(Some(object)) = object
        && let Err(error) = sys::link_detach(object.as_fd())
    {
        // The program that marks a filter is no link.
        tracing::debug!(%error, path = %path.display(), "nothing to detach");
    }
    Ok(())
}

/// What is pinned at `path`.
fn pinned(path: &Path) -> Result<Option<OwnedFd>, DatapathError> {
    let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else {
        return Ok(None);
    };
    match sys::object_get(&c_path) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("open", path)(error)),
    }
}

/// The interface index in a hook's name.
pub(super) fn ifindex_of(hook: &str) -> Option<u32> {
    let hook = hook.strip_prefix("clsact-").unwrap_or(hook);
    let (name, number) = hook.rsplit_once('-')?;
    (CLASSIFIERS.contains(&name) || name == BLOCKER)
        .then(|| number.parse().ok())
        .flatten()
}

/// Whether a program is for hooks of a cgroup.
pub(super) fn is_cgroup(program: &str) -> bool {
    CGROUP_HOOKS.contains(&program)
}

/// TCX came with Linux 6.6.
pub(super) fn has_tcx() -> bool {
    aya::util::KernelVersion::current()
        .is_ok_and(|version| version >= aya::util::KernelVersion::new(6, 6, 0))
}

fn pin(link: FdLink, path: &Path) -> Result<(), DatapathError> {
    // The descriptor may be closed now: the pin keeps the link.
    link.pin(path)
        .map(drop)
        .map_err(|error| DatapathError::File {
            action: "pin a link at",
            path: path.into(),
            source: io::Error::other(error),
        })
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(DatapathError::Missing { name })
}

fn refused(name: &'static str) -> impl FnOnce(aya::programs::ProgramError) -> DatapathError {
    move |source| DatapathError::Program {
        name,
        source: Box::new(source),
    }
}
