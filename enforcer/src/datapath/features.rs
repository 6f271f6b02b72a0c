//! What this kernel offers.

use std::path::Path;

use aya::util::KernelVersion;

use super::attach::has_tcx;

/// A feature that the datapath uses when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Name.
    pub name: &'static str,
    /// Whether it is there.
    pub found: bool,
    /// What that means.
    pub note: String,
}

/// Looks for the features.
pub(super) fn probe() -> Vec<Feature> {
    let version = KernelVersion::current();
    let tcx = has_tcx();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    vec![
        Feature {
            name: "kernel",
            found: version
                .as_ref()
                .is_ok_and(|version| *version >= KernelVersion::new(5, 15, 0)),
            note: nix::sys::utsname::uname().map_or_else(
                |_| "of an unknown version".to_owned(),
                |name| name.release().to_string_lossy().into_owned(),
            ),
        },
        Feature {
            name: "tcx",
            found: tcx,
            note: if tcx {
                "interfaces are attached through TCX links".to_owned()
            } else {
                "Linux 6.6 has it; interfaces are attached through clsact filters".to_owned()
            },
        },
        Feature {
            name: "btf",
            found: btf,
            note: if btf {
                "types of the running kernel are known".to_owned()
            } else {
                "no /sys/kernel/btf/vmlinux; maps are made without type information".to_owned()
            },
        },
    ]
}
