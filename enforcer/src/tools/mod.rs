//! Tools that answer from files alone, before any kernel does: [`diff`] compares two trees,
//! [`simulate`] judges recorded flows,
//! [`recommend`] writes policies that allow them, [`graph`] draws who may
//! reach whom.
//!
//! None of them knows what policy means. Every verdict is the one of the compiled image
//! ([`tree`]), by the same function that the kernel runs.

pub mod diff;
pub mod flows;
pub mod graph;
pub mod import;
pub mod parties;
pub mod reach;
pub mod recommend;
pub mod revision;
pub mod services;
pub mod simulate;
pub mod tree;

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::{
        observe::fixtures,
        policy::{
            load_text,
            model::{Mode, Moment},
        },
    };

    const DOCUMENT: &str = include_str!("../../../docs/tools.md");

    /// Every name of a field in a value; labels and causes are no fields.
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    if name != "labels" && name != "recorded_rule" {
                        names(value, found);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_field_is_documented() {
        let text = |port: &str| {
            format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
                 metadata: {{name: db, namespace: shop}}\nspec:\n  selector: {{}}\n  ingress:\n  \
                 - ports: [{port}]\n---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: db, namespace: shop, labels: {{app: db}}}}\n\
                 spec: {{interface: a, addresses: [10.77.22.2]}}\n"
            )
        };
        let policy = |port: &str| {
            load_text("a.yaml", &text(port)).unwrap_or_else(|e| panic!("{}", e.render(false)))
        };
        let tree = |port: &str| {
            super::tree::Tree::new(policy(port), Mode::Enforce, Moment::default(), &[]).unwrap()
        };
        let mut flows = super::flows::Flows::default();
        let mut record = fixtures::record();
        record.verdict = crate::observe::record::Verdict::Allow;
        flows.record(&record);
        let now = Moment::default();
        let wanted = super::graph::Wanted {
            policy: true,
            flows: true,
        };
        let wide = super::recommend::Generalise::default();
        let policy = policy("22/tcp");
        let values = [
            serde_json::to_value(super::diff::diff(&tree("any"), &tree("22/tcp"))),
            serde_json::to_value(
                super::simulate::simulate(&policy, Mode::Enforce, now, &flows).unwrap(),
            ),
            serde_json::to_value(
                super::recommend::recommend(&policy, &flows, &wide, false).unwrap(),
            ),
            serde_json::to_value(
                super::graph::graph(&policy, Mode::Enforce, now, Some(&flows), wanted).unwrap(),
            ),
        ];
        let mut found = Vec::new();
        for value in values {
            names(&value.unwrap(), &mut found);
        }
        assert!(found.len() > 40, "{found:?}");
        for name in found {
            let forms = [
                format!("`{name}`"),
                format!("….{name}`"),
                format!("`{name}[]`"),
            ];
            let is_told = forms.iter().any(|form| DOCUMENT.contains(form));
            assert!(is_told, "{name} is not in docs/tools.md");
        }
    }
}
