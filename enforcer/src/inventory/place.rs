//! Which workload is where: a pure function of the policy's workloads and a snapshot.

use std::{collections::BTreeSet, sync::Arc};

pub use super::problem::{Problem, WorkloadName};
use super::{
    Snapshot,
    behind::place_interfaces,
    claims::Claims,
    units::{address_of_cgroup, unit_of_cgroup},
    unknown,
    ways::Ways,
};
use crate::{
    datapath::desired::EndpointPlace,
    policy::model::{Place, Workload},
};

/// Result of [`place`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// In the order of their keys.
    pub endpoints: Vec<PlacedEndpoint>,
    /// For a node that denies unknown workloads: the cgroups whose new children must wait until
    /// they are looked at ([`EndpointPlace::Pending`]), and their present children that are
    /// nobody's ([`EndpointPlace::NoWorkload`]). To be left out where it allows them.
    pub unknown: Vec<EndpointPlace>,
    /// What an operator should know. That a workload is not here is none.
    pub problems: Vec<Problem>,
}

/// An endpoint of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedEndpoint {
    /// The same for as long as the workload and the name of the place are the same, also when
    /// the cgroup or interface behind the name is another one.
    pub key: EndpointKey,
    /// Index among the workloads.
    pub workload: usize,
    /// [`EndpointPlace::Cgroup`] or [`EndpointPlace::Interface`].
    pub place: EndpointPlace,
    /// The systemd unit that a cgroup belongs to.
    pub unit: Option<String>,
}

/// Names an endpoint over time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload's name.
    pub workload: String,
    /// `cgroup:` and the path below the cgroup root, or `interface:` and the name.
    pub place: String,
}

/// Places every workload that has a place. To prepare many workloads takes a while: keep a
/// [`Placer`] where something else changes.
pub fn place(workloads: &[Arc<Workload>], snapshot: &Snapshot) -> Placement {
    Placer::new(workloads).place(snapshot)
}

/// The workloads of one policy, prepared for [`Placer::place`]: what that costs depends on what is
/// on the host, not on how many workloads there are elsewhere.
#[derive(Debug, Default)]
pub struct Placer {
    workloads: Vec<Arc<Workload>>,
    cgroups: Claims,
    units: Claims,
    /// Those that are behind an interface.
    behind: Vec<usize>,
    /// What decides which cgroups may get a child that a workload claims.
    ways: Ways,
    claims_units: bool,
    problems: Vec<Problem>,
}

impl Placer {
    /// Prepares the workloads' patterns.
    pub fn new(workloads: &[Arc<Workload>]) -> Self {
        let mut cgroups = Claims::default();
        let mut units = Claims::default();
        let mut behind = Vec::new();
        let mut patterns = BTreeSet::new();
        let mut problems = Vec::new();
        for (index, workload) in workloads.iter().enumerate() {
            let Some(place) = &workload.place else {
                continue;
            };
            let added = match place {
                Place::Interface(_) | Place::Route(_) => {
                    behind.push(index);
                    Ok(())
                }
                Place::Cgroup(pattern) => {
                    let pattern = normalized(pattern);
                    let added = cgroups.add(index, &pattern);
                    patterns.insert(pattern);
                    added
                }
                Place::Unit(pattern) => units.add(index, pattern),
            };
            if let Err(e) = added {
                problems.push(Problem::BadPattern {
                    workload: name_of(workload),
                    place: describe(place),
                    reason: e.kind().to_string(),
                });
            }
        }
        Self {
            workloads: workloads.to_vec(),
            claims_units: !units.is_empty(),
            cgroups,
            units,
            behind,
            ways: Ways::new(&patterns),
            problems,
        }
    }

    /// Prepares other workloads, unless they are those that it was made of, in the same places
    /// in memory.
    pub fn follow(&mut self, workloads: &[Arc<Workload>]) {
        let mut pairs = self.workloads.iter().zip(workloads);
        let same = self.workloads.len() == workloads.len()
            && pairs.all(|(one, other)| Arc::ptr_eq(one, other));
        if !same {
            *self = Self::new(workloads);
        }
    }

