//! What keeps workloads from their places.

use std::{fmt, net::IpAddr};

use crate::policy::model::Origin;

/// Names a workload and its document in a [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Where it is written.
    pub origin: Origin,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.origin)
    }
}

/// What stands in the way of a workload's place: enforcement is not what the policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Several workloads claim one cgroup: it is nobody's, and unknown to the node.
    #[error("cgroup {path} is claimed by {}; it is none of them until only one does", names(.workloads))]
    CgroupContested {
        /// Path below the cgroup root.
        path: String,
        /// Who claims it.
        workloads: Vec<WorkloadName>,
    },
    /// Several workloads name one interface: none of them is enforced there.
    #[error("interface {name} is claimed by {}; it is none of them until only one does", names(.workloads))]
    InterfaceContested {
        /// Interface name.
        name: String,
        /// Who names it.
        workloads: Vec<WorkloadName>,
    },
    /// Several interfaces lead to a workload's address.
    #[error(
        "{workload} is not enforced: its address {address} is behind {}; name its interface in a \
         Workload, or take the address away from who it does not belong to",
        .interfaces.join(" and ")
    )]
    AddressContested {
        /// Who.
        workload: WorkloadName,
        /// Its first address.
        address: IpAddr,
        /// Names of the interfaces.
        interfaces: Vec<String>,
    },
    /// Not a glob.
    #[error("{workload} cannot be placed: {place} is not a valid pattern: {reason}")]
    BadPattern {
        /// Who.
        workload: WorkloadName,
        /// Its place, as in YAML.
        place: String,
        /// Why not.
        reason: String,
    },
}

fn names(workloads: &[WorkloadName]) -> String {
    let names: Vec<String> = workloads.iter().map(WorkloadName::to_string).collect();
    names.join(" and ")
}
