//! Policies of others.

use std::sync::Arc;

use enforcer::{
    formatting,
    policy::{SourceFile, load_text, model::Labels},
    tools::import::{Selector, Settings, import},
};

/// Whatever is imported is good policy in canonical form, and what is said of the rest can be
/// shown.
pub fn objects(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = Arc::new(SourceFile::new("given.yaml", text));
    let Ok(import) = import(&[file], &Settings::default()) else {
        return;
    };
    for found in &import.left_out {
        let said = format!("{found}{}{}", found.help, found.snippet);
        assert!(!said.chars().any(char::is_control), "{found:?}");
        assert!(found.line > 0 && found.column > 0, "{found:?}");
    }
    if import.yaml.is_empty() {
        return;
    }
    if let Err(errors) = load_text("imported.yaml", &import.yaml) {
        panic!("{}\n{}", errors.render(false), import.yaml);
    }
    assert_eq!(formatting::format(&import.yaml).as_ref(), Ok(&import.yaml));
}

/// Nobody is selected by an expression and by its negation, and everybody by one of them.
pub fn selector(data: &[u8]) {
    let Ok(selector) = Selector::parse(&String::from_utf8_lossy(data)) else {
        return;
    };
    let Ok(negated) = selector.negated() else {
        return;
    };
    let named = selector.any.iter().flat_map(|demands| {
        let labels = demands
            .match_labels
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()));
        let values = demands.expressions.iter().flat_map(|e| {
            let values = e.values.iter().cloned().chain([String::new()]);
            values.map(|value| (e.key.clone(), value))
        });
        labels.chain(values).collect::<Vec<_>>()
    });
    let each = named
        .clone()
        .map(|(key, value)| Labels::from([(key, value)]));
    for labels in each.chain([Labels::new(), named.collect()]) {
        assert_ne!(
            selector.matches(&labels),
            negated.matches(&labels),
            "{labels:?}"
        );
    }
}
