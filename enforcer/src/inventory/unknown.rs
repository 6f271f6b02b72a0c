//! Cgroups that a workload may yet claim, and those that are nobody's: what a node that denies
//! unknown workloads has to know of.

use std::collections::BTreeSet;

use super::{
    Snapshot,
    place::PlacedEndpoint,
    units::{address_of_cgroup, ancestors_and_self, is_slice, parent},
    ways::Ways,
};
use crate::datapath::desired::EndpointPlace;

/// See [`super::place::Placement::unknown`]. Nothing below an endpoint is unknown: it is the endpoint's.
pub(super) fn unknown(
    snapshot: &Snapshot,
    endpoints: &[PlacedEndpoint],
    contested: &BTreeSet<&str>,
    ways: &Ways,
    claims_units: bool,
) -> Vec<EndpointPlace> {
    let enrolled: BTreeSet<&str> = endpoints
        .iter()
        .filter_map(|e| match &e.place {
            EndpointPlace::Cgroup { path, .. } => Some(path.as_str()),
            _ => None,
        })
        .collect();
    let mut parents: BTreeSet<&str> = BTreeSet::new();
    if claims_units {
        parents.extend(unit_parents(snapshot));
    }
    for path in snapshot.cgroups.keys() {
        if ways.may_have_child(path) {
            parents.insert(path);
        }
        if contested.contains(path.as_str()) {
            parents.extend(parent(path));
        }
    }
    let mut unknown = Vec::new();
    for (path, id) in &snapshot.cgroups {
        if ancestors_and_self(path).any(|p| enrolled.contains(p)) {
            continue;
        }
        if parents.contains(path.as_str()) {
            unknown.push(EndpointPlace::Pending { id: *id });
        } else if !contested.contains(path.as_str())
            && parent(path).is_some_and(|p| parents.contains(p))
        {
            unknown.push(EndpointPlace::NoWorkload { id: *id });
        }
    }
    unknown
}

/// Where the host's service manager can start a unit: in its slices, and in what they are in.
/// (A unit's slice is a setting of the unit, so its name says nothing about the place.)
fn unit_parents(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    snapshot
        .cgroups
        .keys()
        .filter(|path| address_of_cgroup(path).is_some_and(|address| !address.contains('/')))
        .flat_map(|path| {
            let own = is_slice(path).then_some(path.as_str());
            own.into_iter().chain(ancestors_and_self(path).skip(1))
        })
        .chain(["/"])
}

#[cfg(test)]
mod tests {
    use crate::inventory::place::{
        place,
        tests::{cgroup, nobody, pending, snapshot, unit},
    };

    #[test]
    fn new_children_of_a_globs_parent_wait_and_known_strangers_do_not() {
        let host = snapshot(&["/", "/app", "/app/other", "/app/web-1", "/else", "/else/x"]);
        let found = place(&[cgroup("web", "/app/web-*")], &host);
        assert_eq!(
            found.unknown,
            [pending(1), pending(2), nobody(3), nobody(5)]
        );
    }

    #[test]
    fn every_directory_on_the_way_to_a_match_waits() {
        let host = snapshot(&["/", "/app", "/app/x", "/app/x/worker", "/app/x/y", "/b"]);
        let found = place(&[cgroup("worker", "/app/*/worker")], &host);
        assert_eq!(
            found.unknown,
            [pending(1), pending(2), pending(3), nobody(5), nobody(6)]
        );
        let deep = place(&[cgroup("deep", "/app/**/worker")], &host);
        assert_eq!(
            deep.unknown,
            [pending(1), pending(2), pending(3), pending(5), nobody(6)]
        );
    }

    #[test]
    fn a_choice_that_spans_components_makes_everything_below_wait() {
        let host = snapshot(&["/", "/app", "/app/x", "/app/x/y", "/b"]);
        let found = place(&[cgroup("choice", "/app/{x/z,w}")], &host);
        assert_eq!(
            found.unknown,
            [pending(1), pending(2), pending(3), pending(4), nobody(5)]
        );
    }

    #[test]
    fn nothing_below_an_endpoint_is_unknown() {
        let host = snapshot(&["/", "/app", "/app/sub", "/app/sub/y"]);
        let workloads = [cgroup("app", "/app"), cgroup("x", "/app/sub/x*")];
        assert_eq!(place(&workloads, &host).unknown, [pending(1)]);
    }

    #[test]
    fn units_wait_in_every_slice() {
        let host = snapshot(&[
            "/",
            "/init.scope",
            "/system.slice",
            "/system.slice/a.service",
            "/system.slice/b.service",
            "/system.slice/b.service/nested",
        ]);
        let found = place(&[unit("a", "a*.service")], &host);
        assert_eq!(
            found.unknown,
            [pending(1), nobody(2), pending(3), nobody(5)]
        );
    }

    #[test]
    fn nothing_waits_where_no_workload_is_placed() {
        assert!(place(&[], &snapshot(&["/", "/app"])).unknown.is_empty());
    }
}
