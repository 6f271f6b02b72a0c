//! The JSON Schema of all kinds, for editors (docs/policy.md, "In an editor"). It says the shape
//! of documents; what their values mean together is for `enforcer check`.

mod kinds;
mod parts;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::policy::{API_VERSION, kubernetes};

/// The schema: draft 7, which editors understand best.
pub fn schema() -> Value {
    let kinds = kinds::all();
    let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
    let versions: BTreeSet<_> = kubernetes::api_versions().chain([API_VERSION]).collect();
    // One branch for each kind: an editor then completes what the kind at hand has.
    let branches: Vec<Value> = kinds
        .iter()
        .map(|(name, _)| {
            json!({
                "if": { "properties": { "kind": { "const": name } }, "required": ["kind"] },
                "then": { "$ref": format!("#/definitions/{name}") },
            })
        })
        .collect();
    let mut definitions = parts::all();
    definitions.extend(
        kinds
            .into_iter()
            .map(|(name, kind)| (name.to_owned(), kind)),
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Policy of the enforcer",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": { "apiVersion": { "enum": versions }, "kind": { "type": "string" } },
        // Kubernetes has its own schemas for its own objects.
        "if": { "properties": { "apiVersion": { "const": API_VERSION } } },
        "then": {
            "required": ["metadata"],
            "properties": { "kind": { "enum": names } },
            "allOf": branches,
        },
        "definitions": definitions,
    })
}

#[cfg(test)]
mod tests;
