//! The JSON Schema of all kinds, for editors (docs/policy.md, "In an editor"). It says the shape
//! of documents; what their values mean together is for `enforcer check`.

mod kinds;
mod parts;

use serde_json::{Value, json};

use crate::policy::API_VERSION;

/// The schema: draft 7, which editors understand best.
pub fn schema() -> Value {
    let kinds = kinds::all();
    let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
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
        "required": ["apiVersion", "kind", "metadata"],
        "properties": {
            "apiVersion": { "enum": [API_VERSION, "v1"] },
            "kind": { "enum": names },
        },
        "allOf": branches,
        "definitions": definitions,
    })
}

#[cfg(test)]
mod tests;
