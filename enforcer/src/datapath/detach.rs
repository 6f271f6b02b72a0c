//! Removing everything from the kernel, whichever version put it there: pins are told by their
//! names and removed as files, so nothing here depends on a layout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use enforcer_common::abi::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;

use super::{
    Datapath, attach,
    error::DatapathError,
    hooks::interface_name,
    pin::{Pins, file},
};

/// What is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pinned {
    /// Programs on their hooks: what is in force.
    pub hooks: Vec<PinnedHook>,
    /// Sets of maps, each of one layout.
    pub maps: Vec<PinnedMaps>,
}

/// A program on its hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedHook {
    /// Name of the pin.
    #[serde(skip)]
    pin: String,
    /// Program.
    pub program: String,
    /// Name of the interface, while it is there; absent at hooks of a cgroup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// The maps of one layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinnedMaps {
    /// Name of their directory.
    pub layout: String,
    /// Version of the layout, if the name tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Whether this program would read that version.
    pub readable: bool,
}

/// Whether a process that holds the pins is respected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nothing is removed while there is one.
    Respect,
    /// It does not answer, and knows nothing of what is removed beneath it.
    Ignore,
}

impl Pinned {
    /// Looks without changing anything. `None`: there is no such directory.
    pub fn look(pin_dir: &Path) -> Result<Option<Self>, DatapathError> {
        if !pin_dir.exists() {
            return Ok(None);
        }
        let mut pinned = Self::default();
        for name in names(pin_dir)? {
            if name == "links" {
                let links = names(&pin_dir.join(name))?;
                pinned.hooks = links.into_iter().map(PinnedHook::of).collect();
            } else {
                pinned.maps.push(PinnedMaps::of(name));
            }
        }
        Ok(Some(pinned))
    }
}

impl PinnedHook {
    fn of(pin: String) -> Self {
        let hook = pin.strip_prefix("clsact-").unwrap_or(&pin);
        let (program, number) = hook.rsplit_once('-').unwrap_or((hook, ""));
        let ifindex = number.parse().ok().filter(|_| !attach::is_cgroup(program));
        Self {
            program: program.to_owned(),
            interface: ifindex.and_then(interface_name),
            pin,
        }
    }
}

impl PinnedMaps {
    fn of(layout: String) -> Self {
        let version = layout
            .strip_prefix("maps-")
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        Self {
            readable: version == Some(ABI_VERSION),
            version,
            layout,
        }
    }
}

/// Whether a process holds the pins: a daemon does from its start to its end.
pub fn is_held(pin_dir: &Path) -> Result<bool, DatapathError> {
    let directory = fs::File::open(pin_dir).map_err(file("open", pin_dir))?;
    match Flock::lock(directory, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(file("lock", pin_dir)(errno.into())),
    }
}

impl Datapath {
    /// [`detach`], unless a process holds the pins.
    pub fn detach(pin_dir: &Path) -> Result<Pinned, DatapathError> {
        detach(pin_dir, Holder::Respect)
    }
}

/// Removes everything from the kernel: hooks first, then maps. Returns what was there; nothing
/// if there is no such directory.
pub fn detach(pin_dir: &Path, holder: Holder) -> Result<Pinned, DatapathError> {
    let Some(pinned) = Pinned::look(pin_dir)? else {
        return Ok(Pinned::default());
    };
    let pins = match holder {
        Holder::Respect => Pins::open(pin_dir)?,
        Holder::Ignore => Pins::open_regardless(pin_dir)?,
    };
    for hook in &pinned.hooks {
        attach::remove_hook(&pins, &hook.pin, hook.interface.as_deref())?;
    }
    pins.remove()?;
    Ok(pinned)
}

fn names(path: &Path) -> Result<Vec<String>, DatapathError> {
    let list = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    list().map_err(file("list", &PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any directory can be looked at; only removing needs a bpffs.
    #[test]
    fn pins_of_any_version_are_told_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Pinned::look(&root.path().join("none")).unwrap(), None);
        let own = format!("maps-{ABI_VERSION}-00112233");
        for directory in ["links", &own, "maps-9999-aa", "something"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        for hook in [
            "connect4-1",
            "uplink_ingress-1",
            "clsact-new_name-1000000000",
        ] {
            fs::write(root.path().join("links").join(hook), "").unwrap();
        }
        let pinned = Pinned::look(root.path()).unwrap().unwrap();
        let hooks: Vec<_> = pinned
            .hooks
            .iter()
            .map(|h| (h.program.as_str(), h.interface.as_deref()))
            .collect();
        assert_eq!(
            hooks,
            [
                ("new_name", None),
                ("connect4", None),
                ("uplink_ingress", Some("lo")),
            ]
        );
        let maps: Vec<_> = pinned
            .maps
            .iter()
            .map(|m| (m.layout.as_str(), m.version, m.readable))
            .collect();
        assert_eq!(
            maps,
            [
                (own.as_str(), Some(ABI_VERSION), true),
                ("maps-9999-aa", Some(9999), false),
                ("something", None, false),
            ]
        );
    }

    #[test]
    fn the_lock_of_a_daemon_is_seen_and_not_taken() {
        let root = tempfile::tempdir().unwrap();
        assert!(!is_held(root.path()).unwrap());
        let directory = fs::File::open(root.path()).unwrap();
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_held(root.path()).unwrap());
        drop(lock);
        assert!(!is_held(root.path()).unwrap());
    }
}