    /// Places the workloads that it was made of.
    pub fn place(&self, snapshot: &Snapshot) -> Placement {
        let mut placement = Placement {
            problems: self.problems.clone(),
            ..Placement::default()
        };
        let contested = self.place_cgroups(snapshot, &mut placement);
        place_interfaces(&self.workloads, &self.behind, snapshot, &mut placement);
        placement.unknown = unknown::unknown(
            snapshot,
            &placement.endpoints,
            &contested,
            &self.ways,
            self.claims_units,
        );
        placement.endpoints.sort_by(|a, b| a.key.cmp(&b.key));
        placement
    }

    /// Returns the contested cgroups.
    fn place_cgroups<'s>(
        &self,
        snapshot: &'s Snapshot,
        placement: &mut Placement,
    ) -> BTreeSet<&'s str> {
        let workloads = &self.workloads;
        let mut contested = BTreeSet::new();
        for (path, id) in &snapshot.cgroups {
            let mut claims = self.cgroups.of(path);
            if self.claims_units
                && let Some(address) = address_of_cgroup(path)
            {
                claims.extend(self.units.of(&address));
            }
            let mut claims = claims.into_iter();
            match (claims.next(), claims.next()) {
                (None, _) => {}
                (Some(index), None) => placement.endpoints.push(PlacedEndpoint {
                    key: key(&workloads[index], format!("cgroup:{path}")),
                    workload: index,
                    place: EndpointPlace::Cgroup {
                        id: *id,
                        path: path.clone(),
                    },
                    unit: unit_of_cgroup(path).map(str::to_owned),
                }),
                (Some(first), Some(second)) => {
                    contested.insert(path.as_str());
                    placement.problems.push(Problem::CgroupContested {
                        path: path.clone(),
                        workloads: names_of(workloads, [first, second].into_iter().chain(claims)),
                    });
                }
            }
        }
        contested
    }
}

pub(super) fn key(workload: &Workload, place: String) -> EndpointKey {
    EndpointKey {
        namespace: workload.namespace.clone(),
        workload: workload.name.clone(),
        place,
    }
}

pub(super) fn names_of(
    workloads: &[Arc<Workload>],
    indices: impl Iterator<Item = usize>,
) -> Vec<WorkloadName> {
    indices.map(|i| name_of(&workloads[i])).collect()
}

/// A leading `/`, none at the end, none doubled.
fn normalized(pattern: &str) -> String {
    let mut path = String::new();
    for name in pattern.split('/').filter(|n| !n.is_empty()) {
        path.push('/');
        path.push_str(name);
    }
    if path.is_empty() {
        path.push('/');
    }
    path
}

fn describe(place: &Place) -> String {
    match place {
        Place::Cgroup(pattern) => format!("cgroup: {pattern}"),
        Place::Unit(pattern) => format!("unit: {pattern}"),
        Place::Interface(name) => format!("interface: {name}"),
        Place::Route(address) => format!("a direct route to {address}"),
    }
}

