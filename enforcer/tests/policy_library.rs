//! What users copy from is good: every directory of the library passes its own tests, which
//! reach every rule, has no findings, and has a page that says what it is for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use enforcer::{
    lint,
    policy::{self, Study, model::Moment},
    policy_test,
};

fn library() -> Vec<PathBuf> {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let examples = fs::read_dir(policies.join("examples")).expect("examples are there");
    let mut library: Vec<_> = examples
        .map(|entry| entry.expect("readable").path())
        .collect();
    library.push(policies.join("baseline"));
    library.push(policies.join("kubernetes"));
    library.sort();
    assert!(library.len() >= 7, "{library:?}");
    library
}

fn study(directory: &Path) -> Study {
    policy::study(&[directory.to_owned()]).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

#[test]
fn every_test_of_the_library_passes() {
    for directory in library() {
        let report = policy_test::run(&study(&directory), Moment::now()).expect("compiles");
        assert!(!report.tests.is_empty(), "{}: no test", directory.display());
        let flows = report.tests.iter().flat_map(|test| &test.flows);
        let failed: Vec<_> = flows.filter(|flow| !flow.failures.is_empty()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }
}

#[test]
fn the_tests_of_the_library_reach_every_rule() {
    for directory in library() {
        let report = policy_test::run(&study(&directory), Moment::now()).expect("compiles");
        let unreached = report.coverage.unreached;
        assert!(unreached.is_empty(), "{unreached:#?}");
    }
}

/// A test that cannot fail tests nothing: without its policies, each must.
#[test]
fn without_the_policies_the_tests_fail() {
    for directory in library() {
        let mut study = study(&directory);
        study.policy.policies.clear();
        let report = policy_test::run(&study, Moment::now()).expect("compiles");
        for test in report.tests {
            let failed = test.flows.iter().filter(|flow| !flow.failures.is_empty());
            assert!(failed.count() > 0, "{}", test.name);
        }
    }
}

#[test]
fn the_library_has_no_findings() {
    for directory in library() {
        let findings = lint::run(&study(&directory), None, Moment::now()).expect("compiles");
        assert!(findings.is_empty(), "{}", lint::render(&findings, false));
    }
}

#[test]
fn every_directory_says_what_it_is_for_and_is_listed() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let list = fs::read_to_string(policies.join("README.md")).expect("the list");
    for directory in library() {
        let page = fs::read_to_string(directory.join("README.md"));
        let page = page.unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        assert!(page.lines().count() > 5, "{}", directory.display());
        let name = directory.file_name().expect("a name").to_string_lossy();
        assert!(
            list.contains(&format!("{name})")),
            "{name} is not in policies/README.md"
        );
    }
}
