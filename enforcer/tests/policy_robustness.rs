//! Whatever bytes a tree has, reading it ends, without a panic, in a policy or in errors.
//! `PROPTEST_CASES=100000` tries more of them.

use std::{fmt::Write as _, fs, path::Path, sync::LazyLock};

use enforcer::policy::{
    self, Code,
    model::{Peer, PortMatch},
};
use proptest::prelude::*;

/// Good and bad policy to start from.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seeds = Vec::new();
    for directory in [
        "policies/examples/shop",
        "policies/baseline",
        "tests/corpus/policy/bad",
    ] {
        for entry in fs::read_dir(root.join(directory)).expect("the corpus is there") {
            let path = entry.expect("readable").path();
            // The alias bomb costs a second in every mutation of it.
            if path.extension().is_some_and(|e| e == "yaml") && !path.ends_with("bomb.yaml") {
                seeds.push(fs::read(path).expect("readable"));
            }
        }
    }
    assert!(seeds.len() > 30);
    seeds
});

/// A change to some bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Replace(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Splice(usize, usize, usize),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let word = prop::sample::select(vec![
        "---\n",
        "...\n",
        "&a ",
        "*a ",
        "<<: ",
        "!!int ",
        "!x ",
        "? ",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "|\n",
        ">\n",
        "#",
        "\t",
        "\r",
        "\n",
        "%YAML 1.2\n",
        "\u{feff}",
        "\u{2028}",
        "~",
        "null",
        "-1",
        "0x",
        "1e999",
        ".inf",
        "\0",
        "é",
    ])
    .prop_map(|word| word.as_bytes().to_vec());
    let mutation = prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<usize>(), word).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (any::<usize>(), 1..40_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (any::<usize>(), 1..40_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        (any::<usize>(), any::<usize>(), any::<usize>())
            .prop_map(|(seed, from, at)| Mutation::Splice(seed, from, at)),
    ];
    prop::collection::vec(mutation, 1..12)
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: usize, bytes: &[u8]| at % (bytes.len() + 1);
    match mutation {
        Mutation::Replace(at, byte) => {
            let at = place(*at, bytes);
            if let Some(target) = bytes.get_mut(at) {
                *target = *byte;
            }
        }
        Mutation::Insert(at, word) => {
            let at = place(*at, bytes);
            bytes.splice(at..at, word.iter().copied());
        }
        Mutation::Remove(at, len) => {
            let at = place(*at, bytes);
            let end = (at + len).min(bytes.len());
            bytes.drain(at..end);
        }
        Mutation::Repeat(at, len) => {
            let at = place(*at, bytes);
            let end = (at + len).min(bytes.len());
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        Mutation::Splice(seed, from, at) => {
            let other = &SEEDS[seed % SEEDS.len()];
            let from = place(*from, other);
            let end = (from + 400).min(other.len());
            let at = place(*at, bytes);
            bytes.splice(at..at, other[from..end].iter().copied());
        }
    }
}

fn read(bytes: &[u8]) -> Result<(), TestCaseError> {
    let root = tempfile::tempdir().expect("a directory");
    fs::write(root.path().join("a.yaml"), bytes).expect("writable");
    match policy::load(root.path()) {
        Ok(policy) => {
            for policy in &policy.policies {
                prop_assert!(policy.origin.line > 0);
                for rule in policy.rules.iter().flatten().flatten() {
                    prop_assert!(rule.origin.line > 0);
                    prop_assert!(!rule.peers.is_empty() && !rule.ports.is_empty());
                    let in_order = |port: &PortMatch| match port {
                        PortMatch::Range(range) => range.first <= range.last,
                        PortMatch::Named(named) => !named.name.is_empty(),
                    };
                    prop_assert!(rule.ports.iter().all(in_order));
                }
            }
        }
        Err(errors) => {
            prop_assert!(errors.count() > 0);
            let lines = bytes.split(|byte| *byte == b'\n').count();
            for error in errors.errors() {
                prop_assert!(
                    error.line > 0 && error.line as usize <= lines,
                    "{:?}",
                    error
                );
                prop_assert!(error.column > 0);
            }
            let human = errors.render(true);
            prop_assert!(human.contains("help"));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn mutated_policy_is_read_or_refused(seed in any::<usize>(), mutations in mutations()) {
        let mut bytes = SEEDS[seed % SEEDS.len()].clone();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        read(&bytes)?;
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes)?;
    }
}

#[test]
fn a_hundred_thousand_rules_are_read() {
    const POLICIES: usize = 100;
    const RULES: usize = 1000;
    let root = tempfile::tempdir().expect("a directory");
    for number in 0..POLICIES {
        let mut text = format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata:\n  name: p{number}\n  \
             namespace: shop\nspec:\n  selector:\n    matchLabels:\n      app: a{number}\n  ingress:\n"
        );
        for rule in 0..RULES {
            let _ = write!(
                text,
                "    - name: r{rule}\n      from:\n        - cidr: 10.{number}.{}.{}\n      ports:\n        \
                 - protocol: TCP\n          port: {}\n",
                rule / 256,
                rule % 256,
                rule + 1
            );
        }
        fs::write(root.path().join(format!("p{number}.yaml")), text).expect("writable");
    }
    let policy = policy::load(root.path()).expect("good");
    let rules = policy
        .policies
        .iter()
        .flat_map(|policy| &policy.rules)
        .flatten();
    assert_eq!(rules.map(Vec::len).sum::<usize>(), POLICIES * RULES);
    let last = &policy.policies[99].rules[1].as_ref().expect("ingress")[999];
    assert_eq!(last.origin.line as usize, 11 + 999 * 6);
    assert!(matches!(last.peers[0], Peer::Cidr { .. }));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(root.path().join("a.yaml")).expect("writable");
    file.set_len((64 << 20) + 1).expect("a hole needs no room");
    let errors = policy::load(root.path()).expect_err("too large");
    assert_eq!(errors.errors()[0].code, Code::TreeLimit);
}