pub(super) fn name_of(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        origin: workload.origin.clone(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    use crate::policy::model::{Assurance, Labels, Origin};

    pub(crate) fn workload(name: &str, place: Place) -> Arc<Workload> {
        Arc::new(Workload {
            namespace: "default".into(),
            name: name.into(),
            origin: Origin {
                file: "w.yaml".into(),
                line: 1,
                column: 1,
            },
            labels: Labels::new(),
            spiffe_id: None,
            service_account: None,
            ports: [].into(),
            assurance: Assurance::Address,
            addresses: Vec::new(),
            place: Some(place),
            unit_elsewhere: None,
        })
    }

    pub(crate) fn cgroup(name: &str, pattern: &str) -> Arc<Workload> {
        workload(name, Place::Cgroup(pattern.into()))
    }

    pub(crate) fn unit(name: &str, pattern: &str) -> Arc<Workload> {
        workload(name, Place::Unit(pattern.into()))
    }

    /// Ids count up from 1 in the order of `paths`.
    pub(crate) fn snapshot(paths: &[&str]) -> Snapshot {
        Snapshot {
            cgroups: (1..)
                .zip(paths)
                .map(|(id, p)| ((*p).to_owned(), id))
                .collect(),
            ..Snapshot::default()
        }
    }

    pub(crate) fn endpoints(placement: &Placement) -> Vec<(&str, &str)> {
        placement
            .endpoints
            .iter()
            .map(|e| (e.key.workload.as_str(), e.key.place.as_str()))
            .collect()
    }

    pub(crate) fn pending(id: u64) -> EndpointPlace {
        EndpointPlace::Pending { id }
    }

    pub(crate) fn nobody(id: u64) -> EndpointPlace {
        EndpointPlace::NoWorkload { id }
    }

    #[test]
    fn every_match_of_a_glob_is_an_endpoint_and_a_star_stays_in_its_component() {
        let host = snapshot(&["/", "/app", "/app/a", "/app/a/deep", "/app/b"]);
        let one = [cgroup("one", "/app/*")];
        let found = place(&one, &host);
        assert_eq!(
            endpoints(&found),
            [("one", "cgroup:/app/a"), ("one", "cgroup:/app/b")]
        );
        let all = [cgroup("all", "app/**")];
        assert_eq!(place(&all, &host).endpoints.len(), 3);
        assert!(found.problems.is_empty());
    }

    #[test]
    fn ids_follow_the_snapshot_and_keys_do_not() {
        let workloads = [cgroup("web", "/app/web")];
        let before = place(&workloads, &snapshot(&["/app/web"]));
        let after = place(&workloads, &snapshot(&["/", "/app/web"]));
        assert_eq!(before.endpoints[0].key, after.endpoints[0].key);
        assert_ne!(before.endpoints[0].place, after.endpoints[0].place);
    }

    #[test]
    fn units_are_found_wherever_their_slice_is() {
        let host = snapshot(&[
            "/",
            "/system.slice",
            "/system.slice/web.service",
            "/system.slice/web.service/nested",
            "/apps.slice",
            "/apps.slice/web@a.service",
            "/user.slice/user@7.service/web.service",
        ]);
        let workloads = [
            unit("web", "web.service"),
            unit("many", "web@*.service"),
            unit("user", "user@7.service/web.service"),
        ];
        let found = place(&workloads, &host);
        assert_eq!(
            endpoints(&found),
            [
                ("many", "cgroup:/apps.slice/web@a.service"),
                ("user", "cgroup:/user.slice/user@7.service/web.service"),
                ("web", "cgroup:/system.slice/web.service"),
            ]
        );
        assert_eq!(found.endpoints[2].unit.as_deref(), Some("web.service"));
    }

    #[test]
    fn what_two_claim_is_nobodys_and_unknown() {
        let host = snapshot(&["/", "/app", "/app/a"]);
        let found = place(&[cgroup("x", "/app/a"), cgroup("y", "/app/?")], &host);
        assert!(found.endpoints.is_empty());
        let [problem] = &found.problems[..] else {
            panic!("{:?}", found.problems)
        };
        assert_eq!(
            problem.to_string(),
            "cgroup /app/a is claimed by default/x (w.yaml:1) and default/y (w.yaml:1); \
             it is none of them until only one does"
        );
        assert!(!found.unknown.contains(&nobody(3)), "it must not get away");
        assert!(found.unknown.contains(&pending(2)));
    }

    #[test]
    fn absence_is_no_problem() {
        let workloads = [
            cgroup("gone", "/nowhere"),
            workload("veth", Place::Interface("veth0".into())),
        ];
        assert_eq!(
            place(&workloads, &snapshot(&["/"])).problems,
            Vec::<Problem>::new()
        );
    }

    #[test]
    fn other_workloads_are_followed() {
        let host = snapshot(&["/", "/a", "/b"]);
        let (a, b) = (cgroup("a", "/a"), cgroup("b", "/b"));
        let mut placer = Placer::default();
        for workloads in [
            vec![a.clone()],
            vec![a.clone(), b.clone()],
            vec![b],
            vec![cgroup("a", "/b")],
            Vec::new(),
            vec![a],
        ] {
            placer.follow(&workloads);
            let found = placer.place(&host);
            assert_eq!(found, place(&workloads, &host));
            assert_eq!(found.endpoints.len(), workloads.len());
        }
    }

    #[test]
    fn a_bad_pattern_is_an_error_of_its_workload_only() {
        let host = snapshot(&["/", "/app"]);
        let found = place(&[cgroup("bad", "/a[b"), cgroup("app", "/app")], &host);
        assert_eq!(endpoints(&found), [("app", "cgroup:/app")]);
        assert!(
            matches!(found.problems[..], [Problem::BadPattern { .. }]),
            "{:?}",
            found.problems
        );
    }
}
