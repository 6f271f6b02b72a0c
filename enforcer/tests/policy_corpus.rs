//! The corpus of bad policy: every file and tree below `tests/corpus/policy/bad` has beside it
//! what is to be said about it.
//!
//! `UPDATE_EXPECTED=1 cargo test -p enforcer --test policy_corpus` writes the expected files
//! anew; read the difference before it is committed.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use enforcer::policy::{self, Code, PolicyErrors};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/policy/bad")
}

fn cases() -> Vec<PathBuf> {
    let entries = fs::read_dir(corpus()).expect("the corpus is there");
    let mut cases: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| {
            path.extension()
                .is_none_or(|extension| extension != "expected")
        })
        .collect();
    cases.sort();
    assert!(cases.len() > 20, "the corpus is incomplete: {cases:?}");
    cases
}

fn shown(errors: &PolicyErrors) -> String {
    let mut text = String::new();
    for error in errors.errors() {
        // An error of a whole tree names it as it was given: with where this clone is.
        let file = Path::new(&*error.file);
        let file = file.strip_prefix(corpus()).unwrap_or(file).display();
        let _ = writeln!(
            text,
            "{}:{}:{} {}\n  {}\n  help: {}",
            file, error.line, error.column, error.code, error.message, error.help
        );
        if !error.snippet.is_empty() {
            let _ = writeln!(text, "  | {}", error.snippet);
        }
    }
    text
}

#[test]
fn every_bad_file_is_refused_with_the_expected_words() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut different = Vec::new();
    for case in cases() {
        let errors = policy::load(&case).expect_err(&case.to_string_lossy());
        let found = shown(&errors);
        let mut expected_path = case.clone().into_os_string();
        expected_path.push(".expected");
        if update {
            fs::write(&expected_path, &found).expect("writable");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            different.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_error_can_be_acted_upon() {
    for case in cases() {
        let errors = policy::load(&case).expect_err("bad");
        for error in errors.errors() {
            assert!(error.line > 0 && error.column > 0, "{error:?}");
            assert!(
                !error.message.is_empty() && !error.help.is_empty(),
                "{error:?}"
            );
            assert!(error.snippet.len() < 1000, "{error:?}");
            // Nothing of a document may drive the terminal.
            let said = format!("{}{}{}", error.message, error.help, error.snippet);
            assert!(!said.chars().any(char::is_control), "{error:?}");
        }
        let human = errors.render(false);
        assert_eq!(
            human.matches("help:").count(),
            errors.errors().len(),
            "{human}"
        );
        assert!(serde_json::to_value(&errors).expect("JSON").is_array());
    }
}

#[test]
fn the_corpus_has_every_code() {
    let found: BTreeSet<Code> = cases()
        .iter()
        .flat_map(|case| policy::load(case).expect_err("bad").errors().to_vec())
        .map(|error| error.code)
        .collect();
    let missing: Vec<_> = Code::ALL
        .iter()
        .filter(|code| !found.contains(code))
        // Too large to keep in a repository, or found by the compiler; tested where they are made.
        .filter(|code| ![Code::TreeLimit, Code::DoesNotFit].contains(code))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
