use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn yaml_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("readable") {
            yaml_files(&entry.expect("readable").path(), found);
        }
    } else if path.extension().is_some_and(|e| e == "yaml") {
        found.push(path.to_owned());
    }
}

fn documents(text: &str) -> Option<Vec<Value>> {
    // As YAML 1.2 has it, and our own reader: `yes` is a word.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents = serde_saphyr::from_multiple_with_options::<Value>(text, options).ok()?;
    Some(
        documents
            .into_iter()
            .filter(|document| !document.is_null())
            .collect(),
    )
}

fn errors(validator: &jsonschema::Validator, document: &Value) -> Vec<String> {
    let errors = validator.iter_errors(document);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::draft7::meta::validate(&schema()).expect("a schema of draft 7");
    jsonschema::draft7::new(&schema()).expect("a schema")
}

#[test]
fn every_policy_to_copy_from_is_valid() {
    let validator = validator();
    let mut files = Vec::new();
    yaml_files(&repository("policies"), &mut files);
    assert!(files.len() > 8);
    for file in files {
        let text = fs::read_to_string(&file).expect("UTF-8");
        for document in documents(&text).expect("YAML") {
            assert_eq!(
                errors(&validator, &document),
                [] as [&str; 0],
                "{}",
                file.display()
            );
        }
    }
}

#[test]
fn every_example_of_the_reference_is_valid() {
    let validator = validator();
    let text = fs::read_to_string(repository("docs/policy.md")).expect("UTF-8");
    let examples: Vec<_> = text.split("```yaml\n").skip(1).collect();
    assert!(examples.len() >= 6);
    for example in examples {
        let example = example.split("```").next().expect("an end");
        for document in documents(example).expect("YAML") {
            assert_eq!(errors(&validator, &document), [] as [&str; 0], "{example}");
        }
    }
}

/// Codes that say that a document has the wrong shape, which is what a schema can see.
const SHAPE: [&str; 8] = [
    "wrong-type",
    "unknown-field",
    "missing-field",
    "unknown-api-version",
    "unknown-kind",
    "unknown-value",
    "bad-selector",
    "not-yet",
];

#[test]
fn every_document_of_the_corpus_that_is_bad_by_shape_is_invalid() {
    let validator = validator();
    let mut files = Vec::new();
    yaml_files(&repository("tests/corpus/policy/bad"), &mut files);
    let mut found = 0;
    let mut valid = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        // By document, so that a bad one does not hide that a good one beside it is refused.
        for part in text.split("\n---") {
            let Err(refused) = crate::policy::load_text("a.yaml", part) else {
                continue;
            };
            let codes: Vec<_> = refused.errors().iter().map(|e| e.code.as_str()).collect();
            let Some(documents) = documents(part) else {
                continue;
            };
            if !codes.iter().any(|code| SHAPE.contains(code)) {
                continue;
            }
            for document in documents {
                found += 1;
                if validator.is_valid(&document) {
                    valid.push(format!("{}: {codes:?}\n{part}", file.display()));
                }
            }
        }
    }
    assert!(valid.is_empty(), "{}", valid.join("\n"));
    assert!(found > 30, "{found}");
}
