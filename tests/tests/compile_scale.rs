//! What one change costs the compiler does not depend on how large the estate is. Counted, not
//! timed, where that is possible; `cargo xtask bench -- --part scale` has the times.

use std::sync::Arc;

use enforcer::{
    compile::Work,
    policy::model::{PortMatch, PortRange, ResolvedPolicy, Rule},
};
use tests::bench::scale::{Estate, Size, tree};

const SMALL: Size = Size {
    workloads: 2_000,
    identities: 200,
    policies: 200,
    rules: 4,
};

const LARGE: Size = Size {
    workloads: 10_000,
    identities: 1_000,
    policies: 1_000,
    rules: 4,
};

fn first_rule(tree: &mut ResolvedPolicy, policy: usize) -> &mut Rule {
    let rules = Arc::make_mut(&mut tree.policies[policy]).rules[1].as_mut();
    &mut rules.expect("ingress")[0]
}

type Change = fn(&mut ResolvedPolicy);

/// What is done to an estate, one after the other.
const CHANGES: [(&str, Change); 6] = [
    ("nothing", |_| {}),
    ("a workload gets labels that nobody had", |tree| {
        let workloads = Arc::make_mut(&mut tree.workloads);
        let labels = &mut Arc::make_mut(&mut workloads[77]).labels;
        labels.insert("more".to_owned(), "yes".to_owned());
    }),
    ("the ports of a rule", |tree| {
        first_rule(tree, 33).ports = vec![PortMatch::Range(PortRange {
            protocol: Some(17),
            first: 53,
            last: 60,
        })];
    }),
    ("a policy goes", |tree| drop(tree.policies.remove(44))),
    ("a policy comes", |tree| {
        let mut policy = tree.policies[55].clone();
        "p-another".clone_into(&mut Arc::make_mut(&mut policy).name);
        tree.policies.push(policy);
    }),
    ("a workload goes", |tree| {
        drop(Arc::make_mut(&mut tree.workloads).remove(99));
    }),
];

/// What compiling an estate costs, and what each of the changes does: of the latter also the
/// processor time as a part of the former.
fn costs(size: &Size) -> (Work, Vec<(Work, f64)>) {
    let mut tree = tree(size);
    let mut estate = Estate::default();
    let full = estate.compile(&tree).expect("nothing is too large");
    let everything = estate.work();
    let changes = CHANGES.iter().map(|(_, change)| {
        change(&mut tree);
        let took = estate.compile(&tree).expect("nothing is too large");
        (estate.work(), took / full)
    });
    let changes = changes.collect();
    (everything, changes)
}

#[test]
fn a_change_touches_what_it_is_about_however_large_the_estate_is() {
    let (small_all, small) = costs(&SMALL);
    let (large_all, large) = costs(&LARGE);
    assert_eq!(large_all.policies, LARGE.policies);
    // One list of policies for each identity; with the host, in both directions.
    assert_eq!(large_all.subjects, 2 * (LARGE.identities + 1));
    assert_eq!(large_all.sets, LARGE.identities);
    assert_eq!(small_all.sets * 5, large_all.sets);
    for (((what, _), small), large) in CHANGES.iter().zip(&small).zip(&large) {
        // Rules about its team and about its application may be in the same policy or not.
        let close = |one: usize, other: usize| one.abs_diff(other) <= 6;
        let (few, many) = (small.0, large.0);
        assert!(
            few.policies == many.policies
                && close(few.subjects, many.subjects)
                && close(few.sets, many.sets)
                && close(few.entries, many.entries),
            "{what}: {few:?} {many:?}"
        );
        // A walk over everything that is not counted would show here. What makes a hundred sets
        // takes a twentieth, the rest takes a hundredth at most.
        let most = if many.sets > 1 { 0.15 } else { 0.03 };
        assert!(large.1 < most, "{what}: {} of a full compile", large.1);
    }
    let work = |change: usize| large[change].0;
    assert_eq!(work(0), Work::default());
    // The sets of those whose rules are about its team or its application, who has it now as a
    // peer by another number. Itself, in both directions, has the set that it had.
    assert_eq!((work(1).policies, work(1).subjects - work(1).sets), (0, 2));
    assert!((100..=105).contains(&work(1).sets), "{:?}", work(1));
    // Who loses its only policy is not restricted any more.
    for (change, policies, sets) in [(2, 2, 1), (3, 1, 0), (4, 1, 1)] {
        assert_eq!((work(change).policies, work(change).sets), (policies, sets));
        assert_eq!(work(change).subjects, 1);
    }
    assert_eq!(work(5), Work::default());
}
