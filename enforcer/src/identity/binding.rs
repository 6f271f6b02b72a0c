//! A proof, bound to the endpoint that gave it, for a while. The policy loop reads bindings;
//! [`super::attest`] makes and ends them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{serial::Serial, spiffe_id::SpiffeId};
use crate::{
    api::status::PlaceKind, compile::image::WorkloadName, datapath::desired::EndpointPlace,
    inventory::place::Placement, policy::model::Workload,
};

/// Where a proof is bound: an endpoint as it was then. A cgroup or interface that was made anew
/// under the same name has another number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BoundPlace {
    /// The workload.
    pub workload: WorkloadName,
    /// [`PlaceKind::Cgroup`] or [`PlaceKind::Interface`].
    pub kind: PlaceKind,
    /// Cgroup path below the cgroup root, or interface name.
    pub place: String,
    /// Cgroup id or interface index.
    pub number: u64,
}

/// The process that gave the proof, where it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvingProcess {
    /// Its id.
    pub pid: u32,
    /// When it started (proc(5), `starttime`): ids are used again.
    pub start: u64,
    /// The cgroup of the endpoint, as `/proc/PID/cgroup` writes it for this process.
    pub cgroup: String,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Where.
    pub at: BoundPlace,
    /// Who.
    pub id: SpiffeId,
    /// Serial number of the certificate that proved it.
    pub serial: Serial,
    /// The certificates that were shown, the leaf first, in hexadecimal DER: they are verified
    /// again when what is believed changes.
    pub chain: Vec<String>,
    /// Millisecond of the Unix epoch.
    pub since: u64,
    /// Millisecond of the Unix epoch at which it ends: that of the certificate, of the lease
    /// that was asked for or of the longest one, whichever is first.
    pub until: u64,
    /// From where it was proven.
    pub source: SocketAddr,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProvingProcess>,
}

/// All bindings of a host: one for each endpoint.
pub type Bindings = BTreeMap<BoundPlace, Arc<Binding>>;

impl BoundPlace {
    /// The place of a workload's endpoint.
    pub fn of(workload: &Workload, place: &EndpointPlace) -> Option<Self> {
        let (kind, place, number) = match place {
            EndpointPlace::Cgroup { id, path } => (PlaceKind::Cgroup, path.clone(), *id),
            EndpointPlace::Interface { ifindex, name } => {
                (PlaceKind::Interface, name.clone(), u64::from(*ifindex))
            }
            EndpointPlace::NoWorkload { .. } | EndpointPlace::Pending { .. } => return None,
        };
        Some(Self {
            workload: WorkloadName {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            },
            kind,
            place,
            number,
        })
    }
}

impl Binding {
    /// Whether policy still says that this identity runs in the workload.
    pub fn is_of(&self, workload: &Workload) -> bool {
        workload.spiffe_id.as_deref() == Some(self.id.to_string().as_str())
    }
}

/// The binding that holds for an endpoint, if any.
pub fn holding<'b>(
    bindings: &'b Bindings,
    workload: &Workload,
    place: &EndpointPlace,
) -> Option<&'b Arc<Binding>> {
    if bindings.is_empty() {
        return None;
    }
    let binding = bindings.get(&BoundPlace::of(workload, place)?)?;
    binding.is_of(workload).then_some(binding)
}

/// The workloads of which everything that sends by their addresses is proven: those behind an
/// interface, of which there is one, with a binding, that declare their addresses. In cgroups
/// addresses are shared with the host and say nothing. `placement` is of these workloads.
pub fn proven_by_address(
    bindings: &Bindings,
    workloads: &[Arc<Workload>],
    placement: &Placement,
) -> std::collections::BTreeSet<WorkloadName> {
    if bindings.keys().all(|at| at.kind != PlaceKind::Interface) {
        return std::collections::BTreeSet::new();
    }
    placement
        .endpoints
        .iter()
        .filter_map(|placed| {
            let workload = &workloads[placed.workload];
            if !matches!(placed.place, EndpointPlace::Interface { .. }) {
                return None;
            }
            let binding = holding(bindings, workload, &placed.place)?;
            (!workload.addresses.is_empty()).then(|| binding.at.workload.clone())
        })
        .collect()
}
