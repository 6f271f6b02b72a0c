//! Every input of the corpus passes its fuzz target: seeds, and what once broke something.

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use tests::fuzz::{TARGETS, corpus};

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("readable").path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_input_of_the_corpus_passes_its_target() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let directories = target.directories();
        assert!(
            !files(&directories[0]).is_empty(),
            "{} has no seed",
            target.name
        );
        for path in directories.iter().flat_map(|directory| files(directory)) {
            let data = fs::read(&path).expect("readable");
            if catch_unwind(|| (target.run)(&data)).is_err() {
                broken.push(format!("{}: {}", target.name, path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_directory_of_the_corpus_is_a_targets() {
    let names: BTreeSet<_> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(names.len(), TARGETS.len(), "names are unique");
    let entries = fs::read_dir(corpus()).expect("the corpus is there");
    let found: BTreeSet<_> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .map(|path| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(found, names);
}
