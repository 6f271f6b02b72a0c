//! How long compilation takes, at the sizes that the design promises. Figures mean something in
//! release builds only: `cargo test --release -p tests --test compile_scale -- --ignored
//! --nocapture`.

use std::sync::Arc;

use tests::bench::scale::{Estate, Size, tree};

#[test]
#[ignore = "takes long in debug builds"]
fn ten_thousand_policies_and_identities_compile_in_two_seconds() {
    for (workloads, identities, policies, rules) in [
        (10, 10, 10, 10),
        (1_000, 1_000, 1_000, 10),
        (10_000, 10_000, 10_000, 1),
        (10_000, 10_000, 10_000, 10),
        (10_000, 10_000, 1_000, 100),
        (100_000, 10_000, 10_000, 4),
    ] {
        let size = Size {
            workloads,
            identities,
            policies,
            rules,
        };
        let mut tree = tree(&size);
        let mut estate = Estate::default();
        let first = estate.compile(&tree).expect("nothing is too large");
        Arc::make_mut(&mut tree.workloads[0])
            .labels
            .insert("more".to_owned(), "yes".to_owned());
        let again = estate.compile(&tree).expect("nothing is too large");
        let image = estate.image().expect("compiled");
        println!(
            "{size:?}: {first:.1} ms first, {again:.1} ms after a label change; {} policy \
             entries, {} port entries, {} rules",
            image.policies.len(),
            image.ports.len(),
            image.rules.len(),
        );
        if !cfg!(debug_assertions) {
            assert!(first < 2_000.0 && again < 2_000.0);
        }
    }
}
